"""Estimates, bootstrap and jackknife: exact cases, properties, and coverage in simulations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from alignbench.stats import bootstrap, estimates, jackknife


def test_means_have_the_textbook_t_interval_and_clustered_standard_errors():
    values = [1.0, 2.0, 4.0, 7.0, 3.0, 5.0, 6.0]
    found, error = estimates.mean(values), scipy_stats.sem(values)
    low, high = scipy_stats.t.interval(0.95, 6, 4.0, error)
    expected = estimates.Estimate(*map(pytest.approx, (4.0, error, low, high)), n=7, clusters=7)
    assert found == expected
    clipped = estimates.mean([0.98, 1.0, 0.2], bounds=(0, 1))
    assert (clipped.low, clipped.high) == (0.0, 1.0)
    assert estimates.mean([0.5]).low is estimates.mean([]).value is estimates.share([]).value is None
    # deviations from the mean 3: cluster a −2 −1, cluster b +1 +2; sums −3 and 3; 2/1 · (9 + 9) = 36; √36 / 4
    assert estimates.mean([1, 2, 4, 5], ["a", "a", "b", "b"]).standard_error == pytest.approx(1.5)
    values = np.random.default_rng(0).normal(size=40)
    once, thrice = estimates.mean(values), estimates.mean(np.repeat(values, 3), np.repeat(np.arange(40), 3).tolist())
    assert (thrice.standard_error, thrice.low) == pytest.approx((once.standard_error, once.low))  # no new evidence


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=60), st.booleans())
def test_the_interval_of_a_proportion_is_wilsons_and_lies_within_0_and_1(pairs, clustered):
    values, groups = zip(*pairs, strict=True)
    found = estimates.share(values, groups if clustered else None)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    found = estimates.share([1, 1, 1, 1, 1])  # five of five is no certainty
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.3 < found.low < 0.6
    found = estimates.share(np.r_[np.ones(300), np.zeros(700)])
    expected = scipy_stats.binomtest(300, 1000).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=5e-4)


def test_a_correlation_by_hand_and_where_there_is_none():
    found = estimates.correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])
    assert (found.value, found.low < 0.8 < found.high) == (pytest.approx(0.8), True)
    assert estimates.correlation([1, 1, 1, 1], [1, 2, 3, 4]).value is None
    assert estimates.correlation([1, 2], [1, 2]).value is None


def test_a_p_value_decreases_with_the_distance_from_zero():
    values = np.random.default_rng(0).normal(size=30)
    draws = bootstrap.resampled_sums(values[:, None], resamples=2000)[:, 0] / 30
    found = [bootstrap.p_value(values.mean() + x, draws + x, 30) for x in np.linspace(0.3, 1.5, 25)]
    assert (found, found[-1]) == (sorted(found, reverse=True), 1 / 2001)
    assert bootstrap.p_value(-2.0, -2 + draws, 30) == bootstrap.p_value(2.0, 2 - draws, 30)
    assert bootstrap.p_value(0.0, np.zeros(100), 20) == 1


def test_the_jackknife_error_of_a_mean_is_that_of_the_means_of_its_groups():
    x = np.random.default_rng(0).normal(size=jackknife.GROUPS * 30)
    replicates = jackknife.replicates(lambda rows: {"mean": x[rows].mean()}, np.arange(len(x)))["mean"]
    found = jackknife.estimate(float(x.mean()), replicates, len(x), len(x))
    means = x.reshape(-1, jackknife.GROUPS).mean(axis=0)
    assert found.standard_error == pytest.approx(means.std(ddof=1) / np.sqrt(jackknife.GROUPS))
    assert jackknife.estimate(0.0, jackknife.MISSING, 9, 9) == estimates.Estimate(0.0, n=9, clusters=9)


@given(st.lists(st.integers(-3, 5), min_size=3, max_size=40), st.integers(0, 3))
def test_a_p_value_is_below_5_percent_exactly_if_the_interval_excludes_zero(values, seed):
    draws = bootstrap.resampled_sums(np.array(values, float)[:, None], seed=seed, resamples=500)[:, 0] / len(values)
    low, high = bootstrap.percentiles(draws, len(values))
    if low <= np.mean(values) <= high:
        p = bootstrap.p_value(float(np.mean(values)), draws, len(values))
        assert (p < 0.05) == (low > 0 or high < 0)
        assert 1 / 501 <= p <= 1


@pytest.mark.slow
@pytest.mark.parametrize("make", [np.random.Generator.normal, lambda random, size: random.uniform(-1, 1, size)])
@pytest.mark.parametrize("n", [8, 12, 50])
def test_without_a_change_5_percent_of_bootstrap_p_values_are_below_5_percent(make, n):
    values = make(np.random.default_rng(n), size=(n, 2000))
    draws = bootstrap.resampled_sums(values, resamples=2000) / n
    found = [bootstrap.p_value(values[:, k].mean(), draws[:, k], n) for k in range(2000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.015)
