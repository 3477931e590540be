"""Entropy and Hill numbers of counts, and of the values that models choose (a persona's gender, age, …).

All but the top share grow with the number of values: samples of unequal size are compared at the expectation for a
subsample (rarefaction), `…_at_50`. The plug-in entropy is too low if there are few counts per value; Chao & Shen 2003
(Environmental and Ecological Statistics 10) corrects it. Functions of counts are in nats, and NaN without counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate
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
    p = _proportions(_occurring(counts))
    return entropy_of(p) if len(p) else math.nan


def chao_shen(counts: ArrayLike) -> float:
    """Coverage-adjusted entropy, each value weighted by its probability to be seen at all (Horvitz–Thompson).

    If every value occurs once, the coverage is 0 and the estimate infinite: one fewer counts as seen once, as in
    Hausser and Strimmer's R package `entropy`. With a low coverage C the estimate is about log(n / C), and C depends on
    the few values that occur twice: n different values give 3.55 bits at n = 3 and 13.35 at n = 100.
    """
    found = _occurring(counts)
    if not len(found):
        return math.nan
    n = int(found.sum())
    once = min(int((found == 1).sum()), n - 1)
    p = (1 - once / n) * _proportions(found)
    seen = -np.expm1(n * np.log1p(-np.minimum(p, 1 - 1e-16)))
    return float(-(p * np.log(p) / seen).sum()) + 0.0


def coverage(counts: ArrayLike) -> float:
    """Good's estimate (1953) of the total probability of the values seen: 1 − (values seen once) / n."""
    found = _occurring(counts)
    return float((found.sum() - (found == 1).sum()) / found.sum()) if len(found) else math.nan


def rarefied_richness(counts: ArrayLike, size: int) -> float:
    """Expected number of values in a subsample of `size` (Hurlbert 1971); NaN if there are fewer counts."""
    return float(np.clip(_expected_frequencies(counts, size).sum(), 1, size))


def rarefied_entropy(counts: ArrayLike, size: int) -> float:
    """Expected plug-in entropy of a subsample of `size`; NaN if there are fewer counts.

    Closed form: Chao et al. 2014 (Ecological Monographs 84), rarefaction of order 1.
    """
    p = np.arange(1, size + 1) / size
    found = -(_expected_frequencies(counts, size) * p * np.log(p)).sum()
    return float(np.clip(found, 0, math.log(size)))


def hill(counts: ArrayLike, q: float) -> float:
    """Hill number of order q >= 0 (Hill 1973): the number of equally frequent values with the same diversity.

    q = 0: values that occur; 1: exp(entropy); 2: inverse of the probability that two draws agree.
    """
    if not q >= 0:
        raise ValueError(f"the order of a Hill number is at least 0, not {q}")
    p = _proportions(_occurring(counts))
    if not len(p):
        return math.nan
    return math.exp(entropy_of(p)) if q == 1 else float((p**q).sum() ** (1 / (1 - q)))


def _expected_frequencies(counts: ArrayLike, size: int) -> NDArray[np.float64]:
    """(size,): expected number of values that occur once, twice, … in a subsample."""
    if size < 1:
        raise ValueError(f"a subsample has at least one draw, not {size}")
    found = _occurring(counts)
    n = int(found.sum())
    if n < size:
        return np.full(size, math.nan)
    different, times = np.unique(found, return_counts=True)
    own, seen = different[:, None], np.arange(1, size + 1)[None, :]
    possible = (seen <= own) & (size - seen <= n - own)
    log = (
        _log_choose(own, np.minimum(seen, own))
        + _log_choose(n - own, np.clip(size - seen, 0, n - own))
        - _log_choose(np.array(n), np.array(size))
    )
    return np.asarray(times @ np.where(possible, np.exp(log), 0.0))


