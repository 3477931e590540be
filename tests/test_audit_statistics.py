"""The mathematics of the audit: published numbers, exact cases, properties, and coverage in simulations."""

from dataclasses import fields

import numpy as np
import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from alignbench.audit.audit import Row
from alignbench.audit.front import hypervolume, non_dominated
from alignbench.audit.paired import Pairs, pair, paired_change, resample, unpaired
from alignbench.audit.tax import macro, relative_tax, tax
from alignbench.stats import bootstrap
from alignbench.stats.significance import (
    few_changed,
    holm,
    mcnemar,
    minimum_detectable_effect,
    rare_changes,
    usual_change,
)
from alignbench.types.record import Record
from alignbench.types.result import MetricResult

CASES = cases("audit_statistics")
POINT = st.tuples(st.integers(0, 6), st.integers(0, 6))


def test_a_tax_is_positive_if_worse_and_relative_only_to_a_reference_two_standard_errors_above_chance():
    for better, reference, aligned, expected in CASES["tax"]:
        assert tax(reference, aligned, better) == (expected and pytest.approx(expected))
    for arguments, expected in CASES["relative"]:
        assert relative_tax(*arguments) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(("rows", "value", "error"), CASES["macro"])
def test_the_mean_tax_is_over_tasks_then_over_groups(rows, value, error):
    empty = dict.fromkeys(field.name for field in fields(Row))
    names = ("task", "group", "tax_of_range", "tax_error")
    groups, mean = macro([Row(**empty | dict(zip(names, row, strict=True))) for row in rows], 1.0)
    assert (mean.value, mean.standard_error) == (pytest.approx(value), error and pytest.approx(error))
    assert mean.low == (error and pytest.approx(value - 1.96 * error, abs=1e-3))
    assert np.mean([group.value for group in groups]) == pytest.approx(value)
    assert macro([], 1.0) == ((), None)


@given(st.lists(POINT, min_size=1, max_size=12), POINT)
def test_the_hypervolume_counts_dominated_unit_squares_and_dominated_points_add_nothing(points, extra):
    by_hand = [(0.5, 0.0), (0.7, 10.0), (0.6, 20.0), (0.9, 40.0), (0.95, 120.0)]
    assert non_dominated(by_hand) == [True, True, False, True, True]
    assert hypervolume(by_hand, (0.0, 100.0)) == pytest.approx(0.5 * 100 + 0.2 * 90 + 0.2 * 60)
    corner = (0.0, 6.0)
    before, after = hypervolume(points, corner), hypervolume([*points, extra], corner)
    assert after >= before
    if any(reward >= extra[0] and cost <= extra[1] for reward, cost in points):
        assert after == before
        assert not non_dominated([*points, extra])[-1] or extra in points
    front = [point for point, on in zip(points, non_dominated(points), strict=True) if on]
    assert hypervolume(front, corner) == before
    assert before == len({(x, y) for reward, cost in points for x in range(reward) for y in range(cost, 6)})


def test_mcnemar_is_the_exact_binomial_test_of_the_documents_that_changed():
    # 9 improved, 3 got worse: 2 · (1 + 12 + 66 + 220) / 2^12
    before, after = [0] * 9 + [1] * 3 + [1] * 20 + [0] * 5, [1] * 9 + [0] * 3 + [1] * 20 + [0] * 5
    assert mcnemar(before, after) == mcnemar(after, before) == pytest.approx(2 * 299 / 4096)
    assert (mcnemar(before, before), mcnemar([0] * 6, [1] * 6)) == (1.0, pytest.approx(2 / 64))


