"""Simulations with a known truth: 95 % intervals cover it 95 % of the time.

The simulations are those of benchmarks/coverage.py, which prints the whole table and explains its limits.
"""

import itertools
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alignbench.stats import bootstrap, estimates
from alignbench.stats.win_rate import win_rate

PATH = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
coverage = SimpleNamespace(**runpy.run_path(str(PATH)))  # not imported: there is another package "coverage"
SIMULATIONS = 2000
GOAL = pytest.approx(0.95, abs=0.015)
AT_LEAST, AT_MOST = 0.935, 0.965
CHANCE = 2 * (0.95 * 0.05 / SIMULATIONS) ** 0.5  # two standard errors of a coverage of 95 %


@pytest.mark.slow
@pytest.mark.parametrize("case", itertools.product(coverage.CASES, coverage.SIZES))
def test_intervals_cover_the_truth(case):
    resamples = 300 if case[0].startswith("Brad") else 1000
    held = coverage.coverage(coverage.CASES[case[0]], case[1], SIMULATIONS, resamples)
    assert held.min() >= AT_LEAST - CHANCE
    # where few documents are informative, intervals are wider than necessary
    assert held.max() <= AT_MOST + CHANCE or case[1] < 200 or "2 %" in case[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", coverage.NEARLY_ALL_AGREE)
def test_intervals_if_nearly_all_prompts_agree(name):
    simulations = 500 if name.startswith("Brad") else SIMULATIONS
    for n in (50, 200, 800) if name.startswith("length") else (50,):
        assert coverage.coverage(coverage.NEARLY_ALL_AGREE[name], n, simulations, 200).min() > AT_LEAST


@pytest.mark.slow
@pytest.mark.parametrize("p", [(0.97, 0.02, 0.01), (0.04, 0.96, 0.0), (0.01, 0.02, 0.97)])
def test_if_nearly_all_prompts_agree_bootstrap_intervals_alone_are_too_narrow(p):
    truth, outcomes = p[0] + p[1] / 2, np.random.default_rng(2).choice([1.0, 0.5, 0.0], (50, SIMULATIONS), p=p)
    assert coverage.bootstrap_holds(outcomes, truth, 500).mean() < 0.91
    found = [win_rate(column, resamples=500) for column in outcomes.T]
    assert coverage.within([f.low for f in found], truth, [f.high for f in found]).mean() > AT_LEAST


@pytest.mark.slow
def test_a_bootstrap_over_battles_instead_of_prompts_would_be_too_narrow():
    random, prompts = np.random.default_rng(1), np.repeat(np.arange(50), 4)
    values = np.repeat(random.normal(size=(50, 500)), 4, axis=0) + 0.5 * random.normal(size=(200, 500))
    assert coverage.bootstrap_holds(values, 0, 500, prompts.tolist()).mean() > 0.925
    assert coverage.bootstrap_holds(values, 0, 500).mean() < 0.85


def test_the_simulations_use_the_intervals_of_the_audit():
    values = np.random.default_rng(0).choice([-1.0, 0.0, 0.3], (60, 4))
    for groups in (None, np.repeat(np.arange(20), 3).tolist()):
        found = [bootstrap.interval(column, groups, seed=1, resamples=400) for column in values.T]
        for truth in (-0.4, -0.25, -0.1):
            held = [own.low <= truth <= own.high for own in found]
            assert coverage.bootstrap_holds(values, truth, 400, groups).tolist() == held


def test_intervals_that_are_a_fifth_too_narrow_miss_the_goal():
    found = map(estimates.mean, np.random.default_rng(3).normal(size=(SIMULATIONS, 200)))
    assert np.mean([abs(own.value) <= 0.8 * (own.high - own.value) for own in found]) != GOAL
