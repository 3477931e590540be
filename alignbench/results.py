"""From answers to records, and from records to results: pure functions between the engine and the run folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignbench import stats
from alignbench.models.engine import Loglikelihood
from alignbench.stats import Estimate
from alignbench.tasks.task import Document, Metric, Scored, Task


@dataclass(frozen=True)
class MetricResult:
    """A metric over all scored documents of a task, or over those of one category.

    chance: what answering at random scores on the same documents, None where there is no such level
    n_unscored: documents without a value: counted, and left out
    """

    metric: str
    category: str | None
    unit: str
    better: str
    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    n_clusters: int
    n_unscored: int
    chance: float | None


@dataclass(frozen=True)
class TaskResult:
    """What `result.json` holds.

    unscored: reason -> number of documents, with numbers in the reasons taken out
    """

    task: str
    version: int
    n: int
    n_scored: int
    shots: int
    limit: int | None
    seed: int
    unscored: dict[str, int]
    metrics: tuple[MetricResult, ...]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TaskResult:
        return cls(**{**content, "metrics": tuple(MetricResult(**metric) for metric in content["metrics"])})


def make_record(task: Task, document: Document, answers: Sequence[Loglikelihood]) -> dict[str, Any]:
    """A line of documents.jsonl. If one choice is unscored the document is, with the first reason."""
    reason = next((answer.unscored for answer in answers if answer.unscored), None)
    metrics: dict[str, float | None] = {metric.name: None for metric in task.metrics}
    if reason is None:
        metrics |= task.score(document, answers)
        reason = next((f"{name} is {x}" for name, x in metrics.items() if x is None or not np.isfinite(x)), None)
        if reason is not None:
            metrics = dict.fromkeys(metrics)
    return {
        "id": document.id,
        "group": document.group,
        "category": document.category,
        **document.details,
        "prompt": document.prompt,
        "choices": list(document.choices),
        "logprobs": [None if answer.unscored else answer.logprob for answer in answers],
        "tokens": [answer.tokens for answer in answers],
        **document.target,
        **metrics,
        "chance": dict(document.chance),
        "unscored": reason,
    }


def kept(record: dict[str, Any]) -> dict[str, Any]:
    """What the summary needs of a record; the rest stays on disk."""
    heavy = ("prompt", "choices", "logprobs", "tokens")
    return {key: value for key, value in record.items() if key not in heavy}


def summarise(task: Task, records: Sequence[dict[str, Any]], *, shots: int, limit: int | None, seed: int) -> TaskResult:
    """Every metric over all documents, over each category, and the task's metrics across documents."""
    scored = [record for record in records if record["unscored"] is None]
    metrics = [_metric(metric, None, scored, len(records) - len(scored)) for metric in task.metrics]
    for category in sorted({record["category"] for record in records if record["category"] is not None}):
        inside = [record for record in records if record["category"] == category]
        inside_scored = [record for record in inside if record["unscored"] is None]
        metrics += [
            _metric(metric, category, inside_scored, len(inside) - len(inside_scored)) for metric in task.metrics
        ]
    if task.across is not None:
        views = [
            Scored(
                {metric.name: record[metric.name] for metric in task.metrics},
                record["group"],
                record["category"],
                record["chance"],
                record,
            )
            for record in scored
        ]
        for metric, estimate in task.across(views):
            metrics.append(_result(metric, None, estimate, len(records) - len(scored), metric.chance))
    reasons = Counter(re.sub(r"\d+", "N", record["unscored"]) for record in records if record["unscored"] is not None)
    return TaskResult(
        task=task.name,
        version=task.version,
        n=len(records),
        n_scored=len(scored),
        shots=shots,
        limit=limit,
        seed=seed,
        unscored=dict(sorted(reasons.items())),
        metrics=tuple(metrics),
    )


def _metric(metric: Metric, category: str | None, scored: Sequence[dict[str, Any]], unscored: int) -> MetricResult:
    values = [record[metric.name] for record in scored]
    # a document without a group is a group of its own
    groups = [record["group"] if record["group"] is not None else ("document", record["id"]) for record in scored]
    estimate = stats.share(values, groups) if metric.binary else stats.mean(values, groups, metric.bounds)
    levels = [record["chance"].get(metric.name, metric.chance) for record in scored]
    chance = float(np.mean(levels)) if levels and None not in levels else None
    return _result(metric, category, estimate, unscored, chance)


def _result(
    metric: Metric, category: str | None, estimate: Estimate, unscored: int, chance: float | None
) -> MetricResult:
    return MetricResult(
        metric=metric.name,
        category=category,
        unit=metric.unit,
        better=metric.better,
        value=estimate.value,
        standard_error=estimate.standard_error,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        n_clusters=estimate.clusters,
        n_unscored=unscored,
        chance=chance,
    )
