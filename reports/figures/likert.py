"""Labelers' Likert marks by model: means, and how often each mark was given (InstructGPT, figure 5)."""

from __future__ import annotations

from collections import Counter, defaultdict

import matplotlib
import pandas as pd

from alignbench.labels.table import LIKERT
from alignbench.stats import estimates
from reports.bars import ROW, extremes, look_of, model_of, n_told, name_rows, names_of, shares_axis, whisker
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.style import INK, new_figure

TITLE = "Labelers' marks"
MARKS = range(LIKERT[0], LIKERT[1] + 1)
WRITABLE = 0.07  # of the bar's width: narrower pieces have no room for their mark


def draw(evidence: Evidence) -> list[Drawing]:
    """Means at the left, shares of the marks at the right, a model a row."""
    table = _table(evidence)
    if table.empty:
        raise NoDataError("no table of labels with Likert marks")
    names = names_of(evidence, set(table.system))
    look = look_of(evidence, names)
    figure, (means, shares) = new_figure(0.85 + 1.3 * ROW * len(names), columns=2, sharey=True)
    rows = table.set_index("system")
    shades = matplotlib.colormaps["Blues"]
    for place, name in enumerate(names):
        row = rows.loc[name]
        whisker(means, row.value, place, row)
        means.plot([row.value], [place], look[name].marker, color=look[name].colour, zorder=4)
        start = 0.0
        for mark in MARKS:
            size = float(row[f"share_{mark}"])
            shade = shades(0.08 + 0.085 * mark)
            shares.barh(place, size, 0.7, left=start, color=shade, edgecolor="white", linewidth=0.6)
            if size >= WRITABLE:
                shares.text(start + size / 2, place, str(mark), ha="center", va="center", fontsize=8, color=INK)
            start += size
    for axes in (means, shares):
        name_rows(axes, names)
    means.set_xlim(MARKS[0] - 0.2, MARKS[-1] + 0.2)
    means.set_xticks(list(MARKS))
    means.set_title("Mean mark")
    shares_axis(shares)
    shares.grid(visible=False)
    shares.set_title("Share of each mark")
    means.set_xlabel(f"{MARKS[0]} worst, {MARKS[-1]} best")
    shares.set_xlabel("from 1 (pale) to 7 (dark)")
    caption = (
        "Left: mean Likert mark, with 95 % t intervals clustered by prompt. Right: how often each mark from 1 to 7 was "
        f"given; pieces below {WRITABLE:.0%} are not numbered. {n_told(table, 'labels a model')}."
    )
    alt = f"Mean Likert mark from 1 to 7: {extremes(table, '.2f')}."
    return [Drawing("likert", TITLE, "InstructGPT, figure 5", figure, table, caption, alt)]


def _table(evidence: Evidence) -> pd.DataFrame:
    marks: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for label in evidence.labels:
        if label.likert is not None:
            marks[model_of(label)].append((label.likert, label.prompt_id))
    rows = []
    for name in names_of(evidence, set(marks)):
        given, prompts = zip(*marks[name], strict=True)
        mean = estimates.mean(given, prompts, LIKERT)
        times = Counter(given)
        rows.append(
            {"system": name, "value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
            | {"prompts": mean.clusters}
            | {f"share_{mark}": times[mark] / mean.n for mark in MARKS}
        )  # fmt: skip
    return pd.DataFrame(rows)
