"""Is a change more than chance, and how small a change could have been seen? Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from alignbench.stats.estimates import Estimate

LEVEL = 0.05
POWER = 0.8
FEW = 20  # groups of documents: a bootstrap of fewer that changed is too narrow
ADDED = 2.5


def mcnemar(reference: ArrayLike, aligned: ArrayLike) -> float:
    """Exact two-sided p-value of McNemar's test on two (n,) arrays of zeros and ones (McNemar 1947, doi
    10.1007/BF02295996): the documents on which the two differ fall to either side with probability one half."""
    before, after = np.asarray(reference) > 0.5, np.asarray(aligned) > 0.5
    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    if better + worse == 0:
        return 1.0
    return float(stats.binomtest(better, better + worse, 0.5).pvalue)


def few_changed(deltas: ArrayLike, cluster: NDArray[np.int64]) -> bool:
    """Whether (n,) changes of documents differ from 0 in fewer than FEW of their groups, and in less than half of them:
    resamples then hardly differ from each other."""
    x = np.asarray(deltas, np.float64)
    clusters = int(cluster.max()) + 1
    changed = len(np.unique(cluster[x != 0]))
    return clusters > 1 and changed < FEW and 2 * changed < clusters


def rare_changes(deltas: ArrayLike, cluster: NDArray[np.int64], span: float) -> Estimate:
    """Mean of (n,) changes in [-span, span], of which most are 0, with an interval that holds what was not seen.

    Groups are added (ADDED) of which half changed by span and half by -span, and the interval is Student's. It is that
    of Agresti & Min 2005 (doi 10.1002/sim.1781) for paired shares, but with one and a quarter documents in each cell of
    those that changed. With their half, where 2 documents in 200 got lost on average and none was won, 86 % of the
    intervals hold the truth (binomial, exact); of these at least 94 % do, for any number below 10.
    """
    x = np.asarray(deltas, np.float64)
    clusters = int(cluster.max()) + 1
    sums = np.bincount(cluster, x, clusters) * clusters / len(x)  # in groups of mean size
    n, total = clusters + ADDED, float(sums.sum())
    error = float(np.sqrt((sums**2).sum() + ADDED * span**2 - total**2 / n)) / n
    reach = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    low, high = max(-span, total / n - reach), min(span, total / n + reach)
    return Estimate(float(x.mean()), error, low, high, len(x), clusters)


def p_of_rare_changes(gain: float, error: float, clusters: int) -> float:
    """Two-sided p-value of no change: below 5 % where `rare_changes` leaves 0 out."""
    n = clusters + ADDED
    return float(2 * stats.t.sf(abs(gain) * clusters / n / error, n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979, jstor 4615733), in the order given: the chance of one false finding among
    all stays below the level at which they are compared."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(x) for x in adjusted]


def detectable(standard_error: float) -> float:
    """The smallest true change that a two-sided 5 % test finds with 80 % power: 2.80 standard errors."""
    return float(stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)) * standard_error


def least_p(clusters: int) -> float:
    """The smallest two-sided p-value that so many independent groups can give: all of them changed the same way."""
    return min(1.0, 2.0 ** (1 - clusters))
