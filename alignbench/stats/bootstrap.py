"""The bootstrap over documents: resampled means and intervals, without a loop over resamples.

A resample draws as many groups (documents, prompts) as there are, with replacement. A row of weights holds how often
each was drawn, and the resampled means of any number of columns are one matrix product. Percentiles are expanded
(Hesterberg 2015, arXiv 1411.5279, section 3.5), since plain ones are too narrow at small n: the variance of a bootstrap
is that of the sample divided by n instead of n − 1, and its tails are normal instead of Student's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from alignbench.stats.estimates import Bounds, Estimate, clip, cluster_numbers, t_quantile

RESAMPLES = 10_000
BLOCK = 2**17  # draws at once: they and their counts fit into the processor's cache


def weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Blocks of rows, (rows, n): how often each of n groups was drawn. All blocks together have `resamples` rows."""
    random = np.random.default_rng([seed, n])
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, n, (count, n))  # numpy draws shorter integers more slowly
        drawn += np.arange(count)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def resampled_means(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Means of resamples, (resamples, columns), of `values` (n, columns); all columns share the draws.

    groups: the cluster of each row, drawn as a whole (default: each row is its own)
    """
    x = np.asarray(values, np.float64)
    cluster = cluster_numbers(groups, len(x))
    count = int(cluster.max()) + 1
    sums = np.zeros((count, x.shape[1]))
    np.add.at(sums, cluster, x)
    sizes = np.bincount(cluster, minlength=count).astype(np.float64)
    drawn = resampled_sums(np.column_stack([sums, sizes]), seed=seed, resamples=resamples)
    return drawn[:, :-1] / drawn[:, -1:]


def resampled_sums(sums: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Column sums of resamples, (resamples, columns), of (n, columns), a row per group; all columns share the draws."""
    # on blocks this small, threads take six times as long as one (measured)
    with threadpool_limits(1, "blas"):
        return np.concatenate([drawn @ sums for drawn in weights(len(sums), resamples, seed)])


def interval(
    values: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    bounds: Bounds = (None, None),
) -> Estimate:
    """Mean of (n,) values with a bootstrap interval over groups; no interval with fewer than two groups."""
    x = np.asarray(values, np.float64)
    count = len(x) if groups is None else len(set(groups))
    if not len(x):
        return Estimate()
    centre = float(x.mean())
    if count < 2:
        return Estimate(centre, n=len(x), clusters=count)
    draws = resampled_means(x[:, None], groups, seed=seed, resamples=resamples)[:, 0]
    return estimate(centre, draws, len(x), count, bounds)


def estimate(
    value: float, draws: NDArray[np.float64], n: int, clusters: int, bounds: Bounds = (None, None)
) -> Estimate:
    """The value of a statistic on the sample, and on its resamples (resamples,), as an estimate."""
    ends = percentiles(draws, clusters)
    low, high = clip(float(ends[0]), float(ends[1]), bounds)
    return Estimate(value, float(draws.std() * np.sqrt(clusters / (clusters - 1))), low, high, n, clusters)


def percentiles(draws: NDArray[np.float64], clusters: int) -> NDArray[np.float64]:
    """(2, …): expanded percentiles of `draws` (resamples, …) of a sample with this number of clusters."""
    tail = float(stats.norm.sf(t_quantile(clusters - 1) * np.sqrt(clusters / (clusters - 1))))
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0))


def p_value(value: float, draws: NDArray[np.float64], clusters: int) -> float:
    """Two-sided p-value of the statistic being 0: below 5 % exactly if 0 is outside the interval of `percentiles`.

    At least 1 / (resamples + 1): what did not occur in the resamples may still occur (Davison & Hinkley 1997, 4.2).
    """
    if value == 0:
        return 1.0
    reach = float(stats.norm.isf(share_below(np.sign(value) * draws)))
    p = 2 * float(stats.t.sf(reach * np.sqrt((clusters - 1) / clusters), clusters - 1))
    return min(1.0, max(p, 1 / (1 + len(draws))))


def share_below(draws: NDArray[np.float64], bound: float = 0.0) -> float:
    """The largest q for which np.quantile(draws, q) is at most `bound`. draws: (resamples,)"""
    ordered = np.sort(draws)
    k = int(np.searchsorted(ordered, bound, "right"))
    if k in (0, len(ordered)):
        return float(k > 0)
    before, after = ordered[k - 1 : k + 1]
    return float((k - 1 + (bound - before) / (after - before)) / (len(ordered) - 1))
