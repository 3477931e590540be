"""The bootstrap over documents: resampled means and intervals, without a loop over resamples.

A resample draws as many groups (documents, prompts) as there are, with replacement. A row of weights holds how often
each was drawn, and the resampled means of any number of columns are one matrix product.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from alignbench.stats.estimates import Bounds, Estimate, Groups, clip, cluster_numbers, t_quantile

RESAMPLES = 10_000
Array = NDArray[np.float64]
BLOCK = 2**17  # draws at once: they and their counts fit into the processor's cache


def weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Array]:
    """Blocks of rows, (rows, n): how often each of n groups was drawn. All blocks together have `resamples` rows."""
    random = np.random.default_rng([seed, n])
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, n, (count, n))  # numpy draws shorter integers more slowly
        drawn += np.arange(count)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def resampled_means(values: ArrayLike, groups: Groups = None, *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Means of resamples, (resamples, columns), of `values` (n, columns); all columns share the draws of groups."""
    x = np.asarray(values, np.float64)
    cluster = cluster_numbers(groups, len(x))
    sums = np.zeros((int(cluster.max()) + 1, x.shape[1]))
    np.add.at(sums, cluster, x)
    drawn = resampled_sums(np.column_stack([sums, np.bincount(cluster)]), seed=seed, resamples=resamples)
    return drawn[:, :-1] / drawn[:, -1:]


def resampled_sums(sums: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Column sums of resamples, (resamples, columns), of (n, columns), a row per group; all columns share the draws."""
    # on blocks this small, threads take six times as long as one (measured)
    with threadpool_limits(1, "blas"):
        return np.concatenate([drawn @ sums for drawn in weights(len(sums), resamples, seed)])


def interval(
    values: ArrayLike,
    groups: Groups = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    bounds: Bounds = (None, None),
) -> Estimate:
    """Mean of (n,) values with a bootstrap interval over groups; no interval with fewer than two groups."""
    x = np.asarray(values, np.float64)
    count = len(x) if groups is None else len(set(groups))
    if count < 2:
        return Estimate(float(x.mean()) if count else None, n=len(x), clusters=count)
    draws = resampled_means(x[:, None], groups, seed=seed, resamples=resamples)[:, 0]
    return estimate(float(x.mean()), draws, len(x), count, bounds)


def estimate(value: float, draws: Array, n: int, clusters: int, bounds: Bounds = (None, None)) -> Estimate:
    """The value of a statistic on the sample, and on its resamples (resamples,), as an estimate."""
    low, high = percentiles(draws, clusters).tolist()
    low, high = clip(low, high, bounds)
    return Estimate(value, float(draws.std() * np.sqrt(clusters / (clusters - 1))), low, high, n, clusters)


def percentiles(draws: Array, clusters: int) -> Array:
    """(2, …): expanded percentiles of `draws` (resamples, …) of a sample with this number of clusters.
    Plain ones are too narrow at small n (Hesterberg 2015, arXiv 1411.5279, section 3.5): the variance of a bootstrap is
    that of the sample divided by n instead of n − 1, and its tails are normal instead of Student's."""
    tail = float(stats.norm.sf(t_quantile(clusters - 1) * np.sqrt(clusters / (clusters - 1))))
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0))


def p_value(value: float, draws: Array, clusters: int) -> float:
    """Two-sided p-value of the statistic being 0: below 5 % exactly if 0 is outside the interval of `percentiles`.
    At least 1 / (resamples + 1): what did not occur in the resamples may still occur (Davison & Hinkley 1997, 4.2)."""
    if value == 0:
        return 1.0
    reach = float(stats.norm.isf(share_below(np.sign(value) * draws)))
    p = 2 * float(stats.t.sf(reach * np.sqrt((clusters - 1) / clusters), clusters - 1))
    return min(1.0, max(p, 1 / (1 + len(draws))))


def share_below(draws: Array, bound: float = 0.0) -> float:
    """The largest q for which np.quantile(draws, q) is at most `bound`. draws: (resamples,)"""
    return float(np.interp(bound, np.sort(draws), np.linspace(0, 1, len(draws))))
