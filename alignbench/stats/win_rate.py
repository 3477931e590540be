"""Win rates over prompts: raw, and length-controlled (AlpacaEval 2, arXiv 2404.04475).

Length control is a logistic model of the preference with a term for the model and one for the length, σ(θ + φ·tanh(δ /
sd(δ))), δ = length of a's output − length of b's, predicted at δ = 0, and fitted by cross-entropy. It is the minimal
form: the paper's third term, the difficulty of each instruction, needs many models on the same public prompts, and its
fit is drawn towards two gamed copies of the baseline.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from alignbench.stats import bootstrap
from alignbench.stats.bootstrap import RESAMPLES, Array
from alignbench.stats.estimates import Estimate, Groups, cluster_numbers, t_quantile

WIN, TIE, LOSS = 1.0, 0.5, 0.0
FEW = 10  # with fewer dissenting prompts, resamples hardly differ
RIDGE = 0.1  # a Gaussian prior on φ of 3.2 nats: where tanh saturates, odds of 24 to 1 for the longer output
TOLERANCE = 1e-9  # nats
STEPS = 100
LONGEST = 2.0  # nats in one step of any parameter: from far away, Newton's method overshoots
Derivatives = tuple[Array, Array]  # gradients (batch, p) and negative Hessian matrices (batch, p, p)


def win_rate(outcomes: ArrayLike, groups: Groups = None, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Win rate, (wins + ½ ties) / n, of (n,) outcomes of 1, 0.5 and 0, or the mean of graded ones in [0, 1], with a
    bootstrap interval over groups (prompts).
    If nearly all prompts agree, so do the resamples: with 97 % wins, 2 % ties and 1 % losses, bootstrap intervals of 50
    prompts cover the truth 78 % of the time. The interval is then `adjusted`."""
    if nearly_all_agree(outcomes, groups):
        return adjusted(outcomes, groups)
    return bootstrap.interval(outcomes, groups, seed=seed, resamples=resamples, bounds=(0, 1))


def adjusted(outcomes: ArrayLike, groups: Groups = None) -> Estimate:
    """Win rate with a t interval computed with two more prompts of mean size, one won and one lost.
    After Agresti & Min 2005 (doi 10.1002/sim.1781), whose half a win, half a loss and one tie are too few if nearly
    all prompts are ties. If all prompts are wins, the interval is close to Wilson's."""
    y = np.asarray(outcomes, np.float64)
    if not len(y):
        return Estimate()
    cluster = cluster_numbers(groups, len(y))
    size = np.bincount(cluster)
    sizes = np.append(size, [size.mean()] * 2)
    sums = np.append(np.bincount(cluster, y), size.mean() * np.array([WIN, LOSS]))
    centre = float(sums.sum() / sizes.sum())
    error = float(np.sqrt(((sums - centre * sizes) ** 2).sum()) / sizes.sum())
    found = Estimate.symmetric(centre, error, t_quantile(len(size) + 1), len(y), len(size), (0.0, 1.0))
    return replace(found, value=float(y.mean()))


def nearly_all_agree(outcomes: ArrayLike, groups: Groups = None) -> bool:
    """True if fewer than FEW groups differ from the most common mean outcome of a group."""
    y = np.asarray(outcomes, np.float64)
    cluster = cluster_numbers(groups, len(y))
    means = np.bincount(cluster, y) / np.bincount(cluster)
    most_common = np.unique(means, return_counts=True)[1].max(initial=0)
    return bool(len(means) - most_common < FEW)


def length_controlled(
    outcomes: ArrayLike, length_differences: ArrayLike, groups: Groups = None, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Length-controlled win rate of `a` with a bootstrap interval over groups (prompts).

    outcomes: (n,) of 1, 0.5 and 0, or graded; length_differences: (n,) length of `a` − length of `b`. Their standard
    deviation is that of the whole sample in all resamples.
    If all verdicts agree, the result is the raw win rate. If nearly all agree, resamples hardly differ: the interval
    then also covers that of the raw win rate, at its place and moved by the difference of both in nats.
    """
    preferred = 2 * np.asarray(outcomes, np.float64) - 1
    cluster = cluster_numbers(groups, len(preferred))
    count = int(cluster.max(initial=-1)) + 1
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
    if not nearly_all_agree(outcomes, groups):
        return found
    raw = adjusted(outcomes, groups)
    at, rate, *ends = logit(np.array([value, raw.value, raw.low, raw.high], np.float64))
    all_ends = np.array([[found.low, found.high], [raw.low, raw.high], expit(np.array(ends) + at - rate)], np.float64)
    return replace(found, low=float(all_ends[:, 0].min()), high=float(all_ends[:, 1].max()))


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
    preferred: (n,) 1, 0 (a tie), −1, or graded; lengths: (n,) scaled; weights: (resamples, n)
    A weak ridge on φ alone keeps it finite if the longer output always wins. θ has none: at equal lengths the result is
    the raw win rate. If nearly all outputs of one model are longer, φ stays near 0 and the result near the raw one."""
    sums, totals = weights @ preferred, weights.sum(1)
    decided = np.abs(sums) == totals
    found = np.zeros((len(weights), 2))
    found[decided, 0] = np.copysign(np.inf, sums[decided])
    rows = np.flatnonzero(~decided)
    design, targets = np.column_stack([np.ones(len(lengths)), lengths]), (1 + preferred) / 2
    found[rows] = maximise(
        lambda x, moving: derivatives(x, design, targets, weights[rows[moving]], np.array([0, RIDGE])),
        np.tile(start, (len(rows), 1)),
        TOLERANCE,
    )
    return found[:, 0], found[:, 1]


def derivatives(x: Array, design: Array, targets: Array | float, weights: Array, ridge: Array) -> Derivatives:
    """Of Σ w (y log σ(z) + (1 − y) log σ(−z)) − Σ ridge x² / 2 with z = design · x.
    x: (batch, p); design: (rows, p); targets y: (rows,) or 1; weights w: (batch, rows); ridge: (p,)"""
    p = expit(x @ design.T)
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    curvature = ((weights * p * (1 - p)) @ products).reshape(*x.shape, x.shape[1])
    return (weights * (targets - p)) @ design - ridge * x, curvature + np.diag(ridge)


def maximise(
    of: Callable[[Array, NDArray[np.int64]], Derivatives],
    start: Array,
    tolerance: float,
    shorten: Callable[[Array, Array], Array | float] = lambda step, x: 1.0,
) -> Array:
    """The maxima, (batch, p), of many concave functions by Newton's method; those that have converged drop out.
    of: points (k, p) of the functions with these numbers (k,) -> derivatives; start: (batch, p)
    tolerance: of the last step, in any parameter; shorten: steps and points -> factors (k,) to divide the steps by"""
    x = start.copy()
    moving = np.arange(len(x))
    for _ in range(STEPS):
        gradient, curvature = of(x[moving], moving)
        step = np.asarray(np.linalg.solve(curvature, gradient[..., None])[..., 0], np.float64)
        longest = np.abs(step).max(-1)
        x[moving] += step / np.maximum(np.maximum(1.0, longest / LONGEST), shorten(step, x[moving]))[:, None]
        moving = moving[longest > tolerance]
        if not len(moving):
            break
    return x
