"""Strengths of many models from battles between pairs of them: Bradley–Terry with ties after Rao and Kupper.

P(i beats j) = e^θi / (e^θi + η e^θj) = σ(θi − θj − τ), τ = log η ≥ 0, and a tie has the rest (Rao & Kupper 1967, JASA
62); at η = 1 that is Bradley and Terry 1952. The logarithm of a tie's probability is
log(η² − 1) + log σ(θi − θj − τ) + log σ(θj − θi − τ): a tie is a win of both and a constant, so the fit is concave.
A weak ridge keeps strengths finite where a model won all of its battles. It pulls towards the models' mean, which also
settles the shift, so that no strength depends on who is the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

RIDGE = 0.1  # a Gaussian prior of 3.2 nats: a model that strong wins 96 % of its battles with the mean one
CLOSE_ENOUGH = 1e-7  # nats
STEPS = 100
FURTHEST = 2.0  # nats in one step: Newton's overshoot from afar
BLOCK = 2**22  # numbers in one batch's matrices

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """strengths: (…, models) nats, mean 0; tau: (…) log η, nats."""

    strengths: Array
    tau: Array


def fit(pairs: ArrayLike, counts: ArrayLike, models: int, start: Fit | None = None) -> Fit:
    """Strengths of greatest likelihood (less the ridge) from counts of wins, losses and ties of pairs of models.

    pairs: (pairs, 2) numbers of models, no pair twice; counts: (…, pairs, 3) wins of the first, wins of the second,
    ties; any leading axes are fits of their own. start: fits near them, whose leading axes broadcast.
    """
    who = np.asarray(pairs, np.int64).reshape(-1, 2)
    y = np.asarray(counts, np.float64)
    leading = y.shape[:-2]
    begin = _rough(y, models) if start is None else np.concatenate([start.strengths, start.tau[..., None]], -1)
    flat_begin = np.broadcast_to(begin, (*leading, models + 1)).reshape(-1, models + 1)
    flat = y.reshape(-1, len(who), 3)
    found = np.empty((len(flat), models + 1))
    rows = max(1, BLOCK // max(len(who) * 3, (models + 1) ** 2))
    for at in range(0, len(flat), rows):
        block = slice(at, at + rows)
        found[block] = _fit_block(who, flat[block], flat_begin[block])
    found = found.reshape(*leading, models + 1)
    return Fit(found[..., :models], found[..., models])


def win_rates(fitted: Fit, baseline: int) -> Array:
    """Expected win rates (…, models) against the baseline, ties counted half; the baseline's own is ½."""
    ahead = fitted.strengths - fitted.strengths[..., [baseline]]
    # σ(d − τ) − σ(−d − τ), in a form that is 0 at d = 0 to the last digit
    difference = np.sinh(ahead) / (np.cosh(ahead) + np.cosh(fitted.tau[..., None]))
    return np.asarray((1 + difference) / 2)


def strengths_at(rates: ArrayLike, tau: ArrayLike) -> Array:
    """How far ahead (…), nats, a model of these expected win rates is: the inverse of `win_rates`; ±∞ at 1 and 0."""
    difference, cosh = 2 * np.asarray(rates, np.float64) - 1, np.cosh(tau)
    with np.errstate(divide="ignore"):
        return np.asarray(np.arcsinh(difference * cosh / np.sqrt(1 - difference**2)) + np.arctanh(difference))


def errors(pairs: ArrayLike, counts: ArrayLike, fitted: Fit) -> Array:
    """Standard errors (models, models) of the differences of one fit's strengths, were all battles independent."""
    x = np.append(fitted.strengths, fitted.tau)[None]
    who, y = np.asarray(pairs, np.int64).reshape(-1, 2), np.asarray(counts, np.float64)[None]
    _, bend = _slopes(who, y, x, y[..., 2].sum(-1) == 0)
    covariance = np.linalg.inv(bend[0])[:-1, :-1]
    own = np.diag(covariance)
    return np.asarray(np.sqrt(np.maximum(own[:, None] + own - 2 * covariance, 0)))


