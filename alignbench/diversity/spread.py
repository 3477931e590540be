"""How values that models choose (a persona's gender, age, …) spread, with intervals over the documents they come from.

More values show more different ones, and of a weak model fewer can be read: `…_at_50` says what 50 of the values show
on average, and compares models of which unequal numbers were read. Of fewer than 20 values nothing is told.

Chao–Shen's entropy is left out below a coverage of .1, where more than nine in ten values came once only. It goes with
the logarithm of the coverage: of 100 draws from equally frequent values its standard deviation is .4 bits at a coverage
of .2, .6 at .12 and .9 at .06 (simulated). The other numbers stand: where no value comes twice, entropy_at_50 is
log2 50 = 5.64 bits, the most there is.

Intervals are bootstrapped over documents and centred on the estimate: a resample has values twice and others not at
all, so its entropy is too low by about as much as the plug-in estimate of the sample is; what is used is how resamples
differ from each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.diversity import entropy
from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate
from alignbench.types.task import Metric

RESAMPLES = 1000
SIZE = 50  # values at which unequal samples are compared: half of those that are asked for
FEWEST = 20  # values of which anything is told
LEAST_COVERAGE = 0.1  # of Chao–Shen
_Statistic = Callable[[NDArray[np.float64]], float]

# metric's name -> its unit, its bounds, and the statistic of counts. More diverse is better: aligned models lose it.
STATISTICS: dict[str, tuple[Metric, _Statistic]] = {
    metric.name: (metric, statistic)
    for metric, statistic in (
        (
            Metric(f"entropy_at_{SIZE}", "bits", "higher", bounds=(0, math.log2(SIZE))),
            lambda c: entropy.rarefied_entropy(c, _size(c)) / math.log(2),
        ),
        (
            Metric(f"hill_0_at_{SIZE}", "number", "higher", bounds=(1, SIZE)),
            lambda c: entropy.rarefied_richness(c, _size(c)),
        ),
        (
            Metric("entropy_chao_shen", "bits", "higher", bounds=(0, None)),
            lambda c: entropy.chao_shen(c) / math.log(2),
        ),
        (Metric("hill_0", "number", "higher", bounds=(1, None)), lambda c: entropy.hill(c, 0)),
        (Metric("hill_1", "number", "higher", bounds=(1, None)), lambda c: entropy.hill(c, 1)),
        (Metric("hill_2", "number", "higher", bounds=(1, None)), lambda c: entropy.hill(c, 2)),
        (Metric("top_share", "share", "lower", bounds=(0, 1)), entropy.share_of_top),
    )
}
WEIGHTED: dict[str, tuple[Metric, _Statistic]] = {
    "entropy_weighted": (Metric("entropy_weighted", "bits", "higher", bounds=(0, None)), lambda p: _entropy(p)),
    "top_share_weighted": (
        Metric("top_share_weighted", "share", "lower", bounds=(0, 1)),
        lambda p: float(p.max() / p.sum()),
    ),
}


def spread(values: Sequence[Sequence[str]], seed: int = 0, *, intervals: bool = True) -> list[tuple[Metric, Estimate]]:
    """Entropy in bits and number of different values at SIZE values, Chao–Shen's entropy, Hill numbers 0, 1 and 2
    (hill_1 is the exponential of the plug-in entropy), and the share of the top value.

    values: of each document; documents are what is resampled. Nothing of fewer than FEWEST values, `…_at_50` of SIZE
    and more, Chao–Shen with a coverage of LEAST_COVERAGE and more.
    """
    counts = np.array(list(Counter(value for own in values for value in own).values()))
    told = dict(STATISTICS)
    if counts.sum() < SIZE:
        del told[f"entropy_at_{SIZE}"], told[f"hill_0_at_{SIZE}"]
    if entropy.coverage(counts) < LEAST_COVERAGE:
        del told["entropy_chao_shen"]
    return _estimates(values, [[1.0] * len(own) for own in values], told, seed, intervals)


def weighted_spread(
    values: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], seed: int = 0, *, intervals: bool = True
) -> list[tuple[Metric, Estimate]]:
    """Plug-in entropy in bits and share of the top value, each value counted by its weight, and each document once.
    Nothing of fewer than FEWEST values.

    weights: of each document's values, at least 0; scaled to a sum of 1, and documents where that is 0 left out
    """
    scaled = [[w / sum(own) for w in own] if sum(own) > 0 else [0.0] * len(own) for own in weights]
    return _estimates(values, scaled, WEIGHTED, seed, intervals)


def _estimates(
    values: Sequence[Sequence[str]],
    weights: Sequence[Sequence[float]],
    statistics: dict[str, tuple[Metric, _Statistic]],
    seed: int,
    intervals: bool,
) -> list[tuple[Metric, Estimate]]:
    known = [(own, given) for own, given in zip(values, weights, strict=True) if sum(given) > 0]
    if sum(len(own) for own, _ in known) < FEWEST:
        return []
    columns: dict[str, int] = {}
    counts = np.zeros((len(known), len({value for own, _ in known for value in own})))
    for row, (own, given) in enumerate(known):
        for value, weight in zip(own, given, strict=True):
            counts[row, columns.setdefault(value, len(columns))] += weight
    whole, n, documents = counts.sum(axis=0), sum(len(own) for own, _ in known), len(known)
    if documents < 2 or not intervals:
        return [(m, Estimate(f(whole), None, None, None, n, documents)) for m, f in statistics.values()]
    resampled = bootstrap.resampled_sums(counts, seed=seed, resamples=RESAMPLES)
    found = []
    for metric, statistic in statistics.values():
        centre = statistic(whole)
        draws = np.array([statistic(row) for row in resampled])
        estimate = bootstrap.estimate(centre, draws - draws.mean() + centre, n, documents, metric.bounds)
        found.append((metric, estimate))
    return found


def _size(counts: NDArray[np.float64]) -> int:
    return min(SIZE, int(counts.sum()))  # a resample of lists of unequal length may have fewer


def _entropy(weights: NDArray[np.float64]) -> float:
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0
