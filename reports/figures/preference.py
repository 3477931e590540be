"""Preferences: win rates of a judge, and what labelers said of the outputs: Likert ratings, flags, agreement
(InstructGPT, figures 1 and 3 to 5, and section 5)."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from math import nan
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alignbench.labels.agreement import Judgements, questions, with_reference
from alignbench.labels.summary import UNNAMED, ModelFinding, summary
from alignbench.labels.table import LIKERT, flag_names
from reports.chart import Panel, line_panels, row_panels
from reports.drawing import WORDS, Drawing, describe, rows_of
from reports.evidence import Evidence, point_of, scored_by
from reports.style import ON_DARK, ON_LIGHT, SMALL, new_figure, plain, wrapped

RATE = "win_rate"
RATES = {RATE: "win rate", "win_rate_length_controlled": "at equal lengths"}
EVEN = 0.5
CONTEXT = WORDS["win_rate_context"]  # reported with every win rate
RATINGS = range(LIKERT[0], LIKERT[1] + 1)
WIDE = 0.07  # of the axis: narrower pieces of a bar have no number
RESAMPLES = 2_000  # of prompts and labelers, for each flag of each system
NUMBERED, NAMED = 20, 34  # most labelers for numbers in the cells, and for names beside the matrix


def win_rate(evidence: Evidence) -> Iterator[Drawing]:
    """Draw lines of training methods over model sizes; without sizes, or with a single size, a row per system."""
    points = [
        point
        for judge in evidence.scorers([RATE], RATE)[:1]
        for metric in RATES
        for point in evidence.points(RATE, metric, scored_by(RATE, judge))
    ]
    rates = [point for point in points if point.metric.metric == RATE]
    if not rates:
        return
    baseline = rates[0].task.identity.get("baseline") or {}
    name = str(baseline.get("name", ""))
    context = [point_of(point.system, point.task, metric) for point in rates for metric in CONTEXT]
    table = pd.DataFrame(
        point.row(method=point.system.stage or "", parameters=point.system.parameters, baseline=name)
        for point in [*points, *context]
        if point is not None
    )
    # a baseline with a size and without a rate of its own is at 50 % by definition
    wanted = [f"{name} (chat)", name] if baseline.get("template") == "chat" else [name]
    found = [system for own in wanted for system in evidence.systems if system.name == own][:1]
    even = [
        {"system": own.name, "method": own.stage or "", "parameters": own.parameters, "baseline": own.name,
         "task": RATE, "metric": RATE, "value": EVEN, "low": nan, "high": nan, "n": nan, "unscored": nan, "scorer": ""}
        for own in found
        if own.parameters is not None and own.name not in set(table.system)
    ]  # fmt: skip
    sizes = [*table.parameters, *(row["parameters"] for row in even)]
    by_size = not pd.isna(sizes).any() and len(set(sizes)) > 1
    if even and by_size:
        table = pd.concat([table, pd.DataFrame(even)], ignore_index=True)
    shown = table[table.metric.isin(RATES)]
    reference = (EVEN, wrapped(f"baseline: {name or 'not named'}", 34))
    methods: list[str] = []
    if by_size:
        several = shown[shown.method != ""].groupby("method").parameters.nunique()
        methods = [method for method in dict.fromkeys(shown.method) if several.get(method, 0) > 1]
        shown = shown.assign(line=shown.system.where(~shown.method.isin(methods), shown.method))
        parts = ((words.capitalize(), shown[shown.metric == metric]) for metric, words in RATES.items())
        panels = [Panel(title, own, "", reference) for title, own in parts if len(own)]
        look = evidence.looks(*methods)
        lines = {own: look[own] for own in dict.fromkeys([*methods, *shown.line])}
        figure = line_panels(
            panels, lines, x="parameters", line="line", label="parameters", columns=2, height=3.0, scale=("log", {}),
            ticks=sorted(set(sizes)),
        )  # fmt: skip
        for axes in figure.axes:
            axes.yaxis.set_major_formatter("{x:.0%}")
    else:
        series = {metric: words for metric, words in RATES.items() if metric in set(shown.metric)}
        best = shown[shown.metric == RATE].sort_values(["value", "system"], ascending=[False, True]).system
        looks, panel = rows_of(evidence, shown), Panel("", shown, "", reference)
        systems = {name: looks[name] for name in best}
        figure = row_panels([panel], systems, label="win rate ↑", series=("metric", series), bars=False, percent=True)
    yield describe(
        "win_rate_by_size", figure, table, rates=shown[shown.metric == RATE], by_size=by_size, methods=methods,
        baseline=plain(name or "not named"), words=CONTEXT, others=len(evidence.all_runs(RATE)) - len(rates),
    )  # fmt: skip


def likert(evidence: Evidence) -> Iterator[Drawing]:
    """Draw mean ratings on the left and the distribution of ratings on the right, a row per system."""
    given = pd.DataFrame(
        ((label.model or UNNAMED, label.likert) for label in evidence.labels if label.likert),
        columns=["system", "likert"],
    )
    if given.empty:
        return
    shares = {name: own.likert.value_counts(normalize=True) for name, own in given.groupby("system")}
    alone = [replace(label, rank=None, flags={}) for label in evidence.labels]  # win rates would take long
    table = pd.DataFrame(
        _row(one) | {f"share_{rating}": shares[one.model].get(rating, 0.0) for rating in RATINGS}
        for one in summary(alone, resamples=RESAMPLES)
        if one.statistic == "likert"
    )
    names = rows_of(evidence, table)
    table = table.set_index("system").loc[list(names)].reset_index()
    panels = [Panel("Mean rating", table), Panel("Distribution of ratings", table.iloc[:0])]
    figure = row_panels(panels, names, label=f"{RATINGS[0]} worst, {RATINGS[-1]} best", bars=False)
    means, distribution = figure.axes
    means.set(xlim=(RATINGS[0] - 0.2, RATINGS[-1] + 0.2), xticks=list(RATINGS))
    for text in list(distribution.texts):
        text.remove()
    shades = matplotlib.colormaps["Blues"]
    for place, row in table.iterrows():
        start = 0.0
        for rating in RATINGS:
            size = float(row[f"share_{rating}"])
            style: dict[str, Any] = {"color": shades(0.08 + 0.085 * rating), "edgecolor": "white", "linewidth": 0.6}
            distribution.barh(place, size, 0.7, left=start, **style)
            if size >= WIDE:
                distribution.text(
                    start + size / 2, place, str(rating), ha="center", va="center", fontsize=SMALL, color=ON_LIGHT
                )
            start += size
    distribution.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    distribution.grid(visible=False)
    yield describe("likert", figure, table, ratings=RATINGS, wide=WIDE)


def _row(one: ModelFinding) -> dict[str, Any]:
    """A line of a table: the model, and the value with its interval."""
    own = one.estimate
    return {
        "system": one.model,
        "value": own.value,
        "low": own.low,
        "high": own.high,
        "n": own.n,
        "prompts": own.clusters,
    }


def flags(evidence: Evidence) -> Iterator[Drawing]:
    """Draw the rate of each flag by system: a panel per flag, each with its own scale, since some flags are rare."""
    names = flag_names(evidence.labels)
    alone = [replace(label, rank=None, likert=None) for label in evidence.labels]  # win rates would take long
    if not names:
        return
    table = pd.DataFrame(_row(one) | {"flag": one.statistic} for one in summary(alone, resamples=RESAMPLES))
    titles = {flag: wrapped(flag.replace("_", " ").capitalize(), 18) for flag in names}
    panels = [Panel(title, table[table.flag == flag]) for flag, title in titles.items()]
    scale = " (each panel has its own scale)" if len(names) > 1 else ""
    figure = row_panels(panels, rows_of(evidence, table), label=f"rate{scale}", percent=True)
    yield describe("metadata_flags", figure, table)


def agreement(evidence: Evidence) -> Iterator[Drawing]:
    """Draw how often each two labelers agree: on rankings, else on ratings, else on the flag with most judgements."""
    shared = [own for own in map(Judgements.overlapping, questions(evidence.labels)) if own.n]
    if not shared:
        return
    chosen = max(shared, key=lambda own: (own.question == "ranking", own.question == "likert", own.n))

    def group_and_name(labeler: int) -> tuple[str, list[str]]:  # labeler 2 before labeler 10
        digits = re.split(r"(\d+)", chosen.labelers[labeler])
        return chosen.groups[labeler] or "", [part.zfill(12) for part in digits]

    order = sorted(np.flatnonzero((chosen.category >= 0).any(0)).tolist(), key=group_and_name)
    table = pd.DataFrame(
        {"question": chosen.question, "labeler": chosen.labelers[a], "other": chosen.labelers[b],
         "group": chosen.groups[a], "other_group": chosen.groups[b], "value": found.value, "low": found.low,
         "high": found.high, "n": found.n, "prompts": found.clusters}
        for a, b in combinations(order, 2)
        for found in [with_reference(chosen, a, b)]
    ).astype({"value": float, "low": float, "high": float})  # fmt: skip
    cell = max(0.3, min(0.6, 4.4 / len(order))) if len(order) <= NUMBERED else 4.4 / len(order)  # inches
    figure, axes = new_figure(max(cell * len(order), 0.9) + 1.2)
    axes.set_anchor("W")
    size = len(order)
    values: NDArray[np.float64] = np.full((size, size), np.nan)
    for (a, b), value in zip(combinations(range(size), 2), table.value, strict=True):
        values[a, b] = values[b, a] = value
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#eeeeee")
    least = min(float(np.floor(np.nanmin(values) * 10)) / 10, 0.5)
    axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=least, vmax=1, interpolation="nearest")
    for (row, column), value in np.ndenumerate(values) if size <= NUMBERED else ():
        if np.isfinite(value):
            ink = ON_DARK if float(value) > least + 0.6 * (1 - least) else ON_LIGHT
            words = "1" if value > 0.995 else f"{value:.2f}".lstrip("0")
            axes.text(column, row, words, ha="center", va="center", fontsize=SMALL, color=ink)
    names = [wrapped(chosen.labelers[i], 32) for i in order] if size <= NAMED else []
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(names)), names, rotation=90)
    if not names:
        axes.set_ylabel(f"{size} labelers")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if size > NUMBERED:
        bar = figure.colorbar(axes.images[0], ax=axes, shrink=0.8, aspect=18, pad=0.03)
        bar.outline.set_visible(False)
        bar.set_label("rate of agreement")
    others = [own.question for own in shared if own is not chosen]
    yield describe("labeler_agreement", figure, table, judgements=chosen, order=order, others=others)
