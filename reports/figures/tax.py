"""The alignment tax task by task: over systems or sizes, and over PPO's penalty weights (Ouyang et al. 2022, arXiv
2203.02155, figures 28, 29, 33 and 34)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from alignbench.audit.render import BETTER
from alignbench.runs.read import ancestor_key
from reports.chart import Panel, line_panels, row_panels
from reports.drawing import WORDS, Drawing, describe, rows_of
from reports.evidence import Evidence, Point, parents
from reports.style import FAINT, LINES, Look, looks, size_of, wrapped

GROUPS = ("reading", "common sense and inference", "translation")  # as in figures 28 and 29


def tax_points(evidence: Evidence, shots: int | None = None) -> list[Point]:
    """Return the headline metrics of the tasks of GROUPS, by group and name. shots: only with this number."""
    tasks = [(name, task) for name in evidence.tasks for task in [evidence.task(name)] if task and task.group in GROUPS]
    tasks.sort(key=lambda named: (GROUPS.index(named[1].group), named[0]))
    return [
        point
        for name, task in tasks
        for point in evidence.points(name, task.headline, lambda own: shots in (None, own.result.shots))
    ]


def task_panels(table: pd.DataFrame, points: Sequence[Point], references: Mapping[str, Any]) -> list[Panel]:
    """Return a panel per task, with its metric below the title. references: task -> the value of its line, and label"""
    metrics = {}
    for point in points:
        unit = "" if point.metric.unit == "proportion" else f", {point.metric.unit}"
        baseline = point.task.identity.get("baseline")
        metric = wrapped(point.metric.metric.replace("_", " ") + unit + BETTER[point.metric.better], 22)
        metrics[point.task.task] = wrapped(f"against {baseline.get('name')}", 22) if baseline else metric
    titles = {task: wrapped("win rate" if task == "win_rate" else task, 20) for task in metrics}
    parts = ((str(task), own) for task, own in table.groupby("task", sort=False))
    return [Panel(titles[task], own, metrics[task], references.get(task)) for task, own in parts]


def by_system(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a panel per task: the systems in rows, or, if a stage has several sizes, lines over the parameters."""
    numbers = sorted({own.result.shots for system in evidence.systems for own in system.tasks})
    points = [point for shots in numbers for point in tax_points(evidence, shots)]
    if not points:
        return
    order = list(dict.fromkeys(point.task.task for point in points))
    points.sort(key=lambda point: order.index(point.task.task))
    table = pd.DataFrame(
        point.row(
            stage=point.system.stage, parameters=point.system.parameters, shots=point.task.result.shots,
            unit=point.metric.unit, chance=point.metric.chance,
        )
        for point in points
    )  # fmt: skip
    shots = {n: f"{n} examples" if n else "zero-shot" for n in sorted(set(table.shots))}
    chance = {point.task.task: point.metric.chance for point in reversed(points)}
    references = {task: (level, "chance") for task, level in chance.items() if level is not None}
    systems = {point.system.name: point.system for point in points}
    trained = table.drop_duplicates("system")[["stage", "parameters"]]
    # a stage has several sizes, and no stage the same size twice
    by_size = trained.notna().all(axis=None) and not trained.duplicated().any() and trained.stage.duplicated().any()
    if by_size:
        stages = looks(str(own.stage) for own in evidence.systems if own.name in systems)
        lines = {
            stage + (f", {words}" if n else ""): replace(look, hollow=n > 0, line="--" if n else "-")
            for n, words in shots.items()
            for stage, look in stages.items()
        }
        names = table.stage + table.shots.map(lambda n: f", {shots[n]}" if n else "")
        panels = task_panels(table.assign(line=names), points, references)
        figure = line_panels(
            panels, lines, x="parameters", line="line", label="parameters", scale=("log", {}),
            ticks=sorted(set(table.parameters)),
        )  # fmt: skip
    else:
        family = {name: ancestor_key(own.run.lineage[0]) if own.run.lineage else own.run.weights or name
                  for name, own in systems.items()}  # fmt: skip
        panels = task_panels(table.assign(family=table.system.map(family)), points, references)
        rows = rows_of(evidence, table)
        figure = row_panels(panels, rows, label="", series=("shots", shots), bars=False, join="family")
    absent = len(systems) * table.task.nunique() - len(table.drop_duplicates(["system", "task"]))
    yield describe("tax_panels", figure, table, by_size=by_size, shots=shots, chance=references, absent=absent)


def penalty_sweeps(evidence: Evidence) -> Iterator[Drawing]:
    """Draw reward and tasks over each penalty weight that differs between PPO models trained alike otherwise."""
    points = [*evidence.points("win_rate", "win_rate"), *tax_points(evidence)]
    models = pd.DataFrame(
        {"system": system.name, "start": system.run.lineage[-2]["name"] if parents(system.run) else "",
         "gamma": float(own["gamma"]), "beta": float(own["beta"]), "episodes": int(own.get("episodes") or 0),
         "parent": next(reversed(parents(system.run)), ""), "rewards": ", ".join(own.get("rewards") or ())}
        for system in evidence.systems
        for own in [system.training]
        if system.stage in ("ppo", "ppo-ptx") and own.get("gamma") is not None and own.get("beta") is not None
    )  # fmt: skip
    for varied, (sign, fixed, fixed_sign, what, source) in WORDS["sweeps"].items() if points and len(models) else ():
        alike = [fixed, "parent", "rewards", "episodes"]
        chosen = models.groupby(alike).filter(lambda own: own[varied].nunique() > 1)  # noqa: B023
        labels = chosen[[*alike, "start"]].drop_duplicates().sort_values(alike)
        labels["line"] = [
            f"{fixed_sign} = {row[fixed]:g}"
            + f", from {row.start}" * (labels.parent.nunique() > 1)
            + f", reward {row.rewards}" * (labels.rewards.nunique() > 1)
            + (f", {size_of(row.episodes)} episodes" if row.episodes else ", unknown episodes")
            for _, row in labels.iterrows()
        ]
        table = pd.DataFrame(point.row() for point in points).merge(chosen.merge(labels)).assign(varied=varied)
        table = table.groupby("task").filter(lambda own: own.groupby("line")[varied].nunique().max() > 1)  # noqa: B023
        if table.empty:
            continue
        lines = {line: Look(FAINT, "", LINES[number % len(LINES)]) for number, line in enumerate(labels.line)}
        starts = [point for point in reversed(points) if {point.system.run.weights} == set(labels.parent)]
        before = {point.task.task: (point.metric.value, "start") for point in starts}
        values = sorted(set(table[varied]))
        scale = ("symlog", {"linthresh": min(value for value in values if value > 0), "linscale": 0.5})
        figure = line_panels(
            task_panels(table, points, before), lines, x=varied, line="line", label=sign, marks=evidence.looks(),
            scale=scale, ticks=values, form="{:g}".format,
        )  # fmt: skip
        whole = table.drop(columns=["line", "parent", "rewards"]).assign(episodes=table.episodes.replace(0, None))
        yield describe(
            "sweep", figure, whole, name=f"sweep_{varied}", what=what, sign=sign, source=source, fixed=fixed_sign,
            lines=list(lines), drawn=table,
        )  # fmt: skip
