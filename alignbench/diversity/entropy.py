"""Entropy and Hill numbers of counts, and of the values that models choose (a persona's gender, age, …).

All but the top share grow with the number of values: samples of unequal size are compared at the expectation for a
subsample (rarefaction), `…_at_50`. Functions of counts are in nats, and NaN without counts.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate, cluster_numbers
from alignbench.types.task import Metric, Unit

RESAMPLES = 1000
SIZE = 50  # values at which samples of unequal size are compared: half of those in the tasks
FEWEST = 20  # values below which nothing is reported
LEAST_COVERAGE = 0.1  # of Chao–Shen
LN_2 = math.log(2)
_Statistic = Callable[[NDArray[np.float64]], float]


def entropy_of(weights: ArrayLike) -> float:
    """−Σ p log p of positive weights that add up to 1, in nats; others are left out."""
    p = np.asarray(weights, np.float64)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum()) + 0.0  # + 0.0: no minus zero


def plug_in(counts: ArrayLike) -> float:
    """Maximum likelihood: −Σ p log p with p = count / n. counts: (values,) whole numbers, at least 0."""
    found = _occurring(counts)
    return entropy_of(found / found.sum()) if len(found) else math.nan


def chao_shen(counts: ArrayLike) -> float:
    """Coverage-adjusted entropy (Chao & Shen 2003, Environmental and Ecological Statistics 10): the plug-in entropy is
    too low with few counts per value. Each value is weighted by its probability to be seen at all.
    If every value occurs once, the coverage is 0 and the estimate infinite: one fewer counts as seen once, as in
    Hausser and Strimmer's R package `entropy`. With a low coverage C the estimate is about log(n / C), and C depends on
    the few values that occur twice: n different values give 3.55 bits at n = 3 and 13.35 at n = 100."""
    found = _occurring(counts)
    if not len(found):
        return math.nan
    n = int(found.sum())
    once = min(int((found == 1).sum()), n - 1)
    p = (1 - once / n) * (found / n)
    seen = -np.expm1(n * np.log1p(-np.minimum(p, 1 - 1e-16)))
    return float(-(p * np.log(p) / seen).sum()) + 0.0


def coverage(counts: ArrayLike) -> float:
    """Good's estimate (1953) of the total probability of the values seen: 1 − (values seen once) / n."""
    found = _occurring(counts)
    return float((found.sum() - (found == 1).sum()) / found.sum()) if len(found) else math.nan


def hill(counts: ArrayLike, q: float) -> float:
    """Hill number of order q >= 0 (Hill 1973): the number of equally frequent values with the same diversity.
    q = 0: values that occur; 1: exp(entropy); 2: inverse of the probability that two draws agree."""
    found = _occurring(counts)
    if q == 1 or not len(found):
        return math.exp(plug_in(found))
    return float(((found / found.sum()) ** q).sum() ** (1 / (1 - q)))


def rarefied_richness(counts: ArrayLike, size: int) -> float:
    """Expected number of values in a subsample of `size` (Hurlbert 1971); NaN if there are fewer counts."""
    return float(np.clip(_expected_frequencies(counts, size).sum(), 1, size))


def rarefied_entropy(counts: ArrayLike, size: int) -> float:
    """Expected plug-in entropy of a subsample of `size`; NaN if there are fewer counts.
    Closed form: Chao et al. 2014 (Ecological Monographs 84), rarefaction of order 1."""
    p = np.arange(1, size + 1) / size
    return float(np.clip(-(_expected_frequencies(counts, size) * p * np.log(p)).sum(), 0, math.log(size)))


def _expected_frequencies(counts: ArrayLike, size: int) -> NDArray[np.float64]:
    """(size,): expected number of values that occur once, twice, … in a subsample: hypergeometric probabilities."""
    found = _occurring(counts)
    n = int(found.sum())
    if n < size:
        return np.full(size, math.nan)
    different, times = np.unique(found, return_counts=True)
    own, seen = different[:, None], np.arange(1, size + 1)
    log = _log_choose(own, seen) + _log_choose(n - own, size - seen) - _log_choose(n, size)
    return np.asarray(times @ np.exp(log))


