"""Win rates: ties, orders, length, and what the intervals say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.optimize import minimize
from scipy.special import expit, logit

from alignbench.errors import AlignbenchError
from alignbench.stats import estimates, length_control
from alignbench.stats.length_control import length_controlled
from alignbench.stats.win_rate import (
    Battle,
    adjusted,
    nearly_all_agree,
    win_rate,
)

OUTCOMES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=30)


def test_a_tie_is_half_a_win():
    found = win_rate([1, 1, 1, 0.5, 0.5, 0, 0, 1, 0, 0.5])
    assert found.rate.value == pytest.approx((4 + 1.5) / 10)
    assert (found.wins, found.ties, found.losses) == (4, 3, 3)


def test_without_ties_the_interval_is_close_to_the_textbooks():
    found = win_rate([1] * 240 + [0] * 160)
    expected = scipy_stats.binomtest(240, 400).proportion_ci(0.95, method="wilson")
    assert found.rate.low == pytest.approx(expected.low, abs=0.005)
    assert found.rate.high == pytest.approx(expected.high, abs=0.005)


@pytest.mark.parametrize("outcome", [1.0, 0.5, 0.0])
def test_where_all_agree_the_interval_has_a_width(outcome):
    found = win_rate([outcome] * 40)
    assert found.interval == "adjusted"
    assert found.rate.value == outcome
    assert found.rate.low <= outcome <= found.rate.high
    assert 0.03 < found.rate.high - found.rate.low < 0.15


def test_nine_dissenters_are_too_few_for_a_bootstrap_and_ten_are_enough():
    assert win_rate([1] * 41 + [0] * 9).interval == "adjusted"
    assert win_rate([1] * 40 + [0] * 10).interval == "bootstrap"
    assert win_rate([0.5] * 91 + [1] * 9).interval == "adjusted"


def test_the_adjusted_interval_is_the_t_interval_with_a_win_and_a_loss_more():
    outcomes = [1] * 46 + [0.5] * 3 + [0]
    more = np.array([*outcomes, 1, 0])
    reach = scipy_stats.t.ppf(0.975, 51) * more.std() / np.sqrt(52)
    found = adjusted(outcomes)
    assert found.value == pytest.approx(0.95)
    assert (found.low, found.high) == (pytest.approx(more.mean() - reach), pytest.approx(min(1, more.mean() + reach)))


def test_the_adjusted_interval_knows_groups():
    outcomes = np.array([1] * 18 + [0.5, 0])
    samples = np.repeat(np.arange(20), 4)
    once, again = adjusted(outcomes), adjusted(outcomes[samples], samples.tolist())
    assert (again.low, again.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert (again.n, again.clusters) == (80, 20)


def test_prompts_that_all_split_evenly_leave_a_bootstrap_without_width_too():
    found = win_rate([1, 0] * 20, [prompt for prompt in range(20) for _ in "ab"])
    assert found.interval == "adjusted"
    assert found.rate.low < 0.5 < found.rate.high


def test_outputs_of_one_prompt_are_no_new_evidence():
    random = np.random.default_rng(0)
    outcomes = random.choice([0, 0.5, 1], 100, p=[0.3, 0.2, 0.5])
    once = win_rate(outcomes)
    thrice = win_rate(np.repeat(outcomes, 3), np.repeat(np.arange(100), 3).tolist())
    assert thrice.rate.value == pytest.approx(once.rate.value)
    assert thrice.rate.low == pytest.approx(once.rate.low)
    assert thrice.rate.high == pytest.approx(once.rate.high)


@given(OUTCOMES)
@settings(deadline=None, max_examples=30)
def test_what_one_wins_the_other_loses(outcomes):
    ours = win_rate(outcomes, resamples=200).rate
    theirs = win_rate(1 - np.array(outcomes), resamples=200).rate
    assert theirs.value == pytest.approx(1 - ours.value)
    assert theirs.low == pytest.approx(1 - ours.high)
    assert 0 <= ours.low <= ours.value + 1e-12
    assert ours.value - 1e-12 <= ours.high <= 1


def test_no_battles_have_no_win_rate():
    found = win_rate([])
    assert found.rate == estimates.Estimate(None, None, None, None, 0, 0)
    assert length_controlled([], []).value is None
    assert nearly_all_agree([])


def test_a_battle_has_two_models_and_one_of_three_outcomes():
    with pytest.raises(AlignbenchError, match=r"'p3'.*outcome is 0\.7"):
        Battle("p3", "ours", "base", 0.7, 10, 20)
    with pytest.raises(AlignbenchError, match="itself"):
        Battle("p3", "ours", "ours", 1.0, 10, 20)


# length control


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-500, 500)), min_size=2, max_size=40))
@settings(deadline=None, max_examples=60)
def test_length_control_is_antisymmetric(rows):
    outcomes, lengths = np.array(rows, float).T
    ours = length_controlled(outcomes, lengths, resamples=100)
    theirs = length_controlled(1 - outcomes, -lengths, resamples=100)
    assert theirs.value == pytest.approx(1 - ours.value, abs=1e-12)
    assert theirs.low == pytest.approx(1 - ours.high, abs=1e-9)
    assert theirs.high == pytest.approx(1 - ours.low, abs=1e-9)
    assert 0 <= ours.value <= 1


def test_a_model_against_itself_has_half():
    assert length_controlled([0.5] * 30, [0] * 30).value == 0.5
    # its own samples: each verdict's mirror image is there too
    outcomes, lengths = np.array([1, 1, 0.5, 0, 1, 1]), np.array([40, 60, 5, 20, -10, 90])
    both = length_controlled(np.r_[outcomes, 1 - outcomes], np.r_[lengths, -lengths])
    assert both.value == pytest.approx(0.5, abs=1e-12)


@given(OUTCOMES, st.integers(-3, 3))
@settings(deadline=None, max_examples=30)
def test_at_equal_lengths_it_is_the_raw_win_rate(outcomes, same_difference):
    # a difference that is always the same explains nothing either
    found = length_controlled(outcomes, [same_difference] * len(outcomes), resamples=100)
    assert found.value == pytest.approx(np.mean(outcomes), abs=1e-9)


def test_at_equal_lengths_the_interval_is_the_raw_one_too():
    outcomes = np.random.default_rng(1).choice([0, 0.5, 1], 120, p=[0.3, 0.2, 0.5])
    found, raw = length_controlled(outcomes, np.zeros(120)), win_rate(outcomes).rate
    assert (found.low, found.high) == (pytest.approx(raw.low, abs=1e-6), pytest.approx(raw.high, abs=1e-6))


def test_units_of_length_do_not_matter():
    random = np.random.default_rng(2)
    outcomes, lengths = random.choice([0, 0.5, 1], 80), random.normal(30, 50, 80)
    characters = length_controlled(outcomes, lengths, resamples=100)
    words = length_controlled(outcomes, lengths / 5, resamples=100)
    assert words.value == pytest.approx(characters.value, abs=1e-9)


def test_a_judge_of_length_alone_gives_a_longer_model_no_credit():
    random = np.random.default_rng(3)
    lengths = random.normal(120, 200, 4000)
    outcomes = 1.0 * (random.random(4000) < expit(2 * np.tanh(lengths / 200)))
    assert np.mean(outcomes) > 0.65
    found = length_controlled(outcomes, lengths, resamples=500)
    assert found.value == pytest.approx(0.5, abs=0.03)
    assert found.low < 0.5 < found.high


def test_a_better_model_that_is_shorter_gets_back_what_its_length_cost():
    random = np.random.default_rng(4)
    lengths = random.normal(-120, 200, 4000)
    outcomes = 1.0 * (random.random(4000) < expit(0.8 + 2 * np.tanh(lengths / 200)))
    assert length_controlled(outcomes, lengths, resamples=100).value == pytest.approx(expit(0.8), abs=0.03)
    assert np.mean(outcomes) < expit(0.8) - 0.1


def test_a_judge_that_always_takes_the_longer_separates_the_data_and_the_fit_still_ends():
    lengths = np.random.default_rng(5).normal(100, 200, 300)
    outcomes = np.where(lengths > 0, 1.0, 0.0)
    found = length_controlled(outcomes, lengths, resamples=200)
    assert np.isfinite([found.low, found.value, found.high]).all()
    assert abs(found.value - 0.5) < np.mean(outcomes) - 0.5


def test_where_one_model_always_wins_length_explains_nothing():
    found = length_controlled([1] * 30, np.arange(30) - 10)
    assert found.value == 1
    assert found.low < 0.95


@pytest.mark.parametrize("losses", [1, 3, 9])
def test_where_nearly_all_agree_the_length_controlled_interval_is_no_narrower_than_the_raw_one(losses):
    outcomes, lengths = np.r_[np.ones(60 - losses), np.zeros(losses)], np.random.default_rng(9).normal(0, 50, 60)
    found, raw = length_controlled(outcomes, lengths, resamples=200), adjusted(outcomes)
    value, rate, found_low, raw_low = logit([found.value, raw.value, found.low, raw.low])
    assert value - found_low >= rate - raw_low - 1e-9
    assert found.low < found.value < found.high <= 1


def test_the_fit_is_the_optimum_of_the_stated_likelihood():
    random = np.random.default_rng(6)
    preferred, lengths = random.choice([-1.0, 0.0, 1.0], 60), np.tanh(random.normal(0.4, 1, 60))

    def loss(x):
        z, y = x[0] + x[1] * lengths, (1 + preferred) / 2
        return -(y * np.log(expit(z)) + (1 - y) * np.log(expit(-z))).sum() + length_control.RIDGE / 2 * x[1] ** 2

    expected = minimize(loss, np.zeros(2), tol=1e-10).x
    theta, phi = length_control.fit(preferred, lengths, np.ones((1, 60)))
    assert [theta[0], phi[0]] == pytest.approx(expected, abs=1e-4)


def test_all_resamples_at_once_are_the_fits_one_by_one():
    random = np.random.default_rng(7)
    preferred, lengths = random.choice([-1.0, 0.0, 1.0], 12, p=[0.1, 0.2, 0.7]), np.tanh(random.normal(0.4, 1, 12))
    weights = random.multinomial(12, np.full(12, 1 / 12), 50).astype(float)
    weights[0] = preferred == 1  # a resample of wins alone
    together, _ = length_control.fit(preferred, lengths, weights, start=(0.5, 0.2))
    alone = [length_control.fit(preferred, lengths, row[None])[0][0] for row in weights]
    assert together[0] == np.inf
    assert length_control.at_equal_lengths(together) == pytest.approx(
        length_control.at_equal_lengths(np.array(alone)), abs=1e-9
    )


def test_samples_of_one_prompt_are_drawn_together():
    random = np.random.default_rng(8)
    outcomes, lengths = random.choice([0, 0.5, 1], 100), random.normal(0, 50, 100)
    once = length_controlled(outcomes, lengths, resamples=1000)
    samples = np.repeat(np.arange(100), 3)
    thrice = length_controlled(outcomes[samples], lengths[samples], samples.tolist(), resamples=1000)
    assert thrice.clusters == 100
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.02)