def _log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def _occurring(counts: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(counts, np.float64).ravel()
    if not np.isfinite(given).all() or (given < 0).any() or (given != np.floor(given)).any():
        raise ValueError("counts are whole numbers, at least 0")
    return given[given > 0].astype(np.int64)


def _proportions(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / counts.sum() if len(counts) else np.zeros(0)


def _size(counts: NDArray[np.float64]) -> int:
    return min(SIZE, int(counts.sum()))


def _metric(name: str, unit: Unit, low: float, high: float | None = None) -> Metric:
    return Metric(name, unit, "higher", bounds=(low, high))


_AT_SIZE = f"_at_{SIZE}"  # a resample of documents with unequal numbers of values may have fewer
STATISTICS: dict[str, tuple[Metric, _Statistic]] = {
    metric.name: (metric, statistic)
    for metric, statistic in (
        (_metric(f"entropy{_AT_SIZE}", "bits", 0, math.log2(SIZE)), lambda c: rarefied_entropy(c, _size(c)) / LN_2),
        (_metric(f"hill_0{_AT_SIZE}", "number", 1, SIZE), lambda c: rarefied_richness(c, _size(c))),
        (_metric("entropy_chao_shen", "bits", 0), lambda c: chao_shen(c) / LN_2),
        (_metric("hill_0", "number", 1), lambda c: hill(c, 0)),
        (_metric("hill_1", "number", 1), lambda c: hill(c, 1)),
        (_metric("hill_2", "number", 1), lambda c: hill(c, 2)),
        (Metric("top_share", "share", "lower", bounds=(0, 1)), lambda c: float(c.max() / c.sum())),
    )
}
WEIGHTED: dict[str, tuple[Metric, _Statistic]] = {
    metric.name: (metric, statistic)
    for metric, statistic in (
        (_metric("entropy_weighted", "bits", 0), lambda w: entropy_of(w / w.sum()) / LN_2),
        (Metric("top_share_weighted", "share", "lower", bounds=(0, 1)), lambda w: float(w.max() / w.sum())),
    )
}


def spread(values: Sequence[Sequence[str]], seed: int = 0, *, intervals: bool = True) -> list[tuple[Metric, Estimate]]:
    """STATISTICS of the values of each document, with bootstrap intervals over documents.

    Nothing with fewer than FEWEST values, no `…_at_50` with fewer than SIZE. No Chao–Shen entropy below a coverage of
    LEAST_COVERAGE: of 100 draws from equally frequent values, its standard deviation is 0.4 bits at a coverage of 0.2,
    0.6 at 0.12 and 0.9 at 0.06 (simulated).
    """
    counts = np.array(list(Counter(value for own in values for value in own).values()))
    reported = dict(STATISTICS)
    if counts.sum() < SIZE:
        del reported[f"entropy{_AT_SIZE}"], reported[f"hill_0{_AT_SIZE}"]
    if coverage(counts) < LEAST_COVERAGE:
        del reported["entropy_chao_shen"]
    return _estimates(values, [[1.0] * len(own) for own in values], reported, seed, intervals)


def weighted_spread(
    values: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], seed: int = 0, *, intervals: bool = True
) -> list[tuple[Metric, Estimate]]:
    """WEIGHTED of the values of each document, each value counted by its weight; nothing with fewer than FEWEST values.

    weights: of the values of each document, at least 0, scaled to a sum of 1; documents with a sum of 0 are left out
    """
    scaled = [[w / sum(own) for w in own] if sum(own) > 0 else [0.0] * len(own) for own in weights]
    return _estimates(values, scaled, WEIGHTED, seed, intervals)


def _estimates(
    values: Sequence[Sequence[str]],
    weights: Sequence[Sequence[float]],
    statistics: dict[str, tuple[Metric, _Statistic]],
    seed: int,
    intervals: bool,
) -> list[tuple[Metric, Estimate]]:
    """Intervals are centred on the estimate: a resample has some values twice and others not at all, so its entropy is
    too low by about the bias of the plug-in estimate. Only the differences between resamples are used."""
    known = [(own, given) for own, given in zip(values, weights, strict=True) if sum(given) > 0]
    n, documents = sum(len(own) for own, _ in known), len(known)
    if n < FEWEST:
        return []
    columns: dict[str, int] = {}
    counts = np.zeros((documents, len({value for own, _ in known for value in own})))
    for row, (own, given) in enumerate(known):
        for value, weight in zip(own, given, strict=True):
            counts[row, columns.setdefault(value, len(columns))] += weight
    whole = counts.sum(axis=0)
    if documents < 2 or not intervals:
        return [(m, Estimate(statistic(whole), n=n, clusters=documents)) for m, statistic in statistics.values()]
    resampled = bootstrap.resampled_sums(counts, seed=seed, resamples=RESAMPLES)
    found = []
    for metric, statistic in statistics.values():
        centre = statistic(whole)
        draws = np.array([statistic(row) for row in resampled])
        estimate = bootstrap.estimate(centre, draws - draws.mean() + centre, n, documents, metric.bounds)
        found.append((metric, estimate))
    return found
