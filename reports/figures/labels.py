"""What labelers said of the outputs: Likert ratings, flags, agreement (InstructGPT, figures 4 and 5, section 5)."""

from __future__ import annotations

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, groupby
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from alignbench.labels.agreement import Judgements, questions, with_reference
from alignbench.labels.summary import UNNAMED, summary
from alignbench.labels.table import LIKERT, flag_names
from alignbench.stats import estimates
from reports.chart import Panel, row_panels
from reports.drawing import Drawing, NoDataError, describe, rows_of, table_of
from reports.evidence import Evidence
from reports.style import FAINT, INK, SMALL, new_figure, plain

RATINGS = range(LIKERT[0], LIKERT[1] + 1)
WIDE = 0.07  # of the axis: narrower pieces of a bar have no number
NUMBERED, NAMED = 20, 34  # most labelers for numbers in the cells, and for names beside the matrix


def likert(evidence: Evidence) -> list[Drawing]:
    """Draw mean ratings on the left and the distribution of ratings on the right, a row per system."""
    ratings: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for label in evidence.labels:
        if label.likert is not None:
            ratings[label.model or UNNAMED].append((label.likert, label.prompt_id))
    rows = []
    for name, given in ratings.items():
        values, prompts = zip(*given, strict=True)
        mean, counts = estimates.mean(values, prompts, LIKERT), Counter(values)
        rows.append(
            {"system": name, "value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
            | {"prompts": mean.clusters}
            | {f"share_{rating}": counts[rating] / mean.n for rating in RATINGS}
        )
    table = table_of(rows, "no table of labels with Likert ratings")
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
                distribution.text(start + size / 2, place, str(rating), ha="center", va="center", fontsize=SMALL)
            start += size
    distribution.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    distribution.grid(visible=False)
    return [describe("likert", figure, table, ratings=RATINGS, wide=WIDE)]


def flags(evidence: Evidence) -> list[Drawing]:
    """Draw the rate of each flag by system: a panel per flag, each with its own scale, since some flags are rare."""
    names = flag_names(evidence.labels)
    alone = [replace(label, rank=None, likert=None) for label in evidence.labels]  # win rates would take long
    found = summary(alone) if names else []
    table = table_of(
        (
            {"system": one.model, "flag": one.statistic, "value": own.value, "low": own.low, "high": own.high}
            | {"n": own.n, "prompts": own.clusters}
            for one in found
            for own in [one.estimate]
        ),
        "no table of labels with flags",
    )
    panels = [Panel(_wrapped(flag), table[table.flag == flag]) for flag in names]
    scale = " (each panel has its own scale)" if len(names) > 1 else ""
    figure = row_panels(panels, rows_of(evidence, table), label=f"rate{scale}", percent=True)
    return [describe("metadata_flags", figure, table)]


def _wrapped(flag: str) -> str:
    """Return the title of a panel: at most three lines of 17 characters."""
    return "\n".join(textwrap.wrap(plain(flag.replace("_", " ").capitalize(), 43), 17)[:3])


def agreement(evidence: Evidence) -> list[Drawing]:
    """Draw how often each two labelers agree: on rankings, else on ratings, else on the flag with most judgements."""
    shared = [own for own in map(Judgements.overlapping, questions(evidence.labels)) if own.n]
    if not shared:
        raise NoDataError("no table of labels in which two labelers judged the same outputs")
    chosen = max(shared, key=lambda own: (own.question == "ranking", own.question == "likert", own.n))
    there = np.flatnonzero((chosen.category >= 0).any(0)).tolist()
    order = sorted(there, key=lambda i: (chosen.groups[i] or "", _natural(chosen.labelers[i])))
    rows = []
    for a, b in combinations(order, 2):
        found = with_reference(chosen, a, b)
        rows.append(
            {"question": chosen.question, "labeler": chosen.labelers[a], "other": chosen.labelers[b],
             "group": chosen.groups[a], "other_group": chosen.groups[b], "value": found.value, "low": found.low,
             "high": found.high, "n": found.n, "prompts": found.clusters}
        )  # fmt: skip
    table = pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})
    cell = max(0.3, min(0.6, 4.4 / len(order))) if len(order) <= NUMBERED else 4.4 / len(order)  # inches
    figure, axes = new_figure(max(cell * len(order), 0.9) + 1.2)
    axes.set_anchor("W")
    _matrix(axes, chosen, order, table, cell)
    if len(order) > NUMBERED:
        bar = figure.colorbar(axes.images[0], ax=axes, shrink=0.8, aspect=18, pad=0.03)
        bar.outline.set_visible(False)
        bar.set_label("rate of agreement")
    facts: dict[str, Any] = {
        "judgements": chosen,
        "order": order,
        "others": [own.question for own in shared if own is not chosen],
    }
    return [describe("labeler_agreement", figure, table, **facts)]


def _natural(name: str) -> list[str]:
    """Return a sort key that puts labeler 2 before labeler 10."""
    return [part.zfill(12) for part in re.split(r"(\d+)", name)]


def _matrix(axes: Axes, judgements: Judgements, order: Sequence[int], table: pd.DataFrame, cell: float) -> None:
    size = len(order)
    values: NDArray[np.float64] = np.full((size, size), np.nan)
    for (a, b), value in zip(combinations(range(size), 2), table.value, strict=True):
        values[a, b] = values[b, a] = value
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#eeeeee")
    least = min(float(np.floor(np.nanmin(values) * 10)) / 10, 0.5)
    axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=least, vmax=1, interpolation="nearest")
    for (row, column), value in np.ndenumerate(values) if size <= NUMBERED else ():
        if np.isfinite(value):
            dark = float(value) > least + 0.6 * (1 - least)
            words = "1" if value > 0.995 else f"{value:.2f}".lstrip("0")
            axes.text(column, row, words, ha="center", va="center", fontsize=SMALL, color="white" if dark else INK)
    names = [plain(judgements.labelers[i], 20) for i in order] if size <= NAMED else []
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(names)), names, rotation=90)
    if not names:
        axes.set_ylabel(f"{size} labelers")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    start = 0
    groups = [judgements.groups[i] or "no group" for i in order] if any(judgements.groups[i] for i in order) else []
    for name, members in groupby(groups):
        stop = start + len(list(members))
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=3)
            axes.axvline(start - 0.5, color="white", linewidth=3)
        room = max(3, int((stop - start) * cell / 0.08))  # characters
        place = ((start + stop - 1) / 2, -0.5 - 0.02 * size)
        axes.text(*place, plain(name, room), ha="center", va="bottom", fontsize=SMALL, color=FAINT)
        start = stop
