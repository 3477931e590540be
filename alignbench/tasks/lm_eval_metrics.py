"""Metrics of lm-evaluation-harness: their units, and those that it aggregates otherwise than by a mean."""

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignbench.scorers import bleu
from alignbench.stats.estimates import NORMAL_QUANTILE, Estimate
from alignbench.types.task import CorpusMetrics, Estimates, Metric, Record, Resampled

RESAMPLES = 100  # of a metric that lm-eval's code aggregates, as there
BINARY = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")  # unless a task computes them itself
PROPORTIONS = (
    *(f"*.{name}" for name in (*BINARY, "likelihood", "pct_stereotype", "bleu_acc", "rouge*_acc")),
    *("drop*.em", "drop*.f1", "coqa*.em", "coqa*.f1"),
)
UNITS: dict[str, dict[str, Any]] = {  # by task and metric
    **{name: {"unit": "proportion", "bounds": [0.0, 1.0]} for name in PROPORTIONS},
    **{f"*.{name}": {"unit": "points", "bounds": [0.0, 100.0]} for name in ("bleu", "chrf", "chrf++", "bleu_max")},
    "*.mcc": {"unit": "r", "bounds": [-1.0, 1.0]},
    "*perplexity": {"unit": "number", "bounds": [0.0, None]},
    "*.bits_per_byte": {"unit": "bits", "bounds": [0.0, None]},
}
Aggregate = Callable[[Any], Any]


@dataclass(frozen=True)
class Sum:
    """An aggregation that is a function of the sum of a row of numbers per document."""

    row: Callable[[Any], list[float]]
    value: Callable[[bleu.Statistics], float]


def _exp_of_mean(rows: bleu.Statistics) -> float:
    total, weight = np.sum(rows, 0).tolist()
    return math.exp(-total / weight)


def _bits(rows: bleu.Statistics) -> float:
    total, weight = np.sum(rows, 0).tolist()
    return float(-total / weight / math.log(2))


def _references(item: Any) -> list[str]:
    return [item[0]] if isinstance(item[0], str) else list(item[0])


SUMS = {
    "perplexity": Sum(lambda item: [item, 1.0], _exp_of_mean),
    "weighted_perplexity": Sum(list, _exp_of_mean),
    "bits_per_byte": Sum(list, _bits),
    "bleu": Sum(lambda item: bleu.bleu_statistics(item[1], _references(item)), bleu.corpus_bleu),
    "chrf": Sum(lambda item: bleu.chrf_statistics(item[1], _references(item)), bleu.corpus_chrf),
}


def fields_of(task: str, metric: str, key: str, higher_is_better: bool | None, binary: bool) -> dict[str, Any]:
    """The fields of a `Metric`. task, metric: lm-eval's names; key: ours; binary: the values of those of BINARY are"""
    of_task = f"{task}.{metric}"
    own = next((own for pattern, own in UNITS.items() if fnmatch.fnmatchcase(of_task, pattern)), {"unit": "number"})
    better = "–" if higher_is_better is None else "higher" if higher_is_better else "lower"
    return {"name": key, "better": better, "binary": binary and metric in BINARY, **own}


def metric_of(fields: Mapping[str, Any]) -> Metric:
    known: dict[str, Any] = {key: value for key, value in fields.items() if key != "aggregation"}
    return Metric(**known | {"bounds": tuple(known.get("bounds", (None, None)))})


def corpus_metrics(
    declared: Mapping[str, Mapping[str, Any]], function: Callable[[str, str], Aggregate | None]
) -> CorpusMetrics | None:
    """declared: name -> fields of a `Metric`, and `aggregation`: lm-eval's name of it, "" for one of the task's own
    function: these two -> the aggregation of a metric that is no `Sum`; None: the metric cannot be computed"""
    if not declared:
        return None
    metrics = {key: metric_of(fields) for key, fields in declared.items()}
    names: dict[str, str] = {key: fields["aggregation"] for key, fields in declared.items()}

    def compute(records: Sequence[Record], intervals: bool) -> Estimates:
        found: Estimates = []
        for key, metric in metrics.items():
            items = [record.statistics[key] for record in records if key in record.statistics]
            if items and names[key] in SUMS:
                value = SUMS[names[key]].value
                found.append((metric, bleu.corpus_interval(items, value, resamples=1000 if intervals else 0)))
            elif items and (aggregate := function(key, names[key])):
                found.append((metric, _estimate([own[0] for own in items], aggregate, intervals)))
        return found

    def resample(records: Sequence[Record]) -> Resampled:
        def rows(key: str) -> Any:
            width = next((len(own.statistics[key]) for own in records if key in own.statistics), 1)
            return np.array([own.statistics.get(key, [0.0] * width) for own in records], np.float64)

        known = {key: rows(key) for key in metrics if any(key in own.statistics for own in records)}
        return lambda weights: {
            key: np.array([SUMS[names[key]].value([row]) for row in (weights @ own).tolist()])
            for key, own in known.items()
        }

    return CorpusMetrics(compute, resample=resample if set(names.values()) <= SUMS.keys() else None)


def _estimate(items: list[Any], aggregate: Aggregate, intervals: bool) -> Estimate:
    """lm-eval's aggregation of the items, with the standard error of a bootstrap."""
    n, value = len(items), float(aggregate(items))
    if not intervals or n < 2:
        return Estimate(value, n=n, clusters=n)
    random = np.random.default_rng(0)
    drawn = ([items[row] for row in random.integers(n, size=n)] for _ in range(RESAMPLES))
    error = float(np.std([float(aggregate(own)) for own in drawn], ddof=1))
    known = math.isfinite(error)
    return Estimate.symmetric(value, error, NORMAL_QUANTILE, n, n) if known else Estimate(value, n=n, clusters=n)
