"""Tests of paired differences, corrections for multiple tests, and the minimum detectable effect. Pure functions."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from alignbench.stats.estimates import STUDENTISED, Estimate, t_quantile

LEVEL = 0.05
POWER = 0.8
FEW = 20  # with fewer groups that changed, a bootstrap interval is too narrow
ADDED = 2.5  # groups that `rare_changes` adds


def mcnemar(reference: ArrayLike, aligned: ArrayLike) -> float:
    """Exact two-sided p-value of McNemar's test (1947, doi 10.1007/BF02295996) on two (n,) arrays of zeros and ones."""
    before, after = np.asarray(reference) > 0.5, np.asarray(aligned) > 0.5
    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    return min(1.0, 2 * float(stats.binom.cdf(min(better, worse), better + worse, 0.5)))


def few_changed(deltas: ArrayLike, cluster: NDArray[np.int64]) -> bool:
    """True if (n,) differences are non-zero in fewer than FEW groups and in less than half of them."""
    clusters = int(cluster.max()) + 1
    changed = len(np.unique(cluster[np.asarray(deltas) != 0]))
    return clusters > 1 and changed < FEW and 2 * changed < clusters


def usual_change(deltas: ArrayLike, cluster: NDArray[np.int64]) -> float:
    """The difference that all but a few documents have, if there is one besides 0. Nearly all resamples consist of it:
    they have no standard error, and no studentised interval. 0 for few groups, and if all differences are equal."""
    values, counts = np.unique(np.asarray(deltas, np.float64), return_counts=True)
    usual = float(values[counts.argmax()])
    many = len(values) > 1 and int(cluster.max()) + 1 >= STUDENTISED
    return usual if many and few_changed(np.asarray(deltas) - usual, cluster) else 0.0


def rare_changes(
    deltas: ArrayLike, cluster: NDArray[np.int64], span: float, usual: float = 0.0
) -> tuple[Estimate, float]:
    """Mean of (n,) differences in [-span, span] that are mostly `usual`, with an adjusted Wald interval and p-value.

    ADDED groups are added, half of which differ from `usual` by span and half by -span, and the interval is Student's.
    This is Agresti & Min 2005 (doi 10.1002/sim.1781) for paired proportions, with 1.25 instead of 0.5 documents in each
    cell of those that changed. With 0.5, 86 % of the intervals cover the truth if on average 2 of 200 documents are
    lost and none gained (binomial, exact); with 1.25 at least 94 % do, for any expected number below 10.
    """
    x = np.asarray(deltas, np.float64)
    clusters = int(cluster.max()) + 1
    sums = np.bincount(cluster, x - usual, clusters) * clusters / len(x)  # of groups of mean size
    size = clusters + ADDED
    error = float(np.sqrt((sums**2).sum() + ADDED * span**2 - sums.sum() ** 2 / size)) / size
    return adjusted_wald(float(x.mean()), error, len(x), clusters, span, usual)


def adjusted_wald(
    value: float, error: float, n: int, clusters: int, span: float, usual: float = 0.0
) -> tuple[Estimate, float]:
    """The estimate of a change with ADDED groups, and the two-sided p-value of 0: below 5 % if and only if 0 is outside
    the interval."""
    size = clusters + ADDED
    centre = usual + (value - usual) * clusters / size
    found = Estimate.symmetric(centre, error, t_quantile(size - 1), n, clusters, (-span, span))
    return replace(found, value=value), float(2 * stats.t.sf(abs(centre) / error, size - 1))


def p_of_equal(value: float, clusters: int, span: float | None) -> float | None:
    """Two-sided p-value of no change, if all differences in [-span, span] are equal: below 5 % if and only if the
    interval of `estimates.admitting_ignorance` excludes 0. None without a span, or for a single cluster."""
    if abs(value) < 1e-12:  # a difference in the last digits is no change
        return 1.0
    if span is None or clusters < 2:
        return None
    return min(1.0, 2 * float(np.exp(-2 * clusters * (value / (abs(value) + span)) ** 2)))


def normal_p(value: float, error: float) -> float:
    """Two-sided p-value of 0 for a normal estimate."""
    return float(2 * stats.norm.sf(abs(value) / error)) if error else float(value == 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979, jstor 4615733), in the given order: they control the family-wise error rate."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def minimum_detectable_effect(standard_error: float, level: float = LEVEL) -> float:
    """The smallest true change that a two-sided test detects with 80 % power: 2.80 standard errors at the 5 % level."""
    return float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER)) * standard_error


def least_p(clusters: int) -> float:
    """The smallest two-sided p-value of a sign test on this number of independent groups."""
    return min(1.0, 2.0 ** (1 - clusters))
