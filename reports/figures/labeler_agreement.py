"""Matrix of how often each two labelers said the same of the same thing (after InstructGPT, section 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from alignbench.labels.agreement import Judgements, questions, with_reference
from reports.bars import n_told
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.style import FAINT, INK, new_figure, plain

TITLE = "How far labelers agree"
WRITTEN = 20  # labelers up to whom the cells have numbers
LISTED = 34  # labelers up to whom they have names
CELLS = ((4, 0.62), (8, 0.42), (WRITTEN, 0.31))  # so many labelers, inches of a cell
A_CHARACTER = 0.08  # inches
NONE = "#eeeeee"


def draw(evidence: Evidence) -> list[Drawing]:
    """Of rankings; else of Likert marks; else of the flag that most judgements are shared on."""
    shared = [own for own in map(Judgements.overlapping, questions(evidence.labels)) if len(own.unit)]
    if not shared:
        raise NoDataError("no table of labels in which two labelers judged the same thing")
    # a stable maximum: rankings stand first, then Likert marks
    judgements = max(shared, key=lambda own: (own.question == "ranking", own.question == "likert", len(own.unit)))
    order = _order(judgements)
    table = _table(judgements, order)
    cell = next((inches for most, inches in CELLS if len(order) <= most), 4.4 / len(order))
    figure, axes = new_figure(max(cell * len(order), 0.9) + 1.2)
    axes.set_anchor("W")
    _matrix(axes, judgements, order, table, cell)
    if len(order) > WRITTEN:
        bar = figure.colorbar(axes.images[0], ax=axes, shrink=0.8, aspect=18, pad=0.03)
        bar.outline.set_visible(False)
        bar.set_label("share of shared judgements that agree")
    others = [plain(own.question, 40) for own in shared if own is not judgements]
    told = ", ".join(others[:5]) + ", …" * (len(others) > 5)
    caption = (
        f"Cells: of the {'pairs of outputs' if judgements.mirrored else 'outputs'} that two labelers both judged "
        f"({plain(judgements.question, 40)}), the share of which they said the same"
        f"{', a tie being a third answer' if judgements.mirrored else ''}. {n_told(table[table.n > 0], 'a cell')}; the "
        "table has n and 95 % Wilson intervals, clustered by prompt. Grey: nothing judged by both."
        f"{' Labelers are sorted by group.' if _groups(judgements, order) else ''}"
        f"{f' Not shown: {told}.' if others else ''}"
    )
    best, worst = table.loc[table.value.idxmax()], table.loc[table.value.idxmin()]
    alt = (
        f"{len(order)} labelers; agreement from {worst.value:.2f} ({_both(worst)}) to {best.value:.2f} ({_both(best)})."
    )
    return [Drawing("labeler_agreement", TITLE, "InstructGPT, section 5", figure, table, caption, alt)]


def _both(row: pd.Series) -> str:
    return f"{plain(row.labeler)} and {plain(row.other)}"


def _order(judgements: Judgements) -> list[int]:
    """Numbers of the labelers who share judgements: by group, then by name."""
    there = np.unique(judgements.labeler).tolist()
    return sorted(there, key=lambda i: (judgements.groups[i] or "", _natural(judgements.labelers[i])))


def _natural(name: str) -> list[str]:
    """A key by which labeler 2 stands before labeler 10."""
    return [part.zfill(12) for part in re.split(r"(\d+)", name)]


def _table(judgements: Judgements, order: Sequence[int]) -> pd.DataFrame:
    rows = []
    for a, b in combinations(order, 2):
        found = with_reference(judgements, a, b)
        rows.append(
            {"question": judgements.question, "labeler": judgements.labelers[a], "other": judgements.labelers[b],
             "group": judgements.groups[a], "other_group": judgements.groups[b], "value": found.value, "low": found.low,
             "high": found.high, "n": found.n, "prompts": found.clusters}
        )  # fmt: skip
    return pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})


def _matrix(axes: Axes, judgements: Judgements, order: Sequence[int], table: pd.DataFrame, cell: float) -> None:
    size = len(order)
    values: NDArray[np.float64] = np.full((size, size), np.nan)
    for (a, b), value in zip(combinations(range(size), 2), table.value, strict=True):
        values[a, b] = values[b, a] = value
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=NONE)
    least = min(float(np.floor(np.nanmin(values) * 10)) / 10, 0.5)
    axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=least, vmax=1, interpolation="nearest")
    if size <= WRITTEN:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = np.dot(colours((float(value) - least) / (1 - least))[:3], (0.299, 0.587, 0.114)) < 0.5
                told = "1" if value > 0.995 else f"{value:.2f}".lstrip("0")
                axes.text(column, row, told, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    names = [plain(judgements.labelers[i], 20) for i in order]
    if size <= LISTED:
        axes.set_yticks(range(size), names, fontsize=8)
        axes.set_xticks(range(size), names, fontsize=8, rotation=90)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylabel(f"{size} labelers")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    spans = _groups(judgements, order)
    for start, stop, name in spans:
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=3)
            axes.axvline(start - 0.5, color="white", linewidth=3)
        axes.text(
            (start + stop - 1) / 2, -0.5 - 0.02 * size, plain(name, max(3, int((stop - start) * cell / A_CHARACTER))),
            ha="center", va="bottom", fontsize=8, color=FAINT,
        )  # fmt: skip


def _groups(judgements: Judgements, order: Sequence[int]) -> list[tuple[int, int, str]]:
    """(first, one beyond the last, name) of each group's place in the order; [] where no labeler has a group."""
    names = [judgements.groups[i] for i in order]
    if not any(names):
        return []
    found: list[tuple[int, int, str]] = []
    for place, name in enumerate(names):
        if found and (name or "no group") == found[-1][2]:
            found[-1] = (found[-1][0], place + 1, found[-1][2])
        else:
            found.append((place, place + 1, name or "no group"))
    return found
