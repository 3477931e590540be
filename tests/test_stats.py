"""Intervals are honest: exact small cases, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from alignbench.stats import estimates


def test_mean_of_independent_values_is_the_textbook_t_interval():
    values = [1.0, 2.0, 4.0, 7.0]
    found = estimates.mean(values)
    low, high = scipy_stats.t.interval(0.95, 3, np.mean(values), scipy_stats.sem(values))
    assert found.value == pytest.approx(3.5)
    assert found.standard_error == pytest.approx(scipy_stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.n, found.clusters) == (4, 4)


def test_clustered_standard_error_by_hand():
    # deviations from the mean 3: cluster a −2 −1, cluster b +1 +2; sums −3 and 3; 2/1 · (9 + 9) = 36; √36 / 4
    found = estimates.mean([1, 2, 4, 5], ["a", "a", "b", "b"])
    assert found.standard_error == pytest.approx(1.5)
    assert found.clusters == 2


def test_documents_that_repeat_each_other_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=40)
    once = estimates.mean(values)
    thrice = estimates.mean(np.repeat(values, 3), np.repeat(np.arange(40), 3).tolist())
    assert thrice.standard_error == pytest.approx(once.standard_error)
    assert thrice.low == pytest.approx(once.low)


def test_an_interval_stays_within_the_metrics_range():
    found = estimates.mean([0.98, 1.0, 0.2], bounds=(0, 1))
    assert found.high == 1.0
    assert found.low == 0.0


def test_one_value_has_no_interval_and_none_has_no_value():
    assert estimates.mean([0.5]).low is None
    assert estimates.mean([]).value is None
    assert estimates.share([]).value is None


def test_five_of_five_right_is_not_certainty():
    found = estimates.share([1, 1, 1, 1, 1])
    assert found.value == 1.0
    assert found.high == 1.0
    assert 0.3 < found.low < 0.6


def test_share_of_many_independent_values_is_wilsons_interval():
    values = np.r_[np.ones(300), np.zeros(700)]
    found = estimates.share(values)
    expected = scipy_stats.binomtest(300, 1000).proportion_ci(0.95, method="wilson")
    assert found.low == pytest.approx(expected.low, abs=5e-4)
    assert found.high == pytest.approx(expected.high, abs=5e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_share_lies_within_its_interval_and_the_interval_within_0_and_1(values):
    found = estimates.share(values)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=60))
def test_clustered_shares_have_intervals_too(pairs):
    found = estimates.share([value for value, _ in pairs], [group for _, group in pairs])
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


@pytest.mark.parametrize("n", [50, 200, 800])
def test_95_percent_intervals_hold_the_truth_95_percent_of_the_time(n):
    draw = np.random.default_rng(n)
    simulations = 2000
    entropy = draw.beta(0.8, 0.6, (simulations, n))
    held = [f.low <= 0.8 / 1.4 <= f.high for f in map(estimates.mean, entropy)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
    right = draw.random((simulations, n)) < 0.3
    held = [f.low <= 0.3 <= f.high for f in map(estimates.share, right)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("clusters", [50, 200])
def test_clustered_intervals_hold_the_truth_where_plain_ones_fail(clusters):
    draw = np.random.default_rng(clusters)
    groups = np.repeat(np.arange(clusters), 4).tolist()
    clustered = plain = 0
    for _ in range(2000):
        values = np.repeat(draw.normal(size=clusters), 4) + draw.normal(size=4 * clusters) * 0.5
        found = estimates.mean(values, groups)
        clustered += found.low <= 0 <= found.high
        naive = estimates.mean(values)
        plain += naive.low <= 0 <= naive.high
    assert clustered / 2000 == pytest.approx(0.95, abs=0.015)
    assert plain / 2000 < 0.85


def test_correlation_by_hand_and_where_it_has_no_meaning():
    found = estimates.correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])
    assert found.value == pytest.approx(0.8)
    assert found.low < 0.8 < found.high
    assert estimates.correlation([1, 1, 1, 1], [1, 2, 3, 4]).value is None
    assert estimates.correlation([1, 2], [1, 2]).value is None
