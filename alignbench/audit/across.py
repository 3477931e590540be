"""Metrics across documents (a corpus BLEU, a correlation), compared on resampled documents where that can be done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.jackknife import Side, compare_sets, measure_side
from alignbench.audit.paired import Change, change, group_of, without_interval
from alignbench.audit.tax import improvement
from alignbench.runs.summary import views
from alignbench.scorers import bleu
from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate, cluster_numbers
from alignbench.stats.length_control import at_equal_lengths, fit, scaled
from alignbench.stats.significance import few_changed
from alignbench.tasks import corpus_bleu
from alignbench.tasks.win_rate import LENGTH_CONTROLLED, across_battles
from alignbench.types.result import MetricResult
from alignbench.types.scorer import Embedder
from alignbench.types.task import Task

RESAMPLES = 1000  # each one computes the metric anew
# metric -> the column of counts that add up over documents, and the score of a sum
SUMS: dict[str, tuple[str, Callable[[Sequence[Sequence[float]]], float]]] = {
    "bleu": ("bleu_statistics", bleu.corpus_bleu),
    "chrf": ("chrf_statistics", bleu.corpus_chrf),
}

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Found:
    """A metric across documents, compared. test: "bootstrap" or "jackknife"; counts: values that the reference's number
    and the aligned one's were made from; few: so few documents changed that no resample tells how much they may."""

    changed: Change
    test: str
    counts: tuple[int, int]
    few: bool


def compare_across(
    task: Task,
    better: Mapping[str, str],
    reference: Records,
    aligned: Records,
    embedder: Embedder | None = None,
    *,
    seed: int = 0,
) -> tuple[dict[str, Found], int]:
    """Each metric of `Task.across` on the documents that both models answered, and how many documents were left out.

    better: metric -> direction, of the metrics wanted; embedder: makes the vectors of those that want them
    Sums of counts, correlations and length-controlled win rates by a paired bootstrap over groups; measures of a set of
    outputs by a jackknife (`jackknife.compare_sets`). Missing are those that cannot be told on one of 20 resamples, and
    those of vectors without an embedder.
    """
    if task.across is None:
        return {}, 0
    known = {**reference, **aligned}
    usable = _judged if task.across is across_battles else _usable
    common = [name for name in reference if name in aligned and all(map(usable, (reference[name], aligned[name])))]
    left_out = len(known) - len(common)
    if not common:
        return {}, left_out
    cluster = cluster_numbers([group_of(reference[name]) for name in common], len(common))
    clusters = int(cluster.max()) + 1
    both = [[dict(records[name]) for name in common] for records in (reference, aligned)]
    judged = [[own["win_rate"] for own in mine] for mine in both] if task.across is across_battles else both
    few = few_changed([float(one != other) for one, other in zip(*judged, strict=True)], cluster)
    if of_outputs(task):
        sides = [_side(task, own, embedder, cluster) for own in both]
        sets = compare_sets(better, sides[0], sides[1], cluster)
        return {name: _found(changed, "jackknife", counts, few) for name, (changed, counts) in sets.items()}, left_out
    values = [_values(task, own) for own in both]
    draws = [_resampled(task, own, cluster, seed) for own in both]
    found = {}
    for name in [name for name in better if name in values[0] and name in values[1]]:
        before, after = values[0][name], values[1][name]
        table = np.column_stack([own[name] for own in draws])
        table = table[np.isfinite(table).all(axis=1)]
        if before.value is not None and after.value is not None and len(table) >= 0.95 * RESAMPLES:
            changed = change(before.value, after.value, table, len(common), clusters, better[name])
            found[name] = _found(changed, "bootstrap", (before.n, after.n), few)
    return found, left_out


_sides: dict[str, Side] = {}


def forget() -> None:
    """Measures of sets are kept from contrast to contrast, since they take seconds; a folder may change in between."""
    _sides.clear()


def _side(task: Task, records: Sequence[dict[str, Any]], embedder: Embedder | None, cluster: NDArray[np.int64]) -> Side:
    known = json.dumps([task.name, embedder and embedder.revision, records, cluster.tolist()])
    key = hashlib.sha256(known.encode()).hexdigest()
    if key not in _sides:
        _sides[key] = measure_side(task, views(task, records, embedder), cluster)
    return _sides[key]


