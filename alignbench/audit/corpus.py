"""Corpus metrics (a corpus BLEU, a correlation, the diversity of a set of outputs) of two models on the same documents.

Both models' values are computed again on the documents that both answered. How they vary is shown by a paired bootstrap
over groups of documents, or for measures of a set of outputs by a jackknife: they grow with the number of outputs, and
drawing an output twice would lower them. The jackknife leaves out a twentieth of the documents of both sides at a time
(Efron & Tibshirani 1993, chapter 11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.paired import Change, change, without_interval
from alignbench.audit.references import embedder_of, find
from alignbench.audit.tax import improvement
from alignbench.diversity.sets import GROUPS, MOST, jackknife_error
from alignbench.runs.read import TaskRun
from alignbench.runs.summary import with_vectors
from alignbench.stats import bootstrap
from alignbench.stats.estimates import CONFIDENCE, Estimate, cluster_numbers
from alignbench.stats.significance import few_changed
from alignbench.types.record import Record
from alignbench.types.result import MetricResult
from alignbench.types.task import CorpusMetrics, Task

RESAMPLES = 1000  # each one computes the metric again
MAX_FOLDERS = 16  # whose records are in memory: one task of eight systems with two templates

Values = dict[str, Estimate]


@dataclass(frozen=True)
class CorpusChange:
    """A corpus metric, compared. test: "bootstrap" or "jackknife"; counts: values that the reference's number and the
    aligned one's were computed from; few: so few documents changed that resampling cannot show how it varies."""

    changed: Change
    test: str
    counts: tuple[int, int]
    few: bool


@dataclass(frozen=True)
class Jackknife:
    """One model's answers. whole: each metric of all of them; parts: without one group each, often none."""

    whole: Values
    parts: tuple[Values, ...]


class RecordCache:
    """Records of the task folders of one audit, and jackknifes of them, which take seconds."""

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, Record]] = {}
        self._jackknifes: dict[object, Jackknife] = {}

    def records(self, folder: TaskRun) -> dict[str, Record]:
        """Document -> its record without the large fields."""
        if folder.path not in self._records:
            if len(self._records) == MAX_FOLDERS:
                del self._records[next(iter(self._records))]
            task = find(folder.task)
            assert task is not None
            self._records[folder.path] = {
                record.id: record.slim(keep_texts=task.keeps_texts) for record in folder.records()
            }
        return self._records[folder.path]

    def jackknife(
        self, folder: TaskRun, corpus: CorpusMetrics, records: Sequence[Record], cluster: NDArray[np.int64]
    ) -> Jackknife:
        key = (folder.path, tuple(record.id for record in records), cluster.tobytes())
        if key not in self._jackknifes:
            self._jackknifes[key] = jackknife(corpus, with_vectors(records, embedder_of(folder)), cluster)
        return self._jackknifes[key]


def compare_corpus(
    task: Task, better: Mapping[str, str], reference: TaskRun, aligned: TaskRun, cache: RecordCache, *, seed: int = 0
) -> tuple[dict[str, CorpusChange], int]:
    """Each corpus metric on the documents that both models answered, and how many documents were left out.

    better: metric -> direction, of the metrics to compare
    Missing are metrics that could not be computed on one of 20 resamples, and those of vectors without an embedder.
    """
    if (corpus := task.corpus) is None:
        return {}, 0
    both = [cache.records(folder) for folder in (reference, aligned)]
    common = [name for name in both[0] if name in both[1] and all(corpus.usable(records[name]) for records in both)]
    left_out = len({**both[0], **both[1]}) - len(common)
    if not common:
        return {}, left_out
    cluster = cluster_numbers([both[0][name].cluster for name in common], len(common))
    sides = [[records[name] for name in common] for records in both]
    differ = [corpus.outcome(one) != corpus.outcome(other) for one, other in zip(*sides, strict=True)]
    few = few_changed([float(changed) for changed in differ], cluster)
    if corpus.resampling == "jackknife":
        folders = (reference, aligned)
        before, after = (cache.jackknife(f, corpus, own, cluster) for f, own in zip(folders, sides, strict=True))
        return compare_jackknifes(better, before, after, cluster, few), left_out
    values = [_values(corpus, own) for own in sides]
    draws = [_resampled(corpus, own, cluster, seed) for own in sides]
    found = {}
    for name in [name for name in better if name in values[0] and name in values[1]]:
        first, second = values[0][name], values[1][name]
        table = np.column_stack([own[name] for own in draws])
        table = table[np.isfinite(table).all(axis=1)]
        if first.value is not None and second.value is not None and len(table) >= 0.95 * RESAMPLES:
            clusters = int(cluster.max()) + 1
            changed = change(first.value, second.value, table, len(common), clusters, better[name])
            found[name] = _corpus_change(changed, "bootstrap", (first.n, second.n), few)
    return found, left_out


