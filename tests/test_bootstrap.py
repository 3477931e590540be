"""The bootstrap's p-values say what its intervals say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.stats import bootstrap


@given(st.lists(st.integers(-3, 5), min_size=3, max_size=40), st.integers(0, 3))
@settings(deadline=None, max_examples=100)
def test_a_p_value_is_below_5_percent_exactly_where_the_interval_leaves_zero_out(values, seed):
    draws = bootstrap.resampled_means(np.array(values, float)[:, None], seed=seed, resamples=500)[:, 0]
    low, high = bootstrap.percentiles(draws, len(values))
    if not low <= np.mean(values) <= high:
        return
    p = bootstrap.p_value(float(np.mean(values)), draws, len(values))
    assert (p < 0.05) == (low > 0 or high < 0)
    assert 1 / 501 <= p <= 1


@pytest.mark.parametrize("make", ["normal", "uniform"])
@pytest.mark.parametrize("n", [8, 12, 50])
def test_where_nothing_changed_five_in_a_hundred_p_values_are_below_5_percent(make, n):
    random = np.random.default_rng(n)
    values = random.normal(size=(n, 2000)) if make == "normal" else random.uniform(-1, 1, (n, 2000))
    draws = bootstrap.resampled_means(values, resamples=2000)
    found = [bootstrap.p_value(values[:, k].mean(), draws[:, k], n) for k in range(2000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_the_further_zero_is_the_smaller_is_p():
    values = np.random.default_rng(0).normal(size=30)
    draws = bootstrap.resampled_means(values[:, None], resamples=2000)[:, 0]
    shifts = np.linspace(0.3, 1.5, 25)
    found = [bootstrap.p_value(values.mean() + shift, draws + shift, 30) for shift in shifts]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 1 / 2001
    assert bootstrap.p_value(-2.0, -2 + draws, 30) == bootstrap.p_value(2.0, 2 - draws, 30)


def test_no_change_has_a_p_value_of_one():
    assert bootstrap.p_value(0.0, np.zeros(100), 20) == 1


def test_the_share_below_is_the_inverse_of_a_quantile():
    draws = np.random.default_rng(1).normal(size=101)
    for bound in (-1.0, 0.0, 0.7):
        assert np.quantile(draws, bootstrap.share_below(draws, bound)) == pytest.approx(bound)
    assert (bootstrap.share_below(draws, -9), bootstrap.share_below(draws, 9)) == (0, 1)
