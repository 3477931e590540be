"""Strengths of many models: closed forms, known strengths from simulated battles, and what cannot be ranked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from alignbench.stats.ranking import bias_corrected, rank
from alignbench.stats.separation import exact, strays_between
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.optimize import minimize
from scipy.special import expit

from alignbench.errors import AlignbenchError
from alignbench.stats import bradley_terry
from alignbench.stats.bradley_terry import fit, strengths_at, win_rates
from alignbench.stats.win_rate import Battle

THREE = list(itertools.combinations(range(3), 2))


def probabilities(theta, tau, pairs):
    """Rao and Kupper's, as they are written: win, loss, tie."""
    rows = []
    for i, j in pairs:
        a, b, eta = np.exp(theta[i]), np.exp(theta[j]), np.exp(tau)
        win, loss = a / (a + eta * b), b / (b + eta * a)
        rows.append([win, loss, (eta**2 - 1) * a * b / ((a + eta * b) * (b + eta * a))])
    return np.array(rows)


def battles_of(counts, pairs, names):
    """Counts as battles, each on a prompt of its own."""
    outcomes = ((pair, outcome) for pair, row in zip(pairs, counts, strict=True) for outcome, n in
                zip((1.0, 0.0, 0.5), row, strict=True) for _ in range(int(n)))  # fmt: skip
    return [Battle(f"p{k}", names[i], names[j], outcome, 9, 9) for k, ((i, j), outcome) in enumerate(outcomes)]


def test_two_models_without_ties_are_as_far_apart_as_the_log_odds():
    found = fit([(0, 1)], [[75_000, 25_000, 0]], 2)
    assert found.strengths[0] - found.strengths[1] == pytest.approx(np.log(3), abs=1e-4)
    assert found.tau == 0


def test_two_models_of_equal_strength_have_eta_from_the_share_of_ties():
    # P(tie) = (η − 1) / (η + 1) at equal strengths, so that half ties are η = 3
    found = fit([(0, 1)], [[25_000, 25_000, 50_000]], 2)
    assert found.strengths == pytest.approx([0, 0], abs=1e-9)
    assert np.exp(found.tau) == pytest.approx(3, abs=1e-3)


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.6, 2.0])
def test_expected_counts_give_back_the_strengths_that_made_them(tau):
    theta = np.array([0.0, 0.7, -1.2, 2.5])
    pairs = list(itertools.combinations(range(4), 2))
    found = fit(pairs, 1e7 * probabilities(theta, tau, pairs), 4)
    assert found.strengths - found.strengths[0] == pytest.approx(theta, abs=1e-4)
    assert found.tau == pytest.approx(tau, abs=1e-4)


@given(st.lists(st.integers(0, 20), min_size=9, max_size=9))
@settings(deadline=None, max_examples=60)
def test_no_step_in_any_direction_is_better(numbers):
    counts = np.array(numbers, float).reshape(3, 3)
    found = fit(THREE, counts, 3)

    def objective(x):
        ridge = bradley_terry.RIDGE / 2 * (x**2).sum()
        p = probabilities(x[:3], x[3], THREE)
        return (counts * np.log(np.where(counts > 0, np.maximum(p, 1e-300), 1))).sum() - ridge

    best = np.append(found.strengths, found.tau)
    assert found.tau >= 0
    assert best[:3].sum() == pytest.approx(0, abs=1e-6)
    steps = 1e-3 * np.r_[np.eye(4), -np.eye(4), np.random.default_rng(0).normal(size=(8, 4))]
    for step in steps[best[3] + steps[:, 3] >= 0]:
        assert objective(best + step) <= objective(best) + 1e-9


def test_the_fit_equals_a_general_optimisers():
    random = np.random.default_rng(0)
    pairs = list(itertools.combinations(range(5), 2))
    counts = random.integers(1, 15, (10, 3))

    def loss(x):
        likelihood = (counts * np.log(probabilities(x[:5], np.exp(x[5]), pairs))).sum()
        return bradley_terry.RIDGE / 2 * ((x[:5] ** 2).sum() + np.exp(2 * x[5])) - likelihood

    expected = minimize(loss, np.zeros(6), tol=1e-10).x
    found = fit(pairs, counts, 5)
    assert found.strengths == pytest.approx(expected[:5], abs=1e-4)
    assert found.tau == pytest.approx(np.exp(expected[5]), abs=1e-4)


@pytest.mark.parametrize(
    "counts", [[[500, 0, 0]], [[0, 500, 0]], [[0, 0, 500]], [[0, 0, 1]], [[500, 0, 1]], [[1e6, 0, 0]], [[0, 0, 0]]]
)
def test_one_sided_battles_have_finite_strengths(counts):
    found = fit([(0, 1)], counts, 2)
    assert np.isfinite(found.strengths).all()
    assert np.isfinite(found.tau)
    assert np.sign(found.strengths[0]) == np.sign(counts[0][0] - counts[0][1])