def _log_choose(n: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """−∞ for k > n."""
    n, k = np.asarray(n), np.asarray(k)
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def _occurring(counts: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(counts, np.int64)
    return given[given > 0]


def _metric(name: str, unit: Unit, low: float, high: float | None = None) -> Metric:
    return Metric(name, unit, "higher", bounds=(low, high))


def _size(counts: NDArray[np.float64]) -> int:
    return min(SIZE, int(counts.sum()))  # a resample of documents with unequal numbers of values may have fewer


_AT_50 = (f"entropy_at_{SIZE}", f"hill_0_at_{SIZE}")
STATISTICS: tuple[tuple[Metric, _Statistic], ...] = (
    (_metric(_AT_50[0], "bits", 0, math.log2(SIZE)), lambda c: rarefied_entropy(c, _size(c)) / LN_2),
    (_metric(_AT_50[1], "number", 1, SIZE), lambda c: rarefied_richness(c, _size(c))),
    (_metric("entropy_chao_shen", "bits", 0), lambda c: chao_shen(c) / LN_2),
    (_metric("hill_0", "number", 1), lambda c: hill(c, 0)),
    (_metric("hill_1", "number", 1), lambda c: hill(c, 1)),
    (_metric("hill_2", "number", 1), lambda c: hill(c, 2)),
    (Metric("top_share", "proportion", "lower", bounds=(0, 1)), lambda c: float(c.max() / c.sum())),
)
WEIGHTED: tuple[tuple[Metric, _Statistic], ...] = (
    (_metric("entropy_weighted", "bits", 0), lambda w: entropy_of(w / w.sum()) / LN_2),
    (Metric("top_share_weighted", "proportion", "lower", bounds=(0, 1)), lambda w: float(w.max() / w.sum())),
)


def spread(
    values: Sequence[Sequence[str]],
    weights: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
    intervals: bool = True,
) -> list[tuple[Metric, Estimate]]:
    """STATISTICS of the values of each document, or with weights WEIGHTED, with bootstrap intervals over documents.

    weights: of the values of each document, at least 0, scaled to a sum of 1; documents with a sum of 0 are left out
    Nothing with fewer than FEWEST values, no `…_at_50` with fewer than SIZE. No Chao–Shen entropy below a coverage of
    LEAST_COVERAGE: of 100 draws from equally frequent values, its standard deviation is 0.4 bits at a coverage of 0.2,
    0.6 at 0.12 and 0.9 at 0.06 (simulated).
    Intervals are centred on the estimate: a resample has some values twice and others not at all, so its entropy is too
    low by about the bias of the plug-in estimate. Only the differences between resamples are used.
    """
    rows = np.repeat(np.arange(len(values)), [len(own) for own in values])
    columns = cluster_numbers([value for own in values for value in own], len(rows))
    counts = np.zeros((len(values), int(columns.max(initial=-1)) + 1))
    np.add.at(counts, (rows, columns), 1.0 if weights is None else [weight for own in weights for weight in own])
    totals = counts.sum(axis=1)
    n, counts = int((totals[rows] > 0).sum()), counts[totals > 0]
    if n < FEWEST:
        return []
    statistics = WEIGHTED
    if weights is None:
        skipped: tuple[str, ...] = _AT_50 if n < SIZE else ()
        skipped += ("entropy_chao_shen",) if coverage(counts.sum(axis=0)) < LEAST_COVERAGE else ()
        statistics = tuple(own for own in STATISTICS if own[0].name not in skipped)
    else:
        counts /= counts.sum(axis=1, keepdims=True)
    whole, documents = counts.sum(axis=0), len(counts)
    if documents < 2 or not intervals:
        return [(metric, Estimate(statistic(whole), n=n, clusters=documents)) for metric, statistic in statistics]
    resampled = bootstrap.resampled_sums(counts, seed=seed, resamples=RESAMPLES)
    found = []
    for metric, statistic in statistics:
        centre, draws = statistic(whole), np.array([statistic(row) for row in resampled])
        draws += centre - draws.mean()
        found.append((metric, bootstrap.estimate(centre, draws, n, documents, metric.bounds)))
    return found
