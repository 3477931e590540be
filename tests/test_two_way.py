"""Intervals for other prompts and other labelers, against a known variance and in simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.labels.summary import summary, win_rates
from alignbench.labels.table import Label
from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate
from alignbench.stats.two_way import crossed_variance, two_way, wider

P, K = 30, 8


def crossed(draw, prompts=P, labelers=K, of_prompts=0.5, of_labelers=0.4, single=1.0, overlap=None):
    """Judgements (values, prompts, labelers) of mean 0.3 with random effects; overlap: labelers of each prompt"""
    effects = draw.normal(0, of_prompts, prompts), draw.normal(0, of_labelers, labelers)
    who = [draw.choice(labelers, overlap or labelers, replace=False) for _ in range(prompts)]
    prompt, labeler = np.repeat(np.arange(prompts), [len(own) for own in who]), np.concatenate(who)
    noise = draw.normal(0, single, len(prompt))
    return 0.3 + effects[0][prompt] + effects[1][labeler] + noise, prompt, labeler


@pytest.mark.parametrize("overlap", [2, K])
def test_the_variance_is_that_of_the_random_effects(overlap):
    draw, found, known, n = np.random.default_rng(0), [], [], P * overlap
    for _ in range(2000):
        values, prompt, labeler = crossed(draw, overlap=overlap)
        found.append(crossed_variance((values - values.mean()) / n, prompt, labeler)[0])
        weights = np.bincount(labeler, minlength=K) / n
        known.append(0.5**2 / P + 0.4**2 * (weights**2).sum() + 1.0**2 / n)
    lacking = (0.5**2 + 0.4**2) / n if overlap == K else 0.0
    assert np.mean(found) == pytest.approx(np.mean(known) - lacking, rel=0.03)


def test_two_labelers_by_hand():
    """Prompts a and b, labelers x and y: (1, 0), (1, 1). The mean is ¾; residuals times n: ¼, −¾, ¼, ¼."""
    prompt, labeler = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    total, _ = crossed_variance(np.array([0.25, -0.75, 0.25, 0.25]) / 4, prompt, labeler)
    # sums by prompt −½, ½ and by labeler ½, −½: 2 · ½ / 16 each; single judgements: 0.75 / 16
    assert total == pytest.approx((1 + 1 - 0.75) / 16)
    found, p = two_way([1, 0, 1, 1], prompt, labeler, null=0.75)
    assert (found.value, found.standard_error, found.n, found.clusters) == (0.75, pytest.approx(total**0.5), 4, 2)
    assert p == 1


def test_a_prompt_counts_once_however_many_labelers_it_has():
    values, prompts, labelers = [1, 1, 1, 0], ["a", "a", "a", "b"], ["x", "y", "z", "x"]
    assert two_way(values, prompts, labelers)[0].value == 0.5
    assert two_way(values, prompts, labelers, by_prompt=False)[0].value == 0.75


def test_without_variation_or_a_second_labeler_there_is_no_interval():
    for values, prompts, labelers in (([], [], []), ([1, 1], "ab", "xy"), ([1, 0], "ab", "xx"), ([1, 0], "aa", "xy")):
        found, p = two_way(values, list(prompts), list(labelers))
        assert (found.low, found.high, p) == (None, None, None)


@given(st.integers(0, 99))
def test_p_is_below_five_percent_if_the_null_is_outside_and_the_order_of_rows_has_no_influence(seed):
    draw = np.random.default_rng(seed)
    values, prompt, labeler = crossed(draw, 12, 5, overlap=3)
    null = float(draw.normal(0.3, 0.7))
    found, p = two_way(values, prompt.tolist(), labeler.tolist(), null=null, resamples=300)
    assert (p < 0.05) == (not found.low <= null <= found.high)
    order = np.lexsort((labeler, prompt))
    again, _ = two_way(values[order], prompt[order], labeler[order], null=null, resamples=300)
    assert again.value == pytest.approx(found.value)
    assert again.standard_error == pytest.approx(found.standard_error)


def test_the_wider_interval_contains_both():
    plain, other = Estimate(0.5, 0.1, 0.4, 0.7, 9, 3), Estimate(0.5, 0.2, 0.3, 0.6, 9, 3)
    assert wider(plain, other) == Estimate(0.5, 0.2, 0.3, 0.7, 9, 3)
    assert wider(plain, Estimate(0.5)) == plain
    assert wider(Estimate(0.5), other) == Estimate(0.5, 0.2, 0.3, 0.6)


def test_labelers_who_differ_widen_the_win_rate_of_a_summary():
    """Ten of twenty labelers always prefer the hen, ten never: prompts do not vary at all, labelers do."""
    labels = [
        Label(f"p{n}", "say", f"{own} {n}", f"{who:02}", own, rank=1 + (won != (own == "hen")), flags={"sexual": won})
        for n, who, own in product(range(20), range(20), ("cow", "hen"))
        for won in [who < 10]
    ]
    (found,) = win_rates(labels)
    assert found.estimate.value == 0.5
    assert found.estimate.high - found.estimate.low > 0.4
    flags = {own.model: own.estimate for own in summary(labels) if own.statistic == "sexual"}
    assert flags["hen"].high - flags["hen"].low > 0.4
    one = [own for own in labels if own.labeler == "00"]
    assert all(own.estimate.low is not None for own in summary(one))


@pytest.mark.parametrize(("lost", "least"), [([(0, "a")], 0.88), ([(0, "a"), (0, "b")], 0.94)])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_win_rate_of_nearly_unanimous_labelers_has_a_narrow_interval(lost, least, reverse):
    labels = [
        Label(f"p{n}", "say", f"{model} {n}", who, model, rank=1 + ((model == "hen") == ((n, who) in lost)))
        for n in range(60)
        for who in ("a", "b")
        for model in (("hen", "pig") if reverse else ("cow", "hen"))
    ]
    for used in (labels, [own for own in labels if own.labeler == "a"]):
        (found,) = win_rates(used)
        own = found.estimate
        low, high = (own.low, own.high) if reverse else (1 - own.high, 1 - own.low)
        assert least < low < (own.value if reverse else 1 - own.value) < high <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "labelers", "overlap", "of_labelers", "binary"),
    [
        (60, 6, 2, 0.3, False),
        (60, 6, 2, 0.3, True),
        (60, 6, 6, 0.5, False),
        (100, 12, 3, 0.3, True),
    ],
)
def test_coverage(prompts, labelers, overlap, of_labelers, binary):
    from scipy.stats import norm

    draw, hits, of_prompts_only, trials = np.random.default_rng(1), 0, 0, 400
    truth = float(norm.cdf(0.3 / np.sqrt(0.25 + of_labelers**2 + 1))) if binary else 0.3
    for seed in range(trials):
        values, prompt, labeler = crossed(draw, prompts, labelers, 0.5, of_labelers, 1.0, overlap)
        values = (values > 0).astype(float) if binary else values
        found, _ = two_way(values, prompt, labeler, seed=seed, resamples=1000)
        hits += found.low <= truth <= found.high
        plain = bootstrap.interval(np.bincount(prompt, values) / np.bincount(prompt), resamples=500)
        of_prompts_only += plain.low <= truth <= plain.high
    assert 0.92 <= hits / trials <= 0.99
    assert of_prompts_only < hits
