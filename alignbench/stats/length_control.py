"""The win rate that two models would have if their outputs were equally long (AlpacaEval 2, arXiv 2404.04475).

The minimal form, for prompts of one's own: a logistic model of the preference with a term for the model and one for
the length, σ(θ + φ·tanh(δ / sd(δ))), δ = length of a's output less b's, predicted at δ = 0. The paper's third term, how
hard each instruction is, needs many models on the same public prompts.

A weak ridge on φ alone keeps it finite where the longer output always won. Nothing holds θ: at equal lengths the result
is the raw win rate. Where nearly all of one model's outputs are the longer ones, δ = 0 is an extrapolation, and the
length's effect cannot be told from the model's: φ then stays near 0 and the result near the raw win rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate, cluster_numbers
from alignbench.stats.win_rate import adjusted, nearly_all_agree, win_rate

RIDGE = 0.1  # a Gaussian prior on φ of 3.2 nats: at tanh's end, odds of 24 to 1 for the longer output
CLOSE_ENOUGH = 1e-9  # nats
STEPS = 100
FURTHEST = 2.0  # nats in one step: Newton's overshoot from afar

Array = NDArray[np.float64]


def length_controlled(
    outcomes: ArrayLike,
    length_differences: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = bootstrap.RESAMPLES,
) -> Estimate:
    """Length-controlled win rate of `a` from (n,) outcomes of 1, .5 and 0 and (n,) lengths of `a` less lengths of `b`,
    with a bootstrap interval over groups (prompts). The lengths' standard deviation is held at the sample's.

    Where all verdicts agree, no length explains anything: the result is the raw win rate with its interval. Where
    nearly all do, resamples hardly differ: the interval then holds the raw one too, where it is and around this value.
    """
    preferred = 2 * np.asarray(outcomes, np.float64) - 1
    cluster = cluster_numbers(groups, len(preferred))
    count = int(cluster.max()) + 1 if len(preferred) else 0
    if count < 2 or np.ptp(preferred) == 0:
        return win_rate(outcomes, groups).rate
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
    """`found`, or where it ends further out `raw`, as it is or moved by what lies between their values in nats."""
    assert None not in (found.low, found.high, raw.low, raw.high)
    value, rate, low, high = logit(np.array([found.value, raw.value, raw.low, raw.high], np.float64))
    low, high = expit(np.array([low, high]) + value - rate).tolist()
    return replace(found, low=min(found.low, raw.low, low), high=max(found.high, raw.high, high))


def scaled(length_differences: ArrayLike) -> Array:
    """tanh(δ / sd(δ)), (n,); zeros where all differences are the same, which explain nothing."""
    delta = np.asarray(length_differences, np.float64)
    spread = float(delta.std())
    return np.tanh(delta / spread) if spread > 0 else np.zeros(len(delta))


def at_equal_lengths(theta: Array) -> Array:
    """σ(θ), written as an odd function about ½: the rates of (a, b) and (b, a) add up to one."""
    return np.asarray((1 + np.tanh(theta / 2)) / 2)


def fit(
    preferred: Array, lengths: Array, weights: Array, start: tuple[float, float] = (0.0, 0.0)
) -> tuple[Array, Array]:
    """θ and φ, (resamples,) each, from (n,) preferences of 1, 0 (a tie) and −1, (n,) scaled lengths and weights
    (resamples, n), by Newton's method. θ is ±∞ where a resample holds only wins or only losses."""
    theta, phi = np.full(len(weights), start[0]), np.full(len(weights), start[1])
    sums, totals = weights @ preferred, weights.sum(1)
    decided = np.abs(sums) == totals
    theta[decided], phi[decided] = np.sign(sums[decided]) * np.inf, 0.0
    moving = np.flatnonzero(~decided)
    for _ in range(STEPS):
        if not len(moving):
            break
        w = weights[moving]
        tanh = np.tanh((theta[moving, None] + phi[moving, None] * lengths) / 2)
        bend = w * (1 - tanh**2) / 4
        residual = w * (preferred - tanh) / 2
        slope_theta, slope_phi = residual.sum(1), residual @ lengths - RIDGE * phi[moving]
        a, b, c = bend.sum(1), bend @ lengths, bend @ lengths**2 + RIDGE
        determinant = a * c - b * b
        step = np.stack([c * slope_theta - b * slope_phi, a * slope_phi - b * slope_theta]) / determinant
        longest = np.abs(step).max(0)
        step /= np.maximum(1.0, longest / FURTHEST)
        theta[moving] += step[0]
        phi[moving] += step[1]
        moving = moving[longest > CLOSE_ENOUGH]
    return theta, phi
