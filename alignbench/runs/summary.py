"""Records to results: every metric of a task with its interval."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from alignbench.stats import estimates
from alignbench.stats.estimates import Estimate
from alignbench.stats.win_rate import win_rate
from alignbench.types.record import Record
from alignbench.types.result import MetricResult, TaskResult
from alignbench.types.scorer import Embedder
from alignbench.types.task import Metric, Task


def summarise(
    task: Task,
    records: Sequence[Record],
    *,
    shots: int,
    limit: int | None,
    seed: int,
    scorers: Mapping[str, str] | None = None,
    template: str | None = None,
    embedder: Embedder | None = None,
) -> TaskResult:
    """Every metric over all documents and over each category, and the task's corpus metrics.

    scorers: kind -> `name@revision` of those that were used
    embedder: computes the vectors that corpus metrics may read
    """
    scorers = scorers or {}
    known = [*task.metrics, *_metrics_of_other_scorers(task, records, scorers)]
    metrics = [_metric(metric, None, records, scorers) for metric in known]
    for category in sorted({record.category for record in records if record.category is not None}):
        inside = [record for record in records if record.category == category]
        metrics += [_metric(metric, category, inside, scorers) for metric in known]
    metrics = [metric for metric in metrics if metric.n or metric.n_unscored]  # the others apply to no document
    if task.corpus is not None:
        # outputs count for a corpus metric even if a scorer failed on them, unless the metric is of its numbers
        usable, counts = [record for record in records if record.answered], task.corpus.usable
        failed = [own for own in usable if not counts(own) and (own.unscored or None in own.metrics.values())]
        lost = len(records) - len(usable) + len(failed)
        for metric, estimate in task.corpus.compute(with_vectors(usable, embedder), True):
            metrics.append(_result(metric, None, estimate, lost, metric.chance, scorers))
    reasons = [record.unscored for record in records if record.unscored is not None]
    masked = {reason: re.sub(r"\d+", "N", reason) for reason in reasons}
    first = {mask: reason for reason, mask in reversed(masked.items())}
    return TaskResult(
        task=task.name,
        version=task.version,
        n=len(records),
        n_scored=len(records) - len(reasons),
        shots=shots,
        limit=limit,
        seed=seed,
        unscored=dict(sorted(Counter(first[masked[reason]] for reason in reasons).items())),
        metrics=tuple(metrics),
        template=template,
    )


def with_vectors(records: Sequence[Record], embedder: Embedder | None) -> list[Record]:
    """The records with embedding vectors of their outputs; unchanged without texts or without an embedder."""
    texts = [[output.text for output in record.outputs] for record in records]
    if embedder is None or not any(texts):
        return list(records)
    together = embedder.embed([text for own in texts for text in own])
    vectors = np.split(together, np.cumsum([len(own) for own in texts])[:-1])
    return [replace(record, vectors=own) for record, own in zip(records, vectors, strict=True)]


def _metrics_of_other_scorers(task: Task, records: Sequence[Record], scorers: Mapping[str, str]) -> list[Metric]:
    """One metric `kind.number` for each number of each scorer that the task does not know."""
    other = [kind for kind in scorers if kind not in task.scorer_kinds]
    if task.generation is None or not other:
        return []
    names = {name for record in records for name in record.metrics if name.rpartition(".")[0] in other}
    return [Metric(name, "number", "–", scorer=name.rpartition(".")[0]) for name in sorted(names)]


def _metric(
    metric: Metric, category: str | None, records: Sequence[Record], scorers: Mapping[str, str]
) -> MetricResult:
    applicable = [record for record in records if metric.name in record.metrics]
    scored = [(record, value) for record in applicable if (value := record.metrics[metric.name]) is not None]
    values, groups = [value for _, value in scored], [record.cluster for record, _ in scored]
    if metric.ties:
        estimate = win_rate(values, groups)
    elif metric.binary:
        estimate = estimates.share(values, groups)
    else:
        estimate = estimates.mean(values, groups, metric.bounds)
    levels = [record.chance.get(metric.name, metric.chance) for record, _ in scored]
    chance = float(np.mean(levels)) if levels and None not in levels else None  # type: ignore[arg-type]
    return _result(metric, category, estimate, len(applicable) - len(scored), chance, scorers)


def _result(
    metric: Metric,
    category: str | None,
    estimate: Estimate,
    unscored: int,
    chance: float | None,
    scorers: Mapping[str, str],
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
        scorer=metric.signature or " + ".join(scorers[kind] for kind in metric.kinds if kind in scorers) or None,
        bounds=(0.0, 1.0) if metric.binary else metric.bounds,
    )
