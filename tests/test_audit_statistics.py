"""The audit's mathematics: published numbers, exact cases, and what must hold whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from alignbench.audit.across import SUMS, unpaired
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from alignbench.audit.audit import Row
from alignbench.audit.front import hypervolume, non_dominated
from alignbench.audit.paired import Pairs, change, pair, resample
from alignbench.audit.tax import macro, relative_tax, tax
from alignbench.stats import bootstrap
from alignbench.stats.significance import (
    detectable,
    few_changed,
    holm,
    least_p,
    mcnemar,
    p_of_rare_changes,
    rare_changes,
)
from alignbench.types.result import MetricResult

POINT = st.tuples(st.integers(0, 6), st.integers(0, 6))
# InstructGPT, Table 14, few-shot, 175B: GPT, PPO, PPO-ptx; and what PPO and PPO-ptx changed
TABLE_14 = {
    "squad2": (69.75, 51.95, 69.93, -17.80, 0.18),
    "drop": (35.27, 27.78, 33.34, -7.49, -1.93),
    "wmt15_fr_en": (39.93, 26.58, 36.76, -13.35, -3.17),
    "hellaswag": (0.791, 0.759, 0.820, -0.032, 0.029),
}


@pytest.mark.parametrize("task", TABLE_14)
def test_the_tax_of_instructgpt_is_that_of_table_14(task):
    gpt, ppo, ppo_ptx, change_ppo, change_ptx = TABLE_14[task]
    assert tax(gpt, ppo, "higher") == pytest.approx(-change_ppo)
    assert tax(gpt, ppo_ptx, "higher") == pytest.approx(-change_ptx)


def test_relative_tax_of_instructgpt_on_hellaswag_is_6_percent_of_what_is_above_chance():
    assert relative_tax(0.791, 0.759, "higher", 0.25, 0.004) == pytest.approx(0.032 / 0.541)


def test_a_relative_tax_is_told_only_two_standard_errors_above_chance():
    assert relative_tax(0.30, 0.28, "higher", 0.25, 0.0249) == pytest.approx(0.4)
    assert relative_tax(0.30, 0.28, "higher", 0.25, 0.0251) is None
    assert relative_tax(0.20, 0.28, "higher", 0.25, 0.001) is None  # below chance
    assert relative_tax(0.30, 0.28, "higher", None, 0.001) is None
    assert relative_tax(0.30, 0.28, "0.5", 0.25, 0.001) is None


@pytest.mark.parametrize(
    ("better", "reference", "aligned", "expected"),
    [("higher", 0.7, 0.6, 0.1), ("lower", 0.2, 0.5, 0.3), ("0.5", 0.6, 0.3, 0.1), ("0", -1.0, 0.5, -0.5)],
)
def test_a_tax_is_positive_where_alignment_made_it_worse(better, reference, aligned, expected):
    assert tax(reference, aligned, better) == pytest.approx(expected)


def test_what_has_no_better_direction_has_no_tax():
    assert tax(3.0, 5.0, "–") is None


def test_mcnemar_is_the_exact_binomial_test_of_the_documents_that_changed():
    # 9 got better, 3 worse: 2 · (1 + 12 + 66 + 220) / 2^12
    before = [0] * 9 + [1] * 3 + [1] * 20 + [0] * 5
    after = [1] * 9 + [0] * 3 + [1] * 20 + [0] * 5
    assert mcnemar(before, after) == pytest.approx(2 * 299 / 4096)
    assert mcnemar(after, before) == pytest.approx(2 * 299 / 4096)
    assert mcnemar(before, before) == 1.0
    assert mcnemar([0] * 6, [1] * 6) == pytest.approx(2 / 64)


def test_an_interval_of_rare_changes_by_hand():
    deltas = [-1.0] * 3 + [1.0] + [0.0] * 46
    assert few_changed(deltas, np.arange(50))
    found = rare_changes(deltas, np.arange(50), 1.0)
    error = np.sqrt(6.5 - 4 / 52.5) / 52.5
    assert found.value == pytest.approx(-2 / 50)
    assert found.standard_error == pytest.approx(error)
    assert (found.low, found.high) == pytest.approx((-2 / 52.5 - 2.0066 * error, -2 / 52.5 + 2.0066 * error), abs=1e-4)
    # in points of a hundred it is a hundred times as wide
    points = rare_changes(100 * np.array(deltas), np.arange(50), 100.0)
    assert (points.low, points.high) == pytest.approx((100 * found.low, 100 * found.high))


def test_few_are_counted_in_groups_and_against_those_that_did_not_change():
    assert not few_changed([1.0] * 20 + [0.0] * 80, np.arange(100))
    assert few_changed([1.0] * 20 + [0.0] * 80, np.arange(100) // 2)
    assert not few_changed([1.0] * 5 + [0.0] * 5, np.arange(10))
    assert not few_changed([0.0] * 10, np.zeros(10, int))


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=19), st.integers(40, 400))
def test_p_is_below_5_percent_where_the_interval_leaves_0_out(changes, n):
    deltas = np.zeros(n)
    deltas[: len(changes)] = changes
    found = rare_changes(deltas, np.arange(n), 1.0)
    p = p_of_rare_changes(found.value, found.standard_error, n)
    assert abs(p - 0.05) < 1e-9 or (p < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("expected", [0.5, 2.0, 3.0, 6.0, 9.0])
def test_an_interval_holds_the_truth_however_rarely_documents_change(n, expected):
    # one that lost what it had, by the exact binomial; then losses and gains, of any size
    ends = [rare_changes(np.repeat([-1.0, 0.0], [k, n - k]), np.arange(n), 1.0) for k in range(20)]
    held = [k for k, end in enumerate(ends) if end.low <= -expected / n <= end.high]
    assert binom.pmf(held, n, expected / n).sum() >= 0.935
    draw = np.random.default_rng(0)
    changed = draw.random((500, n)) < expected / n
    for sizes in (draw.random((500, n)), np.full((500, n), 0.3), np.where(draw.random((500, n)) < 0.3, 1.0, -1.0)):
        truth = expected / n * (-0.4 if sizes.min() < 0 else 0.5 if sizes.min() < 0.3 else 0.3)
        found = [rare_changes(deltas, np.arange(n), 1.0) for deltas in np.where(changed, sizes, 0.0)]
        assert np.mean([own.low <= truth <= own.high for own in found]) >= 0.935


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_the_order_is_no_smaller_than_p_and_no_larger_than_bonferroni(p):
    adjusted = holm(p)
    assert all(x <= y <= min(1, x * len(p)) + 1e-12 for x, y in zip(p, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p, kind="stable")] == sorted(adjusted)


def test_the_smallest_change_that_could_be_seen_is_seen_80_percent_of_the_time():
    draw, n = np.random.default_rng(1), 100
    truth = detectable(1 / np.sqrt(n))
    assert truth * np.sqrt(n) == pytest.approx(2.80, abs=0.005)
    z = np.sqrt(n) * (draw.normal(size=(20_000, n)) + truth).mean(axis=1)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.01)


def pairs_of(reference, aligned, groups=None) -> Pairs:
    names = [f"d{i}" for i in range(len(reference))]
    groups = groups or [None] * len(names)
    records = [
        {name: {"id": name, "group": g, "chance": {}, "m": x} for name, g, x in zip(names, groups, values, strict=True)}
        for values in (reference, aligned)
    ]
    found = pair("m", *records, None)
    assert found is not None
    return found


def test_the_bootstrap_equals_a_plain_reading_with_the_same_draws():
    draw = np.random.default_rng(0)
    plain = pairs_of(draw.random(50), draw.random(50))
    grouped = pairs_of(draw.random(90), draw.random(90), [f"g{i % 50}" for i in range(90)])
    assert plain.clusters == grouped.clusters == 50
    means = resample([plain, grouped], seed=3, resamples=400)
    weights = np.concatenate(list(bootstrap.weights(50, 400, 3)))
    for own, found in zip((plain, grouped), means, strict=True):
        for row, (reference, aligned) in zip(weights, found, strict=True):
            drawn = [
                document
                for cluster, times in enumerate(row)
                for document in np.flatnonzero(own.cluster == cluster).tolist() * int(times)
            ]
            assert reference == pytest.approx(np.mean(own.reference[drawn]))
            assert aligned == pytest.approx(np.mean(own.aligned[drawn]))


def test_the_bootstrap_equals_numpys_choice_within_the_error_of_drawing():
    draw = np.random.default_rng(0)
    before = draw.random(200)
    after = before + 0.1 * draw.normal(size=200) + 0.02
    own = pairs_of(before, after)
    found = change(before.mean(), after.mean(), resample([own])[0], 200, 200, "higher")
    loop = np.random.default_rng(9)
    deltas = np.array([(after - before)[loop.choice(200, 200)].mean() for _ in range(10_000)])
    low, high = bootstrap.percentiles(deltas, 200)
    assert found.delta.low == pytest.approx(low, abs=0.0006)
    assert found.delta.high == pytest.approx(high, abs=0.0006)
    assert found.p == pytest.approx(bootstrap.p_value(deltas.mean(), deltas, 200), abs=0.005)


def test_pairing_sees_what_two_separate_intervals_cannot():
    draw = np.random.default_rng(0)
    before = draw.normal(size=300)
    after = before + 0.05 + 0.1 * draw.normal(size=300)
    paired = change(before.mean(), after.mean(), resample([pairs_of(before, after)])[0], 300, 300, "higher")
    apart = unpaired(metric_result(before), metric_result(after))
    assert paired.p < 0.001
    assert apart.p > 0.4
    assert apart.delta.standard_error > 5 * paired.delta.standard_error


def metric_result(values) -> MetricResult:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    n = len(values)
    return MetricResult("m", None, "r", "higher", float(np.mean(values)), error, None, None, n, n, 0, None)


@pytest.mark.parametrize("n", [50, 200, 800])
@pytest.mark.parametrize("size", [1, 4])
def test_paired_intervals_hold_the_truth_95_percent_of_the_time(n, size):
    # scores between 0 and 1, what alignment did to them, and what all documents of a group have in common
    draw, truth, simulations = np.random.default_rng([n, size]), -0.05, 2000
    clusters = n // size
    cluster = np.minimum(np.arange(n) // size, clusters - 1)
    own = []
    for _ in range(simulations):
        before = draw.beta(0.8, 0.6, n)
        after = before + truth + 0.2 * draw.normal(size=n) + 0.2 * draw.normal(size=clusters)[cluster]
        own.append(Pairs(before, after, cluster, clusters, None, 0))
    draws = resample(own, seed=n, resamples=2000)
    found = [
        change(one.reference.mean(), one.aligned.mean(), drawn, n, clusters, "higher")
        for one, drawn in zip(own, draws, strict=True)
    ]
    held = np.mean([one.delta.low <= truth <= one.delta.high for one in found])
    assert held == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("n", [50, 200])
def test_where_nothing_changed_one_p_value_in_twenty_is_below_5_percent(n):
    draw = np.random.default_rng(n)
    own = []
    for _ in range(2000):
        before = draw.random(n)
        own.append(Pairs(before, before + 0.3 * draw.normal(size=n), np.arange(n), n, None, 0))
    draws = resample(own, resamples=1000)
    p = [
        change(one.reference.mean(), one.aligned.mean(), drawn, n, n, "lower").p
        for one, drawn in zip(own, draws, strict=True)
    ]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_a_bias_that_turned_round_is_no_change_for_the_better():
    # from .4 to .6 of a target of .5: documents differ, the distance does not
    before, after = [1.0] * 40 + [0.0] * 60, [1.0] * 60 + [0.0] * 40
    own = change(0.4, 0.6, resample([pairs_of(before, after)])[0], 100, 100, "0.5")
    assert own.gain.value == pytest.approx(0.0)
    assert own.delta.low > 0
    assert own.p > 0.9


def test_few_groups_cannot_prove_much_however_alike_they_are():
    own = change(0.0, 1.0, resample([pairs_of([0.0] * 4, [1.0] * 4)])[0], 4, 4, "higher")
    assert own.p == least_p(4) == 2 / 16
    one = change(0.0, 1.0, resample([pairs_of([0.0] * 4, [1.0] * 4, ["g"] * 4)])[0], 4, 1, "higher")
    assert (one.delta.low, one.p) == (None, None)


def test_documents_that_one_model_lacks_are_left_out_and_counted():
    bare = {"group": None, "chance": {}}
    reference = {"a": {**bare, "id": "a", "chance": {"m": 0.2}, "m": 1.0}, "b": {**bare, "id": "b", "m": None}}
    aligned = {"a": {**bare, "m": 0.5}, "b": {**bare, "m": 1.0}, "c": {**bare, "m": 1.0}}
    own = pair("m", reference, aligned, 0.25)
    assert own.reference.tolist() == [1.0]
    assert own.aligned.tolist() == [0.5]
    assert own.left_out == 2
    assert own.chance == 0.2
    assert pair("other", reference, aligned, None) is None


def test_two_values_without_errors_differ_by_who_knows_how_much():
    bare = MetricResult("m", None, "r", "higher", 0.5, None, None, None, 3, 3, 0, None)
    assert unpaired(bare, bare).p is None
    assert unpaired(bare, metric_result([1.0, 2.0])).delta.low is None


@given(st.lists(POINT, min_size=1, max_size=12), POINT)
def test_a_dominated_point_adds_nothing_and_no_point_takes_away(points, extra):
    corner = (0.0, 6.0)
    before, after = hypervolume(points, corner), hypervolume([*points, extra], corner)
    assert after >= before
    if any(reward >= extra[0] and cost <= extra[1] for reward, cost in points):
        assert after == before
        assert not non_dominated([*points, extra])[-1] or extra in points
    front = [point for point, on in zip(points, non_dominated(points), strict=True) if on]
    assert hypervolume(front, corner) == before
    # unit squares that some point is better than, counted one by one
    squares = {(x, y) for reward, cost in points for x in range(reward) for y in range(cost, 6)}
    assert before == len(squares)


def test_the_front_and_its_area_by_hand():
    points = [(0.5, 0.0), (0.7, 10.0), (0.6, 20.0), (0.9, 40.0), (0.95, 120.0)]
    assert non_dominated(points) == [True, True, False, True, True]
    assert hypervolume(points, (0.0, 100.0)) == pytest.approx(0.5 * 100 + 0.2 * 90 + 0.2 * 60)
    assert hypervolume(points, (0.99, 100.0)) == 0.0
    assert hypervolume([], (0.0, 100.0)) == 0.0


def row(task: str, group: str, tax_of_range: float, error: float | None) -> Row:
    return Row(
        task, "", group, "m", True, "share", "higher", None, 0.5, 0.5, 0.0, None, None, 0.0, None, None, "bootstrap",
        None, "not decided", None, 0.0, None, tax_of_range, error, 10, 10, 0,
    )  # fmt: skip


def test_the_mean_tax_is_over_tasks_then_over_groups():
    rows = [row("squad2", "reading", 10.0, 3.0), row("drop", "reading", 20.0, 4.0), row("sst2", "sentiment", -5.0, 1.0)]
    card = {"squad2": "squad2", "drop": "drop", "sst2": "sst2"}
    (reading, sentiment), mean = macro(rows, card)
    assert (reading.name, reading.value, reading.standard_error) == ("reading", 15.0, pytest.approx(2.5))
    assert (sentiment.value, sentiment.standard_error) == (-5.0, 1.0)
    assert mean.value == pytest.approx(5.0)
    assert mean.standard_error == pytest.approx(np.hypot(2.5, 1.0) / 2)
    assert mean.low == pytest.approx(5.0 - 1.96 * mean.standard_error, abs=1e-3)


def test_tasks_on_the_same_data_do_not_count_as_independent():
    rows = [row("a", "bias", 1.0, 2.0), row("b", "bias", 3.0, 2.0)]
    assert macro(rows, {"a": "x", "b": "x"})[1].standard_error == pytest.approx(2.0)
    assert macro(rows, {"a": "x", "b": "y"})[1].standard_error == pytest.approx(np.sqrt(2))
    assert macro([*rows, row("c", "bias", 1.0, None)], {"a": "x", "b": "y", "c": "z"})[1].low is None
    assert macro([], {}) == ((), None)


def test_two_templates_of_one_task_count_as_one_task():
    rows = [row("a", "g", 0.0, 1.0), row("a", "g", 4.0, 1.0), row("b", "g", 8.0, 1.0)]
    assert macro(rows, {"a": "x", "b": "y"})[1].value == pytest.approx(5.0)


def test_a_corpus_score_is_a_function_of_sums():
    from alignbench.scorers import bleu

    texts = [
        ("the cat sat on the mat today", "the cat sat on a mat today"),
        ("rain fell all night", "it rained all night"),
    ]
    counts = [bleu.bleu_statistics(text, [reference]) for text, reference in texts]
    _, score = SUMS["bleu"]
    assert score([np.sum(counts, axis=0).tolist()]) == pytest.approx(bleu.corpus_bleu(counts))
