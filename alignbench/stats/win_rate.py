"""Win rates over prompts with intervals that keep a width where nearly all prompts agree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate, clip, cluster_numbers, t_quantile

WIN, TIE, LOSS = 1.0, 0.5, 0.0
FEW = 10  # with fewer dissenting prompts, resamples hardly differ


def win_rate(
    outcomes: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = bootstrap.RESAMPLES,
) -> Estimate:
    """Win rate, (wins + ½ ties) / n, of (n,) outcomes of 1, 0.5 and 0, with a bootstrap interval over groups (prompts).

    If nearly all prompts agree, so do the resamples: with 97 % wins, 2 % ties and 1 % losses, bootstrap intervals of 50
    prompts cover the truth 78 % of the time. The interval is then `adjusted`.
    """
    y = np.asarray(outcomes, np.float64)
    if nearly_all_agree(y, groups):
        return adjusted(y, groups)
    return bootstrap.interval(y, groups, seed=seed, resamples=resamples, bounds=(0, 1))


def adjusted(outcomes: ArrayLike, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Win rate with a t interval computed with two more prompts of mean size, one won and one lost.

    After Agresti & Min 2005 (doi 10.1002/sim.1781), whose half a win, half a loss and one tie are too few if nearly
    all prompts are ties. If all prompts are wins, the interval is close to Wilson's.
    """
    y = np.asarray(outcomes, np.float64)
    if not len(y):
        return Estimate()
    cluster = cluster_numbers(groups, len(y))
    size = np.bincount(cluster)
    count, usual = len(size), size.mean()
    sizes = np.append(size, [usual, usual])
    sums = np.append(np.bincount(cluster, y), [usual * WIN, usual * LOSS])
    centre = float(sums.sum() / sizes.sum())
    error = float(np.sqrt(((sums - centre * sizes) ** 2).sum()) / sizes.sum())
    reach = t_quantile(count + 1) * error
    low, high = clip(centre - reach, centre + reach, (0.0, 1.0))
    return Estimate(float(y.mean()), error, low, high, len(y), count)


def nearly_all_agree(outcomes: ArrayLike, groups: Sequence[Hashable] | None = None) -> bool:
    """True if fewer than FEW groups differ from the most common mean outcome of a group."""
    y = np.asarray(outcomes, np.float64)
    cluster = cluster_numbers(groups, len(y))
    means = np.bincount(cluster, y) / np.bincount(cluster)
    most_common = np.unique(means, return_counts=True)[1].max(initial=0)
    return bool(len(means) - most_common < FEW)
