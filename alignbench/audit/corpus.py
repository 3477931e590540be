"""Corpus metrics (a corpus BLEU, a correlation, the diversity of a set of outputs) of two models on the same documents.

The values of both models are computed on the documents that both answered. Their variation comes from a paired
bootstrap over groups of documents, or, for measures of a set of outputs, from a grouped jackknife.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignbench.audit.comparable import Match
from alignbench.audit.paired import (
    Array,
    Change,
    Pairs,
    by_bootstrap,
    by_jackknife,
    change,
    clusters_of,
    rare_change,
    without_interval,
)
from alignbench.audit.references import embedder_of, task_of
from alignbench.runs.read import TaskRun
from alignbench.runs.summary import with_vectors
from alignbench.stats import bootstrap, jackknife
from alignbench.stats.estimates import Estimate
from alignbench.stats.significance import few_changed
from alignbench.types.record import Record
from alignbench.types.task import CorpusMetrics, Task

RESAMPLES = 1000  # each of which computes the metric again
MAX_FOLDERS = 16  # with records in memory: one task of eight systems with two templates


# corpus metrics of one model: of all records; and (k,) of resamples, or without each group, NaN if not computable
Sample = tuple[dict[str, Estimate], dict[str, Array]]


class RecordCache:
    """The records of the task folders of one audit, and their samples, which take seconds."""

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, Record]] = {}
        self._samples: dict[object, Sample] = {}

    def records(self, folder: TaskRun) -> dict[str, Record]:
        """Document -> its record without the large fields."""
        if folder.path not in self._records:
            if len(self._records) == MAX_FOLDERS:
                del self._records[next(iter(self._records))]
            task = task_of(folder)
            slim = partial(Record.slim, keep_texts=task is not None and task.keeps_texts)
            self._records[folder.path] = {record.id: record for record in folder.records(slim)}
        return self._records[folder.path]

    def sample(
        self, folder: TaskRun, corpus: CorpusMetrics, common: Sequence[str], cluster: NDArray[np.int64], seed: int
    ) -> Sample:
        key = (folder.path, *common, cluster.tobytes(), seed)
        if key not in self._samples:
            records = [self.records(folder)[name] for name in common]
            if corpus.texts:
                records = with_vectors(records, embedder_of(folder))
            self._samples[key] = sample(corpus, records, cluster, seed)
        return self._samples[key]


def compare_corpus(
    task: Task, better: Mapping[str, str], match: Match, cache: RecordCache, seed: int = 0
) -> tuple[dict[str, tuple[Change, tuple[int, int]]], int]:
    """Metric -> its change, and the numbers of values on both sides; and the number of documents left out.

    better: metric -> direction. A metric is missing if it could not be computed on one of 20 resamples, or if it is of
    vectors of an embedder that is not available.
    """
    before, after = cache.records(match.reference), cache.records(match.aligned)
    if (corpus := task.corpus) is None:
        return {}, 0
    common = [i for i in before if i in after and corpus.usable(before[i]) and corpus.usable(after[i])]
    left_out = len({**before, **after}) - len(common)
    if not common:
        return {}, left_out
    cluster = clusters_of([before[i] for i in common])
    few = few_changed([float(corpus.outcome(before[i]) != corpus.outcome(after[i])) for i in common], cluster)
    infer = (by_jackknife if corpus.resampling == "jackknife" else by_bootstrap)(len(common), int(cluster.max()) + 1)
    both = [cache.sample(own, corpus, common, cluster, seed) for own in (match.reference, match.aligned)]
    found = {}
    for name in better:
        first, second = (whole.get(name, Estimate()) for whole, _ in both)
        if first.value is None or second.value is None:
            continue
        paired = all(name in drawn for _, drawn in both)
        draws = np.column_stack([drawn[name] if paired else jackknife.MISSING for _, drawn in both])
        if corpus.resampling == "bootstrap":
            draws = draws[np.isfinite(draws).all(axis=1)]
            if len(draws) < 0.95 * RESAMPLES:
                continue
        changed = change(first.value, second.value, draws, better[name], infer, corpus.resampling)
        if few and corpus.weights is not None:
            weights = corpus.weights([before[i] for i in common])
            one, other = (weights * [corpus.outcome(own[i]) for i in common] for own in (before, after))
            pairs = Pairs(one, other, cluster, None, left_out)
            changed = rare_change(changed, pairs, float(np.abs(weights).max()), better[name])
        elif few:
            changed = without_interval(changed)
        found[name] = changed, (first.n, second.n)
    return found, left_out


def sample(corpus: CorpusMetrics, records: Sequence[Record], cluster: NDArray[np.int64], seed: int = 0) -> Sample:
    """cluster: (n,) the group of each document, numbered from 0; groups are drawn, or left out, as a whole.

    The draws do not depend on the records. The jackknife needs GROUPS groups and at most MOST documents.
    """

    def estimates(rows: Iterable[int]) -> dict[str, Estimate]:
        return {metric.name: own for metric, own in corpus.compute([records[row] for row in rows], False)}

    def values(rows: Iterable[int]) -> dict[str, float]:
        return {name: own.value for name, own in estimates(rows).items() if own.value is not None}

    whole = estimates(range(len(records)))
    clusters, n = int(cluster.max()) + 1, len(records)
    if corpus.resampling == "jackknife":
        possible = clusters >= jackknife.GROUPS and n <= jackknife.MOST
        return whole, jackknife.replicates(values, cluster) if possible else {}
    drawn = bootstrap.weights(clusters, RESAMPLES, seed)
    blocks = drawn if clusters == n else (counts[:, cluster] for counts in drawn)
    if corpus.resample is not None:
        parts = list(map(corpus.resample(records), blocks))
        return whole, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = (np.repeat(np.arange(n), row.astype(int)).tolist() for weights in blocks for row in weights)
    return whole, jackknife.columns([values(own) for own in rows])
