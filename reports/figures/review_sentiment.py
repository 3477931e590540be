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
from reports.drawing import Drawing, NoDataError, describe, rows_of
from reports.evidence import Evidence, System, metric_of, scorer_of

TASKS = {  # task -> metric of its records, name of the figure, facts for its texts
    "personas": (
        "sentiment",
        "review_sentiment",
        {"title": "reviews", "what": "reviews by invented customers", "source": "2406.05587, section 3.1"},
    ),
    "answers": ("sentiment.sentiment", "answers_sentiment", {"title": "answers", "what": "answers", "source": ""}),
}
EDGES = np.arange(-10, 11) / 10  # exact: lexicons give round numbers


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per task with sentiment, a row per system."""
    drawings = []
    for task, (metric, name, texts) in TASKS.items():
        table = pd.DataFrame(row for run in evidence.runs(task) for row in _rows(*run, task, metric))
        if len(table):
            drawings.append(_drawing(evidence, table, name, texts))
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


def _drawing(evidence: Evidence, table: pd.DataFrame, name: str, texts: dict[str, str]) -> Drawing:
    words = "mean {mean:+.2f} [{mean_low:.2f}, {mean_high:.2f}], n = {n}"
    parts = {"sentiment, from −1 (negative) to 1 (positive)": table}
    figure = histogram_rows(parts, rows_of(evidence, table), bins=("bin_low", "bin_high"), height="share", words=words)
    each = table.drop_duplicates("system").rename(columns={"mean": "value"})
    return describe("sentiment", figure, table, name=name, each=each, bins=len(EDGES) - 1, **texts)
