"""The bootstrap over documents: resampled means and intervals, without a loop over resamples.

A resample draws as many groups (documents, prompts) as there are, with replacement; how often each was drawn is a row
of weights, and the resampled means of any number of columns are one product with them. Percentiles are expanded after
Hesterberg 2015 (arXiv 1411.5279, section 3.5), since plain ones are too narrow at small n: a bootstrap's spread is that
of the sample divided by n, not by n − 1, and its tails are the normal's, not Student's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from alignbench.stats.estimates import CONFIDENCE, Estimate, cluster_numbers

RESAMPLES = 10_000
BLOCK = 2**17  # draws at once: they and their counts stay in the processor's cache


def weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Blocks of rows, (rows, n): how often each of n groups was drawn. All blocks together have `resamples` rows."""
    random = np.random.default_rng([seed, n])
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, n, (count, n))  # shorter integers take numpy longer to draw
        drawn += np.arange(count)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def resampled_means(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Means of resamples, (resamples, columns), of `values` (n, columns); all columns see the same draws.

    groups: each row's cluster, which is drawn as a whole (default: every row its own)
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
    """Column sums of resamples, (resamples, columns), of (n, columns), a row a group: all see the same draws."""
    # blocks are so small that threads would wait for each other longer than they work: six times as long, measured
    with threadpool_limits(1, "blas"):
        return np.concatenate([drawn @ sums for drawn in weights(len(sums), resamples, seed)])


def interval(
    values: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Estimate:
    """Mean of (n,) values with a bootstrap interval over groups. Without two groups there is no interval; where all
    values agree, it has no width."""
    x = np.asarray(values, np.float64)
    count = len(x) if groups is None else len(set(groups))
    if not len(x):
        return Estimate(None, None, None, None, 0, 0)
    centre = float(x.mean())
    if count < 2:
        return Estimate(centre, None, None, None, len(x), count)
    draws = resampled_means(x[:, None], groups, seed=seed, resamples=resamples)[:, 0]
    return estimate(centre, draws, len(x), count, bounds)


def estimate(
    centre: float,
    draws: NDArray[np.float64],
    n: int,
    clusters: int,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Estimate:
    """A statistic's value on the whole sample and on its resamples, (resamples,), as an estimate."""
    low, high = percentiles(draws, clusters).tolist()
    return Estimate(
        centre,
        float(draws.std() * np.sqrt(clusters / (clusters - 1))),
        low if bounds[0] is None else max(low, bounds[0]),
        high if bounds[1] is None else min(high, bounds[1]),
        n,
        clusters,
    )


def percentiles(draws: NDArray[np.float64], clusters: int) -> NDArray[np.float64]:
    """(2, …): expanded percentiles of `draws` (resamples, …) of a sample of so many clusters."""
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
    tail = float(stats.norm.sf(reach))
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0))


def p_value(centre: float, draws: NDArray[np.float64], clusters: int) -> float:
    """Two-sided, of the hypothesis that the statistic is 0: below 5 % exactly where 0 is outside of the interval of
    `percentiles` on the far side from `centre`. It is how much would have to be left out for the interval to end at 0.

    At least 1 / (resamples + 1): what was not seen in so many resamples may still happen (Davison & Hinkley 1997, 4.2).
    """
    if centre == 0:
        return 1.0
    reach = float(stats.norm.isf(share_below(np.sign(centre) * draws)))
    p = 2 * float(stats.t.sf(reach * np.sqrt((clusters - 1) / clusters), clusters - 1))
    return min(1.0, max(p, 1 / (1 + len(draws))))


def share_below(draws: NDArray[np.float64], bound: float = 0.0) -> float:
    """The greatest share of which np.quantile of `draws` (resamples,) is not above `bound`."""
    ordered = np.sort(draws)
    k = int(np.searchsorted(ordered, bound, "right"))
    if k in (0, len(ordered)):
        return float(k > 0)
    before, after = ordered[k - 1 : k + 1]
    return float((k - 1 + (bound - before) / (after - before)) / (len(ordered) - 1))
