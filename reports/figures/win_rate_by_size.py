"""Win rate against the baseline over model size, one line a training method (InstructGPT, figures 1 and 3).

Without sizes, or where all models have one size, a row a system in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from reports.bars import (
    ROW,
    WHISKER,
    best_scorer,
    extremes,
    key,
    left_out,
    look_of,
    n_told,
    name_rows,
    per_cent,
    reference_name,
    row_of,
    scorers_told,
    whisker,
)
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, Point, System, point_of
from reports.names import size_of
from reports.style import FAINT, INK, LINES, MARKERS, Look, new_figure, plain, spread_labels

TITLE = "Win rate by model size"
RATE, CONTROLLED = "win_rate", "win_rate_length_controlled"
EVEN = 0.5
MOST_TOLD = 4  # models of which a caption tells each number
BESIDE = {  # what protocols, section 6, want beside a win rate: metric -> how it is told
    "words": ("{} words", "{:.3g}"),
    "baseline_words": ("the baseline {}", "{:.3g}"),
    "longer": ("always the longer {}", "{:.0%}"),
    "agrees_with_longer": ("the judge agrees with that on {}", "{:.0%}"),
    "position_consistency": ("the same verdict in both orders {}", "{:.0%}"),
}
TICKS_APART = 0.13  # of the axis, between two sizes that are both written


def draw(evidence: Evidence) -> list[Drawing]:
    judged = best_scorer(evidence, [RATE], RATE)
    rates, controlled = judged.points(RATE, RATE), judged.points(RATE, CONTROLLED)
    if not rates:
        raise NoDataError("no win rates against a baseline")
    baseline = dict(rates[0].task.identity.get("baseline") or {})
    table = pd.DataFrame(_row(point, str(baseline.get("name", ""))) for point in (*rates, *controlled))
    at_even = _baseline_row(evidence, baseline, set(table.system))
    sizes = {point.system.parameters for point in rates} | ({at_even["parameters"]} if at_even else set())
    by_size = None not in sizes and len(sizes) > 1
    if at_even and by_size:
        table = pd.concat([table, pd.DataFrame([at_even])], ignore_index=True)
    look = look_of(evidence, [])
    versus = f"baseline: {plain(str(baseline.get('name', 'not named')))}"
    figure = _draw_by_size(table, look, versus) if by_size else _draw_by_system(table, look, versus)
    beside = pd.DataFrame(row for point in rates for row in _beside(point, str(baseline.get("name", ""))))
    of_rate = table[(table.metric == RATE) & table.low.notna()]
    contests = sum(own.task == RATE for system in evidence.systems for own in system.tasks) - len(rates)
    caption = (
        f"Filled marks: how often the judge prefers the model's answer to that of {versus.removeprefix('baseline: ')}, "
        f"ties half{'; open marks: what it would be at equal lengths' if controlled else ''}. "
        f"{'A line joins the sizes of one training method. ' if by_size and table.method.ne('').any() else ''}"
        f"Bars{' (of the filled marks)' if by_size and controlled else ''}: 95 % bootstrap intervals over prompts; "
        f"{n_told(of_rate if len(of_rate) else table, 'prompts')}."
        f"{scorers_told(table)}{left_out(table[table.metric == RATE])}"
        f"{_told_beside(beside, [point.system.name for point in rates]) if len(beside) else ''}{_others(contests)}"
    )
    own = table[(table.metric == RATE) & (table.system != table.baseline)]
    alt = f"Win rate against {versus.removeprefix('baseline: ')}: {extremes(own, '.0%')}; 50 % is even."
    title = TITLE if by_size else "Win rates"
    whole = pd.concat([table, beside], ignore_index=True) if len(beside) else table
    return [Drawing("win_rate_by_size", title, "InstructGPT, figures 1 and 3", figure, whole, caption, alt)]


def _beside(point: Point, baseline: str) -> list[dict[str, Any]]:
    """What stands beside a win rate in the table: lengths of both sides, what a judge would say who always takes the
    longer answer, how consistent the judge was."""
    found = [point_of(point.system, point.task, metric) for metric in BESIDE]
    return [_row(own, baseline) for own in found if own]


def _told_beside(beside: pd.DataFrame, systems: Sequence[str]) -> str:
    """The same in words: a clause a model, or the ranges over many."""
    groups = [(f"{plain(name)}: ", beside[beside.system == name]) for name in systems]
    if len(systems) > MOST_TOLD:
        groups = [("From the least to the most of all models (each in the table): ", beside)]
    clauses = []
    for name, own in groups:
        told = [
            words.format("–".join(dict.fromkeys(form.format(end) for end in (found.min(), found.max()))))
            for metric, (words, form) in BESIDE.items()
            for found in [own.value[own.metric == metric]]
            if len(found)
        ]
        clauses += [name + ", ".join(told)] if told else []
    return (
        " Beside each rate: the mean words of both sides, what the rate would be if always the longer answer won, and "
        f"how often the judge was consistent, where it saw both orders. {'; '.join(clauses)}."
    )


def _others(contests: int) -> str:
    told = f" Not shown: {contests} contest{'s' * (contests > 1)} against another baseline or before another judge."
    return told if contests else ""


def _row(point: Point, baseline: str) -> dict[str, Any]:
    system = point.system
    return row_of(point, method=system.stage or "", parameters=system.parameters, baseline=baseline)


def _baseline_row(evidence: Evidence, baseline: dict[str, Any], judged: set[str]) -> dict[str, Any] | None:
    """The baseline stands at 50 % by definition; None where it is not among the systems, has no size, or is judged."""
    name = str(baseline.get("name"))
    wanted = [f"{name} (chat)", name] if baseline.get("template") == "chat" else [name]
    found = [system for own in wanted for system in evidence.systems if system.name == own]
    if not found or found[0].parameters is None or found[0].name in judged:
        return None
    system: System = found[0]
    return {
        "system": system.name, "method": system.stage or "", "parameters": system.parameters, "baseline": system.name,
        "task": RATE, "metric": RATE, "value": EVEN, "low": nan, "high": nan, "n": nan, "unscored": nan,
        "scorer": "",
    }  # fmt: skip


def _draw_by_system(table: pd.DataFrame, look: dict[str, Look], versus: str) -> Figure:
    """A row a system, the best at the top."""
    rates = table[table.metric == RATE].sort_values(["value", "system"], ascending=[False, True])
    names = list(rates.system)
    both = (table.metric == CONTROLLED).any()
    figure, axes = new_figure(1.05 + (1.5 if both else 1.2) * ROW * len(names))
    name_rows(axes, names)
    for metric, shift in ((RATE, -0.14 if both else 0.0), (CONTROLLED, 0.2)):
        for _, row in table[table.metric == metric].iterrows():
            y = names.index(row.system) + shift
            whisker(axes, row.value, y, row)
            axes.plot([row.value], [y], **_mark(look[row.system], filled=metric == RATE))
    axes.set_xlim(*_limits(table))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: per_cent(x)))
    axes.axvline(EVEN, color=FAINT, linestyle=(0, (4, 2)), linewidth=1)
    reference_name(axes, EVEN, versus)
    axes.set_xlabel("win rate")
    if both:
        _key_of_marks(figure)
    return figure


def _draw_by_size(table: pd.DataFrame, look: dict[str, Look], versus: str) -> Figure:
    """A point a system over its size on a log axis, names in the margin at the height of what they name."""
    series = _series(table, look)
    both = (table.metric == CONTROLLED).any()
    height = max(3.4, 0.8 + 0.16 * (len(series) + 1)) + 0.3 * both
    figure, axes = new_figure(height)
    sizes = sorted(set(table.parameters.astype(float)))
    span = sizes[-1] / sizes[0]
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / max(span**0.08, 1.2), sizes[-1] * max(span**0.08, 1.2))
    low, high = axes.get_xlim()
    axes.set_ylim(*_limits(table))
    ends = []
    for number, (name, own, how, style) in enumerate(series):
        own = own.assign(x=[_aside(size, number, series, high / low) for size in own.parameters])
        rates = own[own.metric == RATE].sort_values("parameters")
        if style is not None and len(rates) > 1:
            axes.plot(rates.x, rates.value, color=how.colour, linestyle=style, linewidth=1.4)
        for metric in (RATE, CONTROLLED):
            for _, row in own[own.metric == metric].iterrows():
                x = row.x * (1.0 if metric == RATE else (high / low) ** 0.01)
                if metric == RATE:  # the open marks' intervals stand in the table: here they would hide everything
                    _vertical_whisker(axes, x, row, how.colour)
                axes.plot([x], [row.value], **_mark(how, filled=metric == RATE))
        ends.append((float(rates.value.iloc[-1]), name, how))
    axes.axhline(EVEN, color=FAINT, linestyle=(0, (4, 2)), linewidth=1, zorder=1)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: per_cent(y)))
    axes.xaxis.set_major_locator(FixedLocator(_apart(sizes, high / low)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size_of(x)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("parameters (log scale)")
    axes.set_ylabel("win rate")
    _margin_names(axes, ends, versus, gap=0.16 / (height - 0.8 - 0.3 * both))
    if both:
        _key_of_marks(figure)
    return figure


def _series(table: pd.DataFrame, look: dict[str, Look]) -> list[tuple[str, pd.DataFrame, Look, Any]]:
    """(name, rows, look, line style): the methods of which there are several sizes, then each other system.

    A method has the colour of its largest model whose colour no other method has, and a mark and line of its own.
    """
    found: list[tuple[str, pd.DataFrame, Look, Any]] = []
    joined = set()
    for method, own in table[table.method != ""].groupby("method", sort=False):
        if own.parameters.nunique() > 1:
            members = [look[system] for system in own.sort_values("parameters", ascending=False).system]
            used = {how.colour for _, _, how, _ in found}
            how = next((member for member in members if member.colour not in used), members[0])
            number = len(found) % len(LINES)
            how = replace(how, marker=MARKERS[number], line=LINES[number])
            found.append((str(method), own, how, how.line))
            joined.add(method)
    for system, own in table[~table.method.isin(joined)].groupby("system", sort=False):
        found.append((str(system), own, look[str(system)], None))
    return found


def _aside(size: float, number: int, series: Sequence[tuple[str, pd.DataFrame, Look, Any]], span: float) -> float:
    """Where the series with this number draws its model of this size: beside the others of about that size, for
    their intervals to be seen apart."""
    reach = 0.03 * np.log(span)
    near = [
        other
        for other, (_, own, _, _) in enumerate(series)
        if (np.abs(np.log(own.parameters.astype(float) / size)) < reach).any()
    ]
    step = 0.026 * min(1.0, 4 / len(near))
    return float(size * span ** (step * (near.index(number) - (len(near) - 1) / 2)))


def _margin_names(axes: Axes, ends: list[tuple[float, str, Look]], versus: str, gap: float) -> None:
    """Mark and name of each series in the right margin, and the baseline's at its line."""
    low, high = axes.get_ylim()
    heights = [(value - low) / (high - low) for value, _, _ in ends] + [(EVEN - low) / (high - low)]
    places = spread_labels(heights, gap)
    beyond = max(0.0, -min(places) + gap / 2), max(0.0, max(places) - 1 + gap / 2)
    places = [place + beyond[0] - beyond[1] for place in places]
    for place, (_, name, how) in zip(places, ends, strict=False):
        mark = _mark(how, filled=True)
        axes.plot([1.03], [place], transform=axes.transAxes, clip_on=False, **mark)
        axes.text(1.06, place, plain(name), transform=axes.transAxes, va="center", fontsize=8.5, color=INK)
    axes.text(1.02, places[-1], versus, transform=axes.transAxes, va="center", fontsize=8, color=FAINT)