def test_an_adjusted_wald_interval_by_hand():
    deltas = np.array([-1.0] * 3 + [1.0] + [0.0] * 46)
    (found, _), error = rare_changes(deltas, np.arange(50), 1.0), np.sqrt(6.5 - 4 / 52.5) / 52.5
    assert (found.value, found.standard_error) == pytest.approx((-2 / 50, error))
    assert (found.low, found.high) == pytest.approx((-2 / 52.5 - 2.0066 * error, -2 / 52.5 + 2.0066 * error), abs=1e-4)
    points, _ = rare_changes(100 * deltas, np.arange(50), 100.0)  # in points of a hundred
    assert (points.low, points.high) == pytest.approx((100 * found.low, 100 * found.high))
    # few are counted in groups, and relative to those without a change
    many, half = [1.0] * 20 + [0.0] * 80, [1.0] * 5 + [0.0] * 5
    assert few_changed(deltas, np.arange(50))
    assert few_changed(many, np.arange(100) // 2)
    for changes, cluster in ((many, np.arange(100)), (half, np.arange(10)), ([0.0] * 10, np.zeros(10, int))):
        assert not few_changed(changes, cluster)


def test_a_change_that_nearly_all_documents_share_has_an_interval_around_it():
    deltas = np.array([1.0] * 94 + [0.0] * 2)
    mirrored, _ = rare_changes(deltas - 1, np.arange(96), 1.0)
    for better, (low, high) in {"higher": (0.937, 1.0), "lower": (-1.0, -0.937)}.items():
        pairs = Pairs(np.zeros(96), deltas, np.arange(96), None, 0)
        (draws,) = resample([(pairs, better)], resamples=1000)
        for binary in (True, False):
            found = paired_change(pairs, draws, better, 1.0, binary)
            assert (found.delta.low, found.delta.high) == pytest.approx((1 + mirrored.low, 1.0))
            assert (found.gain.low, found.gain.high) == pytest.approx((low, high), abs=1e-3)
            assert found.p < 1e-6
    assert usual_change(deltas, np.arange(96)) == 1.0
    for changes, n in ((np.ones(96), 96), (deltas[88:], 8), (np.arange(20.0), 20), (np.repeat([0.0, 1.0], 10), 20)):
        assert usual_change(changes, np.arange(n)) == 0.0


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=19), st.integers(40, 400))
def test_p_is_below_5_percent_if_the_adjusted_wald_interval_excludes_0(changes, n):
    deltas = np.zeros(n)
    deltas[: len(changes)] = changes
    found, p = rare_changes(deltas, np.arange(n), 1.0)
    assert abs(p - 0.05) < 1e-9 or (p < 0.05) == (found.low > 0 or found.high < 0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holms_correction_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    adjusted = holm(p)
    assert all(x <= y <= min(1, x * len(p)) + 1e-12 for x, y in zip(p, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p, kind="stable")] == sorted(adjusted)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand
    assert (holm([0.5, 0.9]), holm([])) == ([1.0, 1.0], [])


def test_the_minimum_detectable_effect_is_detected_80_percent_of_the_time():
    draw, n = np.random.default_rng(1), 100
    truth = minimum_detectable_effect(1 / np.sqrt(n))
    assert truth * np.sqrt(n) == pytest.approx(2.80, abs=0.005)
    z = np.sqrt(n) * (draw.normal(size=(20_000, n)) + truth).mean(axis=1)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.01)


def pairs_of(reference, aligned, groups=None):
    groups = groups or [None] * len(reference)
    sides = [
        {str(i): Record(str(i), "", group=groups[i], metrics={"m": x}) for i, x in enumerate(own)}
        for own in (reference, aligned)
    ]
    return pair("m", *sides, None)


def compared(own, better="higher", span=None):
    return paired_change(own, resample([(own, better)])[0], better, span, binary=False)


def test_documents_that_one_model_lacks_are_left_out_and_counted():
    reference = {"a": Record("a", "", chance={"m": 0.2}, metrics={"m": 1.0}), "b": Record("b", "", metrics={"m": None})}
    aligned = {name: Record(name, "", metrics={"m": x}) for name, x in (("a", 0.5), ("b", 1.0), ("c", 1.0))}
    own = pair("m", reference, aligned, 0.25)
    assert (own.reference.tolist(), own.aligned.tolist(), own.left_out, own.chance) == ([1.0], [0.5], 2, 0.2)
    assert pair("other", reference, aligned, None) is None


