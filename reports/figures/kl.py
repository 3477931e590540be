"""How far models are from the base model (task kl): by position and category of prompts, and what training gained and
cost against that distance (Gao et al. 2022, arXiv 2210.10760, figure 1; best-of-n with the bound of Beirami et al.
2024, arXiv 2401.01879)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from alignbench.audit.comparable import baseline_of
from alignbench.audit.compare import compare
from alignbench.errors import AlignbenchError
from alignbench.runs.read import TaskRun, read_runs
from reports.chart import MARK, Panel, line_panels, reach, row_panels
from reports.drawing import WORDS, Drawing, describe, rows_of
from reports.evidence import Evidence, Point, System, parents, training_of
from reports.figures.diversity import FEWEST, by_position
from reports.style import FAINT, INK, Look, looks, new_figure, plain, wrapped

KL, PER_TOKEN = "kl", "kl_per_token"


def baseline_name(evidence: Evidence) -> str | None:
    """Return the model from which most systems' distances are, or that most best-of-n sample; None without any."""
    names = [name for _, own in evidence.all_runs(KL) if (name := baseline_of(own.identity)) is not None]
    best = [own.run.lineage[-2:-1] for own in evidence.systems if own.training.get("kl_bound")]
    names = names or [policy["name"] for own in best for policy in own]
    return max(names, key=names.count, default=None)


def _points(evidence: Evidence, baseline: str | None, metric: str = KL) -> list[Point]:
    return evidence.points(KL, metric, lambda own: baseline_of(own.identity) == baseline)


def profile(evidence: Evidence) -> Iterator[Drawing]:
    """Draw the divergence of a token from the base model: a line over positions for each system, and a bar per category
    of prompts in a panel for each system."""
    baseline = baseline_name(evidence)
    points = [point for point in _points(evidence, baseline, PER_TOKEN) if point.system.run.name != baseline]
    base = plain(baseline or "")
    texts = {point.system.name: _divergences(point.task) for point in points}
    table = pd.DataFrame(by_position(texts, KL, "kl"))
    if len(table):
        drawn = table.assign(middle=(table.first_token + table.last_token) / 2, value=table.kl)
        title = "" if len(texts) > 1 else wrapped(next(iter(texts)), 60)
        figure = line_panels(
            [Panel(title, drawn)], rows_of(evidence, table), x="middle", line="system", label="position of the token",
            columns=1, height=2.6, band=True, zero=True,
        )  # fmt: skip
        figure.axes[0].set_ylabel(f"KL from {base}, nats")
        width = int((table.last_token - table.first_token).max()) + 1
        yield describe("kl_by_position", figure, table, drawn=drawn, base=base, fewest=FEWEST, width=width)
    rows = [
        {"system": point.system.name, "category": own.category, "task": KL, "metric": PER_TOKEN, "value": own.value,
         "low": own.low, "high": own.high, "n": own.n, "unscored": own.n_unscored, "scorer": ""}
        for point in points
        for own in point.task.result.metrics
        if own.metric == PER_TOKEN and own.category is not None and own.value is not None
    ]  # fmt: skip
    if rows:
        table = pd.DataFrame(rows)
        order = table.groupby("category").value.mean().sort_values(ascending=False).index
        systems = rows_of(evidence, table)
        panels = [
            Panel(wrapped(name, 24), own.assign(system=own.category), look=systems[str(name)])
            for name, own in table.groupby("system", sort=False)
        ]
        most = float(table[["value", "high"]].max().max())
        label = f"KL from {base}, nats per token"
        figure = row_panels(panels, {name: Look(INK, "o", "-") for name in order}, label=label, most=most or None)
        yield describe("kl_by_category", figure, table, base=base)


def _divergences(folder: TaskRun) -> list[tuple[str, np.ndarray[Any, np.dtype[np.float64]]]]:
    """Return the group, and the divergence at each token, of each sample."""
    return [
        (record.group or record.id, np.array(output.divergences))
        for record in folder.records()
        for output in record.outputs
        if output.divergences
    ]


def distances(evidence: Evidence, baseline: str | None) -> dict[str, dict[str, Any]]:
    """Return system -> kl, kl_low, kl_high in nats per response, and bound: whether it is an upper bound (best-of-n).

    The baseline has the distance 0 by definition. The bound is a distance from the policy, so it counts if that is the
    baseline."""
    found: dict[str, dict[str, Any]] = {}
    for point in _points(evidence, baseline):
        own = point.metric
        found[point.system.name] = {"kl": own.value, "kl_low": own.low, "kl_high": own.high, "bound": False}
    bases = [system.run for system in evidence.systems if system.run.name == baseline]
    for system in evidence.systems:
        bound, policy = system.training.get("kl_bound"), system.run.lineage[-2:-1]
        near = any(run.is_ancestor(own) for run in bases for own in policy) or (
            not bases and baseline in [own["name"] for own in policy]
        )
        if near if bound is not None else system.run.name == baseline:
            at = {"kl": float(bound or 0), "kl_low": math.nan, "kl_high": math.nan, "bound": bound is not None}
            found.setdefault(system.name, at)
    return found


def _whole(identity: Mapping[str, Any]) -> bool:
    """Return whether the bound holds: samples of temperature 1, which 0 is for best-of-n, without top_p and top_k."""
    own = identity.get("sampling") or {}
    return own.get("temperature", 1) in (0, 1) and own.get("top_p", 1) == 1 and not own.get("top_k")


