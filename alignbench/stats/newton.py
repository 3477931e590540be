"""Newton's method on many concave functions at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STEPS = 100
LONGEST = 2.0  # of one step in any parameter: from far away, Newton's method overshoots


def maximise(
    derivatives: Callable[[Array, NDArray[np.int64]], tuple[Array, Array]],
    start: Array,
    tolerance: float,
    shortening: Callable[[Array, Array], Array] | None = None,
) -> Array:
    """The maxima, (batch, parameters). Functions that have converged drop out of the batch.

    derivatives: points (k, parameters) of the functions with these numbers (k,) -> their gradients (k, parameters) and
        negative Hessian matrices (k, parameters, parameters)
    start: (batch, parameters); tolerance: of each parameter in the last step
    shortening: steps and points (k, parameters) -> further factors (k,) to divide the steps by
    """
    x = start.copy()
    moving = np.arange(len(x))
    for _ in range(STEPS):
        if not len(moving):
            break
        gradient, curvature = derivatives(x[moving], moving)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        longest = np.abs(step).max(-1)
        factor = longest / LONGEST
        if shortening is not None:
            factor = np.maximum(factor, shortening(step, x[moving]))
        x[moving] += step / np.maximum(1.0, factor)[:, None]
        moving = moving[longest > tolerance]
    return x
