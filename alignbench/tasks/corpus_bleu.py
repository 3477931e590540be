"""BLEU and chrF of a whole corpus: every record has the n-gram counts of its document, which are summed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alignbench.scorers import bleu
from alignbench.types.task import CorpusMetrics, Estimates, Metric, Record

# metric, the column of counts that are summed over documents, the score of a sum, sacrebleu's signature
_SCORES = (
    (Metric("bleu", "points", "higher", bounds=(0, 100)), "bleu_statistics", bleu.corpus_bleu, bleu.bleu_signature),
    (Metric("chrf", "points", "higher", bounds=(0, 100)), "chrf_statistics", bleu.corpus_chrf, bleu.chrf_signature),
)


def statistics(text: str, references: Sequence[str]) -> dict[str, list[float]]:
    """What a document contributes: its n-gram counts, and the number of references that they were made with."""
    return {
        "bleu_statistics": bleu.bleu_statistics(text, references),
        "chrf_statistics": bleu.chrf_statistics(text, references),
        "references_counted": [float(len(references))],
    }


def corpus_scores(records: Sequence[Record], intervals: bool = True) -> Estimates:
    """BLEU and chrF over all documents that have counts, with bootstrap intervals over documents."""
    counted = [record.statistics for record in records if record.statistics]
    if not counted:
        return []
    numbers = {own["references_counted"][0] for own in counted}
    references = int(numbers.pop()) if len(numbers) == 1 else "var"
    found: Estimates = []
    for metric, column, score, signature in _SCORES:
        counts = [own[column] for own in counted]
        estimate = bleu.corpus_interval(counts, score, resamples=1000 if intervals else 0)
        found.append((replace(metric, signature=signature(references)), estimate))
    return found


def resampled_scores(records: Sequence[Record], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """BLEU and chrF of each resample, (resamples,); weights: (resamples, n)."""
    found = {}
    for metric, column, score, _ in _SCORES:
        if all(column in record.statistics for record in records):
            counts = np.array([record.statistics[column] for record in records], np.float64)
            found[metric.name] = np.array([score([row]) for row in (weights @ counts).tolist()])
    return found


CORPUS_SCORES = CorpusMetrics(corpus_scores, resample=resampled_scores)
