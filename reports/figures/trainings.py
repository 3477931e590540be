"""Trainings: tasks over the episodes of PPO (Ouyang et al. 2022, figure 35), headline metrics over the steps of any
training (`alignbench sweep`, AuditCallback), and the curves that `alignbench train` logs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from reports.chart import Panel, line_panels
from reports.drawing import WORDS, Drawing, describe
from reports.evidence import INTERMEDIATE, Evidence, Point, System, parents, training_of
from reports.figures.tax import task_panels, tax_points
from reports.style import LINES

PER_EPOCH = ("validation_loss", "accuracy")  # logged once per epoch, on held-out data
Trainings = dict[str, list[tuple[int, System]]]  # name -> (episodes or steps, checkpoint), the start first


def over_training(evidence: Evidence) -> Iterator[Drawing]:
    """Draw reward and tasks over the episodes of PPO, a line per training with intermediate checkpoints."""
    trainings: Trainings = {}
    for key, systems in _grouped(evidence.intermediate, _ppo_of):
        name, before = key[:2]
        starts = [(0, own) for own in evidence.systems if before and own.run.weights == before[-1]]
        finals = [own for own in evidence.systems if _ppo_of(own) == key]
        later = [(int(own.training["episodes"]), own) for own in (*systems, *finals) if own.training.get("episodes")]
        later.sort(key=lambda entry: (entry[0], entry[1].name))
        trainings[_numbered(finals[0].name if finals else name, trainings)] = [*starts[:1], *later]
    every = replace(evidence, systems=(*evidence.systems, *evidence.intermediate))
    points = [*every.points("win_rate", "win_rate"), *tax_points(every)]
    yield from _draw("tax_over_training", evidence, trainings, points, "episodes")


def over_steps(evidence: Evidence) -> Iterator[Drawing]:
    """Draw headline metrics over steps, a line per training with at least two steps, from the model that it started
    from. Trainings in which two checkpoints of one step have different weights are only counted."""
    systems = (*evidence.systems, *evidence.intermediate)
    trainings: Trainings = {}
    unclear = 0
    for (*key, chat), own in _grouped(systems, lambda system: (*training_of(system.run), system.chat)):
        start = next((s.training.get("start") or next(reversed(parents(s.run)), None) for s in own), None)
        starts = [(0, s) for s in systems if start is not None and s.run.weights == start and s.chat == chat]
        steps = sorted(
            [*starts[:1], *((s.training["step"], s) for s in own)] if key else [], key=lambda entry: entry[0]
        )
        if len({(step, s.run.weights) for step, s in steps}) > len(dict(steps)):
            unclear += 1
        elif len(dict(steps)) > 1:
            trainings[_numbered(key[0], trainings)] = list(dict(steps).items())
    drawn = replace(evidence, systems=tuple({s.name: s for steps in trainings.values() for _, s in steps}.values()))
    tasks = filter(None, map(drawn.task, drawn.tasks))
    points = [point for task in tasks for point in drawn.points(task.name, task.headline)]
    yield from _draw("metrics_over_steps", evidence, trainings, points, "step", unclear=unclear, drawn=drawn)


def _grouped(systems: Sequence[System], key: Any) -> list[tuple[Any, list[System]]]:
    found: dict[Any, list[System]] = {}
    for system in systems:
        found.setdefault(key(system), []).append(system)
    return sorted(found.items(), key=lambda item: item[0])


def _ppo_of(system: System) -> tuple[str, tuple[str, ...], str, str, str]:
    """Return what the checkpoints of one training share: their name, parents, penalties, folder and template."""
    own, name = system.training, INTERMEDIATE.sub("", str(system.run.description["model"]["name"]))
    penalties = str([own.get("rewards"), own.get("beta"), own.get("gamma")])
    return name, parents(system.run), penalties, str(system.run.path.parent), system.chat


def _numbered(name: str, taken: Trainings) -> str:
    number = 1 + sum(other.partition(" #")[0] == name for other in taken)
    return name if number == 1 else f"{name} #{number}"


def _draw(
    key: str, evidence: Evidence, trainings: Trainings, points: Sequence[Point], x: str, **facts: Any
) -> Iterator[Drawing]:
    """Draw a panel per task with two checkpoints of a training, a line per training. x: "episodes" or "step"."""
    rows: list[dict[str, Any]] = []
    shown: list[Point] = []
    for task in dict.fromkeys(point.task.task for point in points):
        known = {id(point.system): point for point in points if point.task.task == task}
        found = [
            [known[id(own)].row(training=name, **{x: at}) for at, own in steps if id(own) in known]
            for name, steps in trainings.items()
        ]
        if any(len(line) > 1 for line in found):
            rows += chain.from_iterable(found)
            shown += known.values()
    if not rows:
        return
    table, look = pd.DataFrame(rows), evidence.looks(*trainings)
    chance = {p.task.task: (p.metric.chance, "chance") for p in shown if p.metric.chance is not None}
    names = [name for name in trainings if name in set(table.training)]
    lines = {name: replace(look[name], line=LINES[number % len(LINES)]) for number, name in enumerate(names)}
    figure = line_panels(task_panels(table, shown, chance), lines, x=x, line="training", label=x)
    yield describe(key, figure, table, trainings=names, chance=chance, **facts)


def training_curves(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per kind of training, a panel per quantity, a line per run."""
    often = Counter(run.name for run in evidence.trainings)
    names = [run.name if often[run.name] == 1 else f"{run.path.parent.name}/{run.name}" for run in evidence.trainings]
    looks = evidence.looks(*names)
    for figure_name, kind in WORDS["training_curves"].items():
        step, columns = kind["step"], kind["columns"]
        runs = {name: run for name, run in zip(names, evidence.trainings, strict=True) if run.stage in kind["stages"]}
        wanted = [*columns, *(f"{column}_{end}" for column in PER_EPOCH for end in ("low", "high"))]
        table = pd.DataFrame(
            {"run": name, step: line["step"], **{column: line.get(column) for column in wanted}}
            for name, run in runs.items()
            for line in run.metrics
        )
        texts = table.reindex(columns=list(columns)).map(lambda value: isinstance(value, str))  # "nan" in JSON
        values = table.iloc[:, 2:].apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
        table = pd.concat([table.iloc[:, :2], values], axis="columns").dropna(axis="columns", how="all")
        panels = []
        for column, (quantity, unit) in columns.items():
            if column in table:
                low, high = (table.get(f"{column}_{end}", np.nan) for end in ("low", "high"))
                own = table.assign(value=table[column], low=low, high=high, panel=quantity).dropna(subset=["value"])
                panels.append(Panel(quantity, own, unit, (0.5, "chance") if column == "accuracy" else None))
        if panels:
            lines = {run: looks[run] for run in runs}
            size: dict[str, Any] = {"columns": 2, "height": 2.1}
            figure = line_panels(panels, lines, x=step, line="run", label=step, form="{:.0f}".format, **size)
            yield describe(
                "training_curves", figure, table, name=figure_name, drawn=pd.concat(panel.table for panel in panels),
                title=kind["title"], step=step, runs=list(runs), bad=int(texts.sum().sum()), per_epoch=PER_EPOCH,
            )  # fmt: skip
