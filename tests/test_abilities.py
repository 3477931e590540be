"""Verdicts on benchmarks and abilities: one tested variant of a family, a margin, and a tax of capabilities alone."""

from dataclasses import replace

import numpy as np
import pytest
from audit_runs import N, around, headline_of, shares, write_run

from alignbench.audit.abilities import abilities, judge
from alignbench.audit.compare import compare
from alignbench.audit.render import tables
from alignbench.console import number
from alignbench.stats.significance import minimum_detectable_effect
from alignbench.tasks import all_tasks
from alignbench.types.task import Ability


@pytest.fixture
def contrast(tmp_path):
    """The comparison of a base and an aligned model, given (task, values of each, changes to task.json)."""

    def run(*tasks, **settings):
        for place, name in enumerate(("base", "aligned")):
            write_run(tmp_path, name, *((task, values[place], *changes) for task, values, *changes in tasks))
        (found,) = compare(["base", "aligned"], runs=tmp_path, **settings).contrasts
        return found

    return run


def accuracies(before, after, metric="acc"):
    return [{metric: shares(before)}, {metric: shares(after)}]


def test_every_task_has_an_ability_and_capabilities_have_a_group():
    for task in all_tasks().values():
        assert task.ability in Ability.__args__
        assert bool(task.group) == (task.ability == "capability"), task.name
    ranks = [(task.family or task.name, task.rank) for task in all_tasks().values()]
    assert len(set(ranks)) == len(ranks)


def test_one_variant_of_a_benchmark_is_tested_and_counted(contrast):
    found = contrast(
        ("crows_pairs_biased", [{"entropy": around(0.5)}, {"entropy": around(0.9)}]),
        ("crows_pairs", [{"entropy": around(0.5)}, {"entropy": around(0.6)}]),
        ("rte", accuracies(0.8, 0.6), {"shots": 15}),
        ("rte", accuracies(0.8, 0.7)),
    )
    primary = {row.family: (row.task, row.variant) for row in found.rows if row.primary}
    assert primary == {"crows_pairs": ("crows_pairs", ""), "rte": ("rte", "shots 0")}
    assert found.tests == 2
    others = [row for row in found.rows if row.headline and not row.primary]
    assert {(row.verdict, row.p_holm) for row in others} == {("–", None)}
    families = [row.family for row in found.rows]
    assert families == sorted(families, key=families.index)  # variants follow their primary row


def test_the_tax_is_of_capabilities_alone_and_tables_begin_with_the_abilities(contrast, tmp_path):
    found = contrast(
        ("rte", accuracies(0.8, 0.6)),
        ("truthfulqa_binary", accuracies(0.9, 0.3)),
        ("squad2", [{"f1": around(0.6)}, {"f1": around(0.5)}]),
    )
    taxes = {mean.name: mean.value for mean in found.groups}
    assert taxes == {"common sense and inference": pytest.approx(20), "reading": pytest.approx(10)}
    assert (found.mean.value, found.mean.verdict) == (pytest.approx(15), "loss")
    assert [own.ability for own in found.abilities] == ["truthfulness", "capability"]
    truth, capability = (own.sentence for own in found.abilities)
    words = "Truthfulness: loss. truthfulqa_binary.acc fell by 0.600 from 0.900 to 0.300 (95 % interval −0."
    assert truth.startswith(words)
    assert capability.startswith("Capability: loss. The mean tax is +15.00 % of the range of a metric (2 tasks; 95 %")
    table, tax = tables(compare(["base", "aligned"], runs=tmp_path))
    assert table.lead == (truth, capability)
    assert tax.rows[0][0] == "common sense and inference"


def test_sentences_name_a_metric_like_its_task_once_and_say_where_a_value_stayed(contrast):
    row = replace(headline_of(contrast(("rte", accuracies(0.8, 0.8)))), task="win_rate", metric="win_rate")
    changes = {0: "stayed at 0.800", -1e-5: "stayed at about 0.800", -0.1: "fell by 0.100 from 0.800 to 0.700"}
    for delta, words in changes.items():
        (own,) = abilities([replace(row, delta=delta, aligned=0.8 + delta)], None)
        assert f". The win rate {words} (95 % interval" in own.sentence
    assert [number(x, "+.2f") for x in (-0.001, 0.001, -0.01, None)] == ["+0.00", "+0.00", "−0.01", "–"]


def test_a_loss_within_the_margin_is_retained_if_the_metric_has_a_range(contrast):
    values = np.clip(np.random.default_rng(0).normal(0.5, 0.01, N), 0, 1)
    noise = np.random.default_rng(1).normal(0, 0.002, N)
    tasks = ("squad2", [{"f1": values.tolist()}, {"f1": (values + noise - noise.mean()).tolist()}])
    assert headline_of(contrast(tasks)).verdict == "retained"
    row = headline_of(contrast(tasks, margin=0.01))
    assert (row.verdict, row.gain_low < -0.0001) == ("inconclusive", True)
    same = [{"entropy": around(2.0)}, {"entropy": around(2.0)}]
    assert headline_of(contrast(("token_entropy", same)), "token_entropy").verdict in ("inconclusive", "–")


def test_intervals_p_values_and_detectable_effects_agree_with_the_verdicts(contrast):
    draw, tasks = np.random.default_rng(3), []
    for place, name in enumerate(("squad2", "drop", "quac", "canard", "cnn_dailymail", "tldr")):
        metric, before = all_tasks()[name].headline, draw.random(N)
        after = np.clip(before + draw.normal(0.02 * place, 0.25, N), 0, 1)
        tasks.append((name, [{metric: before.tolist()}, {metric: after.tolist()}]))
    found = contrast(*tasks)
    tested = [row for row in found.rows if row.primary]
    assert len(tested) == found.tests == 6
    for row in tested:
        assert (row.p < 0.05) == (row.low > 0 or row.high < 0)
        assert (row.verdict in ("gain", "loss")) == (row.p_holm < 0.05)
        assert row.detectable == pytest.approx(minimum_detectable_effect(row.standard_error, 0.05 / 6))
        assert ("only before the correction for 6 tests" in row.note) == (row.p < 0.05 <= row.p_holm)
    assert {row.verdict for row in tested} > {"gain"}
    assert judge(found.rows) == list(found.rows)  # judging again changes nothing
