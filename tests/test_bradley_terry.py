"""Bradley–Terry strengths: closed forms, known strengths from simulated battles, and what cannot be ranked."""

import itertools

import numpy as np
import pytest
from cases import cases
from commands import assert_refused
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.special import expit

from alignbench.stats import bradley_terry
from alignbench.stats.bradley_terry import Battle, fit, rank, win_rates

THREE = list(itertools.combinations(range(3), 2))
FOUR = list(itertools.combinations(range(4), 2))
COUNTS = [[9, 4, 3], [6, 6, 1], [2, 8, 2]]


def probabilities(theta, tau, pairs):
    """Rao and Kupper's, as written: win, loss, tie."""
    rows = []
    for i, j in pairs:
        a, b, eta = np.exp(theta[i]), np.exp(theta[j]), np.exp(tau)
        rows.append([a / (a + eta * b), b / (b + eta * a), (eta**2 - 1) * a * b / ((a + eta * b) * (b + eta * a))])
    return np.array(rows)


def battles_of(counts, pairs, names):
    """Counts as battles, each on a separate prompt."""
    kinds = [
        (names[i], names[j], outcome)
        for (i, j), row in zip(pairs, counts, strict=True)
        for outcome, n in zip((1.0, 0.0, 0.5), row, strict=True)
        for _ in range(int(n))
    ]
    return [Battle(f"p{k}", *kind) for k, kind in enumerate(kinds)]


def ranked(counts, pairs, names, baseline, resamples):
    return {model.name: model for model in rank(battles_of(counts, pairs, names), baseline, resamples=resamples)[0]}


def test_two_models_in_closed_form():
    first, second, tau = fit([(0, 1)], [[75_000, 25_000, 0]], 2)
    assert (first - second, tau) == (pytest.approx(np.log(3), abs=1e-4), 0)  # the log-odds
    first, second, tau = fit([(0, 1)], [[25_000, 25_000, 50_000]], 2)  # P(tie) = (η − 1) / (η + 1) at equal strengths
    assert (first, second, np.exp(tau)) == pytest.approx((0, 0, 3), abs=1e-3)
    assert win_rates(fit([(0, 1)], [[600_000, 100_000, 300_000]], 2), 1) == pytest.approx([0.75, 0.5], abs=1e-4)
    counts = [[7500, 2500, 0]]
    errors = bradley_terry.errors([(0, 1)], counts, fit([(0, 1)], counts, 2))
    assert [errors[0, 1], errors[1, 0]] == pytest.approx([np.sqrt(1 / 7500 + 1 / 2500)] * 2, rel=1e-3)


@given(st.lists(st.integers(0, 20), min_size=9, max_size=9))
def test_no_step_in_any_direction_increases_the_penalised_likelihood(numbers):
    counts = np.array(numbers, float).reshape(3, 3)
    best = fit(THREE, counts, 3)

    def objective(x):
        p = probabilities(x[:3], x[3], THREE)
        likelihood = (counts * np.log(np.where(counts > 0, np.maximum(p, 1e-300), 1))).sum()
        return likelihood - bradley_terry.RIDGE / 2 * (x**2).sum()

    assert best[3] >= 0
    assert best[:3].sum() == pytest.approx(0, abs=1e-6)
    steps = 1e-3 * np.r_[np.eye(4), -np.eye(4), np.random.default_rng(0).normal(size=(8, 4))]
    assert all(objective(best + step) <= objective(best) + 1e-9 for step in steps[best[3] + steps[:, 3] >= 0])


def test_one_sided_battles_have_finite_strengths_and_many_fits_together_equal_separate_ones():
    counts = np.array([(500, 0, 0), (0, 500, 0), (0, 0, 500), (0, 0, 1), (500, 0, 1), (1e6, 0, 0), (0, 0, 0)])
    found = fit([(0, 1)], counts[:, None], 2)
    assert np.isfinite(found).all()
    assert np.sign(found[:, 0]).tolist() == np.sign(counts[:, 0] - counts[:, 1]).tolist()
    random = np.random.default_rng(1)
    counts = random.poisson(3, (40, 3, 3)) * (random.random((40, 3, 3)) < 0.7)
    separate = np.array([fit(THREE, each, 3) for each in counts])
    for start in (None, fit(THREE, counts.sum(0), 3)):
        assert fit(THREE, counts, 3, start) == pytest.approx(separate, abs=1e-6)


@given(st.floats(-8, 8), st.floats(0, 4))
def test_strengths_at_is_the_inverse_of_win_rates(ahead, tau):
    rates = win_rates(np.array([ahead, 0.0, tau]), 1)
    assert bradley_terry.strengths_at(rates, tau) == pytest.approx([ahead, 0], abs=1e-6)


def test_the_order_of_the_two_models_of_a_battle_does_not_matter():
    battles = battles_of(COUNTS, THREE, "abc")
    swapped = [Battle(own.prompt, own.b, own.a, 1 - own.outcome) for own in battles]
    (found, eta), (again, other) = (rank(own, "a", resamples=100) for own in (battles, swapped))
    assert [model.name for model in found] == [model.name for model in again] == ["c", "a", "b"]
    assert (eta, sum(model.battles for model in found)) == (pytest.approx(other), 2 * len(battles))
    for one, two in zip(found, again, strict=True):
        assert one.strength.value == pytest.approx(two.strength.value)
        at_baseline = one.strength.value - np.log(eta), -one.strength.value - np.log(eta)
        assert one.win_rate.value == pytest.approx((1 + expit(at_baseline[0]) - expit(at_baseline[1])) / 2)


