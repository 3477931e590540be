"""Headline metrics over the steps of a training: what `alignbench sweep` and AuditCallback have evaluated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from reports.chart import line_panels
from reports.drawing import Drawing, describe
from reports.evidence import Evidence, Point, System, parents, training_of
from reports.figures.tax import task_panels
from reports.style import LINES

Steps = dict[str, dict[int, System]]  # name of a training -> step -> checkpoint


def over_steps(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a panel per task, a line per training with at least two steps."""
    trainings, unclear = _trainings((*evidence.systems, *evidence.intermediate))
    systems = {system.name: system for steps in trainings.values() for system in steps.values()}
    drawn = replace(evidence, systems=tuple(systems.values()))
    points: list[Point] = []
    rows: list[dict[str, Any]] = []
    for task in filter(None, map(drawn.task, drawn.tasks)):
        known = {id(point.system): point for point in drawn.points(task.name, task.headline)}
        found = [
            [known[id(system)].row(training=name, step=step) for step, system in steps.items() if id(system) in known]
            for name, steps in trainings.items()
        ]
        if any(len(line) > 1 for line in found):
            points += known.values()
            rows += [row for line in found for row in line]
    if not rows:
        return
    table, look = pd.DataFrame(rows), evidence.looks(*trainings)
    chance = {p.task.task: (p.metric.chance, "chance") for p in points if p.metric.chance is not None}
    lines = [name for name in trainings if name in set(table.training)]
    names = {name: replace(look[name], line=LINES[number % len(LINES)]) for number, name in enumerate(lines)}
    panels = task_panels(table, points, chance)
    figure = line_panels(panels, names, x="step", line="training", label="step", form="{:.0f}".format)
    yield describe("metrics_over_steps", figure, table, trainings=lines, unclear=unclear, evidence=drawn, chance=chance)


def _trainings(systems: Sequence[System]) -> tuple[Steps, int]:
    """Return the trainings with at least two steps, in order of step from the model that they started from, and the
    number of others, in which two checkpoints of one step have different weights."""
    found: dict[tuple[str, ...], list[System]] = {}
    for system in systems:
        if shared := training_of(system.run):
            found.setdefault((*shared, system.chat), []).append(system)
    trainings: Steps = {}
    unclear = 0
    for (name, *_, chat), own in sorted(found.items()):
        start = next((s.training.get("start") or next(reversed(parents(s.run)), None) for s in own), None)
        starts = [(0, s) for s in systems if start is not None and s.run.weights == start and s.chat == chat]
        steps = sorted([*starts[:1], *((s.training["step"], s) for s in own)], key=lambda entry: entry[0])
        if len({(step, s.run.weights) for step, s in steps}) > len(dict(steps)):
            unclear += 1
        elif len(dict(steps)) > 1:
            number = 1 + sum(other.partition(" #")[0] == name for other in trainings)
            trainings[name if number == 1 else f"{name} #{number}"] = dict(steps)
    return trainings, unclear
