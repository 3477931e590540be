"""Means, proportions and correlations with 95 % intervals, from one value per document. Pure functions.

Documents of one group (sentences about one occupation, questions on one passage) are not independent: standard errors
are clustered (Miller 2024, arXiv 2411.00640, section 2.2). Proportions get a Wilson interval, since a normal one has no
width at 0 and 1.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
FEW = 6  # with fewer clusters, the scatter of the values is hardly known
STUDENTISED = 10  # with fewer clusters, their skewness is not known
EQUAL = 1e-12  # values that differ by less, relative to the largest, are equal
Array = NDArray[np.float64]
Bounds = tuple[float | None, float | None]
# the cluster of each value, an array if they are numbered from 0; None: each value is its own
Groups = Sequence[Hashable] | NDArray[np.int64] | None


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval; None where the sample is too small for one.
    n: number of values; clusters: number of independent groups that they form"""

    value: float | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    clusters: int = 0

    @classmethod
    def symmetric(
        cls, value: float, error: float, quantile: float, n: int, clusters: int, bounds: Bounds = (None, None)
    ) -> "Estimate":
        """The interval value ± quantile · error, clipped to the bounds."""
        low, high = clip(value - quantile * error, value + quantile * error, bounds)
        return cls(value, error, low, high, n, clusters)

    def moved(self, by: float, bounds: Bounds = (None, None)) -> "Estimate":
        """The estimate of a statistic that differs by a constant."""
        value = None if self.value is None else self.value + by
        if self.low is None or self.high is None:
            return replace(self, value=value)
        low, high = clip(self.low + by, self.high + by, bounds)
        return replace(self, value=value, low=low, high=high)


def clip(low: float, high: float, bounds: Bounds) -> tuple[float, float]:
    least, most = bounds
    return low if least is None else max(low, least), high if most is None else min(high, most)


def t_quantile(degrees: float) -> float:
    """Quantile of Student's t distribution for a two-sided 95 % interval."""
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, degrees))


NORMAL_QUANTILE = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))


def mean(values: ArrayLike, groups: Groups = None, bounds: Bounds = (None, None)) -> Estimate:
    """Mean of (n,) finite values with a clustered standard error.

    The interval is Student's with clusters − 1 degrees of freedom, corrected for the skewness of the clusters by Hall's
    transformation (1992, J. R. Statist. Soc. B 54, 221). Equal values, or fewer than FEW clusters, have the
    interval of `admitting_ignorance` if there are bounds, the range of the metric, and otherwise none.
    """
    x = np.asarray(values, np.float64)
    cluster = cluster_numbers(groups, len(x))
    count = int(cluster.max(initial=-1)) + 1
    centre = float(x.mean()) if count else None
    if count < 2 or centre is None:
        return Estimate(centre, n=len(x), clusters=count)
    residuals = np.bincount(cluster, x - centre, count)
    error = float(np.sqrt(count / (count - 1) * (residuals**2).sum()) / len(x))
    if error <= EQUAL * np.abs(x).max():
        error = 0.0
    if not error or count < FEW:
        return admitting_ignorance(centre, error, len(x), count, bounds)
    skewness = float((residuals**3).mean() / (residuals**2).mean() ** 1.5) if count >= STUDENTISED else 0.0
    sizes = np.bincount(cluster)
    t = t_quantile((count - 1) / (1 + sizes.var() / sizes.mean() ** 2))  # clusters of unequal sizes count as fewer
    low, high = (centre - untransform(end, skewness, count) * error for end in (t, -t))
    low, high = clip(low, high, bounds)
    return Estimate(centre, error, low, high, len(x), count)


def untransform(end: float, skewness: float, n: int) -> float:
    """Hall's transformation is monotonic, and takes the t statistic of skewed data to a nearly symmetric variable: the
    t statistic of a value of that variable. n: clusters"""
    if abs(skewness) < 1e-9:
        return end
    a, shift = skewness / (3 * np.sqrt(n)), skewness / (6 * np.sqrt(n))
    return float((np.cbrt(1 + 3 * a * (end - shift)) - 1) / a)


