"""95 % intervals hold the truth 95 % of the time: every interval of the audit, in simulations of known truth.

The simulations are those of benchmarks/coverage.py, seeded; there stands the whole table, and what its limits are.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from alignbench.stats import bootstrap, estimates
from alignbench.stats.win_rate import win_rate

PATH = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
SPEC = importlib.util.spec_from_file_location("alignbench_coverage", PATH)  # "coverage" is a package of others
coverage = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = coverage
SPEC.loader.exec_module(coverage)

SIMULATIONS = 2000
GOAL = pytest.approx(0.95, abs=0.015)
FITTED = [name for name in coverage.CASES if "Bradley" in name]
LENGTH_CONTROLLED = "length-controlled win rate"
MEANS = [name for name in coverage.CASES if name not in (*FITTED, LENGTH_CONTROLLED)]
AT_LEAST = 0.935


@pytest.mark.parametrize("n", coverage.SIZES)
@pytest.mark.parametrize("name", MEANS)
def test_intervals_of_means_and_shares_and_win_rates(name, n):
    assert coverage.coverage(coverage.CASES[name], n, SIMULATIONS, 1000) == GOAL


@pytest.mark.parametrize("n", coverage.SIZES)
@pytest.mark.parametrize("name", FITTED)
def test_intervals_of_bradley_terry_strengths_and_win_rates(name, n):
    held = coverage.coverage(coverage.CASES[name], n, SIMULATIONS, 300)
    assert len(held) == 6  # strengths and win rates of three models against the baseline
    assert list(held) == [GOAL] * 6


def test_intervals_of_length_controlled_win_rates_at_the_smallest_size():
    assert coverage.coverage(coverage.CASES[LENGTH_CONTROLLED], 50, SIMULATIONS, 200) == GOAL


def test_the_simulations_use_the_intervals_that_the_audit_prints():
    random = np.random.default_rng(0)
    values = random.choice([-1.0, 0.0, 0.3], (60, 4))
    groups = np.repeat(np.arange(20), 3).tolist()
    for chosen in (None, groups):
        draws = bootstrap.resampled_means(values, chosen, seed=1, resamples=400)
        low, high = bootstrap.percentiles(draws, 60 if chosen is None else 20)
        for k in range(4):
            found = bootstrap.interval(values[:, k], chosen, seed=1, resamples=400)
            assert (found.low, found.high) == (pytest.approx(low[k]), pytest.approx(high[k]))


def test_a_bootstrap_over_battles_of_one_prompt_would_be_too_sure():
    random = np.random.default_rng(1)
    prompts = np.repeat(np.arange(50), 4)
    values = np.repeat(random.normal(size=(50, 500)), 4, axis=0) + 0.5 * random.normal(size=(200, 500))
    over_prompts = coverage.bootstrap_holds(values, 0, 500, prompts.tolist())
    over_battles = coverage.bootstrap_holds(values, 0, 500)
    assert over_prompts.mean() > 0.925
    assert over_battles.mean() < 0.85


@pytest.mark.parametrize("name", coverage.FEW_STRAY)
def test_where_few_prompts_stray_intervals_hold_the_truth_often_enough(name):
    simulations = SIMULATIONS if name.startswith("win rate") else 500
    assert coverage.coverage(coverage.FEW_STRAY[name], 50, simulations, 200).min() > AT_LEAST


@pytest.mark.parametrize("p", [(0.97, 0.02, 0.01), (0.04, 0.96, 0.0), (0.01, 0.02, 0.97)])
def test_there_a_bootstrap_alone_fails_and_the_win_rate_does_not(p):
    random = np.random.default_rng(2)
    truth = p[0] + p[1] / 2
    outcomes = random.choice([1.0, 0.5, 0.0], (50, SIMULATIONS), p=p)
    assert coverage.bootstrap_holds(outcomes, truth, 500).mean() < 0.91
    found = [win_rate(column, resamples=500).rate for column in outcomes.T]
    assert coverage.within([f.low for f in found], truth, [f.high for f in found]).mean() > AT_LEAST


def test_an_interval_of_the_wrong_width_would_be_noticed():
    """The goal is strict enough: intervals that are a fifth too narrow miss it."""
    random = np.random.default_rng(3)
    held = []
    for values in random.normal(size=(SIMULATIONS, 200)):
        found = estimates.mean(values)
        reach = 0.8 * (found.high - found.value)
        held.append(abs(found.value) <= reach)
    assert np.mean(held) != GOAL
