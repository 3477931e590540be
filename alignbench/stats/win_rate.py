"""Win rates over prompts, and what must stand beside each of them: ties, positions, lengths.

A judge that is shown two outputs tends to like the one in the first place, and the longer one (Zheng et al. 2023, arXiv
2306.05685, section 3.3). So a verdict counts as a win only in both orders, and beside each win rate stands what a judge
would have said that only counts characters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from alignbench.errors import AlignbenchError
from alignbench.stats import bootstrap, estimates
from alignbench.stats.estimates import Estimate

WIN, TIE, LOSS = 1.0, 0.5, 0.0
FEW = 10  # strays: below, resamples hardly differ (the audit's own count for paired shares)


@dataclass(frozen=True)
class Battle:
    """Two models' outputs for one prompt, and who won: 1 (`a`), .5 (a tie) or 0 (`b`). Lengths are characters."""

    prompt: str
    a: str
    b: str
    outcome: float
    length_a: int
    length_b: int

    def __post_init__(self) -> None:
        where = f"prompt {self.prompt!r}, {self.a!r} against {self.b!r}"
        if self.outcome not in (WIN, TIE, LOSS):
            raise AlignbenchError(f"{where}: the outcome is {self.outcome}, not 1 (a wins), .5 (a tie) or 0 (b wins)")
        if self.a == self.b:
            raise AlignbenchError(f"{where}: a model cannot be compared with itself")


@dataclass(frozen=True)
class WinRate:
    """(wins + ½ ties) / n with its interval, how that was made ("bootstrap" or "adjusted"), and the counts."""

    rate: Estimate
    interval: str
    wins: int
    ties: int
    losses: int


def win_rate(
    outcomes: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = bootstrap.RESAMPLES,
) -> WinRate:
    """Win rate of `a` from (n,) outcomes of 1, .5 and 0, with a bootstrap interval over groups (prompts).

    Where (nearly) all prompts agree, resamples agree too, and a bootstrap would claim certainty: at 97 wins, 2 ties and
    1 loss in 100, 50 prompts give an interval that holds the truth 78 % of the time. It is `adjusted` then.
    """
    y = np.asarray(outcomes, np.float64)
    if nearly_all_agree(y, groups):
        rate, interval = adjusted(y, groups), "adjusted"
    else:
        rate, interval = bootstrap.interval(y, groups, seed=seed, resamples=resamples, bounds=(0, 1)), "bootstrap"
    return WinRate(rate, interval, *(int((y == outcome).sum()) for outcome in (WIN, TIE, LOSS)))


def adjusted(outcomes: ArrayLike, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Win rate with a t interval made with two more prompts, one won and one lost, each as large as the mean one.

    After Agresti & Min 2005 (doi 10.1002/sim.1781), who add half of one to wins and losses and one to ties: too little
    where nearly all prompts are ties. An interval of only wins is close to Wilson's. Groups count as wholes.
    """
    y = np.asarray(outcomes, np.float64)
    if not len(y):
        return Estimate(None, None, None, None, 0, 0)
    cluster = estimates.cluster_numbers(groups, len(y))
    size = np.bincount(cluster)
    count, usual = len(size), size.mean()
    sizes = np.append(size, [usual, usual])
    sums = np.append(np.bincount(cluster, y), [usual * WIN, usual * LOSS])
    centre = float(sums.sum() / sizes.sum())
    error = float(np.sqrt(((sums - centre * sizes) ** 2).sum()) / sizes.sum())
    reach = float(t.ppf(0.5 + estimates.CONFIDENCE / 2, count + 1)) * error
    return Estimate(float(y.mean()), error, max(0.0, centre - reach), min(1.0, centre + reach), len(y), count)


def nearly_all_agree(outcomes: ArrayLike, groups: Sequence[Hashable] | None = None) -> bool:
    """Whether fewer than FEW groups stray from the commonest (mean) outcome of a group."""
    y = np.asarray(outcomes, np.float64)
    cluster = estimates.cluster_numbers(groups, len(y))
    means = np.bincount(cluster, y) / np.bincount(cluster)
    commonest = np.unique(means, return_counts=True)[1].max(initial=0)
    return bool(len(means) - commonest < FEW)
