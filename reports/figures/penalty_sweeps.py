"""What the weights of PPO's two penalties do: the pretraining gradient's gamma and the KL penalty's beta (Ouyang et al.
2022, figures 33 and 34)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, Point, System
from reports.names import size_of
from reports.style import FAINT, LINES, Look, looks, plain
from reports.tax_tasks import (
    Measure,
    head,
    range_of_n,
    reward_measure,
    scored_by,
    small_panels,
    tax_measures,
    unscored_told,
)

TITLE = "Sweeps of the penalties"
PPO = ("ppo", "ppo-ptx")
MOST_TICKS = 5
HALO = [withStroke(linewidth=2, foreground="white")]
# the weight that varies, the one that must not, its sign, what it weighs, the paper's figure
SWEEPS = (
    ("gamma", "beta", "γ", "β", "the pretraining gradient", "Ouyang et al. 2022, figure 33"),
    ("beta", "gamma", "β", "γ", "the KL penalty", "Ouyang et al. 2022, figure 34"),
)


@dataclass(frozen=True)
class Sweep:
    """Systems that were made alike but for one weight. fixed: the other weight; start: what all began with; episodes:
    that all sampled, None where that is not known."""

    systems: tuple[System, ...]
    fixed: float
    start: str
    episodes: int | None


def draw(evidence: Evidence) -> list[Drawing]:
    """One drawing a weight that differs between systems: reward and tasks over it."""
    reward = reward_measure(evidence)
    measures = [*([reward] if reward else []), *tax_measures(evidence)]
    drawings = []
    for weight, other, sign, fixed, what, source in SWEEPS:
        sweeps = _sweeps(evidence.systems, weight, other)
        shown = [m for m in measures if any(_over_several(m, sweep, weight) for sweep in sweeps)]
        if shown:
            drawings.append(_draw(evidence, shown, sweeps, weight, (sign, fixed, what, source)))
    if not drawings:
        raise NoDataError("no two PPO models that differ in γ or in β alone, evaluated on the tax tasks")
    return drawings


def _sweeps(systems: Sequence[System], weight: str, other: str) -> list[Sweep]:
    """Sets of systems from one parent, against the same reward and over as many episodes, of several values of one
    weight."""
    alike: dict[tuple[str, tuple[str, ...], float, int], list[System]] = {}
    for system in systems:
        told = system.training
        if system.stage in PPO and told.get(weight) is not None and told.get(other) is not None:
            parent = system.run.lineage[-2] if len(system.run.lineage) > 1 else {"weights_sha256": "", "name": ""}
            rewards, episodes = tuple(told.get("rewards") or ()), int(told.get("episodes") or 0)
            key = (parent["weights_sha256"], rewards, float(told[other]), episodes)
            alike.setdefault(key, []).append(system)
    return [
        Sweep(tuple(own), fixed, own[0].run.lineage[-2]["name"] if parent else "", episodes or None)
        for (parent, _, fixed, episodes), own in sorted(alike.items(), key=lambda entry: (entry[0][2], entry[0]))
        if len({_at(system, weight) for system in own}) > 1
    ]


def _at(system: System, weight: str) -> float:
    return float(system.training[weight])


def _episodes(sweep: Sweep) -> str:
    return "episodes not told" if sweep.episodes is None else f"{size_of(sweep.episodes)} episodes"


def _over_several(measure: Measure, sweep: Sweep, weight: str) -> bool:
    return len({_at(point.system, weight) for point in measure.points if point.system in sweep.systems}) > 1


def _draw(
    evidence: Evidence, measures: Sequence[Measure], sweeps: Sequence[Sweep], weight: str, words: Sequence[str]
) -> Drawing:
    sign, fixed, what, source = words
    keyed = len(sweeps) > 1
    figure, grid = small_panels(len(measures), 1.85, top=0.25 * -(-len(sweeps) // 3) if keyed else 0.0)
    look = looks([system.name for system in evidence.systems])
    values = sorted({_at(system, weight) for sweep in sweeps for system in sweep.systems})
    lines: list[Any] = [LINES[number % len(LINES)] for number in range(len(sweeps))]
    rows = []
    for axes, measure in zip(grid, measures, strict=True):
        for sweep, line in zip(sweeps, lines, strict=True):
            own = [point for point in measure.points if point.system in sweep.systems]
            _curve(axes, own, weight, line, look)
            rows += [_row(measure, point, sweep, weight) for point in own]
        if len({sweep.start for sweep in sweeps}) == 1:
            _start(axes, measure, sweeps[0])
        _scale(axes, values)
        axes.set_xlabel(sign, fontsize=8.5)
        head(axes, measure)
    if keyed:
        named = len({sweep.start for sweep in sweeps}) > 1
        counted = len({sweep.episodes for sweep in sweeps}) > 1
        handles = [
            Line2D(
                [], [], color=FAINT, linestyle=line,
                label=f"{fixed} = {sweep.fixed:g}"
                + (f", from {plain(sweep.start, 18)}" if named else "")
                + (f", {_episodes(sweep)}" if counted else ""),
            )
            for sweep, line in zip(sweeps, lines, strict=True)
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper left", ncols=2 if named and counted else 3, borderaxespad=0.2)
    points = [p for m in measures for p in m.points if any(p.system in sweep.systems for sweep in sweeps)]
    caption = (
        f"One mark a model: headline metrics over {sign}, the weight of {what} in PPO "
        f"({range_of_n(points)}); bars are 95 % intervals; lines join means of models that began with the same "
        f"checkpoint, against the same reward, with the same {fixed} and as many episodes (of each line: "
        f"{'; '.join(f'{fixed} = {sweep.fixed:g}, {_episodes(sweep)}' for sweep in sweeps)}). Other settings, such as "
        "the learning rate, run.json does not tell: they may differ. The axis is linear up to the smallest "
        f"positive {sign}, logarithmic beyond. Dotted: what training began with, where it was evaluated."
    )
    return Drawing(
        f"sweep_{weight}", f"{TITLE}: {what} ({sign})", source, figure, pd.DataFrame(rows),
        caption + unscored_told(points) + scored_by(points), _told(measures, sweeps, weight, sign),
    )  # fmt: skip


def _curve(axes: Axes, points: Sequence[Point], weight: str, line: Any, look: dict[str, Look]) -> None:
    places = sorted({_at(point.system, weight) for point in points})
    means = [float(np.mean([p.value for p in points if _at(p.system, weight) == place])) for place in places]
    axes.plot(places, means, color=FAINT, linewidth=1, linestyle=line, zorder=1)
    for point in points:
        own, (below, above) = look[point.system.name], point.error
        axes.errorbar(
            [_at(point.system, weight)], [point.value], yerr=[[below], [above]], color=own.colour, marker=own.marker,
            markersize=5, elinewidth=1.2, zorder=3,
        )  # fmt: skip


def _start(axes: Axes, measure: Measure, sweep: Sweep) -> None:
    """A level line at what the models were before PPO."""
    parent = sweep.systems[0].run.lineage[-2]["weights_sha256"] if sweep.start else None
    before = [point for point in measure.points if parent and point.system.run.weights == parent]
    if before:
        axes.axhline(before[0].value, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
        axes.annotate(
            "start", (1, before[0].value), xycoords=axes.get_yaxis_transform(), xytext=(0, 2),
            textcoords="offset points", ha="right", fontsize=8, color=FAINT, path_effects=HALO,
        )  # fmt: skip


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Zero and the positive values at about equal steps."""
    smallest = min(value for value in values if value > 0)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    step = -(-len(values) // MOST_TICKS)
    ticks = [value for place, value in enumerate(values) if place % step == 0]
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.12)
    to_axis = axes.xaxis.get_transform()
    low, high = (float(at) for at in to_axis.transform([values[0], values[-1]]))
    room = high - low  # on the right for the word "start"
    axes.set_xlim(*(float(at) for at in to_axis.inverted().transform([low - 0.12 * room, high + 0.3 * room])))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y")


def _row(measure: Measure, point: Point, sweep: Sweep, weight: str) -> dict[str, object]:
    return {
        "system": point.system.name,
        "start": sweep.start,
        "gamma": point.system.training["gamma"],
        "beta": point.system.training["beta"],
        "episodes": sweep.episodes,
        "varied": weight,
        "task": point.task.task,
        "metric": measure.metric.metric,
        "value": point.value,
        "low": point.metric.low,
        "high": point.metric.high,
        "n": point.metric.n,
        "unscored": point.metric.n_unscored,
        "scorer": point.metric.scorer,
    }


def _told(measures: Sequence[Measure], sweeps: Sequence[Sweep], weight: str, sign: str) -> str:
    told = []
    for measure in measures:
        for sweep in sweeps:
            own = sorted((p for p in measure.points if p.system in sweep.systems), key=lambda p: _at(p.system, weight))
            if own:
                path = ", ".join(f"{point.value:.3g} at {sign} = {_at(point.system, weight):g}" for point in own)
                told.append(f"{measure.title}: {path}")
    return "; ".join(told) + "."
