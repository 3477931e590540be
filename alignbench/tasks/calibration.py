"""Calibration of tasks with choices, from the records of existing runs: the confidence of a document's answer against
whether it is right (Guo et al. 2017, arXiv 1706.04599; as a cost of alignment: arXiv 2510.17426).

The probabilities are the softmax of the very scores that decide (docs/metrics.md).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.stats import calibration as stats
from alignbench.stats.estimates import Estimate
from alignbench.types.record import Record
from alignbench.types.task import CorpusMetrics, Estimates, Metric, Resampled, Task

SUFFIX = "_calibration"
CALIBRATES = "calibrates"  # in the description of such a task: the name of the task with choices
METRICS = (  # Brier's score is tested: it is a mean over documents, and strictly proper
    Metric("brier", "number", "lower", bounds=(0.0, 2.0)),
    Metric("overconfidence", "proportion", "0", bounds=(-1.0, 1.0)),
    Metric("confidence", "proportion", "–", bounds=(0.0, 1.0)),
    Metric("accuracy", "proportion", "–", bounds=(0.0, 1.0)),
    Metric("nll", "nats", "lower", bounds=(0.0, None)),
)
ECE = Metric("ece", "proportion", "lower", bounds=(0.0, 1.0))
EXPECTED = Metric("ece_if_calibrated", "proportion", "–", bounds=(0.0, 1.0))
# lm-eval's metrics of choices, in its own results and in imported ones -> the score that decides
OF_LM_EVAL = {"acc": "total", "acc_norm": "character", "acc_bytes": "byte"}


def calibration_task(task: Task, declared: bool = False) -> Task | None:
    """The task whose records are those of `calibrated`; None if no right choice is known to the task.

    declared: task.json declares the task: it is lm-eval's
    """
    decides, headline = task.decides, next((own for own in task.metrics if own.name == task.headline), None)
    if declared and decides is None and headline is not None and headline.binary and headline.name in OF_LM_EVAL:
        decides = headline.name, OF_LM_EVAL[headline.name]
    if decides is None:
        return None
    return replace(
        task, name=task.name + SUFFIX, title=f"Calibration of {task.title}", ability="calibration", group="",
        family=(task.family or task.name) + SUFFIX, headline=METRICS[0].name, metrics=METRICS, corpus=CORPUS,
        decides=decides, generation=None, display_metrics=(),
    )  # fmt: skip


def calibrated(record: Mapping[str, Any], decides: tuple[str, str]) -> dict[str, Any]:
    """The JSON object of a record with the metrics of calibration: none if it has no choices, log-probabilities or
    right choice; without `brier` and `nll` if it is not known which one that is. decides: see `Task`"""
    metric, length = decides
    metrics, choices, logprobs = record["metrics"], record.get("choices") or (), record.get("logprobs") or ()
    right = metrics.get(metric)
    if metric not in metrics or len(choices) < 2 or len(logprobs) != len(choices):
        return {**record, "metrics": {}, "unscored": None}
    if right is None or None in logprobs:
        return {**record, "metrics": dict.fromkeys(own.name for own in METRICS)}
    scores = np.array(logprobs, np.float64) / _lengths(record, length)
    if metric == "mc1":  # the best answer against the false ones, without the other true ones
        scores = np.delete(scores, slice(1, int(record["target"].get("true_answers", 1))))
    if "acc_mutual_info" in metrics:  # each choice also without a context
        scores = scores[: len(scores) // 2]
    confidence, place = stats.confidence(scores), _right_choice(record, metric)
    found = {"overconfidence": confidence - right, "confidence": confidence, "accuracy": right}
    if place is not None and 0 <= place < len(scores):
        found |= {"brier": stats.brier_score(scores, place), "nll": stats.negative_log_likelihood(scores, place)}
    return {**record, "metrics": found, "chance": {"brier": 1 - 1 / len(scores), "nll": math.log(len(scores))}}


def _lengths(record: Mapping[str, Any], length: str) -> NDArray[np.float64] | float:
    """What the log-probabilities are divided by. Imported results of lm-eval have no tokens; the total decides."""
    if length == "total" or (length == "token" and not record.get("tokens")):
        return 1.0
    texts = [choice.removeprefix(" ") for choice in record["choices"]]
    numbers = record["tokens"] if length == "token" else [len(t.encode() if length == "byte" else t) for t in texts]
    return np.maximum(numbers, 1).astype(np.float64)


def _right_choice(record: Mapping[str, Any], metric: str) -> int | None:
    """The place of the right choice; None if it is not known."""
    if metric == "mc1":
        return 0
    target = record.get("target") or {}
    given: list[Any] = [target[key] for key in ("label", "best_choice") if key in target]
    given += record.get("statistics", {}).get("label", ())
    if given or "target" not in target:
        return int(given[0]) if given else None
    # lm-eval's logs have the place, or else the text, as a text
    text, texts = str(target["target"]).strip(), [choice.strip() for choice in record["choices"]]
    if text in texts:
        return None if text.isdigit() and int(text) != texts.index(text) else texts.index(text)
    return int(text) if text.isdigit() and int(text) < len(texts) else None


def _columns(records: Sequence[Record]) -> tuple[list[float], list[float], list[object]]:
    """Confidence, accuracy and cluster of the records that have them."""
    known = [record for record in records if record.metrics.get("confidence") is not None]
    found = ([record.values[name] for record in known] for name in ("confidence", "accuracy"))
    return next(found), next(found), [record.cluster for record in known]


def _compute(records: Sequence[Record], intervals: bool) -> Estimates:
    confidences, right, groups = _columns(records)
    if not confidences:
        return []
    found = stats.expected_calibration_error(confidences, right, groups, intervals=intervals)
    expected = stats.error_if_calibrated(confidences) if intervals else None
    return [(ECE, found), (EXPECTED, Estimate(expected, n=found.n, clusters=found.clusters))]


def _resample(records: Sequence[Record]) -> Resampled:
    error: Callable[[NDArray[np.float64]], NDArray[np.float64]] = stats.resampled_error(*_columns(records)[:2])
    return lambda weights: {ECE.name: error(weights)}


CORPUS = CorpusMetrics(
    _compute,
    usable=lambda record: record.metrics.get("confidence") is not None,
    resample=_resample,
    outcome=lambda record: record.metrics,
)
