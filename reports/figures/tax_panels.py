"""The tasks that a tax is paid on, a small panel each, zero-shot and few-shot, over models (Ouyang et al. 2022,
figures 28 and 29)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, Point, System
from reports.names import size_of
from reports.style import FAINT, INK, Look, looks, plain
from reports.tax_tasks import Measure, head, range_of_n, scored_by, small_panels, tax_measures, unscored_told

TITLE = "Tasks that alignment may tax"
SOURCE = "Ouyang et al. 2022, figures 28 and 29"
ROW = 0.2  # inches a model
BESIDE = 1.06  # times the number of parameters: from stage to stage, for bars to be seen beside each other
APART = 0.17  # rows: zero-shot above, few-shot below


def draw(evidence: Evidence) -> list[Drawing]:
    """Panels of tasks; in each the models in the order of their lineage, or their sizes where one stage has several."""
    shots = _by_shots(evidence)
    if not shots:
        raise NoDataError("no task of reading, common sense, inference, sentiment, translation or summaries")
    names = list(dict.fromkeys(measure.title for measures in shots.values() for measure in measures))
    panels = {
        name: {few: own for few, all_of in shots.items() for own in all_of if own.title == name} for name in names
    }
    systems = [s for s in evidence.systems if any(p.system is s for m in _measures(panels) for p in m.points)]
    every = [system.name for system in evidence.systems]
    by_size = _sizes_differ(systems)
    if by_size:
        figure, grid = small_panels(len(panels), 1.75, top=0.3 + 0.2 * (len({s.stage for s in systems}) // 3))
    else:
        figure, grid = small_panels(len(panels), 0.72 + ROW * (len(systems) + 1), top=0.3 if len(shots) > 1 else 0.0)
    for number, (axes, own) in enumerate(zip(grid, panels.values(), strict=True)):
        if by_size:
            _over_sizes(axes, own, systems)
        else:
            _over_models(axes, own, systems, looks(every), named=number % 3 == 0)
        head(axes, next(iter(own.values())))
    handles = _stage_key(systems) if by_size else []
    handles += _shots_key(shots) if len(shots) > 1 else []
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, borderaxespad=0.2)
    table = _table(panels)
    caption = _caption(panels, shots, by_size)
    return [Drawing("tax_panels", TITLE, SOURCE, figure, table, caption, _told(panels))]


def _by_shots(evidence: Evidence) -> dict[int, list[Measure]]:
    """Number of examples before each prompt -> the tasks' headline metrics at that number; {} without any."""
    numbers = sorted({own.result.shots for system in evidence.systems for own in system.tasks})
    found = {}
    for shots in numbers:
        systems = (
            replace(system, tasks=tuple(own for own in system.tasks if own.result.shots == shots))
            for system in evidence.systems
        )
        measures = tax_measures(replace(evidence, systems=tuple(systems)))
        known = {system.name: system for system in evidence.systems}
        found[shots] = [
            replace(own, points=tuple(replace(point, system=known[point.system.name]) for point in own.points))
            for own in measures
        ]
    return {shots: measures for shots, measures in found.items() if measures}


Panels = dict[str, dict[int, Measure]]


def _measures(panels: Panels) -> list[Measure]:
    return [measure for own in panels.values() for measure in own.values()]


def _sizes_differ(systems: Sequence[System]) -> bool:
    """Whether a stage was made at several sizes, and no stage twice at one."""
    made = [(system.stage, system.parameters) for system in systems]
    known = all(stage is not None and size is not None for stage, size in made)
    return (
        known
        and len(set(made)) == len(made)
        and len({size for _, size in made}) > 1
        and any(len({size for other, size in made if other == stage}) > 1 for stage, _ in made)
    )


def _over_models(
    axes: Axes, measures: dict[int, Measure], systems: Sequence[System], look: dict[str, Look], *, named: bool
) -> None:
    """A row a model; what was made from one another is joined."""
    row = {system.name: place for place, system in enumerate(systems)}
    for number, (shots, measure) in enumerate(measures.items()):
        shift = 0.0 if len(measures) == 1 else APART * (2 * number / (len(measures) - 1) - 1)
        for family in _families(measure.points):
            axes.plot(
                [point.value for point in family], [row[point.system.name] + shift for point in family], color=FAINT,
                linewidth=0.9, linestyle="--" if shots else "-", zorder=1,
            )  # fmt: skip
        for point in measure.points:
            own, (below, above) = look[point.system.name], point.error
            axes.errorbar(
                [point.value], [row[point.system.name] + shift], xerr=[[below], [above]], color=own.colour,
                marker=own.marker, markerfacecolor="white" if shots else own.colour, markersize=5, elinewidth=1.2,
                zorder=3,
            )  # fmt: skip
    axes.set_ylim(len(systems) - 0.4, -1.3)
    axes.set_yticks(range(len(systems)), [plain(system.name, 24) for system in systems] if named else [], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="x")
    if (chance := next(iter(measures.values())).metric.chance) is not None:
        axes.axvline(chance, color=INK, linewidth=0.8, linestyle=":", zorder=0)
        low, high = axes.get_xlim()
        left = chance > (low + high) / 2
        axes.annotate(
            "chance", (chance, -1.25), xytext=(-3 if left else 3, 0), textcoords="offset points", va="top",
            ha="right" if left else "left", fontsize=8, color=FAINT,
        )  # fmt: skip


