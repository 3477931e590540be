"""What training gained and cost against the distance from the base model (Gao et al. 2022, arXiv 2210.10760, figure 1;
best-of-n with the bound of Beirami et al. 2024, arXiv 2401.01879)."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from alignbench.audit.comparable import baseline_of
from reports.chart import MARK, reach
from reports.drawing import WORDS, Drawing, describe
from reports.evidence import Evidence, System, parents
from reports.style import FAINT, looks, new_figure, plain

KL = "kl"


def distances(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return system -> kl, kl_low, kl_high in nats per response, and bound: whether it is an upper bound (best-of-n).

    The baseline of the task kl has the distance 0 by definition."""
    found: dict[str, dict[str, Any]] = {}
    points = evidence.points(KL, KL)
    for point in points:
        own = point.metric
        found[point.system.name] = {"kl": own.value, "kl_low": own.low, "kl_high": own.high, "bound": False}
    baselines = {baseline_of(point.task.identity) for point in points}
    for system in evidence.systems:
        bound = system.training.get("kl_bound")
        if bound is not None or system.run.name in baselines:
            at = {"kl": float(bound or 0), "kl_low": math.nan, "kl_high": math.nan, "bound": bound is not None}
            found.setdefault(system.name, at)
    return found


def against_kl(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per quantity of `against_kl` in words.yaml: a marker per system, a line per best-of-n policy."""
    places = distances(evidence)
    if not places:
        return
    systems = {system.name: system for system in evidence.systems}
    baselines = [baseline_of(own.identity) for _, own in evidence.all_runs(KL)]
    baseline = max(filter(None, baselines), key=baselines.count, default="the baseline")
    look = looks(sorted({_method(system) for name, system in systems.items() if name in places}))
    for quantity, (title, label, tasks) in WORDS["against_kl"].items():
        rows = _taxes(evidence) if quantity == "tax" else [p.row() for t, m in tasks for p in evidence.points(t, m)]
        table = pd.DataFrame(row | places[row["system"]] for row in rows if row["system"] in places)
        if table.empty or table.kl.nunique() < 2:
            continue
        table = table.drop_duplicates("system").assign(method=table.system.map(lambda name: _method(systems[name])))
        figure, axes = new_figure(3.4)
        for method, own in table.groupby("method"):
            style = look[str(method)]
            along = reach(own.assign(value=own.kl, low=own.kl_low, high=own.kl_high))
            for row, across, up in zip(own.itertuples(), along.T, reach(own).T, strict=True):
                mark = {**style.mark, "markerfacecolor": "white" if row.bound else style.colour}
                axes.errorbar([row.kl], [row.value], xerr=across[:, None], yerr=up[:, None], **MARK, **mark)
            for _, line in own[own.bound].groupby(own.system.map(lambda name: parents(systems[name].run))):
                line = line.sort_values("kl")
                axes.plot(line.kl, line.value, color=style.colour, linestyle=style.line, linewidth=1.1, zorder=2)
        handles = [Line2D([], [], label=name, linestyle="none", **own.mark) for name, own in look.items()]
        figure.legend(handles=handles, loc="outside right upper")
        if quantity == "tax":
            axes.axhline(0, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
        axes.set_xlabel(f"KL from {plain(baseline, 24)}, nats per response")
        axes.set_ylabel(label)
        axes.margins(0.08)
        axes.grid()
        yield describe("against_kl", figure, table, name=f"kl_{quantity}", title=title, what=label, bounds=table.bound)


def _method(system: System) -> str:
    return system.stage or system.name


def _taxes(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the mean tax of each system against the reference that most systems were compared with."""
    contrasts = [own for own in (evidence.audit.contrasts if evidence.audit else ()) if own.mean]
    names = [own.reference for own in contrasts]
    most = max(names, key=names.count, default=None)
    return [
        {"system": own.aligned, "task": "mean tax", "metric": "tax", "value": own.mean.value, "low": own.mean.low,
         "high": own.mean.high, "n": len(own.mean.tasks), "unscored": 0, "scorer": "", "reference": most}
        for own in contrasts if own.mean and own.reference == most
    ]  # fmt: skip