def _mark(how: Look, *, filled: bool) -> dict[str, Any]:
    return {
        "marker": how.marker, "linestyle": "none", "color": how.colour, "markeredgecolor": how.colour,
        "markerfacecolor": how.colour if filled else "white", "zorder": 4,
    }  # fmt: skip


def _vertical_whisker(axes: Axes, x: float, row: pd.Series, colour: str) -> None:
    if pd.notna(row.low) and pd.notna(row.high):
        reach = [[max(row.value - row.low, 0.0)], [max(row.high - row.value, 0.0)]]
        axes.errorbar([x], [row.value], yerr=reach, **{**WHISKER, "ecolor": colour})


def _key_of_marks(figure: Figure) -> None:
    plain_mark: dict[str, Any] = {"marker": "o", "linestyle": "none", "color": FAINT}
    key(figure, [Line2D([], [], **plain_mark), Line2D([], [], markerfacecolor="white", **plain_mark)],
        ["win rate", "at equal lengths"])  # fmt: skip


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Of the axis of rates: all intervals, and 50 % with something on both sides of it."""
    ends = table[["value", "low", "high"]].astype(float)
    low, high = min(float(ends.min().min()), 0.4), max(float(ends.max().max()), 0.6)
    return max(low - 0.03, -0.02), min(high + 0.03, 1.02)


def _apart(sizes: list[float], span: float) -> list[float]:
    """Those of the sizes that can be written without meeting, from the smallest on."""
    kept: list[float] = []
    for size in sizes:
        if not kept or size >= kept[-1] * span**TICKS_APART:
            kept.append(size)
    return kept