def _corpus_change(changed: Change, test: str, counts: tuple[int, int], few: bool) -> CorpusChange:
    return CorpusChange(without_interval(changed) if few else changed, test, counts, few)


def _values(corpus: CorpusMetrics, records: Sequence[Record]) -> Values:
    return {metric.name: estimate for metric, estimate in corpus.compute(records, False)}


def _resampled(
    corpus: CorpusMetrics, records: Sequence[Record], cluster: NDArray[np.int64], seed: int
) -> dict[str, NDArray[np.float64]]:
    """Metric -> its value on each resample, (RESAMPLES,); NaN where it cannot be computed.

    cluster: (n,) each document's group, which is drawn as a whole; the draws do not depend on the records
    """
    blocks = (drawn[:, cluster] for drawn in bootstrap.weights(int(cluster.max()) + 1, RESAMPLES, seed))
    resample = corpus.resample or (lambda records, weights: _computed_again(corpus, records, weights))
    parts = [resample(records, weights) for weights in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _computed_again(
    corpus: CorpusMetrics, records: Sequence[Record], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    found: dict[str, NDArray[np.float64]] = {}
    for number, row in enumerate(weights):
        drawn = np.repeat(np.arange(len(records)), row.astype(int)).tolist()
        for metric, estimate in corpus.compute([records[place] for place in drawn], False):
            values = found.setdefault(metric.name, np.full(len(weights), np.nan))
            values[number] = np.nan if estimate.value is None else estimate.value
    return found


def jackknife(corpus: CorpusMetrics, records: Sequence[Record], cluster: NDArray[np.int64]) -> Jackknife:
    """cluster: (n,) each document's group, numbered from 0; groups are left out as a whole. With fewer than GROUPS
    groups, or more than MOST documents, there are no parts, and so no intervals."""
    parts: list[Values] = []
    if int(cluster.max()) + 1 >= GROUPS and len(cluster) <= MOST:
        for group in range(GROUPS):
            rows = np.flatnonzero(cluster % GROUPS != group).tolist()
            parts.append(_values(corpus, [records[row] for row in rows]))
    return Jackknife(_values(corpus, records), tuple(parts))


def compare_jackknifes(
    better: Mapping[str, str], reference: Jackknife, aligned: Jackknife, cluster: NDArray[np.int64], few: bool = False
) -> dict[str, CorpusChange]:
    """Each metric on two models' answers to the same documents. cluster: as for `jackknife`"""
    clusters = int(cluster.max()) + 1
    before, after, parts = reference.whole, aligned.whole, list(zip(reference.parts, aligned.parts, strict=True))
    found = {}
    for name in [name for name in better if name in before and name in after]:
        first, second = before[name], after[name]
        if first.value is None or second.value is None:
            continue
        pairs = [(one[name].value, other[name].value) for one, other in parts if name in one and name in other]
        draws = np.array([pair for pair in pairs if None not in pair], np.float64).reshape(-1, 2)
        changed = _jackknife_change(first.value, second.value, draws, len(cluster), clusters, better[name])
        found[name] = _corpus_change(changed, "jackknife", (first.n, second.n), few)
    return found


def _jackknife_change(
    reference: float, aligned: float, draws: NDArray[np.float64], n: int, clusters: int, better: str
) -> Change:
    """draws: (GROUPS, 2), both values without one of the groups each; without an interval if some are missing."""
    gained = improvement(reference, aligned, better)
    delta = _jackknife_estimate(aligned - reference, draws[:, 1] - draws[:, 0], n, clusters)
    gain = None
    if gained is not None:
        gains = improvement(draws[:, 0], draws[:, 1], better)
        assert gains is not None
        gain = _jackknife_estimate(gained, gains, n, clusters)
    tested, p = delta if gain is None else gain, None
    if tested.standard_error is not None and tested.value is not None:
        p = float(2 * stats.t.sf(abs(tested.value) / tested.standard_error, GROUPS - 1))
    return Change(reference, aligned, delta, gain, p)


def _jackknife_estimate(value: float, replicates: NDArray[np.float64], n: int, clusters: int) -> Estimate:
    if len(replicates) < GROUPS or not np.isfinite(replicates).all():
        return Estimate(value, None, None, None, n, clusters)
    error = jackknife_error(replicates)
    if error == 0:  # as many values as there are documents, for example: nothing shows how it varies
        return Estimate(value, None, None, None, n, clusters)
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, GROUPS - 1)) * error
    return Estimate(value, error, value - reach, value + reach, n, clusters)


def unpaired(reference: MetricResult, aligned: MetricResult) -> Change | None:
    """From the two runs' own values and standard errors, as if they were independent; None without values."""
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
