"""Rows of bars or dots, one a system: what most figures of shares and means are made of.

A figure makes its table first, and everything here is drawn from that table: nothing is shown that is not in the CSV.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from alignbench.labels.summary import UNNAMED
from alignbench.labels.table import Label
from reports.evidence import Evidence, Point, System
from reports.style import FAINT, INK, Look, looks, plain

ROW = 0.2  # inches of height that a system takes
WHISKER: dict[str, Any] = {"ecolor": INK, "elinewidth": 0.9, "capsize": 2, "capthick": 0.9, "fmt": "none", "zorder": 3}


def row_of(point: Point, **columns: Any) -> dict[str, Any]:
    """A line of a figure's table. columns: those of the figure, which stand after the system's name."""
    own = point.metric
    return {
        "system": point.system.name, **columns, "task": point.task.task, "metric": own.metric, "value": own.value,
        "low": own.low, "high": own.high, "n": own.n, "unscored": own.n_unscored, "scorer": own.scorer or "",
    }  # fmt: skip


def scorers_of(evidence: Evidence, tasks: Iterable[str], metric: str) -> dict[str, Evidence]:
    """name@revision -> the evidence without the runs of these tasks that another scorer judged, sorted."""
    tasks = set(tasks)
    made = {
        own.path: found.scorer or ""
        for task in tasks
        for _, own in evidence.every_run_of(task)
        for found in own.result.metrics
        if found.metric == metric and found.category is None
    }

    def judged_by(scorer: str) -> Evidence:
        def keep(own: Any) -> bool:
            return own.task not in tasks or made.get(own.path) == scorer

        systems = (replace(system, tasks=tuple(filter(keep, system.tasks))) for system in evidence.systems)
        return replace(evidence, systems=tuple(systems))

    return {scorer: judged_by(scorer) for scorer in sorted(set(made.values()))}


def best_scorer(evidence: Evidence, tasks: Iterable[str], metric: str) -> Evidence:
    """The evidence with those runs of the tasks alone whose scorer judged most of them; as it is where none did."""
    tasks = list(tasks)
    judged = scorers_of(evidence, tasks, metric)
    many = {scorer: sum(len(own.points(task, metric)) for task in tasks) for scorer, own in judged.items()}
    return judged[max(judged, key=lambda scorer: many[scorer])] if judged else evidence


def names_of(evidence: Evidence, there: Collection[str]) -> list[str]:
    """Those that are there, in the order of the systems; models that only labels know after them, sorted."""
    order = [system.name for system in evidence.systems if system.name in there]
    return [*order, *sorted(set(there) - set(order))]


def model_of(label: Label) -> str:
    return label.model or UNNAMED


def look_of(evidence: Evidence, names: Iterable[str]) -> dict[str, Look]:
    """The systems' looks, which are the same in every figure, and further ones for names beyond them."""
    return looks([*(system.name for system in evidence.systems), *names])


def draw_bars(
    axes: Axes,
    table: pd.DataFrame,
    names: Sequence[str],
    look: Mapping[str, Look],
    *,
    shift: float = 0.0,
    height: float = 0.62,
    hatch: str | None = None,
) -> None:
    """A horizontal bar from zero for each row of `table` (system, value, low, high), with its 95 % interval.

    names: top to bottom, as `name_rows` writes them; a name without a value gets a dash
    shift, height: of the bar, in rows; hatch: given, the bar is white with this hatch in the system's colour
    """
    own = table.dropna(subset=["value"]).set_index("system")
    for place, name in enumerate(names):
        y, colour = place + shift, look[name].colour
        if name not in own.index:
            axes.text(0.01, y, "–", color=FAINT, va="center", fontsize=8, transform=axes.get_yaxis_transform())
            continue
        value = float(own.value[name])
        if hatch is None:
            axes.barh(y, value, height, color=colour)
        else:
            axes.barh(y, value, height, facecolor="white", edgecolor=colour, hatch=hatch, linewidth=0.9)
        whisker(axes, value, y, own.loc[name])


def whisker(axes: Axes, x: float, y: float, row: pd.Series) -> None:
    """The 95 % interval of a table's row about (x, y), where it has one."""
    if pd.notna(row.low) and pd.notna(row.high):
        reach = [[max(x - float(row.low), 0.0)], [max(float(row.high) - x, 0.0)]]
        axes.errorbar([x], [y], xerr=reach, **WHISKER)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """The names at the left, the first one at the top."""
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_color(FAINT)