def test_many_fits_at_once_are_the_fits_one_by_one_from_any_start():
    random = np.random.default_rng(1)
    counts = random.poisson(3, (40, 3, 3)) * (random.random((40, 3, 3)) < 0.7)
    alone = [fit(THREE, each, 3) for each in counts]
    for start in (None, fit(THREE, counts.sum(0), 3)):
        together = fit(THREE, counts, 3, start)
        assert together.strengths == pytest.approx(np.array([f.strengths for f in alone]), abs=1e-6)
        assert together.tau == pytest.approx(np.array([f.tau for f in alone]), abs=1e-6)


def test_the_expected_win_rate_counts_ties_half():
    found = fit([(0, 1)], [[600_000, 100_000, 300_000]], 2)
    assert win_rates(found, 1) == pytest.approx([0.75, 0.5], abs=1e-4)


def test_ranking_recovers_known_strengths_from_simulated_battles():
    random = np.random.default_rng(2)
    names, theta, tau = ["base", "sft", "ppo", "ptx", "tiny"], np.array([0, 0.6, 1.4, 1.1, -0.9]), 0.35
    pairs = list(itertools.combinations(range(5), 2))
    p = probabilities(theta, tau, pairs)
    battles = []
    for prompt in range(1000):
        for pair in random.choice(len(pairs), 4, replace=False):
            i, j = pairs[pair]
            outcome = random.choice([1.0, 0.0, 0.5], p=p[pair] / p[pair].sum())
            swapped = random.random() < 0.5
            who = (names[j], names[i], 1 - outcome) if swapped else (names[i], names[j], outcome)
            battles.append(Battle(f"prompt {prompt}", *who, 100, 100))
    found = rank(battles, "base", resamples=1000)

    assert [model.name for model in found.models] == ["ppo", "ptx", "sft", "base", "tiny"]
    assert (found.prompts, found.battles, found.baseline) == (1000, 4000, "base")
    assert found.eta == pytest.approx(np.exp(tau), abs=0.06)
    for model in found.models:
        truth = theta[names.index(model.name)]
        assert model.strength.value == pytest.approx(truth, abs=0.2)
        assert model.win_rate.value == pytest.approx((1 + expit(truth - tau) - expit(-truth - tau)) / 2, abs=0.04)
        assert model.strength.low <= model.strength.value <= model.strength.high
    assert sum(model.battles for model in found.models) == 2 * 4000


def test_the_baseline_is_at_zero_with_half_the_wins():
    found = rank(battles_of([[9, 4, 3], [6, 6, 1], [2, 8, 2]], THREE, "abc"), "b", resamples=100)
    base = next(model for model in found.models if model.name == "b")
    assert (base.strength.value, base.strength.low, base.strength.high) == (0, 0, 0)
    assert (base.win_rate.value, base.win_rate.low, base.win_rate.high) == (0.5, 0.5, 0.5)


def test_who_is_the_baseline_moves_all_strengths_alike():
    battles = battles_of([[9, 4, 3], [6, 6, 1], [2, 8, 2]], THREE, "abc")
    from_a, from_b = rank(battles, "a", resamples=100), rank(battles, "b", resamples=100)
    shifts = [x.strength.value - y.strength.value for x, y in zip(from_a.models, from_b.models, strict=True)]
    assert shifts == pytest.approx([shifts[0]] * 3, abs=1e-9)


def test_battles_of_one_prompt_are_no_new_evidence():
    battles = battles_of([[30, 14, 6], [20, 25, 5], [14, 30, 6]], THREE, "abc")
    copies = [b for b in battles for _ in range(4)]
    once, again = rank(battles, "a", resamples=2000), rank(copies, "a", resamples=2000)
    for x, y in zip(once.models, again.models, strict=True):
        if x.name != "a":
            assert y.strength.standard_error == pytest.approx(x.strength.standard_error, rel=0.05)


def test_a_clear_order_of_neighbours_is_told_from_an_open_one():
    found = rank(battles_of([[45, 15, 0], [47, 13, 0], [31, 29, 0]], THREE, "abc"), "c", resamples=2000)
    assert [model.name for model in found.models] == ["a", "b", "c"]
    first, second, last = found.models
    assert first.p_next < 0.01
    assert second.p_next > 0.3
    assert last.p_next is None


@pytest.mark.parametrize("prompts", [2, 5, 8, 50])
def test_a_clean_sweep_has_an_honest_width_and_no_smaller_p_than_a_sign_test(prompts):
    found = rank(battles_of([[prompts, 0, 0]], [(0, 1)], "ab"), "b", resamples=200)
    best = found.models[0]
    assert best.p_next >= 2 ** (1 - prompts)
    assert (best.p_next < 0.05) == (best.strength.low > 0) == (prompts >= 8)
    assert best.strength.low < best.strength.value < best.strength.high < 15
    assert best.win_rate.low <= scipy_stats.binomtest(prompts, prompts).proportion_ci().low
    assert best.strength.standard_error > 1


def test_ties_alone_are_no_certainty_that_two_models_are_equal():
    for model in rank(battles_of([[0, 0, 30]], [(0, 1)], "ab"), "b", resamples=100).models:
        if model.name == "a":
            assert model.win_rate.low < 0.45
            assert model.win_rate.high == pytest.approx(1 - model.win_rate.low)