def _families(points: Sequence[Point]) -> list[list[Point]]:
    """Points of the models that come from one pretrained model, where there are several."""
    found: dict[str, list[Point]] = {}
    for point in points:
        if point.system.run.lineage:
            found.setdefault(point.system.run.lineage[0]["weights_sha256"], []).append(point)
        elif point.system.run.weights:
            found.setdefault(point.system.run.weights, []).append(point)
    return [family for family in found.values() if len(family) > 1]


def _over_sizes(axes: Axes, measures: dict[int, Measure], systems: Sequence[System]) -> None:
    """A line a stage, from the smallest to the largest model."""
    look = _stage_looks(systems)
    for shots, measure in measures.items():
        for number, (stage, own) in enumerate(look.items()):
            aside = BESIDE ** (number - (len(look) - 1) / 2)
            line = sorted(
                (point for point in measure.points if point.system.stage == stage),
                key=lambda point: point.system.parameters or 0,
            )
            errors = [point.error for point in line]
            axes.errorbar(
                [(point.system.parameters or 0) * aside for point in line], [point.value for point in line],
                yerr=[[below for below, _ in errors], [above for _, above in errors]], color=own.colour,
                marker=own.marker, markerfacecolor="white" if shots else own.colour, markersize=5, elinewidth=1,
                linewidth=1.2, linestyle="--" if shots else "-",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    sizes = _readable({system.parameters or 0 for system in systems})
    axes.set_xticks(sizes, [size_of(size) for size in sizes], fontsize=8)
    axes.margins(x=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y")
    if (chance := next(iter(measures.values())).metric.chance) is not None:
        axes.axhline(chance, color=INK, linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            "chance", (1, chance), xycoords=axes.get_yaxis_transform(), xytext=(0, 2), textcoords="offset points",
            ha="right", fontsize=8, color=FAINT, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _readable(sizes: set[int]) -> list[int]:
    """Those far enough apart, on a log axis of a small panel, for their names to stand beside each other."""
    widest = max(sizes) / min(sizes)
    kept: list[int] = []
    for size in sorted(sizes):
        if not kept or size / kept[-1] >= widest**0.3:
            kept.append(size)
    return kept


def _stage_looks(systems: Sequence[System]) -> dict[str, Look]:
    return looks([str(system.stage) for system in systems])


def _stage_key(systems: Sequence[System]) -> list[Line2D]:
    return [
        Line2D([], [], color=own.colour, marker=own.marker, label=stage) for stage, own in _stage_looks(systems).items()
    ]


def _shots_key(shots: dict[int, list[Measure]]) -> list[Line2D]:
    few = [number for number in shots if number]
    told = f"{few[0]} examples" if len(few) == 1 else f"{few[0]}–{few[-1]} examples" if few else ""
    marks: list[tuple[int, str, str, Any]] = [(0, "zero-shot", FAINT, "-")] if 0 in shots else []
    marks += [(1, f"few-shot ({told})", "white", "--")] if few else []
    return [
        Line2D([], [], color=FAINT, marker="o", markerfacecolor=inside, linestyle=line, linewidth=0.9, label=label)
        for _, label, inside, line in marks
    ]


def _table(panels: Panels) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "system": point.system.name,
                "stage": point.system.stage,
                "parameters": point.system.parameters,
                "task": name,
                "shots": shots,
                "metric": point.metric.metric,
                "unit": point.metric.unit,
                "value": point.value,
                "low": point.metric.low,
                "high": point.metric.high,
                "n": point.metric.n,
                "unscored": point.metric.n_unscored,
                "chance": point.metric.chance,
                "scorer": point.metric.scorer,
            }
            for name, own in panels.items()
            for shots, measure in own.items()
            for point in measure.points
        ]
    )


def _caption(panels: Panels, shots: dict[int, list[Measure]], by_size: bool) -> str:
    points = [point for measure in _measures(panels) for point in measure.points]
    parts = ["One panel a task: its headline metric,"]
    parts.append(
        "one line a stage over the number of parameters" if by_size else "one mark a model in order of lineage"
    )
    parts.append(f"({range_of_n(points)}); bars are 95 % intervals of each value alone.")
    if not by_size:
        parts.append("Hair lines join models that come from one pretrained model.")
    if len(shots) > 1:
        parts.append("Hollow marks and broken lines: with examples before each prompt, as many as the table says.")
    elif 0 not in shots:
        parts.append(f"All with {next(iter(shots))} examples before each prompt.")
    else:
        parts.append("All zero-shot.")
    if any(point.metric.chance is not None for point in points):
        parts.append("Dotted: what answering at random scores.")
    shown = len({(point.system.name, point.task.task) for point in points})
    if missing := len({point.system.name for point in points}) * len(panels) - shown:
        parts.append(f"{missing} pairs of a model and a task have no value.")
    return " ".join(parts) + unscored_told(points) + scored_by(points)


def _told(panels: Panels) -> str:
    told = []
    for name, own in panels.items():
        for shots, measure in own.items():
            best = max(measure.points, key=lambda point: point.value)
            worst = min(measure.points, key=lambda point: point.value)
            how = f" with {shots} examples" if shots else ""
            told.append(
                f"{name}{how}: highest {plain(best.system.name, 40)} {best.value:.3g}, "
                f"lowest {plain(worst.system.name, 40)} {worst.value:.3g}"
            )
    return "; ".join(told) + "."
