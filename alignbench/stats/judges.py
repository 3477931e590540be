"""Rates from the verdicts of an imperfect judge, corrected with a labelled sample. Pure functions.

Lee et al. 2025 (arXiv 2511.21140): the judge says "positive" on a share p of n units. On labelled units its specificity
is q0, estimated from m0 negatives, and its sensitivity q1, from m1 positives. The true rate is
θ = (p + q0 − 1) / (q0 + q1 − 1), the estimator of Rogan and Gladen (1978).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alignbench.stats.estimates import NORMAL_QUANTILE, Estimate, Groups, cluster_numbers


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
    value, inside = float(w @ x / w.sum()), np.bincount(cluster, w)
    count = int((inside > 0).sum())
    variance = float((np.bincount(cluster, w * (x - value)) ** 2).sum()) / w.sum() ** 2 * count / max(count - 1, 1)
    if count < 2 or variance < 1e-12:  # a cluster of equal values is as informative as one value
        return Rate(value, float(np.minimum(inside, 1).sum()))
    return Rate(value, value * (1 - value) / variance)


def corrected_rate(judged: Rate, specificity: Rate, sensitivity: Rate) -> Estimate:
    """θ, clipped to [0, 1], with the paper's adjusted 95 % interval: z²/2 successes and failures are added to p, and
    one of each to q0 and q1. The labelled units are no part of the judged ones.

    No value if the judge is not better than chance, and the interval [0, 1] if with one more of each it is not. No
    interval if all of it is outside [0, 1]: the labelled units are no random sample of all.
    """
    z, n, power = NORMAL_QUANTILE, round(judged.size), specificity.value + sensitivity.value - 1
    if power <= 0:
        return Estimate(n=n)
    value = min(max((judged.value + specificity.value - 1) / power, 0.0), 1.0)
    (p, size), (q0, m0), (q1, m1) = _with(judged, z**2 / 2), _with(specificity, 1), _with(sensitivity, 1)
    if q0 + q1 <= 1:
        return Estimate(value, None, 0.0, 1.0, n)
    theta = (p + q0 - 1) / (q0 + q1 - 1)
    negative, positive = q0 * (1 - q0) / m0, q1 * (1 - q1) / m1  # variances
    centre = theta + 2 * z**2 * (theta * positive - (1 - theta) * negative)
    error = math.sqrt(p * (1 - p) / size + (1 - theta) ** 2 * negative + theta**2 * positive) / (q0 + q1 - 1)
    low, high = (min(max(end, 0.0), 1.0) for end in (centre - z * error, centre + z * error))
    return Estimate(value, error, low, high, n) if low < high else Estimate(value, n=n)


def _with(own: Rate, added: float) -> Rate:
    size = own.size + 2 * added
    return Rate((own.value * own.size + added) / size, size)


def labels_needed(width: float, true: float, specificity: Rate, sensitivity: Rate, labels: int) -> int | None:
    """The number of labels for a corrected rate with an interval of this width, if any number of units can be judged;
    None if the judge is not better than chance. true: the expected rate; labels: the number that both rates were
    estimated from, with the same proportion of ties and as many units of a prompt as further ones have"""
    (q0, m0), (q1, m1) = specificity, sensitivity
    power, variance = q0 + q1 - 1, (1 - true) ** 2 * q0 * (1 - q0) / m0 + true**2 * q1 * (1 - q1) / m1
    return math.ceil(labels * variance * (2 * NORMAL_QUANTILE / (width * power)) ** 2) if power > 0 else None


def labels_without_judge(width: float, true: Rate, labels: int) -> int:
    """The number of labels for an interval of this width of the rate by people alone, which is `true` by `labels`."""
    return math.ceil(labels * true.value * (1 - true.value) / true.size * (2 * NORMAL_QUANTILE / width) ** 2)
