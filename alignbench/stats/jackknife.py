"""The grouped jackknife: intervals of a statistic from its values without one twentieth of the sample at a time.

For measures of a set of outputs, such as their diversity: a bootstrap draws outputs twice, which lowers all of them
(Efron & Tibshirani 1993, chapter 11).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.stats.bootstrap import Array
from alignbench.stats.estimates import Bounds, Estimate, t_quantile

GROUPS = 20
MOST = 500  # values in a sample that is measured again: that takes GROUPS further measurements

MISSING: Array = np.full(GROUPS, np.nan)  # the replicates of a statistic that was not measured again


def replicates(measure: Callable[[list[int]], Mapping[str, float]], cluster: NDArray[np.int64]) -> dict[str, Array]:
    """Statistic -> its values (GROUPS,) without one group each; NaN where it is missing.
    measure: the rows that remain -> statistics; cluster: (n,) numbers from 0, which are left out as a whole"""
    return columns([measure(np.flatnonzero(cluster % GROUPS != group).tolist()) for group in range(GROUPS)])


def columns(parts: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """Name -> its value in each part, (parts,); NaN where it is missing."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.array([part.get(name, np.nan) for part in parts]) for name in names}


def estimate(value: float, replicates: Array, n: int, clusters: int, bounds: Bounds = (None, None)) -> Estimate:
    """replicates: (GROUPS,) values of the statistic without one group each; no interval if one of them is missing."""
    if not np.isfinite(replicates).all():
        return Estimate(value, n=n, clusters=clusters)
    error = float(np.sqrt((GROUPS - 1) / GROUPS * ((replicates - replicates.mean()) ** 2).sum()))
    return Estimate.symmetric(value, error, t_quantile(GROUPS - 1), n, clusters, bounds)
