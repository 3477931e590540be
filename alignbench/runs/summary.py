"""From answers to records, and from records to results: pure functions between the engine and the run folder."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.stats import estimates
from alignbench.stats.estimates import Estimate
from alignbench.stats.win_rate import win_rate
from alignbench.types.engine import Completion, Loglikelihood
from alignbench.types.result import MetricResult, TaskResult
from alignbench.types.scorer import Embedder
from alignbench.types.task import Document, Metric, Output, Scored, Task


def make_record(task: Task, document: Document, answers: Sequence[Loglikelihood]) -> dict[str, Any]:
    """A line of documents.jsonl of a task with choices. If one choice is unscored the document is, with the first
    reason."""
    assert task.score is not None
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
        **_entropies(task, answers),
        **document.target,
        **metrics,
        "chance": dict(document.chance),
        "unscored": reason,
    }


def _entropies(task: Task, answers: Sequence[Loglikelihood]) -> dict[str, list[list[float]]]:
    """A list a choice, a number a token, in nats to four decimals."""
    if not task.entropies:
        return {}
    return {
        "entropies": [[round(x, 4) for x in answer.entropies] for answer in answers],
        "top_entropies": [[round(x, 4) for x in answer.top_entropies] for answer in answers],
    }


def pending_record(document: Document, completions: Sequence[Completion]) -> dict[str, Any]:
    """A line of documents.jsonl of a task in which the model writes: what it wrote, not yet judged."""
    return {
        "id": document.id,
        "group": document.group,
        "category": document.category,
        **document.details,
        "prompt": document.prompt,
        "source": document.source,
        "references": list(document.references),
        **document.target,
        "outputs": [
            {
                "text": completion.text,
                "finish": completion.finish,
                "tokens": list(completion.tokens),
                # four decimals: a file of 25 samples a prompt is mostly these
                "logprobs": [round(x, 4) for x in completion.logprobs],
                "entropies": [round(x, 4) for x in completion.entropies],
                "unscored": completion.unscored,
                "scores": {},
            }
            | ({"top_entropies": [round(x, 4) for x in completion.top_entropies]} if completion.top_entropies else {})
            | ({"transient": True} if completion.transient else {})
            for completion in completions
        ],
        "chance": dict(document.chance),
        "pending": True,
        "unscored": None,
    }


def document_of(record: Mapping[str, Any]) -> Document:
    """The document of a record of written outputs, as far as scoring needs it."""
    return Document(
        id=record["id"],
        prompt=record["prompt"],
        references=tuple(record["references"]),
        source=record["source"],
        target=record,
        group=record["group"],
        category=record["category"],
        chance=record["chance"],
        details={key: value for key, value in record.items() if isinstance(value, str | float | int | None)},
    )


def outputs_of(record: Mapping[str, Any]) -> list[Output]:
    return [
        Output(
            o["text"],
            o["scores"],
            len(o["tokens"]) if o["tokens"] else None,
            tuple(o["logprobs"]),
            tuple(o["entropies"]),
            tuple(o.get("top_entropies", ())),
        )
        for o in record["outputs"]
    ]


def finish_record(
    task: Task, record: Mapping[str, Any], scores: Mapping[str, Sequence[Mapping[str, float]] | str]
) -> dict[str, Any]:
    """The record with the scorers' numbers and the task's metrics.

    scores: kind of scorer -> its numbers for each output, or why it failed
    A metric that does not apply to the document has no column; one that cannot be told is null, and the document
    says why.
    """
    assert task.writing is not None
    numbers = {kind: found for kind, found in scores.items() if not isinstance(found, str)}
    record = dict(record) | {
        "outputs": [
            output | {"scores": output["scores"] | {kind: dict(numbers[kind][i]) for kind in numbers}}
            for i, output in enumerate(record["outputs"])
        ]
    }
    document, outputs = document_of(record), outputs_of(record)
    reasons = [output["unscored"] for output in record["outputs"] if output["unscored"]]
    statistics: Mapping[str, Sequence[object]] = {}
    if reasons:
        # which metrics would have applied can be told from any outputs; their values cannot
        metrics: dict[str, float] = dict.fromkeys(task.writing.score(document, outputs), math.nan)
        metrics |= {m.name: math.nan for m in task.metrics if m.scorer and set(_kinds(m)) <= set(scores)}
    else:
        metrics = task.writing.score(document, outputs)
        failed = {kind: found for kind, found in scores.items() if isinstance(found, str)}
        # a task cannot tell an optional scorer that failed from one that nobody asked for
        missing = set(failed) & set(task.writing.optional_scorers)
        metrics |= {metric.name: math.nan for metric in task.metrics if missing.intersection(_kinds(metric))}
        reasons = [f"{kind}: {found}" for kind, found in failed.items()]
        reasons += [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        metrics |= _extra_metrics(task, outputs, scores)
        if task.writing.statistics is not None:
            statistics = task.writing.statistics(document, outputs)
    # a record that is judged again (`alignbench rescore`) must not keep a metric that no longer applies
    known = {metric.name for metric in task.metrics} | {"chance", "pending", "unscored"}
    known |= {key for key in record if key.rpartition(".")[0] in scores}
    return (
        {key: value for key, value in record.items() if key not in known}
        | {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        | dict(statistics)
        | {"chance": record["chance"], "unscored": reasons[0] if reasons else None}
    )


def _extra_metrics(
    task: Task, outputs: Sequence[Output], scores: Mapping[str, Sequence[Mapping[str, float]] | str]
) -> dict[str, float]:
    """`kind.number` for scorers that the task does not know: the mean over the outputs; NaN where one failed."""
    assert task.writing is not None
    found: dict[str, float] = {}
    for kind in scores:
        if kind in task.writing.scorers + task.writing.optional_scorers:
            continue
        numbers = [output.scores.get(kind, {}) for output in outputs]
        for name in dict.fromkeys(name for own in numbers for name in own):
            found[f"{kind}.{name}"] = sum(own.get(name, math.nan) for own in numbers) / len(numbers)
    return found


def kept(task: Task, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary needs of a record; the rest stays on disk. `written`: all of its outputs are there; `texts`:
    what they say, where the task wants to see it."""
    heavy = ("prompt", "choices", "logprobs", "tokens", "entropies", "top_entropies", "outputs", "source", "references")
    found = {key: value for key, value in record.items() if key not in heavy}
    if "outputs" in record:
        found["written"] = not any(output["unscored"] for output in record["outputs"])
        if task.writing is not None and task.writing.spread:
            found["texts"] = tuple(output["text"] for output in record["outputs"])
    return found


