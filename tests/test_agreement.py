"""Agreement statistics: worked examples of the literature, and definitions by counting pairs one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alignbench.stats.agreement import (
    agreeing_pairs,
    alpha_of_coincidences,
    cohen_kappa,
    coincidences,
    fleiss_kappa,
    fleiss_kappa_of_sums,
    fleiss_sums,
    krippendorff_alpha,
)

_ = None
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", part C: 4 observers, 12 units, missing data
KRIPPENDORFF_2011 = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3),
    (_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _),
)
# Wikipedia, "Krippendorff's alpha", a computational example: 3 coders, 15 units, missing data
THREE_CODERS = (
    (_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3),
    (1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _),
    (_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4),
)
# Fleiss 1971, "Measuring nominal scale agreement among many raters", Table 1: each patient's six diagnoses, of
# 1 depression, 2 personality disorder, 3 schizophrenia, 4 neurosis, 5 other
FLEISS_1971 = (
    "444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444 224445 "
    "333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"
)
# Cardillo 2007 and Wikipedia, "Fleiss' kappa": 14 raters, 10 subjects, 5 categories
FOURTEEN_RATERS = (
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
)  # fmt: skip


def counted(observers, categories):
    """(units, categories) from one row of values 1 … categories per observer."""
    units = zip(*observers, strict=True)
    return np.array([[unit.count(category) for category in range(1, categories + 1)] for unit in units])


@pytest.mark.parametrize(
    ("observers", "categories", "level", "alpha"),
    [
        *((KRIPPENDORFF_2011, 5, *row) for row in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849))),
        *((THREE_CODERS, 4, *row) for row in (("nominal", 0.691), ("interval", 0.811))),
    ],
)
def test_published_values_of_krippendorffs_alpha(observers, categories, level, alpha):
    values = list(range(1, categories + 1))
    assert krippendorff_alpha(counted(observers, categories), level, values) == pytest.approx(alpha, abs=5e-4)


def test_published_values_of_fleiss_kappa():
    patients = FLEISS_1971.split()
    assert len(patients) == 30
    counts = [[patient.count(str(category)) for category in range(1, 6)] for patient in patients]
    assert fleiss_kappa(counts) == pytest.approx(0.430, abs=5e-4)
    same, pairs = agreeing_pairs(counts).sum(0)
    assert same / pairs == pytest.approx(0.5556, abs=5e-5)
    assert fleiss_kappa(FOURTEEN_RATERS) == pytest.approx(0.2099, abs=5e-5)


@pytest.mark.parametrize(
    ("confusion", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # Wikipedia, "Cohen's kappa": 50 grant proposals
        ([[45, 15], [25, 15]], 0.1304),  # there, the same percentage with other marginals
        ([[25, 35], [5, 35]], 0.2593),
        ([[20, 20], [10, 50]], 0.348),  # Artstein & Poesio 2008, Table 1
        ([[46, 0, 0], [6, 32, 6], [0, 0, 10]], 0.8013),  # there, Table 4
        ([[0, 5], [5, 0]], -1),
        ([[0, 0], [0, 9]], np.nan),  # a single category
    ],
)
def test_published_values_of_cohens_kappa(confusion, kappa):
    assert cohen_kappa(confusion) == pytest.approx(kappa, abs=5e-4, nan_ok=True)


ratings = st.lists(st.lists(st.integers(0, 3), min_size=0, max_size=5), min_size=1, max_size=12)


def as_counts(units):
    return np.array([np.bincount(unit, minlength=4) for unit in units])


@given(ratings, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_one_less_the_observed_over_the_expected_disagreement(units, level):
    values = [1.0, 2.0, 4.0, 8.0]
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]
    assume(len(set(pooled)) > 1)
    size = [pooled.count(value) for value in range(4)]

    def distance(a, b):
        a, b = min(a, b), max(a, b)
        if level == "nominal":
            return float(a != b)
        if level == "ordinal":
            return (sum(size[a : b + 1]) - (size[a] + size[b]) / 2) ** 2
        return (values[a] - values[b]) ** 2

    n = len(pooled)
    observed = sum(2 * distance(a, b) / (len(unit) - 1) for unit in units for a, b in combinations(unit, 2)) / n
    expected = sum(2 * distance(a, b) for a, b in combinations(pooled, 2)) / (n * (n - 1))
    assert krippendorff_alpha(as_counts(units), level, values) == pytest.approx(1 - observed / expected, abs=1e-9)


@given(st.integers(2, 4).flatmap(lambda m: st.lists(st.lists(st.integers(0, 3), min_size=m, max_size=m), min_size=1)))
def test_without_missing_data_nominal_alpha_is_fleiss_kappa_with_a_small_sample_correction(units):
    counts = as_counts(units)
    assume((counts.sum(0) > 0).sum() > 1)
    kappa = fleiss_kappa(counts)
    assert krippendorff_alpha(counts, "nominal") == pytest.approx(kappa + (1 - kappa) / counts.sum(), abs=1e-9)


@given(ratings)
def test_units_with_fewer_than_two_labelers_are_ignored(units):
    fewer = [unit for unit in units if len(unit) > 1]
    assume(fewer)
    for statistic in (fleiss_kappa, lambda counts: krippendorff_alpha(counts, "nominal")):
        assert statistic(as_counts(units)) == pytest.approx(statistic(as_counts(fewer)), nan_ok=True)


def test_a_single_category_has_agreement_but_no_kappa_and_no_alpha():
    counts = [[0, 3], [0, 2]]
    same, pairs = agreeing_pairs(counts).sum(0)
    assert same == pairs
    assert np.isnan(fleiss_kappa(counts))
    assert np.isnan(krippendorff_alpha(counts, "ordinal"))
    assert krippendorff_alpha([[1, 1]] * 5, "nominal") < 0  # labelers who always differ


def test_statistics_of_sums_are_computed_for_many_resamples_at_once():
    counts = counted(KRIPPENDORFF_2011, 5)
    twice = np.stack([coincidences(counts).sum(0), coincidences(counts[:8]).sum(0)])
    for level in ("nominal", "ordinal"):
        alone = [krippendorff_alpha(counts, level), krippendorff_alpha(counts[:8], level)]
        assert alpha_of_coincidences(twice, level).tolist() == pytest.approx(alone)
    sums = np.stack([fleiss_sums(counts).sum(0), fleiss_sums(counts[:8]).sum(0)])
    assert fleiss_kappa_of_sums(sums).tolist() == pytest.approx([fleiss_kappa(counts), fleiss_kappa(counts[:8])])