def against_kl(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per quantity of `against_kl` in words.yaml: a marker per checkpoint, also of those saved during a
    training; a line per best-of-n policy and per training."""
    names = {system.name for system in evidence.systems}
    during = tuple(own for own in evidence.intermediate if own.name not in names)
    every = replace(evidence, systems=(*evidence.systems, *during))
    baseline = baseline_name(every)
    systems = {system.name: system for system in every.systems}
    places = {name: at for name, at in distances(every, baseline).items() if name in systems}
    # of a model that was evaluated with and without its chat template, for tasks of given choices, which have none
    either = {f"{system.run.name}{end}": places[name] for name, system in systems.items() if name in places
              for end in ("", " (chat)")} | places  # fmt: skip
    if not places:
        return
    look = looks(sorted({_method(systems[name]) for name in either if name in systems}))
    for quantity, (title, label, tasks) in WORDS["against_kl"].items():
        at = either if quantity in ("tax", "calibration") else places
        candidates = (
            pd.DataFrame(row | at[row["system"]] for row in rows if row["system"] in at and row["system"] in systems)
            for rows in _rows(quantity, tasks, evidence, every, [own for own in during if own.name in places])
        )
        table = next((own for own in candidates if len(own) and own.kl.nunique() > 1), None)
        if table is None:
            continue
        table = table.drop_duplicates("system").assign(method=table.system.map(lambda name: _method(systems[name])))
        figure, axes = new_figure(3.4)
        steps, drawn = False, set(table.method)
        for method, own in table.groupby("method"):
            style = look[str(method)]
            along = reach(own.assign(value=own.kl, low=own.kl_low, high=own.kl_high))
            for row, across, up in zip(own.itertuples(), along.T, reach(own).T, strict=True):
                mark = {**style.mark, "markerfacecolor": "white" if row.bound else style.colour}
                axes.errorbar([row.kl], [row.value], xerr=across[:, None], yerr=up[:, None], **MARK, **mark)
            for line in _lines(own, systems):
                steps |= len(line) > 1 and not line.bound.any()
                axes.plot(line.kl, line.value, color=style.colour, linestyle=style.line, linewidth=1.1, zorder=2)
        handles = [
            Line2D([], [], label=name, linestyle="none", **own.mark) for name, own in look.items() if name in drawn
        ]
        figure.legend(handles=handles, loc="outside right upper")
        if quantity == "tax":
            axes.axhline(0, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
        axes.set_xlabel(wrapped(f"KL from {baseline or 'the baseline'}, nats per response", 70))
        axes.set_ylabel(label)
        axes.margins(0.08)
        axes.grid()
        yield describe(
            "against_kl", figure, table, name=f"kl_{quantity}", title=title, what=label, bounds=table.bound, steps=steps
        )


def _method(system: System) -> str:
    """Return what its marker shows: what trained it, or its training, or else its name."""
    return system.stage or next(iter(training_of(system.run)), system.name)


def _lines(table: pd.DataFrame, systems: Mapping[str, System]) -> Iterator[pd.DataFrame]:
    """Yield the rows that a line joins: the n of a best-of-n policy, and the steps of a training."""
    for _, line in table[table.bound].groupby(table.system.map(lambda name: parents(systems[name].run))):
        yield line.sort_values("kl")
    measured = table[~table.bound.astype(bool)]
    for training, line in measured.groupby(measured.system.map(lambda name: training_of(systems[name].run))):
        if training:
            yield line.iloc[np.argsort([systems[name].training["step"] for name in line.system], kind="stable")]


def _rows(
    quantity: str, tasks: Sequence[tuple[str, str]], evidence: Evidence, every: Evidence, during: Sequence[System]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the values of all systems, once for each task that may give them. every: with the checkpoints `during` a
    training"""
    if quantity == "tax":
        yield _taxes(evidence, during)
    else:
        for task, metric in tasks:
            points = every.points(task, metric)
            yield [p.row() for p in points if not p.system.training.get("kl_bound") or _whole(p.task.identity)]


def _taxes(evidence: Evidence, during: Sequence[System]) -> list[dict[str, Any]]:
    """Return the mean tax of each system against the reference that most systems were compared with, whose own is 0."""
    contrasts = [own for own in (evidence.audit.contrasts if evidence.audit else ()) if own.mean]
    names = [own.reference for own in contrasts]
    most = max(names, key=names.count, default=None)
    start = next((own.run for own in evidence.systems if own.run.name == most), None)
    found = {own.aligned: own for own in contrasts if own.reference == most}
    if start is not None and during:
        paths = list(dict.fromkeys(str(path) for path in (start.path, *(own.run.path for own in during))))
        read = {run.name: run.path for run in read_runs(paths, start.path)}
        try:
            later = compare(paths, reference=paths[0], across_templates=True).contrasts
        except AlignbenchError:  # they have nothing comparable
            later = ()
        places = {
            (read.get(own.aligned.removesuffix(" (chat)")), own.aligned.endswith(" (chat)")): own for own in later
        }
        found |= {own.name: c for own in during if (c := places.get((own.run.path, bool(own.chat)))) is not None}
    rows = [
        (name, own.mean.value, own.mean.low, own.mean.high, len(own.mean.tasks))
        for name, own in found.items()
        if own.mean
    ]
    if most is not None:
        rows.append((most, 0.0, math.nan, math.nan, max(row[-1] for row in rows)))
    return [
        {"system": name, "task": "mean tax", "metric": "tax", "value": value, "low": low, "high": high, "n": n,
         "unscored": 0, "scorer": "", "reference": most}
        for name, value, low, high, n in rows
    ]  # fmt: skip