def summarise(
    task: Task,
    records: Sequence[dict[str, Any]],
    *,
    shots: int,
    limit: int | None,
    seed: int,
    scorers: Mapping[str, str] | None = None,
    template: str | None = None,
    embedder: Embedder | None = None,
) -> TaskResult:
    """Every metric over all documents, over each category, and the task's metrics across documents.

    scorers: kind -> `name@revision` of those that were used
    embedder: makes the vectors that `across` may want
    """
    scorers = scorers or {}
    known = [*task.metrics, *_metrics_of_extra_scorers(task, records, scorers)]
    metrics = [_metric(metric, None, records, scorers) for metric in known]
    for category in sorted({record["category"] for record in records if record["category"] is not None}):
        inside = [record for record in records if record["category"] == category]
        metrics += [_metric(metric, category, inside, scorers) for metric in known]
    metrics = [metric for metric in metrics if metric.n or metric.n_unscored]  # the others apply to no document
    scored = [record for record in records if record["unscored"] is None]
    if task.across is not None:
        # what was written counts for a corpus score, whether or not a scorer failed on it
        usable = [record for record in records if record.get("written", record["unscored"] is None)]
        for metric, estimate in task.across(views(task, usable, embedder)):
            metrics.append(_result(metric, None, estimate, len(records) - len(usable), metric.chance, scorers))
    reasons = [record["unscored"] for record in records if record["unscored"] is not None]
    alike = {reason: re.sub(r"\d+", "N", reason) for reason in reasons}
    first = {masked: reason for reason, masked in reversed(alike.items())}
    return TaskResult(
        task=task.name,
        version=task.version,
        n=len(records),
        n_scored=len(scored),
        shots=shots,
        limit=limit,
        seed=seed,
        unscored=dict(sorted(Counter(first[alike[reason]] for reason in reasons).items())),
        metrics=tuple(metrics),
        template=template,
    )


def views(task: Task, records: Sequence[dict[str, Any]], embedder: Embedder | None = None) -> list[Scored]:
    """The records as `Task.across` sees them, with vectors of their texts where there are texts and an embedder."""
    names = [metric.name for metric in task.metrics]
    texts: list[tuple[str, ...]] = [record.get("texts", ()) for record in records]
    vectors: list[NDArray[np.float32] | None] = [None] * len(records)
    if embedder is not None and any(texts):
        together = embedder.embed([text for own in texts for text in own])
        vectors = list(np.split(together, np.cumsum([len(own) for own in texts])[:-1]))
    return [
        Scored(
            {name: record[name] for name in names if record.get(name) is not None},
            record["group"],
            record["category"],
            record["chance"],
            record,
            own,
            rows,
        )
        for record, own, rows in zip(records, texts, vectors, strict=True)
    ]


def _metrics_of_extra_scorers(
    task: Task, records: Sequence[Mapping[str, Any]], scorers: Mapping[str, str]
) -> list[Metric]:
    """One metric for each number of each scorer that the task does not know (`_extra_metrics`)."""
    if task.writing is None:
        return []
    extra = [kind for kind in scorers if kind not in task.writing.scorers + task.writing.optional_scorers]
    names = dict.fromkeys(key for record in records for key in record if key.rpartition(".")[0] in extra)
    return [Metric(name, "number", "–", scorer=name.rpartition(".")[0]) for name in sorted(names)]


def _metric(
    metric: Metric, category: str | None, records: Sequence[dict[str, Any]], scorers: Mapping[str, str]
) -> MetricResult:
    concerned = [record for record in records if metric.name in record]
    scored = [record for record in concerned if record[metric.name] is not None]
    values = [record[metric.name] for record in scored]
    # a document without a group is a group of its own
    groups = [record["group"] if record["group"] is not None else ("document", record["id"]) for record in scored]
    if metric.ties:
        estimate = win_rate(values, groups).rate
    else:
        estimate = estimates.share(values, groups) if metric.binary else estimates.mean(values, groups, metric.bounds)
    levels = [record["chance"].get(metric.name, metric.chance) for record in scored]
    chance = float(np.mean(levels)) if levels and None not in levels else None
    return _result(metric, category, estimate, len(concerned) - len(scored), chance, scorers)


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
        scorer=metric.signature or " + ".join(scorers[kind] for kind in _kinds(metric) if kind in scorers) or None,
        bounds=(0.0, 1.0) if metric.binary else metric.bounds,
    )


def _kinds(metric: Metric) -> list[str]:
    """The kinds of scorer that a metric is made with."""
    return [] if metric.scorer is None else metric.scorer.split("+")
