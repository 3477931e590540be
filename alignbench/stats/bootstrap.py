"""The bootstrap over documents: resampled means and intervals, without a loop over resamples.

A resample draws as many groups (documents, prompts) as there are, with replacement. A row of weights holds how often
each was drawn, and the resampled means of any number of columns are one matrix product.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from alignbench.stats.estimates import (
    CONFIDENCE,
    STUDENTISED,
    Bounds,
    Estimate,
    Groups,
    clip,
    cluster_numbers,
    mean,
    t_quantile,
)

RESAMPLES = 10_000
Array = NDArray[np.float64]
MOST = 10_000  # groups; of more, blocks of groups drawn at random are resampled: the same means in less time
BLOCK = 2**17  # draws at once: they and their counts fit into the processor's cache
LEAST = 8  # resamples at once: one at a time, their products wait for memory


def weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Array]:
    """Blocks of rows, (rows, n): how often each of n groups was drawn. All blocks together have `resamples` rows."""
    random = np.random.default_rng([seed, n])
    rows = max(LEAST, BLOCK // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, n, (count, n))  # numpy draws shorter integers more slowly
        drawn += np.arange(count)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def cluster_sums(x: Array, cluster: NDArray[np.int64]) -> tuple[Array, Array]:
    """Sums of (n, columns) in each cluster, (clusters, columns), and the sizes of the clusters."""
    sums = np.zeros((int(cluster.max()) + 1, x.shape[1]))
    np.add.at(sums, cluster, x)
    return sums, np.bincount(cluster).astype(np.float64)


def studentised(sums: Array, sizes: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[Array, Array]:
    """Means of resamples and their standard errors, both (resamples, columns). sums: (clusters, columns), see
    `cluster_sums`"""
    if len(sums) > MOST:
        block = np.random.default_rng([seed, len(sums)]).permutation(len(sums)) % MOST
        sums, sizes = cluster_sums(sums, block)[0], np.bincount(block, sizes).astype(np.float64)
    count, columns = sums.shape
    others = count - 1 or np.nan  # one group has no standard error
    if (sizes == sizes[0]).all():  # fewer columns: no ratio
        drawn = resampled_sums(np.column_stack([sums, sums**2]), seed=seed, resamples=resamples)
        first, second = drawn[:, :columns] / count, drawn[:, columns:] / count
        return first / sizes[0], np.sqrt(np.maximum(second - first**2, 0.0) / others) / sizes[0]
    table = np.column_stack([sums, sums**2, sums * sizes[:, None], sizes, sizes**2])
    drawn = resampled_sums(table, seed=seed, resamples=resamples)
    first, second, cross, size, square = np.split(drawn, [columns, 2 * columns, 3 * columns, 3 * columns + 1], axis=1)
    means = first / size
    variance = np.maximum(second - 2 * means * cross + means**2 * square, 0.0)
    return means, np.sqrt(variance * count / others) / size


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
    """Mean of (n,) values with an interval of the studentised bootstrap over groups; with fewer than STUDENTISED groups
    as in `estimates.mean`."""
    x = np.asarray(values, np.float64)
    plain = mean(x, groups, bounds)
    if plain.clusters < STUDENTISED or not plain.standard_error:
        return plain
    sums = cluster_sums(x[:, None], cluster_numbers(groups, len(x)))
    draws, errors = studentised(*sums, seed=seed, resamples=resamples)
    return by_t(plain, draws[:, 0], errors[:, 0], bounds)[0]


def by_t(plain: Estimate, draws: Array, errors: Array, bounds: Bounds = (None, None)) -> tuple[Estimate, float]:
    """The estimate with the interval of the studentised bootstrap, and the two-sided p-value of 0, which is below 5 %
    exactly if 0 is outside that interval (Davison & Hinkley 1997, sections 5.2 and 4.4).

    draws, errors: (resamples,) values of the statistic and their standard errors. p is at least 1 / (resamples + 1).
    """
    assert plain.value is not None
    assert plain.standard_error
    value, error = plain.value, plain.standard_error
    deviations, tail = draws - value, (1 - CONFIDENCE) / 2
    far_out = np.sign(deviations) * 1e9  # of resamples without an error
    known = errors > 1e-12 * np.abs(deviations).max(initial=1e-300)
    t = np.divide(deviations, errors, out=far_out, where=known)
    far, near = np.quantile(t, [1 - tail, tail]).tolist()
    low, high = clip(value - far * error, value - near * error, bounds)
    beyond = share_below(np.sign(value) * -t, -abs(value) / error)
    return replace(plain, low=low, high=high), min(1.0, max(2 * beyond, 1 / (1 + len(t))))


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
