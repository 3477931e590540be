"""Entropy before each token, in bits: its density by system, and its mean by position in the text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alignbench.runs.read import TaskRun
from alignbench.stats import estimates
from alignbench.types.engine import TOP
from reports.chart import Panel, histogram_rows, line_panels
from reports.drawing import Drawing, NoDataError, describe, rows_of, table_of
from reports.evidence import Evidence, System, point_of
from reports.style import plain

SOURCE = "2406.05587, figure 11"
TASKS = {"token_entropy_on_policy": "the model's own text", "token_entropy": "shared text"}
KINDS = {  # attribute of a record -> metric, name
    "entropies": ("entropy", "whole vocabulary"),
    "top_entropies": ("top5_entropy", f"the {TOP} most likely tokens"),
}
BINS = 40
FEWEST = 20  # texts that reach a position
MOST_POINTS = 64  # of a curve: in longer texts, a point is the mean of neighbouring positions


@dataclass(frozen=True)
class Entropies:
    """The token entropies of one system on one task.

    texts: kind -> (group, bits of each token) of each text that has any; missing: number of texts without
    """

    system: System
    task: TaskRun
    texts: dict[str, list[tuple[str, NDArray[np.float64]]]]
    missing: int


def _entropies(evidence: Evidence, task: str) -> list[Entropies]:
    """Return the systems with entropies on the task."""
    found = [_read(system, folder) for system, folder in evidence.runs(task)]
    return [own for own in found if own.texts["entropies"]]


def _read(system: System, folder: TaskRun) -> Entropies:
    texts: dict[str, list[tuple[str, NDArray[np.float64]]]] = {kind: [] for kind in KINDS}
    missing = 0
    for record in folder.records():
        for kind in KINDS:
            generated = [getattr(output, kind) for output in record.outputs]
            for nats in generated or getattr(record, kind) or [()]:
                bits = np.array([np.nan if value is None else value for value in nats or ()], np.float64) / math.log(2)
                if np.isfinite(bits).any():
                    texts[kind].append((record.group or record.id, bits))
                else:
                    missing += kind == "entropies"
    return Entropies(system, folder, texts, missing)


def histogram(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per task, a row per system, a column per kind of entropy."""
    drawings = [_histogram(evidence, task, found) for task in TASKS if (found := _entropies(evidence, task))]
    if not drawings:
        raise NoDataError("no run has token entropies of token_entropy or token_entropy_on_policy")
    return drawings


def _histogram(evidence: Evidence, task: str, found: list[Entropies]) -> Drawing:
    pairs = [(own, kind) for kind in KINDS for own in found if own.texts[kind]]
    table = pd.concat([_density(own, task, kind, _edges(kind, found)) for own, kind in pairs], ignore_index=True)
    parts = {
        f"bits, {name}": table[table.kind == metric] for metric, name in KINDS.values() if metric in set(table.kind)
    }
    words = "mean {mean:.2f} [{mean_low:.2f}, {mean_high:.2f}]"
    figure = histogram_rows(
        parts, rows_of(evidence, table), bins=("bits_low", "bits_high"), height="density", words=words
    )
    facts = {
        "task": TASKS[task],
        "texts": [len(own.texts["entropies"]) for own in found],
        "kinds": len(parts),
        "top": TOP,
        "bits": math.log2(TOP),
        "means": table[table.kind == "entropy"].drop_duplicates("system").rename(columns={"mean": "value"}),
        "missing": [f"{plain(own.system.name)} {own.missing}" for own in found if own.missing],
    }
    return describe("token_entropy", figure, table, name=f"{task}_histogram", **facts)


def _edges(kind: str, found: list[Entropies]) -> NDArray[np.float64]:
    """Return (BINS + 1,) edges from 0 to the largest possible, or observed, entropy."""
    if kind == "top_entropies":
        return np.linspace(0, math.log2(TOP), BINS + 1)
    most = max(float(np.nanmax(bits)) for own in found for _, bits in own.texts[kind])
    return np.linspace(0, max(math.ceil(most), 1), BINS + 1)


def _density(own: Entropies, task: str, kind: str, edges: NDArray[np.float64]) -> pd.DataFrame:
    texts = [bits[np.isfinite(bits)] for _, bits in own.texts[kind]]
    values = np.clip(np.concatenate(texts), edges[0], edges[-1])
    weights = np.concatenate([np.full(len(bits), 1 / len(bits) / len(texts)) for bits in texts])
    point = point_of(own.system, own.task, KINDS[kind][0])
    groups = [group for group, _ in own.texts[kind]]
    mean = point.metric if point else estimates.mean([float(bits.mean()) for bits in texts], groups)
    return pd.DataFrame(
        {
            "system": own.system.name, "task": task, "kind": KINDS[kind][0], "bits_low": edges[:-1],
            "bits_high": edges[1:], "density": np.histogram(values, edges, weights=weights)[0] / np.diff(edges),
            "mean": mean.value, "mean_low": mean.low, "mean_high": mean.high, "texts": len(texts),
            "tokens": len(values),
        }
    )  # fmt: skip


def curve(evidence: Evidence) -> list[Drawing]:
    """Draw a panel per task, a line with a band per system."""
    read = {task: _entropies(evidence, task) for task in TASKS}
    rows = [row for task, found in read.items() for own in found for row in _curve(own, task, _width(found))]
    table = table_of(rows, f"no run has {FEWEST} texts with token entropies")
    middle = (table.first_token + table.last_token) / 2
    drawn = table.assign(middle=middle, value=table.entropy_bits)
    panels = [Panel(TASKS[str(task)].capitalize(), own) for task, own in drawn.groupby("task", sort=False)]
    options: dict[str, Any] = {"x": "middle", "line": "system", "label": "position of the token", "zero": True}
    figure = line_panels(panels, rows_of(evidence, table), columns=1, height=2.4, band=True, **options)
    for axes in figure.axes:
        axes.set_ylabel("entropy, bits")
    together = [
        f"{width} positions per point on {TASKS[str(task)]}"
        for task, own in table.groupby("task", sort=False)
        if (width := int((own.last_token - own.first_token).max()) + 1) > 1
    ]
    facts = {"together": together, "fewest": FEWEST, "tasks": TASKS, "drawn": drawn}
    return [describe("token_entropy_curve", figure, table, **facts)]


def _width(found: list[Entropies]) -> int:
    """Return the number of positions per point, the same for all systems."""
    lengths = [sorted((len(bits) for _, bits in own.texts["entropies"]), reverse=True) for own in found]
    most = max((own[FEWEST - 1] for own in lengths if len(own) >= FEWEST), default=0)
    return max(1, -(-most // MOST_POINTS))


def _curve(own: Entropies, task: str, width: int) -> Iterator[dict[str, object]]:
    """Yield a point for each `width` positions: the mean over texts of the mean over each text's tokens there."""
    texts = own.texts["entropies"]
    for start in range(0, max(len(bits) for _, bits in texts), width):
        parts = [(group, bits[start : start + width]) for group, bits in texts]
        known = [(group, float(np.nanmean(bits))) for group, bits in parts if np.isfinite(bits).any()]
        if len(known) < FEWEST:
            return
        groups, means = zip(*known, strict=True)
        found = estimates.mean(means, groups, (0, None))
        yield {
            "system": own.system.name, "task": task, "first_token": start + 1, "last_token": start + width,
            "entropy_bits": found.value, "low": found.low, "high": found.high, "texts": found.n,
            "clusters": found.clusters,
        }  # fmt: skip