def shares_axis(axes: Axes, most: float = 1.0, *, ticks: int = 4, percent: bool = True) -> None:
    """From 0 to a little above `most`, in per cent or as it is."""
    top = 1.0 if most > 0.85 else max(most * 1.08, 0.02)
    axes.set_xlim(0, top * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: per_cent(x) if percent else f"{x:.3g}"))


def per_cent(x: float) -> str:
    return f"{100 * x:.2f}".rstrip("0").rstrip(".") + " %"


def reference_line(axes: Axes, x: float, told: str) -> None:
    """A dashed vertical line at x, with its name above the panel, whose title needs pad=16."""
    axes.axvline(x, color=FAINT, linestyle=(0, (4, 2)), linewidth=1, zorder=4)
    reference_name(axes, x, told)


def reference_name(axes: Axes, x: float, told: str) -> None:
    """A small name above the panel for a vertical line at x: the panel's title needs pad=16."""
    low, high = axes.get_xlim()
    side = "left" if x < low + (high - low) / 4 else "right" if x > high - (high - low) / 4 else "center"
    transform = axes.get_xaxis_transform()
    axes.text(x, 1.01, told, color=FAINT, fontsize=8, ha=side, va="bottom", transform=transform)


def bottom_label(line: Sequence[Axes], told: str) -> None:
    """The name of the x axis that panels side by side share: below the middle one, or below both of two."""
    middle = len(line) // 2
    for axes in line if len(line) % 2 == 0 else line[middle : middle + 1]:
        axes.set_xlabel(told)


def key(figure: Figure, handles: Sequence[Artist], names: Sequence[str], columns: int = 3) -> None:
    """A legend below everything."""
    figure.legend(
        handles=list(handles), labels=[plain(name) for name in names],
        loc="outside lower center", ncols=columns, fontsize=8, handlelength=2.2,
    )  # fmt: skip


def top_of(table: pd.DataFrame) -> float:
    """The highest number that is drawn: end of an interval, or value."""
    return float(np.nanmax(table[["value", "high"]].to_numpy(np.float64)))


def n_told(table: pd.DataFrame, what: str = "documents") -> str:
    """`n = 252 documents`, `n = 40 to 252 documents`."""
    n = table.n.dropna().astype(int)
    return f"n = {_range(n.min(), n.max())} {what}"


def left_out(table: pd.DataFrame, evidence: Evidence | None = None) -> str:
    """A sentence on what is not drawn; "" where nothing is missing. evidence: given, its systems that are not in the
    table are counted, too: those that have its metrics of other documents, shots or scorers, and those without them."""
    unscored = int(table.unscored.fillna(0).sum()) if "unscored" in table else 0
    told = [f"{unscored:,} unscored document{'s' * (unscored > 1)}"] if unscored else []
    absent = [own for own in evidence.systems if own.name not in set(table.system)] if evidence else []
    tasks, metrics = set(table.task), set(table.metric)
    otherwise = sum(_has(own, tasks, metrics) for own in absent)
    without = len(absent) - otherwise
    told += [f"{otherwise} model{'s' * (otherwise > 1)} measured otherwise"] if otherwise else []
    told += [f"{without} model{'s' * (without > 1)} without these numbers"] if without else []
    return f" Left out: {', '.join(told)}." if told else ""


def _has(system: System, tasks: Collection[str], metrics: Collection[str]) -> bool:
    return any(
        own.task in tasks and any(m.metric in metrics and m.value is not None for m in own.result.metrics)
        for own in system.tasks
    )


def scorers_told(table: pd.DataFrame) -> str:
    """`Scorer: NAME@REVISION.` of those in the table; "" where no scorer made the numbers."""
    single = {name for joined in table.scorer.dropna() for name in str(joined).split(" + ") if name}
    names = [plain(re.sub(r"@([0-9a-f]{8})[0-9a-f]+$", r"@\1", name), 60) for name in sorted(single)]
    return f" Scorer{'s' * (len(names) > 1)}: {'; '.join(names)}." if names else ""


def extremes(table: pd.DataFrame, form: str = ".3f") -> str:
    """`highest A (.5), lowest B (.1)` of a table with system and value."""
    own = table.dropna(subset=["value"])
    if own.empty:
        return "no numbers"
    high, low = own.loc[own.value.idxmax()], own.loc[own.value.idxmin()]
    if len(own) == 1:
        return f"{plain(high.system, 60)} {high.value:{form}}"
    told = (f"{plain(row.system, 60)} ({row.value:{form}})" for row in (high, low))
    return "highest {}, lowest {}".format(*told)


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
