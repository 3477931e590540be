"""Entropy before each token, in bits: its density by system, and its mean by position in the text (2406.05587,
figure 11)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alignbench.runs.read import TaskRun
from alignbench.stats import estimates
from alignbench.types.engine import TOP
from reports.chart import Panel, histogram_rows, line_panels
from reports.drawing import WORDS, Drawing, describe, rows_of
from reports.evidence import Evidence, System, point_of
from reports.style import plain

TASKS = WORDS["token_entropy"]
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


def _entropies(evidence: Evidence, task: str) -> Iterator[Entropies]:
    """Yield the systems with entropies on the task."""
    for system, folder in evidence.runs(task):
        texts: dict[str, list[tuple[str, NDArray[np.float64]]]] = {kind: [] for kind in KINDS}
        missing = 0
        for record in folder.records():
            for kind in KINDS:
                generated = [getattr(output, kind) for output in record.outputs]
                for nats in generated or getattr(record, kind) or [()]:
                    bits = np.array([np.nan if own is None else own for own in nats or ()], np.float64) / math.log(2)
                    if np.isfinite(bits).any():
                        texts[kind].append((record.group or record.id, bits))
                    else:
                        missing += kind == "entropies"
        if texts["entropies"]:
            yield Entropies(system, folder, texts, missing)


def histogram(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per task, a row per system, a column per kind of entropy."""
    for task, title in TASKS.items():
        found = list(_entropies(evidence, task))
        if not found:
            continue
        most = max(float(np.nanmax(bits)) for own in found for _, bits in own.texts["entropies"])
        ends = {"entropies": max(math.ceil(most), 1), "top_entropies": math.log2(TOP)}
        table = pd.concat(
            [_density(own, task, kind, np.linspace(0, ends[kind], BINS + 1))
             for kind in KINDS for own in found if own.texts[kind]],
            ignore_index=True,
        )  # fmt: skip
        parts = {f"bits, {name}": table[table.kind == kind] for kind, name in KINDS.values() if kind in set(table.kind)}
        words = "mean {mean:.2f} [{mean_low:.2f}, {mean_high:.2f}]"
        rows, bins = rows_of(evidence, table), ("bits_low", "bits_high")
        figure = histogram_rows(parts, rows, bins=bins, height="density", words=words)
        yield describe(
            "token_entropy", figure, table, name=f"{task}_histogram", task=title, kinds=len(parts), top=TOP,
            texts=[len(own.texts["entropies"]) for own in found], bits=math.log2(TOP),
            means=table[table.kind == "entropy"].drop_duplicates("system").rename(columns={"mean": "value"}),
            missing=[f"{plain(own.system.name)} {own.missing}" for own in found if own.missing],
        )  # fmt: skip


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


def curve(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a panel per task, a line with a band per system."""
    table = pd.DataFrame(row for task in TASKS for row in _curves(task, list(_entropies(evidence, task))))
    if table.empty:
        return
    drawn = table.assign(middle=(table.first_token + table.last_token) / 2, value=table.entropy_bits)
    panels = [Panel(TASKS[str(task)].capitalize(), own) for task, own in drawn.groupby("task", sort=False)]
    figure = line_panels(
        panels, rows_of(evidence, table), x="middle", line="system", label="position of the token", columns=1,
        height=2.4, band=True, zero=True,
    )  # fmt: skip
    for axes in figure.axes:
        axes.set_ylabel("entropy, bits")
    together = [
        f"{width} positions per point on {TASKS[str(task)]}"
        for task, own in table.groupby("task", sort=False)
        if (width := int((own.last_token - own.first_token).max()) + 1) > 1
    ]
    facts = {"together": together, "fewest": FEWEST, "tasks": TASKS, "drawn": drawn}
    yield describe("token_entropy_curve", figure, table, **facts)


def _curves(task: str, found: Sequence[Entropies]) -> Iterator[dict[str, object]]:
    """Yield a point of each system for each group of positions, of the same width for all systems: the mean over texts
    of the mean over each text's tokens there."""
    lengths = [sorted((len(bits) for _, bits in own.texts["entropies"]), reverse=True) for own in found]
    most = max((own[FEWEST - 1] for own in lengths if len(own) >= FEWEST), default=0)
    width = max(1, -(-most // MOST_POINTS))
    for own in found:
        for start in range(0, most, width):
            parts = [(group, bits[start : start + width]) for group, bits in own.texts["entropies"]]
            known = [(group, float(np.nanmean(bits))) for group, bits in parts if np.isfinite(bits).any()]
            if len(known) < FEWEST:
                break
            groups, means = zip(*known, strict=True)
            mean = estimates.mean(means, groups, (0, None))
            yield {
                "system": own.system.name, "task": task, "first_token": start + 1, "last_token": start + width,
                "entropy_bits": mean.value, "low": mean.low, "high": mean.high, "texts": mean.n,
                "clusters": mean.clusters,
            }  # fmt: skip
