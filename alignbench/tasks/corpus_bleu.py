"""BLEU and chrF of a whole corpus: what a document adds to them stands in its record, and is summed over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alignbench.scorers import bleu
from alignbench.types.task import CorpusMetrics, Estimates, Metric, Record

BLEU = Metric("bleu", "points", "higher", bounds=(0, 100))
CHRF = Metric("chrf", "points", "higher", bounds=(0, 100))


def statistics(text: str, references: Sequence[str]) -> dict[str, list[float]]:
    """The columns of a document's record: its n-gram counts, and how many references they were made with."""
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
    resamples = 1000 if intervals else 0
    return [
        (
            replace(metric, signature=signature(references)),
            bleu.corpus_interval([own[column] for own in counted], score, resamples=resamples),
        )
        for metric, column, score, signature in _SCORES
    ]


def resampled_scores(records: Sequence[Record], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """BLEU and chrF of each resample, (resamples,); weights: (resamples, n)."""
    found = {}
    for metric, column, score, _ in _SCORES:
        if all(column in record.statistics for record in records):
            counts = np.array([record.statistics[column] for record in records], np.float64)
            found[metric.name] = np.array([score([row]) for row in (weights @ counts).tolist()])
    return found


# metric, the column of counts that are summed over documents, the score of a sum, sacrebleu's signature
_SCORES = (
    (BLEU, "bleu_statistics", bleu.corpus_bleu, bleu.bleu_signature),
    (CHRF, "chrf_statistics", bleu.corpus_chrf, bleu.chrf_signature),
)
CORPUS_SCORES = CorpusMetrics(corpus_scores, resample=resampled_scores)
