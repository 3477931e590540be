"""Metrics of lm-evaluation-harness: their units, and those that it aggregates otherwise than by a mean."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignbench.scorers import bleu
from alignbench.stats.estimates import NORMAL_QUANTILE, Estimate
from alignbench.tasks.common import Sum, estimates_of_sums, resampled_sums
from alignbench.tasks.declared import metric_of, unit_of
from alignbench.types.task import CorpusMetrics, Estimates, Record

RESAMPLES = 100  # of a metric that lm-eval's code aggregates, as there
BINARY = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")  # unless a task computes them itself
# metrics of generated text that are 1 if the answer is right
EXACT = ("exact_match", "acc", "em", "math_verify", "prompt_level_strict_acc")
Functions = Mapping[str, Callable[[Any], Any]]  # metric -> its aggregation


@dataclass(frozen=True)
class SumOfRows:
    """An aggregation of lm-eval that is a function of the sum of a row of numbers per document."""

    row: Callable[[Any], list[float]]
    value: Sum


def _log_mean(rows: bleu.Statistics) -> float:
    total, weight = np.sum(rows, 0).tolist()
    return float(-total / weight) if weight else math.nan  # a resample may have no document with the metric


def _perplexity(rows: bleu.Statistics) -> float:
    return math.exp(_log_mean(rows))


def _references(item: Any) -> list[str]:
    return [item[0]] if isinstance(item[0], str) else list(item[0])


SUMS = {
    "perplexity": SumOfRows(lambda item: [item, 1.0], _perplexity),
    "weighted_perplexity": SumOfRows(list, _perplexity),
    "bits_per_byte": SumOfRows(list, lambda rows: _log_mean(rows) / math.log(2)),
    "bleu": SumOfRows(lambda item: bleu.bleu_statistics(item[1], _references(item)), bleu.corpus_bleu),
    "chrf": SumOfRows(lambda item: bleu.chrf_statistics(item[1], _references(item)), bleu.corpus_chrf),
}


def fields_of(task: str, metric: str, key: str, higher_is_better: bool | None, binary: bool) -> dict[str, Any]:
    """The fields of a `Metric`. task, metric: lm-eval's names; key: ours; binary: the values of those of BINARY are"""
    better = "–" if higher_is_better is None else "higher" if higher_is_better else "lower"
    return {"name": key, "better": better, "binary": binary and metric in BINARY, **unit_of(f"{task}.{metric}")}


def corpus_metrics(declared: Mapping[str, Mapping[str, Any]], functions: Functions) -> CorpusMetrics | None:
    """declared: name -> fields of a `Metric`, and `aggregation`: lm-eval's name of it, "" for one of the task's own
    functions: those of the task; without one, a metric that lm-eval's code aggregates needs lm-eval, and one that the
        task's code aggregates is missing"""
    if not declared:
        return None
    names: dict[str, str] = {key: fields["aggregation"] for key, fields in declared.items()}
    metrics = {key: metric_of({k: v for k, v in own.items() if k != "aggregation"}) for key, own in declared.items()}
    sums = {key: (metrics[key], SUMS[name].value) for key, name in names.items() if name in SUMS}

    def compute(records: Sequence[Record], intervals: bool) -> Estimates:
        found = {metric.name: (metric, own) for metric, own in estimates_of_sums(sums, records, intervals)}
        for key in metrics.keys() - sums.keys():
            items = [record.statistics[key][0] for record in records if key in record.statistics]
            aggregate = functions.get(key.partition(",")[0]) or _registered(names[key])
            if items and aggregate:
                found[key] = metrics[key], _estimate(items, aggregate, intervals)
        return [found[key] for key in metrics if key in found]

    return CorpusMetrics(compute, resample=None if metrics.keys() - sums.keys() else resampled_sums(lambda _: sums))


def _registered(name: str) -> Callable[[Any], Any] | None:
    """lm-eval's aggregation of this name; None if it has none, and if lm-eval is not installed."""
    try:
        from lm_eval.api import metrics, registry  # noqa: F401  # metrics: fills the registry
    except ImportError:
        return None
    found: Callable[[Any], Any] | None = registry.aggregation_registry.get(name, None)
    return found


def _estimate(items: list[Any], aggregate: Callable[[Any], Any], intervals: bool) -> Estimate:
    """lm-eval's aggregation of the items, with the standard error of a bootstrap."""
    n, value = len(items), float(aggregate(items))
    if not intervals or n < 2:
        return Estimate(value, n=n, clusters=n)
    random = np.random.default_rng(0)
    drawn = ([items[row] for row in random.integers(n, size=n)] for _ in range(RESAMPLES))
    error = float(np.std([float(aggregate(own)) for own in drawn], ddof=1))
    known = math.isfinite(error)
    return Estimate.symmetric(value, error, NORMAL_QUANTILE, n, n) if known else Estimate(value, n=n, clusters=n)
