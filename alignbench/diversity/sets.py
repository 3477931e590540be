"""The diversity of one set of outputs, compared at equal lengths: `measure` on the first 50 words of each.

More words repeat more, so a model that writes more would seem less diverse. The numbers of whole outputs stand beside
for distinct-n and the compression ratio (`…_uncut`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.diversity.compression import compression_ratio
from alignbench.diversity.measure import METRICS, NOTHING, measure, measure_vectors
from alignbench.diversity.ngrams import distinct
from alignbench.diversity.words import LENGTH, cut, words
from alignbench.stats.estimates import CONFIDENCE, Estimate
from alignbench.types.task import Metric

GROUPS = 20  # of the jackknife
MOST = 500  # texts up to which there are intervals: each costs GROUPS further measurements

OF_TEXTS = tuple(metric for metric in METRICS if metric.scorer is None)
UNCUT = tuple(
    replace(metric, name=f"{metric.name}_uncut")
    for metric in OF_TEXTS
    if metric.name.startswith("distinct_") or metric.name == "compression_ratio"
)
LENGTHS = (Metric("short", "share", "–", bounds=(0, 1)), Metric("words", "words", "–", bounds=(0, None)))


def of_texts(texts: Sequence[str]) -> dict[str, float]:
    """OF_TEXTS on the first LENGTH words of each text, UNCUT on whole texts, and LENGTHS: the share of texts with
    fewer words, and the mean number of words."""
    tokens = [words(text) for text in texts]
    whole = {f"distinct_{n}_uncut": distinct([own or [NOTHING] for own in tokens], n) for n in (1, 2, 3)}
    if len(texts) > 1:
        whole["compression_ratio_uncut"] = compression_ratio(texts)
    lengths = {
        "short": float(np.mean([len(own) < LENGTH for own in tokens])),
        "words": float(np.mean([len(own) for own in tokens])),
    }
    known = {name: value for name, value in whole.items() if np.isfinite(value)}
    return measure([cut(text, LENGTH) for text in texts]) | known | lengths


def of_set(
    texts: Sequence[str], vectors: NDArray[np.float32] | None = None, prefix: str = "", *, intervals: bool = True
) -> list[tuple[Metric, Estimate]]:
    """The same of a set of single outputs, with what vectors tell, as metrics across documents.

    vectors: (texts, d); of which part of the texts is the caller's choice, and to be told with the numbers
    Intervals are of a jackknife that leaves out a twentieth at a time (Efron & Tibshirani 1993, chapter 11): a
    bootstrap would draw texts twice, which no measure of diversity takes for chance. Clusters have none.
    """
    if not texts:
        return []
    found, replicates = _numbers(texts, vectors, count=intervals), []
    if intervals and 2 * GROUPS <= len(texts) <= MOST:
        member = np.arange(len(texts)) % GROUPS
        for group in range(GROUPS):
            rows = np.flatnonzero(member != group)
            some = None if vectors is None else vectors[rows]
            replicates.append(_numbers([texts[row] for row in rows.tolist()], some, count=False))
    n = len(texts)
    return [
        (
            replace(metric, name=f"{prefix}{metric.name}"),
            jackknifed(
                found[metric.name],
                np.array([r[metric.name] for r in replicates if metric.name in r]),
                n,
                metric.bounds,
            ),
        )
        for metric in (*METRICS, *UNCUT, *LENGTHS)
        if metric.name in found
    ]


def _numbers(texts: Sequence[str], vectors: NDArray[np.float32] | None, *, count: bool) -> dict[str, float]:
    return of_texts(texts) | ({} if vectors is None else measure_vectors(vectors, count=count))


def jackknifed(
    value: float, replicates: NDArray[np.float64], n: int, bounds: tuple[float | None, float | None] = (None, None)
) -> Estimate:
    """A statistic of n texts, with an interval where there are its (GROUPS,) values without one of the groups each."""
    if len(replicates) < GROUPS:
        return Estimate(value, None, None, None, n, n)
    error = jackknife_error(replicates)
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, GROUPS - 1)) * error
    low = value - reach if bounds[0] is None else max(value - reach, bounds[0])
    high = value + reach if bounds[1] is None else min(value + reach, bounds[1])
    return Estimate(value, error, low, high, n, n)


def jackknife_error(replicates: NDArray[np.float64]) -> float:
    """Standard error from (groups,) values of a statistic, each without one of the groups."""
    groups = len(replicates)
    return float(np.sqrt((groups - 1) / groups * ((replicates - replicates.mean()) ** 2).sum()))