def test_a_model_that_beats_all_others_is_unsure_against_each_and_the_others_are_not():
    pairs = list(itertools.combinations(range(4), 2))
    sweep, close = [20, 0, 0], [11, 9, 0]
    battles = battles_of([sweep, sweep, sweep, close, close, close], pairs, "abcd")
    found = {model.name: model.strength for model in rank(battles, "d", resamples=500).models}
    assert found["a"].high - found["a"].low > 4
    assert found["b"].high - found["b"].low < 2


def test_strays_are_counted_in_the_weakest_cut_between_two_models():
    chain = np.array([(0, 1), (1, 2), (2, 3)])
    counts = [[20, 7, 0], [20, 1, 2], [5, 5, 20]]
    assert [strays_between(chain, counts, 4, 0, k) for k in (1, 2, 3)] == [7, 3, 3]
    assert strays_between(chain, counts, 4, 3, 2) == 10
    both = np.array([(0, 1), (1, 2), (0, 2)])
    assert strays_between(both, [[20, 7, 0], [20, 3, 0], [30, 2, 0]], 3, 0, 2) == 5


@given(st.integers(0, 60), st.integers(60, 80))
@settings(deadline=None, max_examples=60)
def test_the_exact_interval_is_clopper_and_pearsons_and_its_p_value_turns_with_it(won, n):
    rate = min(max(won, 0.5), n - 0.5) / n
    found = exact(rate, np.sqrt(rate * (1 - rate) / n), n)
    if 0 < won < n:
        expected = scipy_stats.binomtest(won, n)
        assert (found.low, found.high) == pytest.approx(tuple(expected.proportion_ci()))
        assert found.p == pytest.approx(expected.pvalue)
    assert (found.p < 0.05) == (found.low > 0.5 or found.high < 0.5)


@given(st.floats(-8, 8), st.floats(0, 4))
@settings(deadline=None)
def test_strengths_are_found_again_from_win_rates(ahead, tau):
    rates = win_rates(bradley_terry.Fit(np.array([ahead, 0.0]), np.array(tau)), 1)
    assert strengths_at(rates, tau) == pytest.approx([ahead, 0], abs=1e-6)


def test_standard_errors_of_two_models_are_those_of_the_log_odds():
    counts = [[7500, 2500, 0]]
    found = bradley_terry.errors([(0, 1)], counts, fit([(0, 1)], counts, 2))
    assert [found[0, 1], found[1, 0]] == pytest.approx([np.sqrt(1 / 7500 + 1 / 2500)] * 2, rel=1e-3)


def test_a_difference_from_the_next_model_is_significant_where_its_interval_leaves_zero_out():
    sides = set()
    for wins in range(24, 46):
        first, last = rank(battles_of([[wins, 55 - wins, 5]], [(0, 1)], "ab"), "b", resamples=500).models
        low = (first if first.name == "a" else last).strength
        significant = low.low > 0 or low.high < 0
        sides.add(significant)
        assert (first.p_next < 0.05) == significant
    assert sides == {False, True}


def test_a_seed_gives_the_same_ranking_again():
    battles = battles_of([[9, 4, 3], [6, 6, 1], [2, 8, 2]], THREE, "abc")
    assert rank(battles, "a", seed=3, resamples=200) == rank(battles, "a", seed=3, resamples=200)


def test_one_prompt_ranks_without_intervals():
    battles = [Battle("only", "a", "b", 1.0, 5, 5), Battle("only", "b", "c", 0.5, 5, 5)]
    found = rank(battles, "c", resamples=50)
    assert [model.name for model in found.models] == ["a", "c", "b"]  # b has a loss and a tie, c the tie alone
    assert found.models[0].strength.low is None
    assert found.models[0].p_next is None


def test_an_unbiased_bootstrap_is_left_as_it_is_and_a_biased_one_is_moved_back():
    draws = np.random.default_rng(3).normal([0, 0.2], 1, (200_000, 2))
    (low, low_moved), (high, high_moved) = bias_corrected(np.zeros(2), draws, 10_000)
    assert (low, high) == (pytest.approx(-1.96, abs=0.03), pytest.approx(1.96, abs=0.03))
    # resamples .2 above the estimate: the estimate itself is taken to be .2 above the truth
    assert (low_moved, high_moved) == (pytest.approx(-1.96 - 0.2, abs=0.04), pytest.approx(1.96 - 0.2, abs=0.04))


@pytest.mark.parametrize(
    ("battles", "models", "message"),
    [
        ([], (), "at least two models"),
        ([("a", "b")], (), "baseline 'base' has no battles; the models that have: a, b"),
        ([("a", "base")], ("a", "lost"), "model 'lost' has no battles"),
        ([("a", "base"), ("c", "d"), ("d", "e")], (), "never met: a, base; c, d, e"),
    ],
)
def test_what_cannot_be_ranked_is_said_in_one_line(battles, models, message):
    with pytest.raises(AlignbenchError, match=message) as raised:
        rank([Battle(f"p{k}", a, b, 1.0, 5, 5) for k, (a, b) in enumerate(battles)], "base", models, resamples=10)
    assert "\n" not in str(raised.value)