def admitting_ignorance(centre: float, error: float, n: int, clusters: int, bounds: Bounds) -> Estimate:
    """An estimate from too few or equal values, whose scatter says little about values that were not seen.

    The interval is Anderson's (1969) for the mean of equal values within bounds: with ε = √(ln(2 / .05) / 2 clusters),
    each end is moved by ε of its distance from its bound; Student's, if that is wider. There is none without bounds.
    """
    low, high = bounds
    if low is None or high is None:
        return Estimate(centre, error or None, n=n, clusters=clusters)
    reach = min(1.0, float(np.sqrt(np.log(2 / (1 - CONFIDENCE)) / (2 * clusters))))
    student = t_quantile(clusters - 1) * error
    below, above = max(reach * (centre - low), student), max(reach * (high - centre), student)
    return Estimate(centre, error or None, *clip(centre - below, centre + above, bounds), n, clusters)


def share(values: ArrayLike, groups: Groups = None) -> Estimate:
    """Proportion of ones among (n,) zeros and ones, with a Wilson interval.
    Clusters shrink the sample: the interval is Wilson's at the number of independent values that would have the
    clustered standard error (Korn & Graubard 1998, with t in place of z)."""
    plain = mean(values, groups)
    if plain.value is None:
        return plain
    p, n = plain.value, float(plain.clusters)  # if all values agree, a cluster is as informative as one document
    if plain.standard_error:
        n = p * (1 - p) / plain.standard_error**2
    low, high = wilson(p, n, t_quantile(plain.clusters - 1) if plain.clusters > 1 else NORMAL_QUANTILE)
    return replace(plain, low=low, high=high)


def wilson(p: float, n: float, z: float = NORMAL_QUANTILE) -> tuple[float, float]:
    """Wilson's interval (1927) of a proportion p of n independent values."""
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = float(z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)))
    return clip(middle - reach, middle + reach, (0.0, 1.0))


def difference(first: Estimate, second: Estimate, bounds: Bounds = (None, None)) -> Estimate:
    """first − second of independent samples, without a value if one has none, with the interval of Newcombe (1998,
    Statist. Med. 17, 873, method 10): each end is as far as the root of the sum of squares of the two distances."""
    if first.value is None or second.value is None:
        return Estimate()
    value, n, clusters = first.value - second.value, first.n + second.n, first.clusters + second.clusters
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(value, n=n, clusters=clusters)
    below = np.hypot(first.value - first.low, second.high - second.value)
    above = np.hypot(first.high - first.value, second.value - second.low)
    error = float(np.hypot(first.standard_error or 0.0, second.standard_error or 0.0)) or None  # None: all values equal
    return Estimate(value, error, *clip(value - float(below), value + float(above), bounds), n, clusters)


def correlation(x: ArrayLike, y: ArrayLike, intervals: bool = True) -> Estimate:
    """Pearson's r of two (n,) arrays, with Fisher's z interval if asked; no value if one is constant or n < 4."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Estimate(n=len(a), clusters=len(a))
    if not intervals:  # of thousands of resamples: a sixth of the time
        return Estimate(float(np.corrcoef(a, b)[0, 1]), n=len(a), clusters=len(a))
    found = stats.pearsonr(a, b)
    r, (low, high) = float(found.statistic), found.confidence_interval(CONFIDENCE)
    return Estimate(r, float(np.sqrt((1 - r**2) / (len(a) - 2))), float(low), float(high), len(a), len(a))


def cluster_numbers(groups: Groups, n: int) -> NDArray[np.int64]:
    """(n,) cluster of each value, numbered from 0 in order of first appearance."""
    if groups is None:
        return np.arange(n)
    if isinstance(groups, np.ndarray) and groups.dtype.kind == "i":
        return groups
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
