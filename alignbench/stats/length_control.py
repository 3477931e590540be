"""Length-controlled win rates: what they were if both outputs had equal lengths (AlpacaEval 2, arXiv 2404.04475).

A logistic model of the preference with a term for the model and one for the length, σ(θ + φ·tanh(δ / sd(δ))), δ =
length of a's output − length of b's, predicted at δ = 0. The paper's third term, the difficulty of each instruction,
needs many models on the same public prompts.

A weak ridge on φ alone keeps it finite if the longer output always wins. θ has none: at equal lengths the result is the
raw win rate. If nearly all outputs of one model are longer, δ = 0 is an extrapolation: φ stays near 0 and the result
near the raw win rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from alignbench.stats import bootstrap, logistic
from alignbench.stats.estimates import Estimate, cluster_numbers
from alignbench.stats.logistic import Array
from alignbench.stats.win_rate import adjusted, nearly_all_agree, win_rate

RIDGE = 0.1  # a Gaussian prior on φ of 3.2 nats: where tanh saturates, odds of 24 to 1 for the longer output
TOLERANCE = 1e-9  # nats


def length_controlled(
    outcomes: ArrayLike,
    length_differences: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = bootstrap.RESAMPLES,
) -> Estimate:
    """Length-controlled win rate of `a` with a bootstrap interval over groups (prompts).

    outcomes: (n,) of 1, 0.5 and 0; length_differences: (n,) length of `a` − length of `b`. Their standard deviation is
    that of the whole sample in all resamples.
    If all verdicts agree, the result is the raw win rate. If nearly all agree, resamples hardly differ: the interval
    then also covers that of the raw win rate, at its place and shifted to this value.
    """
    preferred = 2 * np.asarray(outcomes, np.float64) - 1
    cluster = cluster_numbers(groups, len(preferred))
    count = int(cluster.max()) + 1 if len(preferred) else 0
    if count < 2 or np.ptp(preferred) == 0:
        return win_rate(outcomes, groups)
    lengths = scaled(length_differences)
    theta, phi = fit(preferred, lengths, np.ones((1, len(preferred))))
    draws = [
        at_equal_lengths(fit(preferred, lengths, drawn[:, cluster], start=(theta[0], phi[0]))[0])
        for drawn in bootstrap.weights(count, resamples, seed)
    ]
    value = float(at_equal_lengths(theta)[0])
    found = bootstrap.estimate(value, np.concatenate(draws), len(preferred), count, (0.0, 1.0))
    return _widened(found, adjusted(outcomes, groups)) if nearly_all_agree(outcomes, groups) else found


def _widened(found: Estimate, raw: Estimate) -> Estimate:
    """`found` with an interval that covers that of `raw`, and that of `raw` moved by the difference of both in nats."""
    value, rate, low, high = logit(np.array([found.value, raw.value, raw.low, raw.high], np.float64))
    low, high = expit(np.array([low, high]) + value - rate).tolist()
    lows, highs = (found.low, raw.low, low), (found.high, raw.high, high)
    return replace(found, low=min(x for x in lows if x is not None), high=max(x for x in highs if x is not None))


def scaled(length_differences: ArrayLike) -> Array:
    """tanh(δ / sd(δ)), (n,); zeros if all differences are equal."""
    delta = np.asarray(length_differences, np.float64)
    deviation = float(delta.std())
    return np.tanh(delta / deviation) if deviation > 0 else np.zeros(len(delta))


def at_equal_lengths(theta: Array) -> Array:
    """σ(θ), as an odd function about ½: the rates of (a, b) and (b, a) add up to exactly one."""
    return np.asarray((1 + np.tanh(theta / 2)) / 2)


def fit(
    preferred: Array, lengths: Array, weights: Array, start: tuple[float, float] = (0.0, 0.0)
) -> tuple[Array, Array]:
    """θ and φ of maximum penalised likelihood, (resamples,) each; θ is ±∞ for a resample of only wins or only losses.

    preferred: (n,) 1, 0 (a tie) or −1; lengths: (n,) scaled; weights: (resamples, n)
    """
    sums, totals = weights @ preferred, weights.sum(1)
    decided = np.abs(sums) == totals
    found = np.zeros((len(weights), 2))
    found[decided, 0] = np.copysign(np.inf, sums[decided])
    rows = np.flatnonzero(~decided)
    design, targets = np.column_stack([np.ones(len(lengths)), lengths]), (1 + preferred) / 2
    found[rows] = logistic.maximise(
        lambda x, moving: logistic.derivatives(x, design, targets, weights[rows[moving]], np.array([0, RIDGE])),
        np.tile(start, (len(rows), 1)),
        TOLERANCE,
    )
    return found[:, 0], found[:, 1]
