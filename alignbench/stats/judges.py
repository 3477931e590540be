"""Rates from the verdicts of an imperfect judge, corrected with a labelled sample. Pure functions.

Lee et al. 2025 (arXiv 2511.21140), sections 3 and 4: the judge says "positive" on a share p of n units; on labelled
units its specificity is q0, estimated from m0 negatives, and its sensitivity q1, from m1 positives. The true rate is
(p + q0 − 1) / (q0 + q1 − 1), the estimator of Rogan and Gladen (1978).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alignbench.stats.estimates import NORMAL_QUANTILE, Estimate, Groups, cluster_numbers

MOST = 2**24  # labels: more are not asked for


class Rate(NamedTuple):
    """A proportion, and the number of independent units that it was estimated from."""

    value: float
    size: float


def rate(values: ArrayLike, groups: Groups = None, weights: ArrayLike | None = None) -> Rate | None:
    """The weighted mean of (n,) values in [0, 1], ties ½; None without weight.

    size: the number of independent binary values that would have its clustered variance (Korn & Graubard 1998)
    """
    x = np.asarray(values, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if not w.sum():
        return None
    cluster = cluster_numbers(groups, len(x))
    value = float(w @ x / w.sum())
    inside = np.bincount(cluster, w)
    count = int((inside > 0).sum())
    variance = float((np.bincount(cluster, w * (x - value)) ** 2).sum()) / w.sum() ** 2
    variance *= count / (count - 1) if count > 1 else 0
    if variance <= 1e-12:  # all values are equal
        return Rate(value, float(np.minimum(inside, 1).sum()))
    return Rate(value, value * (1 - value) / variance)


def corrected_rate(judged: Rate, specificity: Rate, sensitivity: Rate) -> Estimate:
    """The true rate, clipped to [0, 1], with the adjusted 95 % interval of the paper's section 4: z²/2 and 1 are added
    to the successes and failures of p, and of q0 and q1. The labelled units are no part of the judged ones.

    No value if the judge is not better than chance, and the whole of [0, 1] if it hardly is.
    """
    z, n = NORMAL_QUANTILE, round(judged.size)
    power = specificity.value + sensitivity.value - 1
    if power <= 0:
        return Estimate(n=n)
    value = min(max((judged.value + specificity.value - 1) / power, 0.0), 1.0)
    p, n0 = _smoothed(judged, z**2 / 2)
    (q0, m0), (q1, m1) = _smoothed(specificity, 1), _smoothed(sensitivity, 1)
    if q0 + q1 <= 1:
        return Estimate(value, None, 0.0, 1.0, n)
    theta = (p + q0 - 1) / (q0 + q1 - 1)
    negative, positive = q0 * (1 - q0) / m0, q1 * (1 - q1) / m1  # variances
    centre = theta + 2 * z**2 * (theta * positive - (1 - theta) * negative)
    error = math.sqrt(p * (1 - p) / n0 + (1 - theta) ** 2 * negative + theta**2 * positive) / (q0 + q1 - 1)
    low, high = (min(max(end, 0.0), 1.0) for end in (centre - z * error, centre + z * error))
    return Estimate(value, error, low, high, n)


def _smoothed(own: Rate, added: float) -> Rate:
    return Rate((own.value * own.size + added) / (own.size + 2 * added), own.size + 2 * added)


def labels_needed(width: float, judged: Rate, specificity: Rate, sensitivity: Rate) -> int | None:
    """The least number of labels, on units drawn at random, for a corrected rate whose interval has this width; None if
    no number is enough, since too few units are judged or the judge is hardly better than chance."""
    theta = corrected_rate(judged, specificity, sensitivity).value
    if theta is None:
        return None
    share = min(max(theta, 0.02), 0.98)  # of positives among the labels

    def too_wide(labels: int) -> bool:
        own = specificity._replace(size=labels * (1 - share)), sensitivity._replace(size=labels * share)
        found = corrected_rate(judged, *own)
        return found.low is None or found.high is None or found.high - found.low > width

    low, high = 1, MOST
    if too_wide(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if too_wide(middle) else (low, middle)
    return low


def labels_without_judge(width: float, value: float) -> int:
    """The number of labels for an interval of this width of the same rate by people alone (normal approximation)."""
    return max(1, math.ceil(value * (1 - value) * (2 * NORMAL_QUANTILE / width) ** 2))
