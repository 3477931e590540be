"""Win rates and length control: ties, intervals, the stated likelihood, and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.optimize import minimize
from scipy.special import expit, logit

from alignbench.stats.estimates import Estimate
from alignbench.stats.win_rate import RIDGE, adjusted, fit, length_controlled, nearly_all_agree, win_rate

OUTCOMES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=30)


def test_a_tie_is_half_a_win_and_the_interval_close_to_the_textbooks():
    assert win_rate([1, 1, 1, 0.5, 0.5, 0, 0, 1, 0, 0.5]).value == pytest.approx((4 + 1.5) / 10)
    found = win_rate([1] * 240 + [0] * 160)
    expected = scipy_stats.binomtest(240, 400).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)
    assert win_rate([]) == Estimate()
    assert length_controlled([], []).value is None


@pytest.mark.parametrize(
    ("wins", "ties", "losses"), [(40, 0, 0), (0, 40, 0), (0, 0, 40), (41, 0, 9), (40, 0, 10), (9, 91, 0), (0, 0, 0)]
)
def test_with_fewer_than_ten_dissenting_prompts_the_interval_is_adjusted(wins, ties, losses):
    outcomes, agree = [1] * wins + [0.5] * ties + [0] * losses, losses != 10
    found = win_rate(outcomes)
    assert (nearly_all_agree(outcomes), found == adjusted(outcomes)) == (agree, agree)
    if len(set(outcomes)) == 1:
        assert found.low <= found.value == outcomes[0] <= found.high
        assert 0.03 < found.high - found.low < 0.15
    assert nearly_all_agree([1, 0] * 20, [prompt for prompt in range(20) for _ in "ab"])  # all are split evenly


def test_the_adjusted_interval_is_the_t_interval_with_one_more_win_and_loss():
    outcomes = [1] * 46 + [0.5] * 3 + [0]
    more = np.array([*outcomes, 1, 0])
    reach = scipy_stats.t.ppf(0.975, 51) * more.std() / np.sqrt(52)
    found = adjusted(outcomes)
    assert found.value == pytest.approx(0.95)
    assert (found.low, found.high) == pytest.approx((more.mean() - reach, min(1, more.mean() + reach)))


@pytest.mark.parametrize("estimate", [win_rate, adjusted, length_controlled])
def test_several_outputs_per_prompt_are_no_new_evidence(estimate):
    random, prompts = np.random.default_rng(0), np.repeat(np.arange(100), 3)
    columns = [random.choice([0, 0.5, 1], 100, p=[0.3, 0.2, 0.5]), random.normal(0, 50, 100)]
    columns = columns if estimate is length_controlled else columns[:1]
    once, thrice = estimate(*columns), estimate(*(column[prompts] for column in columns), prompts.tolist())
    # of length control up to its ridge penalty, which weighs less with more rows
    rel = 1e-3 if estimate is length_controlled else 1e-6
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx((once.value, once.low, once.high), rel=rel)
    assert (thrice.n, thrice.clusters) == (300, 100)


@given(OUTCOMES)
@settings(deadline=None, max_examples=30)
def test_the_win_rates_of_two_models_add_up_to_one(outcomes):
    ours, theirs = win_rate(outcomes, resamples=200), win_rate(1 - np.array(outcomes), resamples=200)
    assert (theirs.value, theirs.low) == pytest.approx((1 - ours.value, 1 - ours.high))
    assert 0 <= ours.low <= ours.value + 1e-12
    assert ours.value - 1e-12 <= ours.high <= 1


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-500, 500)), min_size=2, max_size=40))
@settings(deadline=None, max_examples=40)
def test_length_control_is_antisymmetric_and_the_unit_of_length_does_not_matter(rows):
    outcomes, lengths = np.array(rows, float).T
    ours = length_controlled(outcomes, lengths)
    theirs = length_controlled(1 - outcomes, -lengths / 5)
    assert theirs.value == pytest.approx(1 - ours.value, abs=1e-9)
    assert (theirs.low, theirs.high) == pytest.approx((1 - ours.high, 1 - ours.low), abs=1e-9)
    assert 0 <= ours.value <= 1


@pytest.mark.parametrize("difference", [-3, 0, 2])
def test_with_equal_length_differences_it_is_the_raw_win_rate(difference):
    outcomes = np.random.default_rng(1).choice([0, 0.5, 1], 120, p=[0.3, 0.2, 0.5])
    found, raw = length_controlled(outcomes, [difference] * 120), win_rate(outcomes)
    assert found.value == pytest.approx(raw.value, abs=1e-9)
    if not difference:
        assert (found.low, found.high) == pytest.approx((raw.low, raw.high), abs=0.005)  # studentised


@pytest.mark.parametrize(("seed", "mean", "better"), [(3, 120, 0.0), (4, -120, 0.8)])
def test_a_judges_preference_for_length_is_removed(seed, mean, better):
    random = np.random.default_rng(seed)
    lengths = random.normal(mean, 200, 4000)
    outcomes = 1.0 * (random.random(4000) < expit(better + 2 * np.tanh(lengths / 200)))
    assert abs(np.mean(outcomes) - expit(better)) > 0.1
    found = length_controlled(outcomes, lengths)
    assert found.value == pytest.approx(expit(better), abs=0.03)
    assert found.low < expit(better) < found.high


def test_separable_data_have_a_finite_fit():
    lengths = np.random.default_rng(5).normal(100, 200, 300)
    outcomes = np.where(lengths > 0, 1.0, 0.0)  # the longer output always wins
    found = length_controlled(outcomes, lengths)
    assert np.isfinite([found.low, found.value, found.high]).all()
    assert abs(found.value - 0.5) < np.mean(outcomes) - 0.5
    always = length_controlled([1] * 30, np.arange(30) - 10)
    assert always.value == 1
    assert always.low < 0.95


@pytest.mark.parametrize("losses", [1, 3, 9])
def test_if_nearly_all_prompts_agree_the_interval_is_not_narrower_than_the_raw_one(losses):
    outcomes, lengths = np.r_[np.ones(60 - losses), np.zeros(losses)], np.random.default_rng(9).normal(0, 50, 60)
    found, raw = length_controlled(outcomes, lengths), adjusted(outcomes)
    value, rate, found_low, raw_low = logit([found.value, raw.value, found.low, raw.low])
    assert value - found_low >= rate - raw_low - 1e-9
    assert found.low < found.value < found.high <= 1


def test_the_interval_of_length_control_is_that_of_the_infinitesimal_jackknife_over_groups():
    random, groups = np.random.default_rng(8), np.repeat(np.arange(30), 2)
    outcomes, delta = random.choice([0, 0.5, 1], 60, p=[0.3, 0.2, 0.5]), random.normal(20, 50, 60)
    more = 1e-5 * np.vstack([0 * groups, groups == np.arange(30)[:, None]])  # nothing, or of one group
    (theta, *moved), _ = fit(2 * outcomes - 1, np.tanh(delta / delta.std()), 1 + more)
    error = np.sqrt((((np.array(moved) - theta) / 1e-5) ** 2).sum() * 30 / 29)
    found = length_controlled(outcomes, delta, groups.tolist())
    assert found.standard_error == pytest.approx(found.value * (1 - found.value) * error, rel=1e-3)
    ends = theta + scipy_stats.t.ppf(0.975, 29) * error * np.array([-1, 1])
    assert logit([found.low, found.high]) == pytest.approx(ends, rel=1e-3)


def test_the_fit_maximises_the_stated_likelihood_and_fits_of_all_resamples_equal_separate_ones():
    random = np.random.default_rng(6)
    preferred, lengths = random.choice([-1.0, 0.0, 1.0], 60), np.tanh(random.normal(0.4, 1, 60))

    def loss(x):
        z, y = x[0] + x[1] * lengths, (1 + preferred) / 2
        return -(y * np.log(expit(z)) + (1 - y) * np.log(expit(-z))).sum() + RIDGE / 2 * x[1] ** 2

    theta, phi = fit(preferred, lengths, np.ones((1, 60)))
    assert [theta[0], phi[0]] == pytest.approx(minimize(loss, np.zeros(2), tol=1e-10).x, abs=1e-4)
    weights = random.multinomial(60, np.full(60, 1 / 60), 50).astype(float)
    weights[0] = preferred == 1  # a resample of only wins
    together, _ = fit(preferred, lengths, weights)
    separate = [fit(preferred, lengths, row[None])[0][0] for row in weights]
    assert together[0] == np.inf
    assert expit(together) == pytest.approx(expit(separate), abs=1e-9)