def _found(changed: Change, test: str, counts: tuple[int, int], few: bool) -> Found:
    return Found(without_interval(changed) if few else changed, test, counts, few)


def _values(task: Task, records: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    assert task.across is not None
    if task.across is not across_battles:
        return {metric.name: estimate for metric, estimate in task.across(views(task, records))}
    # without its own bootstrap, which takes seconds where there are thousands of prompts
    n = len(records)
    (rate,) = _length_controlled(records, np.ones((1, n)))
    return {LENGTH_CONTROLLED.name: Estimate(float(rate), None, None, None, n, n)}


def _length_controlled(records: Sequence[Mapping[str, Any]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(resamples,) win rates at equal lengths; weights: (resamples, n)."""
    preferred = np.array([2 * record["win_rate"] - 1 for record in records])
    lengths = scaled([record["length_difference"] for record in records])
    return at_equal_lengths(fit(preferred, lengths, weights)[0])


def of_outputs(task: Task) -> bool:
    """Whether its metrics across documents are measures of a set of outputs, which grow with their number."""
    return task.writing is not None and task.across not in (None, corpus_bleu.corpus_scores, across_battles)


def unpaired(reference: MetricResult, aligned: MetricResult) -> Change | None:
    """From the two runs' own values and standard errors, as if they had nothing in common; None without values."""
    if reference.value is None or aligned.value is None:
        return None
    gained = improvement(reference.value, aligned.value, reference.better)
    delta = aligned.value - reference.value
    n, clusters = min(reference.n, aligned.n), min(reference.n_clusters, aligned.n_clusters)
    error = None
    if reference.standard_error is not None and aligned.standard_error is not None:
        error = float(np.hypot(reference.standard_error, aligned.standard_error))
    p = None
    if error is not None:
        tested = delta if gained is None else gained
        p = float(2 * stats.norm.sf(abs(tested) / error)) if error else float(tested == 0)
    return Change(
        reference.value,
        aligned.value,
        _normal(delta, error, n, clusters),
        None if gained is None else _normal(gained, error, n, clusters),
        p,
    )


def _normal(value: float, error: float | None, n: int, clusters: int) -> Estimate:
    if error is None:
        return Estimate(value, None, None, None, n, clusters)
    reach = float(stats.norm.ppf(0.975)) * error
    return Estimate(value, error, value - reach, value + reach, n, clusters)


def _usable(record: Mapping[str, Any]) -> bool:
    """As `results.summarise` has it: what was written counts, whether or not a scorer failed on it."""
    return bool(record.get("written", record["unscored"] is None))


def _judged(record: Mapping[str, Any]) -> bool:
    return record.get("win_rate") is not None


def _resampled(
    task: Task, records: Sequence[dict[str, Any]], cluster: NDArray[np.int64], seed: int
) -> dict[str, NDArray[np.float64]]:
    """Metric -> its value on each resample, (RESAMPLES,); NaN where it cannot be told.

    cluster: (n,) each document's group, which is drawn whole; the same draws for any records
    """
    assert task.across is not None
    blocks = (drawn[:, cluster] for drawn in bootstrap.weights(int(cluster.max()) + 1, RESAMPLES, seed))
    if task.across is corpus_bleu.corpus_scores:
        columns = {
            name: (np.array([record[column] for record in records], np.float64), score)
            for name, (column, score) in SUMS.items()
            if all(column in record for record in records)
        }
        drawn = list(blocks)
        return {
            name: np.array([score([row]) for weights in drawn for row in (weights @ counts).tolist()])
            for name, (counts, score) in columns.items()
        }
    if task.across is across_battles:
        rates = [_length_controlled(records, weights) for weights in blocks]
        return {LENGTH_CONTROLLED.name: np.concatenate(rates)}
    scored = views(task, records)
    found: dict[str, NDArray[np.float64]] = {}
    for number, row in enumerate(np.concatenate(list(blocks))):
        drawn_documents = np.repeat(np.arange(len(scored)), row.astype(int)).tolist()
        for metric, estimate in task.across([scored[place] for place in drawn_documents]):
            values = found.setdefault(metric.name, np.full(RESAMPLES, np.nan))
            values[number] = np.nan if estimate.value is None else estimate.value
    return found
