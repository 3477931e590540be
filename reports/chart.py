"""Charts with 95 % intervals: panels of bars and markers, of lines, of histograms, drawn from a figure's table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from reports.style import FAINT, INK, SMALL, Look, most_lines, new_figure, size_of, wrapped, wrapped_names

ROW = 0.2  # inches of height of a row
MOST_MARKERS = 50  # of a line
HALO = [withStroke(linewidth=2, foreground="white")]
MARK: dict[str, Any] = {"elinewidth": 1.2, "zorder": 3}
WHISKER: dict[str, Any] = {"ecolor": INK, "elinewidth": 1.1, "capsize": 2.5, "capthick": 1.1}
WHISKER |= {"fmt": "none", "zorder": 3}


@dataclass(frozen=True)
class Panel:
    """The part of a figure's table that one panel shows.

    reference: a value that a line marks, and its label; look: of all bars of the panel, instead of one per row
    """

    title: str
    table: pd.DataFrame
    subtitle: str = ""
    reference: tuple[float, str] | None = None
    look: Look | None = None


def panel_grid(
    panels: Sequence[Panel], height: float, *, columns: int = 3, key: Sequence[Artist] = (), **options: Any
) -> tuple[Figure, list[Axes]]:
    """Create a figure with a panel of `height` inches for each of `panels`, row by row, below a legend of `key`."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    labels = [str(handle.get_label()) for handle in key]
    letters = max((len(line) for label in labels for line in label.split("\n")), default=0)
    across = max(1, min(len(key), 84 // (letters + 7)))  # letters in the figure's width
    above = 0.1 + 0.2 * -(-len(key) // across) * (0.3 + 0.7 * most_lines(labels)) if key else 0.0
    below = most_lines(panel.subtitle for panel in panels) if any(panel.subtitle for panel in panels) else 0
    height += 0.15 * (most_lines(panel.title for panel in panels) - 1) + 0.14 * max(0, below - 1)
    figure, grid = new_figure(rows * height + above, rows=rows, columns=columns, squeeze=False, **options)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    found = list(grid.flat[: len(panels)])
    for axes in found[-columns:]:
        axes.xaxis.set_tick_params(labelbottom=True)
    for axes, panel in zip(found, panels, strict=True):
        axes.set_title(panel.title, pad=6 + 11 * below)
        note(axes, panel.subtitle, (0, 1), (0, 4), xycoords="axes fraction")
    if key:
        figure.legend(handles=list(key), loc="outside upper left", ncols=across, borderaxespad=0.2, handlelength=2.6)
    return figure, found


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **options: Any) -> None:
    """Write a small text at a place, moved by `offset` points. options: of matplotlib's annotate."""
    style: dict[str, Any] = {"color": FAINT, "fontsize": SMALL, "path_effects": HALO, "textcoords": "offset points"}
    axes.annotate(text, at, xytext=offset, **style, **options)


def reach(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return (2, rows): distances from the values to the ends of their 95 % intervals; NaN if there is none."""
    value, low, high = (table[name].to_numpy(np.float64) for name in ("value", "low", "high"))
    return np.asarray(np.clip([value - low, high - value], 0, None), np.float64)


def per_cent(x: float) -> str:
    return f"{100 * x:.2f}".rstrip("0").rstrip(".") + " %"


def row_panels(
    panels: Sequence[Panel], rows: Mapping[str, Look], *, label: str, columns: int = 3,
    series: tuple[str, Mapping[Any, str]] = ("", {}), bars: bool = True, join: str | None = None,
    most: float | None = None, percent: bool = False,
) -> Figure:  # fmt: skip
    """Draw a row per system: bars from zero, or markers, with 95 % intervals.

    rows: systems from top to bottom, and their looks; a system without a value gets a dash
    series: a column of the table, its values and their names in the legend: drawn beside each other in each row, the
        first filled, the others hollow
    join: column; a thin line joins the markers with the same value
    most: upper end of the axis of all panels; None: each panel has its own scale
    """
    column, names = series
    shifts = {value: 0.36 * (number - (len(names) - 1) / 2) for number, value in enumerate(names)} or {None: 0.0}
    key = [
        Patch(label=name, **look.bar) if bars else Line2D([], [], label=name, linestyle="none", **look.mark)
        for number, name in enumerate(names.values() if len(names) > 1 else ())
        for look in [Look(FAINT, "o", "none", number > 0)]
    ]
    top = max((0.4 + 0.6 * most_lines([p.reference[1]]) for p in panels if p.reference), default=0.0)  # for its label
    labels = list(wrapped_names(rows, 28).values())
    row = ROW * max(1.0, 0.7 * len(shifts), 0.68 * most_lines(labels) + 0.12)
    height = 0.62 + 0.15 * any(p.subtitle for p in panels) + row * (len(rows) + top)
    figure, grid = panel_grid(panels, height, columns=columns, key=key, sharey=True, sharex=most is not None)
    if percent and len(panels) > 1:
        figure.set_layout_engine("constrained", w_pad=0.1)  # inches: "100 %" of a panel beside "0 %" of the next
    places = {name: place for place, name in enumerate(rows)}
    for axes, panel in zip(grid, panels, strict=True):
        known = panel.table.dropna(subset=["value"])
        for number, (value, shift) in enumerate(shifts.items()):
            own = known[known[column] == value] if column else known
            y = own.system.map(places).astype(float) + shift
            for _, family in own.groupby(join, sort=False) if join else ():
                axes.plot(family.value, y[family.index], color=FAINT, linewidth=0.9, linestyle=("-", "--")[number > 0])
            for name, x, at, ends in zip(own.system, own.value, y, reach(own).T, strict=True):
                look = replace(panel.look or rows[name], hollow=number > 0)
                if bars:
                    axes.barh(at, x, 0.68 / len(shifts), linewidth=0.9, **look.bar)
                lines = axes.errorbar([x], [at], xerr=ends[:, None], **(WHISKER if bars else {**MARK, **look.mark}))
                for line in (*lines[1], *lines[2]) if bars else ():
                    line.set_path_effects(HALO)  # visible on the bar and beside it
        for name in [name for name in rows if name not in set(known.system)]:
            axes.text(0.01, places[name], "–", color=FAINT, va="center", transform=axes.get_yaxis_transform())
        if bars:
            own_scale = known[["value", "high"]].astype(float).max().max() if most is None else most
            axes.set_xlim(0, 1.01 if 0.85 < own_scale <= 1 else max(own_scale * 1.09, 0.02))
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: per_cent(x) if percent else f"{x:.3g}"))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6 - top)
        if panel.reference:
            x, words = panel.reference
            axes.axvline(x, color=FAINT, linestyle=(0, (4, 2)), linewidth=1, zorder=0)
            right = x > sum(axes.get_xlim()) / 2
            note(axes, words, (x, -0.6 - top), (-3, 0) if right else (3, 0), ha="right" if right else "left", va="top")
        axes.set_yticks(range(len(rows)), labels)
    figure.supxlabel(label, fontsize=9)
    return figure


def line_panels(
    panels: Sequence[Panel], series: Mapping[str, Look], *, x: str, line: str, label: str, columns: int = 3,
    height: float = 1.85, marks: Mapping[str, Look] | None = None, scale: tuple[str, Any] = ("linear", {}),
    ticks: Sequence[float] = (), form: Callable[[float], str] = size_of, band: bool = False, zero: bool = False,
) -> Figure:  # fmt: skip
    """Draw lines through values with 95 % intervals: bars at the markers, or a band.

    series: names of the lines and their looks; line: the column with the names
    marks: looks of the systems, if markers have these instead of the look of their line
    x: the column along the axis; ticks: positions that have a tick; form: writes them
    scale: of the x axis, with matplotlib's options; zero: the y axis begins at 0
    """
    key = [Line2D([], [], label=wrapped(name, 34), linestyle=look.line, **look.mark) for name, look in series.items()]
    figure, grid = panel_grid(panels, height, columns=columns, key=key if len(key) > 1 else ())
    every = pd.concat([panel.table for panel in panels])[x]
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        axes.set_xscale(scale[0], **scale[1])
        axis = axes.xaxis.get_transform()
        first, last = axis.transform([float(every.min()), float(every.max())])
        aside = min(0.012, 0.07 / len(series)) * (last - first)  # between the intervals of two lines
        for place, (name, look) in enumerate(series.items()):
            own = panel.table[panel.table[line] == name].dropna(subset=["value"])
            moved = axis.transform(own[x].astype(float)) + aside * (place - (len(series) - 1) / 2)
            own = own.assign(at=axis.inverted().transform(moved))
            means = own.groupby("at").value.mean()
            axes.plot(means.index, means, color=look.colour, linestyle=look.line, linewidth=1.3)
            if band:
                axes.fill_between(own["at"], own.low, own.high, color=look.colour, alpha=0.13, linewidth=0)
            if len(own) > (1 if band else MOST_MARKERS):
                continue
            for system, part in own.groupby("system") if marks else [(name, own)]:
                style = marks[system] if marks else look
                axes.errorbar(part["at"], part.value, yerr=reach(part), elinewidth=1, linestyle="none", **style.mark)
        if panel.reference:
            axes.axhline(panel.reference[0], color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
            at = {"xycoords": axes.get_yaxis_transform(), "ha": "right"}
            note(axes, panel.reference[1], (1, panel.reference[0]), (0, 2), **at)
        axes.margins(x=0.08, y=0.12)
        if zero:
            axes.set_ylim(0, None)
        axes.grid(axis="y")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_minor_locator(NullLocator())
        if ticks:  # those that are far enough from the one before
            at_ticks = axes.transData.transform([(tick, axes.get_ylim()[0]) for tick in ticks])
            kept: dict[float, float] = {}  # tick -> its place in the width of the panel
            for tick, at_width in zip(ticks, axes.transAxes.inverted().transform(at_ticks)[:, 0], strict=True):
                if not kept or at_width >= max(kept.values()) + 0.1 * min(columns, len(panels)):
                    kept[tick] = at_width
            axes.set_xticks(list(kept), [form(tick) for tick in kept])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: form(at)))
        if number >= len(panels) - columns:
            axes.set_xlabel(label, fontsize=8.5)
    return figure


def histogram_rows(
    parts: Mapping[str, pd.DataFrame], rows: Mapping[str, Look], *, bins: tuple[str, str], height: str, words: str
) -> Figure:
    """Draw a histogram per system (rows) and part (columns, named below), with its mean and its 95 % interval.

    parts: tables with a row per system and bin: the columns `bins` (edges), `height`, mean, mean_low, mean_high
    words: format of the text above a histogram, of the columns of its first row
    The histogram of the first system is repeated in the others as a dotted outline.
    """
    size = {"rows": len(rows), "columns": len(parts)}
    figure, grid = new_figure(0.65 + 0.72 * len(rows), **size, sharex="col", sharey="col", squeeze=False)
    names = wrapped_names(rows, 26 if len(parts) == 1 else 22)
    for column, (label, table) in enumerate(parts.items()):
        first = None
        for axes, (name, look) in zip(grid[:, column], rows.items(), strict=True):
            own = table[table.system == name]
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
            if not column:
                axes.set_ylabel(names[name], rotation=0, ha="right", va="center", labelpad=10, fontsize=8.5)
                beside = offset_copy(axes.transAxes, figure, x=-5, units="points")
                axes.plot([0, 0], [0.03, 0.9], transform=beside, color=look.colour, linewidth=4, clip_on=False)
            if own.empty:
                axes.text(0.5, 0.4, "not available", transform=axes.transAxes, ha="center", fontsize=SMALL)
                continue
            edges = [*own[bins[0]], own[bins[1]].iloc[-1]]
            axes.stairs(own[height], edges, fill=True, color=look.colour, alpha=0.22)
            axes.stairs(own[height], edges, color=look.colour, linewidth=1.3)
            if first is not None:
                axes.stairs(first, edges, color=FAINT, linewidth=0.9, linestyle=(0, (1, 1)))
            first = own[height] if first is None else first
            head = own.iloc[0]
            if pd.notna(head.mean_low):
                axes.axvspan(head.mean_low, head.mean_high, color=INK, alpha=0.16, linewidth=0)
            axes.axvline(head["mean"], color=INK, linewidth=1.1)
            told = (words if pd.notna(head.mean_low) else words.partition(" [")[0]).format(**head)
            axes.set_title(told, loc="right", fontsize=SMALL, fontweight="normal", pad=2)
            axes.set_xlim(edges[0], edges[-1])
        grid[0, column].set_ylim(0, 1.08 * float(table[height].max()))
        grid[-1, column].set_xlabel(label)
    return figure
