"""How sure one is of who is the stronger where hardly a battle strays from what was to be expected.

Where a model won (nearly) all of its battles, so it does in (nearly) every resample, and a bootstrap would claim
certainty. There an exact interval for a share stands in, of as many wins and losses as would tell as much: wide rather
than too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_flow
from scipy.stats import beta

from alignbench.stats.estimates import CONFIDENCE
from alignbench.stats.significance import least_p

FEW = 5  # the usual count below which large-sample intervals are not trusted
LEAST = 0.5  # losses of a model that lost nothing: its strength has an upper end


@dataclass(frozen=True)
class Exact:
    """A win rate's standard error and interval, and the two-sided p-value of its being ½."""

    error: float
    low: float
    high: float
    p: float


def strays_between(pairs: NDArray[np.int64], counts: ArrayLike, models: int, one: int, other: int) -> int:
    """How many outcomes of battles hold two models together: those that are not their pair's commonest, (pairs, 3)
    counts of wins, losses and ties, in the weakest of all cuts between them."""
    y = np.asarray(counts)
    strays = (y.sum(1) - y.max(1)).astype(np.int32)
    edges = np.concatenate([pairs, pairs[:, ::-1]])
    graph = coo_array((np.tile(strays, 2), edges.T), (models, models)).tocsr()
    return int(maximum_flow(graph, one, other).flow_value)


def exact(rate: float, error: float, prompts: int) -> Exact:
    """Clopper and Pearson's interval at the number of battles that would have this standard error, at most one a prompt
    (Korn & Graubard 1998, who do so for clustered shares). The p-value is below 5 % where ½ is outside, and never less
    than what so many prompts can show."""
    n = min(prompts, rate * (1 - rate) / error**2)
    won, lost = max(n * rate, LEAST), max(n * (1 - rate), LEAST)
    tail = (1 - CONFIDENCE) / 2
    low, high = beta.ppf(tail, won, lost + 1), beta.ppf(1 - tail, won + 1, lost)
    p = 2 * min(beta.cdf(0.5, won, lost + 1), beta.sf(0.5, won + 1, lost))
    return Exact(error, float(low), float(high), min(1.0, max(float(p), least_p(prompts))))
