"""Histogram of the sentiment of reviews, or of answers, by system."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from alignbench.runs.read import TaskRun
from alignbench.stats import estimates
from reports.chart import histogram_rows
from reports.drawing import Drawing, NoDataError, extremes, rows_of
from reports.evidence import Evidence, System, metric_of, scorer_of
from reports.style import plain

TASKS = {  # task -> metric of its records, name and title of the figure, what is measured, the paper's section
    "personas": ("sentiment", "review_sentiment", "Sentiment of reviews", "reviews by invented customers", "2406.05587, section 3.1"),
    "answers": ("sentiment.sentiment", "answers_sentiment", "Sentiment of answers", "answers", ""),
}  # fmt: skip
EDGES = np.arange(-10, 11) / 10  # exact: lexicons give round numbers


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per task with sentiment, a row per system."""
    drawings = []
    for task, words in TASKS.items():
        table = pd.DataFrame(row for run in evidence.runs(task) for row in _rows(*run, task, words[0]))
        if len(table):
            drawings.append(_drawing(evidence, table, *words[1:]))
    if not drawings:
        raise NoDataError("no run with reviews or answers that a sentiment scorer has scored")
    return drawings


def _rows(system: System, folder: TaskRun, task: str, metric: str) -> Iterator[dict[str, Any]]:
    given = [record.metrics.get(metric) for record in folder.records()]
    values = np.array([value for value in given if value is not None and math.isfinite(value)], np.float64)
    mean = metric_of(folder, metric) or estimates.mean(values, bounds=(-1, 1))
    if mean.value is None:
        mean = estimates.mean(values, bounds=(-1, 1))
    scorer = scorer_of(folder, "sentiment")
    shares = np.histogram(np.clip(values, -1, 1), EDGES)[0] / max(len(values), 1)
    for low, high, share in zip(EDGES, EDGES[1:], shares, strict=False) if len(values) else ():
        yield {
            "system": system.name, "task": task, "bin_low": low, "bin_high": high, "share": share, "mean": mean.value,
            "mean_low": mean.low, "mean_high": mean.high, "n": len(values), "unread": len(given) - len(values),
            "scorer": f"{scorer['name']}@{str(scorer['revision'])[:12]}" if scorer else "unknown",
        }  # fmt: skip


def _drawing(evidence: Evidence, table: pd.DataFrame, name: str, title: str, what: str, source: str) -> Drawing:
    words = "mean {mean:+.2f} [{mean_low:.2f}, {mean_high:.2f}], n = {n}"
    parts = {"sentiment, from −1 (negative) to 1 (positive)": table}
    figure = histogram_rows(parts, rows_of(evidence, table), bins=("bin_low", "bin_high"), height="share", words=words)
    each = table.drop_duplicates("system")
    unread = ", ".join(f"{plain(row.system)} {row.unread}" for row in each[each.unread > 0].itertuples())
    caption = (
        f"Sentiment of {what}, by {', '.join(sorted(set(table.scorer)))}: proportion in each of {len(EDGES) - 1} bins, all "
        "rows on one scale. Black line: mean; grey band: its 95 % interval."
        + f" Dotted: {plain(each.system.iloc[0])} for comparison." * (len(each) > 1)
        + f" Without a sentiment, left out: {unread}." * bool(unread)
    )
    means = "; ".join(f"{plain(row.system)} {row[5]:+.2f} (n = {row.n})" for row in each.itertuples(index=False))
    alt = f"Mean sentiment: {means}; {extremes(each.rename(columns={'mean': 'value'}), '+.2f')}."
    return Drawing(name, title, source, figure, table, caption, alt)
