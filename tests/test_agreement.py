"""Agreement statistics: published values, and definitions by counting pairs one by one."""

from itertools import combinations

import numpy as np
import pytest
from cases import cases
from hypothesis import assume, given
from hypothesis import strategies as st

from alignbench.labels import agreement
from alignbench.labels.agreement import agreeing_pairs, cohen_kappa, coincidences, fleiss_sums

CASES = cases("agreement")
LEVELS = ("nominal", "ordinal", "interval")
RATINGS = st.lists(st.lists(st.integers(0, 3), min_size=0, max_size=5), min_size=1, max_size=12)


def alpha(counts, level, values=None):
    return float(agreement.krippendorff_alpha(coincidences(counts).sum(0), level, values))


def fleiss(counts):
    return float(agreement.fleiss_kappa(fleiss_sums(counts).sum(0)))


def counted(units):
    return np.array([[unit.count(category) for category in "12345"] for unit in units])


def as_counts(units):
    return np.array([np.bincount(unit, minlength=4) for unit in units])


def test_published_values():
    for case in CASES["alpha"]:
        counts = counted(zip(*case["observers"], strict=True))
        found = {level: alpha(counts, level, range(1, 6)) for level in case["values"]}
        assert found == pytest.approx(case["values"], abs=5e-4)
    for case in CASES["fleiss"]:
        counts = counted(case["units"].split())
        same, pairs = agreeing_pairs(counts).sum(0)
        assert (same / pairs, fleiss(counts)) == pytest.approx((case["agreement"], case["kappa"]), abs=5e-5)
    for confusion, kappa in CASES["cohen"]:
        assert cohen_kappa(confusion) == pytest.approx(kappa, abs=5e-4, nan_ok=True)


@given(RATINGS, st.sampled_from(LEVELS))
def test_alpha_is_one_less_the_observed_over_the_expected_disagreement_of_units_with_two_labelers(every, level):
    values = [1.0, 2.0, 4.0, 8.0]
    units = [unit for unit in every if len(unit) > 1]
    pooled = [value for unit in units for value in unit]
    assume(len(set(pooled)) > 1)
    size = [pooled.count(value) for value in range(4)]

    def distance(a, b):
        a, b = min(a, b), max(a, b)
        middle_ranks = sum(size[a : b + 1]) - (size[a] + size[b]) / 2
        return {"nominal": a != b, "ordinal": middle_ranks**2, "interval": (values[a] - values[b]) ** 2}[level]

    n = len(pooled)
    observed = sum(2 * distance(a, b) / (len(unit) - 1) for unit in units for a, b in combinations(unit, 2)) / n
    expected = sum(2 * distance(a, b) for a, b in combinations(pooled, 2)) / (n * (n - 1))
    assert alpha(as_counts(every), level, values) == pytest.approx(1 - observed / expected, abs=1e-9)
    assert fleiss(as_counts(every)) == pytest.approx(fleiss(as_counts(units)), nan_ok=True)


@given(st.integers(2, 4).flatmap(lambda m: st.lists(st.lists(st.integers(0, 3), min_size=m, max_size=m), min_size=1)))
def test_without_missing_data_nominal_alpha_is_fleiss_kappa_with_a_small_sample_correction(units):
    counts = as_counts(units)
    assume((counts.sum(0) > 0).sum() > 1)
    kappa = fleiss(counts)
    assert alpha(counts, "nominal") == pytest.approx(kappa + (1 - kappa) / counts.sum(), abs=1e-9)


def test_a_single_category_has_agreement_but_no_kappa_and_no_alpha():
    counts = [[0, 3], [0, 2]]
    same, pairs = agreeing_pairs(counts).sum(0)
    assert same == pairs
    assert np.isnan([fleiss(counts), alpha(counts, "ordinal")]).all()
    assert alpha([[1, 1]] * 5, "nominal") < 0  # labelers who always differ


@given(st.lists(RATINGS, min_size=2, max_size=3), st.sampled_from(LEVELS))
def test_statistics_are_computed_for_many_resamples_at_once(samples, level):
    counts = [as_counts(units) for units in samples]
    tables, sums = (np.stack([own(each).sum(0) for each in counts]) for own in (coincidences, fleiss_sums))
    found = agreement.krippendorff_alpha(tables, level, range(4))
    assert found == pytest.approx([alpha(each, level, range(4)) for each in counts], nan_ok=True)
    assert agreement.fleiss_kappa(sums) == pytest.approx([fleiss(each) for each in counts], nan_ok=True)