def test_the_bootstrap_equals_a_loop_with_the_same_draws():
    draw = np.random.default_rng(0)
    plain = pairs_of(draw.random(50), draw.random(50))
    grouped = pairs_of(draw.random(90), draw.random(90), [f"g{i % 50}" for i in range(90)])
    weights = np.concatenate(list(bootstrap.weights(50, 400, 3)))
    drawn = resample([(plain, "higher"), (grouped, "0.5")], seed=3, resamples=400)
    for own, found in zip((plain, grouped), drawn, strict=True):
        for times, means in zip(weights, found[0], strict=True):
            rows = np.repeat(np.arange(len(own.cluster)), times[own.cluster].astype(int))
            before, after = own.reference[rows].mean(), own.aligned[rows].mean()
            assert means[:3] == pytest.approx([after - before, before, after][: len(means)])


def result_of(values):
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return MetricResult("m", None, "r", "higher", float(np.mean(values)), error, None, None, len(values), 3, 0, None)


def test_a_paired_comparison_detects_what_two_separate_intervals_cannot():
    draw = np.random.default_rng(0)
    before = draw.normal(size=300)
    after = before + 0.05 + 0.1 * draw.normal(size=300)
    paired, apart = compared(pairs_of(before, after)), unpaired(result_of(before), result_of(after))
    assert paired.p < 0.001 < 0.4 < apart.p
    assert apart.delta.standard_error > 5 * paired.delta.standard_error
    for other in ([0.5], [1.0, 2.0]):
        found = unpaired(result_of([0.5]), result_of(other))
        assert found.p is found.delta.low is None


def test_a_bias_in_the_other_direction_is_no_gain_and_few_groups_give_no_small_p_value():
    # from .4 to .6 with a target of .5: the values differ, their distances from the target do not
    own = compared(pairs_of([1.0] * 40 + [0.0] * 60, [1.0] * 60 + [0.0] * 40), better="0.5")
    assert own.gain.value == pytest.approx(0.0)
    assert own.delta.low > 0
    assert own.p > 0.9
    few = compared(pairs_of([0.0] * 4, [1.0] * 4), span=1.0)
    assert few.p == pytest.approx(2 * np.exp(-2))
    assert few.delta.low < 0 < few.delta.high
    many = compared(pairs_of([0.0] * 30, [0.2] * 30), span=1.0)  # equal changes: p and interval agree
    assert (many.p < 0.05) == (many.delta.low > 0)
    rare = compared(pairs_of([0.0] * 3, [1.0, 0.0, 0.0]), span=1.0)  # no gain is larger than the range
    assert (rare.test, rare.gain, rare.gain.high) == ("adjusted Wald", rare.delta, 1.0)
    one = compared(pairs_of([0.0] * 4, [1.0] * 4, ["g"] * 4))
    assert one.delta.low is one.p is None


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("expected", [0.5, 2.0, 3.0, 6.0, 9.0])
def test_adjusted_wald_intervals_cover_the_truth_however_rarely_documents_change(n, expected):
    # losses only, by the exact binomial; then losses and gains of any size
    ends = [rare_changes(np.repeat([-1.0, 0.0], [k, n - k]), np.arange(n), 1.0)[0] for k in range(20)]
    covered = [k for k, end in enumerate(ends) if end.low <= -expected / n <= end.high]
    assert binom.pmf(covered, n, expected / n).sum() >= 0.935
    draw = np.random.default_rng(0)
    changed = draw.random((500, n)) < expected / n
    for sizes in (draw.random((500, n)), np.full((500, n), 0.3), np.where(draw.random((500, n)) < 0.3, 1.0, -1.0)):
        truth = expected / n * (-0.4 if sizes.min() < 0 else 0.5 if sizes.min() < 0.3 else 0.3)
        found = [rare_changes(deltas, np.arange(n), 1.0)[0] for deltas in np.where(changed, sizes, 0.0)]
        assert np.mean([own.low <= truth <= own.high for own in found]) >= 0.935
