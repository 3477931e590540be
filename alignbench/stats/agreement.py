"""How far labelers agree: pure functions over counts.

Units are what was judged (an output, or a pair of outputs), categories what can be said of them. `counts`, (units,
categories), holds how many labelers said what. Where a statistic is a function of sums over units, the sums have a
function of their own, so that a bootstrap can draw units without going back to the labels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]


def agreeing_pairs(counts: ArrayLike) -> Floats:
    """(units, 2): pairs of labelers who said the same, and all pairs of labelers, of each unit."""
    n = np.asarray(counts, np.float64)
    judges = n.sum(-1)
    return np.stack([(n * (n - 1)).sum(-1) / 2, judges * (judges - 1) / 2], -1)


def agreeing_across(counts: ArrayLike, others: ArrayLike) -> Floats:
    """(units, 2): the same for pairs of one labeler from each of two groups, with counts of their own."""
    a, b = np.asarray(counts, np.float64), np.asarray(others, np.float64)
    return np.stack([(a * b).sum(-1), a.sum(-1) * b.sum(-1)], -1)


def cohen_kappa(confusion: ArrayLike) -> Floats:
    """Cohen's kappa (1960) of two labelers. confusion: (…, categories, categories), what the one and the other said.

    NaN where chance alone would agree always: both use a single category.
    """
    table = np.asarray(confusion, np.float64)
    total = table.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / total
        expected = (table.sum(-1) * table.sum(-2)).sum(-1) / total**2
        return _above_chance(observed, expected)


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa (1971). Units may have different numbers of labelers; those with fewer than two are left out.

    NaN where all labelers use a single category.
    """
    return float(fleiss_kappa_of_sums(fleiss_sums(counts).sum(0)))


def fleiss_sums(counts: ArrayLike) -> Floats:
    """(units, 2 + categories): 1, the share of agreeing pairs, and the counts, of each unit with two labelers."""
    n = np.asarray(counts, np.float64)
    same, pairs = agreeing_pairs(n).T
    there = pairs > 0
    shares = np.divide(same, pairs, out=np.zeros_like(same), where=there)
    return np.column_stack([there, shares, n * there[:, None]])


def fleiss_kappa_of_sums(sums: ArrayLike) -> Floats:
    """(…, 2 + categories), `fleiss_sums` added up over units -> (…)."""
    units, same, n = np.split(np.asarray(sums, np.float64), [1, 2], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = n / n.sum(-1, keepdims=True)
        return _above_chance((same / units)[..., 0], (share**2).sum(-1))


def krippendorff_alpha(counts: ArrayLike, level: Level, values: ArrayLike | None = None) -> float:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability"); labelers may be missing anywhere.

    The categories stand in their order for "ordinal"; values: (categories,) their numbers, for "interval".
    NaN where a single category is used.
    """
    return float(alpha_of_coincidences(coincidences(counts).sum(0), level, values))


def coincidences(counts: ArrayLike) -> Floats:
    """(units, categories, categories): pairs of values within a unit, weighted so that each value counts once."""
    n = np.asarray(counts, np.float64)
    judges = n.sum(-1)
    pairs = n[:, :, None] * n[:, None, :] - np.eye(n.shape[1]) * n[:, None, :]
    there = judges > 1
    pairs[there] /= (judges[there] - 1)[:, None, None]
    return np.asarray(pairs * there[:, None, None])


def alpha_of_coincidences(coincidence: ArrayLike, level: Level, values: ArrayLike | None = None) -> Floats:
    """(…, categories, categories), `coincidences` added up over units -> (…)."""
    table = np.asarray(coincidence, np.float64)
    n = table.sum(-1)
    if level == "nominal":
        distance = 1 - np.eye(table.shape[-1])
    else:
        # an ordinal distance counts the values between two ranks: the difference of the categories' middle ranks
        place = np.cumsum(n, -1) - n / 2 if level == "ordinal" else np.asarray(values, np.float64)
        distance = (place[..., :, None] - place[..., None, :]) ** 2
    total = n.sum(-1)
    expected = (n[..., :, None] * n[..., None, :] * distance).sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (total - 1) * (table * distance).sum((-2, -1)) / expected
    return np.asarray(np.where(expected > 0, alpha, np.nan))


def _above_chance(observed: Floats, expected: Floats) -> Floats:
    kappa = (observed - expected) / (1 - expected)
    return np.asarray(np.where(np.isclose(expected, 1, rtol=0, atol=1e-12), np.nan, kappa))