def _rough(y: Array, models: int) -> Array:
    """Where to begin, (…, models + 1): equal strengths, and the τ that the share of ties has there."""
    tied = y[..., 2].sum(-1) / np.maximum(y.sum((-1, -2)), 1)
    tau = 2 * np.arctanh(np.minimum(tied, 0.99))
    return np.concatenate([np.zeros((*y.shape[:-2], models)), tau[..., None]], -1)


def _fit_block(who: NDArray[np.int64], y: Array, start: Array) -> Array:
    """(batch, models + 1): strengths and τ by Newton's method; fits that have arrived drop out of the batch."""
    x = start.copy()
    without_ties = y[..., 2].sum(-1) == 0
    x[:, -1] = np.where(without_ties, 0.0, np.maximum(x[:, -1], 1e-3))
    moving = np.arange(len(y))
    for _ in range(STEPS):
        step = _newton_step(who, y[moving], x[moving], without_ties[moving])
        longest = np.abs(step).max(-1)
        x[moving] += _shorten(step, x[moving, -1], longest)
        moving = moving[longest > CLOSE_ENOUGH]
        if not len(moving):
            break
    return x


def _shorten(step: Array, tau: Array, longest: Array) -> Array:
    """The step, cut to a length at which Newton cannot run away, and before τ, which is positive, would be 0."""
    to_zero = np.maximum(-step[:, -1] / np.maximum(0.9 * tau, 1e-300), 0.0)
    return np.asarray(step / np.maximum(1.0, np.maximum(longest / FURTHEST, np.where(tau > 0, to_zero, 0.0)))[:, None])


def _newton_step(who: NDArray[np.int64], y: Array, x: Array, without_ties: NDArray[np.bool_]) -> Array:
    gradient, bend = _slopes(who, y, x, without_ties)
    return np.asarray(np.linalg.solve(bend, gradient[..., None])[..., 0])


def _slopes(who: NDArray[np.int64], y: Array, x: Array, without_ties: NDArray[np.bool_]) -> tuple[Array, Array]:
    """First derivatives of the likelihood less the ridge, (batch, models + 1), and second ones, negative."""
    models = x.shape[1] - 1
    i, j = who.T
    tau = x[:, models]
    ahead = x[:, i] - x[:, j]
    ties = y[..., 2]
    lost_i, lost_j = expit(tau[:, None] - ahead), expit(tau[:, None] + ahead)  # 1 − P(i beats j), 1 − P(j beats i)
    pull_i, pull_j = (y[..., 0] + ties) * lost_i, (y[..., 1] + ties) * lost_j
    bend_i, bend_j = pull_i * (1 - lost_i), pull_j * (1 - lost_j)

    sides = np.zeros((len(who), models))
    sides[np.arange(len(who)), i], sides[np.arange(len(who)), j] = 1.0, -1.0
    gradient = np.empty_like(x)
    gradient[:, :models] = (pull_i - pull_j) @ sides - RIDGE * x[:, :models]
    gradient[:, models] = -(pull_i + pull_j).sum(-1) - RIDGE * tau
    bend = np.zeros((len(x), models + 1, models + 1))  # less the second derivatives
    both = bend_i + bend_j
    bend[:, i, j] = bend[:, j, i] = -both
    bend[:, np.arange(models), np.arange(models)] = both @ np.abs(sides) + RIDGE
    bend[:, :models, models] = bend[:, models, :models] = (bend_j - bend_i) @ sides
    bend[:, models, models] = both.sum(-1) + RIDGE

    # of log(e^2τ − 1), for each tie
    slope = 2 / -np.expm1(-2 * np.where(without_ties, 1.0, tau))
    tied = ties.sum(-1)
    gradient[:, models] += tied * slope
    bend[:, models, models] += tied * slope * (slope - 2)
    gradient[without_ties, models] = 0.0
    bend[without_ties, :models, models] = bend[without_ties, models, :models] = 0.0
    return gradient, bend
