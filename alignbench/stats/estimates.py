"""Means with honest intervals: pure functions over per-document values.

Documents that come in groups (sentences of one occupation, questions on one passage) are not independent: their
standard error is clustered (Miller 2024, arXiv 2411.00640, section 2.2). Shares near 0 or 1 get a Wilson interval,
which a normal one would cut to nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its standard error and 95 % interval; None where there is too little to say.

    n: the values it was made from; clusters: the independent groups they fall into.
    """

    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


def mean(
    values: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Estimate:
    """Mean with clustered standard error and a t interval with one degree of freedom less than clusters.

    values: (n,) finite numbers; groups: each value's cluster (default: every value its own).
    The interval is cut to `bounds`, the metric's range.
    """
    x = np.asarray(values, np.float64)
    cluster = cluster_numbers(groups, len(x))
    count = int(cluster.max()) + 1 if len(x) else 0
    if not len(x):
        return Estimate(None, None, None, None, 0, 0)
    centre = float(x.mean())
    if count < 2:
        return Estimate(centre, None, None, None, len(x), count)
    error = _clustered_standard_error(x, cluster, count)
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * error
    low, high = centre - reach, centre + reach
    return Estimate(
        centre,
        error,
        low if bounds[0] is None else max(low, bounds[0]),
        high if bounds[1] is None else min(high, bounds[1]),
        len(x),
        count,
    )


def share(values: ArrayLike, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Share of ones among zeros and ones, with a Wilson interval.

    Clustering shrinks the sample: the interval is Wilson's at the number of independent values that would have
    the clustered standard error (Korn & Graubard 1998, with t for z).
    """
    x = np.asarray(values, np.float64)
    plain = mean(x, groups)
    if plain.value is None:
        return plain
    p, n = plain.value, float(plain.clusters)  # where all values agree, a cluster tells as much as one document
    error = plain.standard_error
    if error:
        n = p * (1 - p) / error**2
    z = float(stats.t.ppf(0.5 + CONFIDENCE / 2, plain.clusters - 1) if plain.clusters > 1 else stats.norm.ppf(0.975))
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Estimate(p, error, max(0.0, float(middle - reach)), min(1.0, float(middle + reach)), plain.n, plain.clusters)


def correlation(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Pearson's r between two (n,) arrays, with Fisher's z interval; None where one does not vary or n < 4."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Estimate(None, None, None, None, len(a), len(a))
    found = stats.pearsonr(a, b)
    r = float(found.statistic)
    interval = found.confidence_interval(CONFIDENCE)
    error = float(np.sqrt((1 - r**2) / (len(a) - 2)))
    return Estimate(r, error, float(interval.low), float(interval.high), len(a), len(a))


def cluster_numbers(groups: Sequence[Hashable] | None, n: int) -> NDArray[np.int64]:
    """(n,): each value's cluster as a number from 0 on, in order of first appearance."""
    if groups is None:
        return np.arange(n)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)


def _clustered_standard_error(x: NDArray[np.float64], cluster: NDArray[np.int64], count: int) -> float:
    """sqrt(Σ over clusters of (Σ of deviations)²) / n, with the small-sample factor count / (count − 1)."""
    sums = np.bincount(cluster, x - x.mean(), count)
    return float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(x))