def test_the_baseline_has_strength_0_and_only_shifts_the_others():
    from_a, from_b = (ranked(COUNTS, THREE, "abc", name, 100) for name in "ab")
    for estimate, expected in ((from_b["b"].strength, 0), (from_b["b"].win_rate, 0.5)):
        assert estimate.value == estimate.low == estimate.high == expected
    shifts = [from_a[name].strength.value - from_b[name].strength.value for name in "abc"]
    assert shifts == pytest.approx([shifts[0]] * 3, abs=1e-9)
    assert from_a == ranked(COUNTS, THREE, "abc", "a", 100)  # determined by the seed


def test_prompts_are_resampled():
    battles = battles_of([[30, 14, 6], [20, 25, 5], [14, 30, 6]], THREE, "abc")
    once, again = (rank(own, "a", resamples=2000)[0] for own in (battles, [b for b in battles for _ in range(4)]))
    for x, y in zip(once, again, strict=True):  # several battles on one prompt are no new evidence
        assert y.strength.standard_error == pytest.approx(x.strength.standard_error, rel=0.05)
    models, _ = rank([Battle("only", "a", "b", 1.0), Battle("only", "b", "c", 0.5)], "c", resamples=50)
    assert [model.name for model in models] == ["a", "c", "b"]  # b has a loss and a tie, c only the tie
    assert models[0].strength.low is models[0].p_next is None


def test_p_next_is_small_for_a_clear_order_and_below_5_percent_exactly_if_the_interval_excludes_zero():
    found = ranked([[45, 15, 0], [47, 13, 0], [31, 29, 0]], THREE, "abc", "c", 2000)
    assert list(found) == ["a", "b", "c"]
    assert found["a"].p_next < 0.01 < 0.3 < found["b"].p_next
    assert found["c"].p_next is None
    sides = set()
    for wins in range(24, 46, 2):
        found = ranked([[wins, 55 - wins, 5]], [(0, 1)], "ab", "b", 500)
        p = next(model.p_next for model in found.values() if model.p_next is not None)
        sides.add(significant := found["a"].strength.low > 0 or found["a"].strength.high < 0)
        assert (p < 0.05) == significant
    assert sides == {False, True}


def test_bias_correction_moves_only_biased_intervals():
    draws = np.random.default_rng(3).normal([0, 0.2], 1, (200_000, 2))
    # resamples .2 above the estimate: the estimate itself is assumed to be .2 above the truth
    expected = np.array([[-1.96, -2.16], [1.96, 1.76]])
    assert bradley_terry.bias_corrected(np.zeros(2), draws, 10_000) == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("prompts", [2, 5, 8, 50])
def test_a_model_that_wins_all_battles_has_an_exact_interval_and_the_p_value_of_a_sign_test(prompts):
    best = ranked([[prompts, 0, 0]], [(0, 1)], "ab", "b", 200)["a"]
    assert best.p_next >= 2 ** (1 - prompts)
    assert (best.p_next < 0.05) == (best.strength.low > 0) == (prompts >= 8)
    assert best.strength.low < best.strength.value < best.strength.high < 15
    assert best.win_rate.low <= scipy_stats.binomtest(prompts, prompts).proportion_ci().low
    assert best.strength.standard_error > 1


def test_one_sided_battles_of_some_do_not_make_other_models_uncertain_and_ties_are_no_certainty():
    found = ranked([[20, 0, 0]] * 3 + [[11, 9, 0]] * 3, FOUR, "abcd", "d", 500)
    widths = {name: model.strength.high - model.strength.low for name, model in found.items()}
    assert widths["b"] < 2 < 4 < widths["a"]
    tied = ranked([[0, 0, 30]], [(0, 1)], "ab", "b", 100)["a"].win_rate
    assert (tied.low < 0.45, tied.high) == (True, pytest.approx(1 - tied.low))


def test_minority_outcomes_are_counted_in_the_minimum_cut_between_two_models():
    chain, counts = np.array([(0, 1), (1, 2), (2, 3)]), [[20, 7, 0], [20, 1, 2], [5, 5, 20]]
    assert [bradley_terry.minority_outcomes(chain, counts, 4, 0, k) for k in (1, 2, 3)] == [7, 3, 3]
    assert bradley_terry.minority_outcomes(chain, counts, 4, 3, 2) == 10
    both = np.array([(0, 1), (1, 2), (0, 2)])
    assert bradley_terry.minority_outcomes(both, [[20, 7, 0], [20, 3, 0], [30, 2, 0]], 3, 0, 2) == 5


@given(st.integers(0, 60), st.integers(60, 80))
def test_the_exact_interval_is_clopper_and_pearsons_and_consistent_with_its_p_value(won, n):
    rate = min(max(won, 0.5), n - 0.5) / n
    low, high, p = bradley_terry.exact_interval(rate, np.sqrt(rate * (1 - rate) / n), n)
    if 0 < won < n:
        expected = scipy_stats.binomtest(won, n)
        assert (low, high, p) == pytest.approx((*expected.proportion_ci(), expected.pvalue))
    assert (p < 0.05) == (low > 0.5 or high < 0.5)


@pytest.mark.parametrize(("battles", "models", "message"), cases("bradley_terry"))
def test_what_cannot_be_ranked_is_one_line(battles, models, message):
    made = [Battle(f"p{k}", a, b, *outcome or [1.0]) for k, (a, b, *outcome) in enumerate(battles)]
    assert_refused(f"^[^\n]*{message}[^\n]*$", rank, made, "base", models, resamples=10)
