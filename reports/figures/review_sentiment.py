"""How kind the reviews are: a histogram of their sentiment, model by model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from alignbench.stats import estimates
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, System, documents, point_of
from reports.names import short_names
from reports.ridges import HEIGHT, draw_ridge, name_row
from reports.style import interval, looks, new_figure, plain

TITLE = "Sentiment of reviews"
SOURCE = "2406.05587, section 3.1"
COLUMN = {"personas": "sentiment", "answers": "sentiment.sentiment"}  # task -> its records' column
WHAT = {"personas": "reviews that invented customers write", "answers": "answers"}
EDGES = np.arange(-10, 11) / 10  # exact, since word lists give round numbers


def draw(evidence: Evidence) -> list[Drawing]:
    """One drawing a task that has sentiment, one row a system."""
    drawings = []
    for task in COLUMN:
        rows = [_scored(system, folder, task) for system, folder in evidence.runs_of(task)]
        if any(len(row["values"]) for row in rows):
            drawings.append(_drawing(evidence, task, rows))
    if not drawings:
        raise NoDataError("no run has reviews or answers that a scorer of sentiment has read")
    return drawings


def _scored(system: System, folder: Any, task: str) -> dict[str, Any]:
    column = COLUMN[task]
    given = [record.get(column) for record in documents(folder)]
    values = np.array([value for value in given if value is not None and math.isfinite(value)], np.float64)
    point = point_of(system, folder, column)
    metric = point.metric if point else estimates.mean(values, bounds=(-1, 1))
    scorer = next((e for e in folder.identity.get("scorers") or () if e["kind"] == "sentiment"), None)
    return {
        "system": system, "values": values, "missing": len(given) - len(values),
        "mean": (metric.value, metric.low, metric.high),
        "scorer": f"{scorer['name']}@{str(scorer['revision'])[:12]}" if scorer else "unknown",
    }  # fmt: skip


def _drawing(evidence: Evidence, task: str, found: list[dict[str, Any]]) -> Drawing:
    look = looks([system.name for system in evidence.systems])
    known = [row for row in found if len(row["values"])]
    figure, grid = new_figure(0.6 + HEIGHT * len(known), rows=len(known), sharex=True, sharey=True, squeeze=False)
    shares = [np.histogram(np.clip(row["values"], -1, 1), EDGES)[0] / len(row["values"]) for row in known]
    names = short_names([row["system"].name for row in known], 26)
    tables, told = [], []
    for place, (axes, row, heights) in enumerate(zip(grid[:, 0], known, shares, strict=True)):
        system, (value, low, high), n = row["system"], row["mean"], len(row["values"])
        draw_ridge(axes, EDGES, heights, look[system.name], row["mean"], shares[0] if place else None)
        name_row(axes, names[system.name], look[system.name].colour)
        text = f"mean {value:+.2f} {interval(low, high, 2)}, n = {n}"
        axes.set_title(text, loc="right", fontsize=8, fontweight="normal", pad=2)
        told.append(f"{plain(system.name)} {value:+.2f} (n = {n})")
        tables += [
            {
                "system": system.name, "task": task, "bin_low": EDGES[i], "bin_high": EDGES[i + 1], "share": share,
                "mean": value, "mean_low": low, "mean_high": high, "n": n, "unread": row["missing"],
                "scorer": row["scorer"],
            }
            for i, share in enumerate(heights.tolist())
        ]  # fmt: skip
    grid[0, 0].set_ylim(0, 1.08 * max(float(heights.max()) for heights in shares))
    grid[-1, 0].set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−.5", "0", ".5", "1"])
    grid[-1, 0].set_xlabel("sentiment, from −1 (bad) to 1 (good)")
    scorers = sorted({row["scorer"] for row in known})
    caption = [
        f"Sentiment of {WHAT[task]}, by {', '.join(scorers)}: the share in each of {len(EDGES) - 1} bins, all rows on "
        "one scale. Black line: mean; grey band: its 95 % interval."
    ]
    if len(known) > 1:
        caption.append(f"Dotted: {plain(known[0]['system'].name)} again.")
    if unread := [f"{plain(r['system'].name)} {r['missing']}" for r in found if r["missing"]]:
        caption.append(f"Without a sentiment, and left out: {', '.join(unread)}.")
    means = sorted(known, key=lambda row: (-row["mean"][0], row["system"].name))
    best, worst = plain(means[0]["system"].name), plain(means[-1]["system"].name)
    spread = f" Highest: {best}; lowest: {worst}." if len(known) > 1 else ""
    name, title = ("review_sentiment", TITLE) if task == "personas" else (f"{task}_sentiment", f"Sentiment of {task}")
    alt = f"Mean sentiment: {'; '.join(told)}.{spread}"
    return Drawing(
        name, title, SOURCE if task == "personas" else "", figure, pd.DataFrame(tables), " ".join(caption), alt
    )
