"""Penalised logistic regression by Newton's method, on many samples at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float64]
Derivatives = tuple[Array, Array]  # gradients (batch, p) and negative Hessian matrices (batch, p, p)
STEPS = 100
LONGEST = 2.0  # nats in one step of any parameter: from far away, Newton's method overshoots


def derivatives(x: Array, design: Array, targets: Array | float, weights: Array, ridge: Array) -> Derivatives:
    """Of Σ w (y log σ(z) + (1 − y) log σ(−z)) − Σ ridge x² / 2 with z = design · x.

    x: (batch, p); design: (rows, p); targets y: (rows,) or 1; weights w: (batch, rows); ridge: (p,)
    """
    p = expit(x @ design.T)
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    curvature = ((weights * p * (1 - p)) @ products).reshape(*x.shape, x.shape[1])
    return (weights * (targets - p)) @ design - ridge * x, curvature + np.diag(ridge)


def maximise(
    of: Callable[[Array, NDArray[np.int64]], Derivatives],
    start: Array,
    tolerance: float,
    shorten: Callable[[Array, Array], Array] | None = None,
) -> Array:
    """The maxima, (batch, p), of many concave functions; those that have converged drop out of the batch.

    of: points (k, p) of the functions with these numbers (k,) -> derivatives; start: (batch, p)
    tolerance: of the last step, in any parameter; shorten: steps and points -> factors (k,) to divide the steps by
    """
    x = start.copy()
    moving = np.arange(len(x))
    for _ in range(STEPS):
        if not len(moving):
            break
        gradient, curvature = of(x[moving], moving)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        longest = np.abs(step).max(-1)
        factor = longest / LONGEST
        if shorten is not None:
            factor = np.maximum(factor, shorten(np.asarray(step, np.float64), x[moving]))
        x[moving] += step / np.maximum(1.0, factor)[:, None]
        moving = moving[longest > tolerance]
    return x
