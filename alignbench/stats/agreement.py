"""Agreement of labelers: pure functions of counts.

A unit is an output or a pair of outputs. `counts`, (units, categories), is the number of labelers who chose each
category. A statistic that is a function of sums over units has a separate function for the sums, so that a bootstrap
can resample units.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]


def agreeing_pairs(counts: ArrayLike) -> Floats:
    """(units, 2): number of pairs of labelers who agree, and of all pairs, for each unit."""
    n = np.asarray(counts, np.float64)
    judges = n.sum(-1)
    return np.stack([(n * (n - 1)).sum(-1) / 2, judges * (judges - 1) / 2], -1)


def agreeing_across(counts: ArrayLike, others: ArrayLike) -> Floats:
    """(units, 2): the same for pairs of one labeler of each of two groups, given the counts of both groups."""
    a, b = np.asarray(counts, np.float64), np.asarray(others, np.float64)
    return np.stack([(a * b).sum(-1), a.sum(-1) * b.sum(-1)], -1)


def cohen_kappa(confusion: ArrayLike) -> Floats:
    """Cohen's kappa (1960) of two labelers. confusion: (…, categories, categories), counts of their categories.

    NaN if both use the same single category.
    """
    table = np.asarray(confusion, np.float64)
    total = table.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / total
        expected = (table.sum(-1) * table.sum(-2)).sum(-1) / total**2
        return _above_chance(observed, expected)


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa (1971). Units may have different numbers of labelers; those with fewer than two are ignored.

    NaN if all labelers use a single category.
    """
    return float(fleiss_kappa_of_sums(fleiss_sums(counts).sum(0)))


def fleiss_sums(counts: ArrayLike) -> Floats:
    """(units, 2 + categories): 1, the proportion of agreeing pairs, and the counts, for each unit with two labelers."""
    n = np.asarray(counts, np.float64)
    same, pairs = agreeing_pairs(n).T
    known = pairs > 0
    rates = np.divide(same, pairs, out=np.zeros_like(same), where=known)
    return np.column_stack([known, rates, n * known[:, None]])


def fleiss_kappa_of_sums(sums: ArrayLike) -> Floats:
    """(…, 2 + categories), `fleiss_sums` added up over units -> (…)."""
    units, same, n = np.split(np.asarray(sums, np.float64), [1, 2], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = n / n.sum(-1, keepdims=True)
        return _above_chance((same / units)[..., 0], (rates**2).sum(-1))


def krippendorff_alpha(counts: ArrayLike, level: Level, values: ArrayLike | None = None) -> float:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability"), with missing data.

    Categories are in ascending order for "ordinal"; values: (categories,) their numbers, for "interval".
    NaN if a single category is used.
    """
    return float(alpha_of_coincidences(coincidences(counts).sum(0), level, values))


def coincidences(counts: ArrayLike) -> Floats:
    """(units, categories, categories): pairs of values within a unit, weighted so that each value counts once."""
    n = np.asarray(counts, np.float64)
    judges = n.sum(-1)
    pairs = n[:, :, None] * n[:, None, :] - np.eye(n.shape[1]) * n[:, None, :]
    known = judges > 1
    pairs[known] /= (judges[known] - 1)[:, None, None]
    return np.asarray(pairs * known[:, None, None])


def alpha_of_coincidences(coincidence: ArrayLike, level: Level, values: ArrayLike | None = None) -> Floats:
    """(…, categories, categories), `coincidences` added up over units -> (…)."""
    table = np.asarray(coincidence, np.float64)
    n = table.sum(-1)
    if level == "nominal":
        distance = 1 - np.eye(table.shape[-1])
    else:
        # an ordinal distance is the difference of the categories' middle ranks
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
