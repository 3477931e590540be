"""Figures of win rates, labels, truthfulness, toxicity and bias show the values of the run folders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audit_runs import N, shares
from figure_checks import assert_nothing_overlaps, draw
from report_runs import PROMPT_TOXICITIES, bias, contest, judged_truth, model, toxic

from alignbench.labels.agreement import questions, with_reference
from alignbench.labels.summary import summary
from alignbench.labels.table import Label
from alignbench.stats import estimates
from reports.evidence import Evidence
from reports.figures import preference, safety

pytest_plugins = ("report_fixtures",)


class TestWinRates:
    def test_systems_of_one_size_are_rows_sorted_by_rate(self, drawings):
        drawing = drawings["win_rate_by_size"]
        (axes,) = drawing.figure.axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["ptx", "ppo", "sft", "base"]
        assert "baseline: sft-large" in [text.get_text() for text in axes.texts]
        assert drawing.title == "Win rates"
        assert (
            "base: 30 words, baseline 20, always the longer answer 70%, agreement of the judge with the longer answer "
            "80%, same verdict in both orders 90%" in drawing.caption
        )

    def test_a_method_of_several_sizes_is_a_line_over_them(self, nasty):
        rates, equal = nasty["win_rate_by_size"].figure.axes
        assert (rates.get_title("left"), equal.get_title("left")) == ("Win rate", "At equal lengths")
        lines = [line for line in rates.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
        lines = [line for line in lines if line.get_transform() == rates.transData]
        assert len({line.get_color() for line in lines}) == 2  # base and sft
        table = nasty["win_rate_by_size"].table
        sft = table[(table.method == "sft") & (table.metric == "win_rate")].sort_values("parameters")
        assert any(list(line.get_ydata()) == pytest.approx(list(sft.value)) for line in lines)

    @pytest.mark.parametrize("ratio", [1.003, 1.3])
    def test_models_without_a_method_are_separate_points(self, ratio, tmp_path):
        folders = [
            model(tmp_path, f"m{n}", contest(0.3 + 0.03 * n), parameters=int(10**8 * ratio**n), stage=None)
            for n in range(6)
        ]
        figure = draw(preference.win_rate, *folders).figure
        assert_nothing_overlaps(figure)
        axes = figure.axes[0]
        at = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() != "None"]
        assert len(set(map(float, at))) == 6
        assert axes.get_xlim()[0] < min(at) < max(at) < axes.get_xlim()[1]

    def test_the_baseline_is_at_fifty_percent_among_models_with_sizes(self, tmp_path):
        small = model(tmp_path, "small", ("rte", {"acc": shares(0.5)}), parameters=10**6)
        large = model(tmp_path, "large", contest(0.7, "small"), parameters=10**9)
        table = draw(preference.win_rate, small, large).table.set_index(["system", "metric"])
        assert table.value["small", "win_rate"] == 0.5
        assert np.isnan(table.low["small", "win_rate"])
        assert table.value["large", "win_rate"] == pytest.approx(0.7)

    def test_rates_against_another_baseline_are_counted_and_not_mixed(self, tmp_path):
        folders = [model(tmp_path, "a", contest(0.6)), model(tmp_path, "b", contest(0.6), contest(0.9, "weak"))]
        found = draw(preference.win_rate, *folders)
        assert set(found.table.baseline) == {"sft-large"}
        assert "Not shown: 1 win rate against another baseline" in found.caption


class TestTruthfulness:
    def test_bars_have_the_lengths_in_the_table(self, drawings):
        widths = [patch.get_width() for axes in drawings["truthfulness"].figure.axes for patch in axes.patches]
        assert sorted(widths) == pytest.approx(sorted(drawings["truthfulness"].table.value))

    def test_runs_without_a_judge_do_not_hide_those_with_one(self, tmp_path):
        folders = [model(tmp_path, "judged", *judged_truth(0.6))]
        folders += [model(tmp_path, name, ("truthfulqa_generation", {"bleu_acc": shares(0.3)})) for name in "xy"]
        assert set(draw(safety.truthfulness, *folders).table.system) == {"judged"}

    def test_without_a_judge_multiple_choice_is_shown(self, tmp_path):
        values = {"mc1": [*shares(0.4)[1:], None], "mc2": [0.5] * (N - 1) + [None], "mc3": [0.5] * (N - 1) + [None]}
        columns = [{"chance": {"mc1": 0.25, "mc2": 0.5, "mc3": 0.25}}] * N
        found = draw(safety.truthfulness, model(tmp_path, "a", ("truthfulqa_mc", values, {"columns": columns})))
        assert set(found.table.metric) == {"mc1", "mc2"}
        assert "1 unscored document" in found.caption
        assert "chance 25 %" in [text.get_text() for text in found.figure.axes[0].texts]


class TestToxicity:
    def test_each_scorer_has_a_row_of_panels(self, tmp_path):
        tasks = [toxic(variant, 0.5, scorer) for variant in ("basic", "biased") for scorer in ("words", "model")]
        drawing = draw(safety.toxicity, model(tmp_path, "a", *tasks))
        assert len(drawing.figure.axes) == 4
        assert set(drawing.table.scorer) == {"words@1", "model@1"}

    def test_by_prompt_it_is_the_mean_of_each_tenth(self, drawings):
        table = drawings["toxicity_by_prompt"].table
        own = table[(table.system == "base") & (table.instruction == "basic")]
        assert list(own.bin_low) == pytest.approx([tenth / 10 for tenth in range(10)])
        assert set(own.n) == {N // 10}
        expected = estimates.mean(0.7 * np.array(PROMPT_TOXICITIES[24:36]))
        row = own.iloc[2]
        assert (row.value, row.low, row.high) == pytest.approx((expected.value, expected.low, expected.high))

    def test_unscored_outputs_are_counted_and_prompts_without_score_are_in_no_tenth(self, tmp_path):
        name, values, changes = toxic("basic", 0.5)
        changes["columns"][5]["target"] = {"prompt_toxicity": None}
        values = {"toxicity_greedy": [None, *values["toxicity_greedy"][1:]]}
        first = draw(safety.toxicity_by_prompt, model(tmp_path, "a", (name, values, changes))).table.iloc[0]
        assert (first.n, first.unscored) == (10, 1)


def test_biases_are_shown_with_their_direction_and_different_settings_are_not_called_missing(tmp_path):
    both = {name: (bias("crows_pairs", 0.5, rate), bias("winogender", 0.5)) for name, rate in (("a", 0.6), ("b", 0.7))}
    (name, values, changes), _ = both["a"]
    folders = [model(tmp_path, system, *tasks) for system, tasks in both.items()]
    folders.append(model(tmp_path, "c", (name, values, {**changes, "documents_sha256": "e" * 64})))
    folders.append(model(tmp_path, "d", ("rte", {"acc": shares(0.5)})))
    found = draw(safety.bias, *folders)
    own = found.table[found.table.metric == "pct_stereotype"]
    assert own[["system", "value"]].values.tolist() == [["a", pytest.approx(0.6)], ["b", pytest.approx(0.7)]]
    marks = [marks.get_offsets()[:, 0].tolist() for axes in found.figure.axes for marks in axes.collections[-1:]]
    assert [pytest.approx(0.6), pytest.approx(0.7)] in marks
    assert "a 60%, b 70%" in found.caption
    assert "Left out: 1 system with different settings, 1 system without these metrics." in found.caption
    assert_nothing_overlaps(found.figure)


class TestLabels:
    def test_ratings_and_flags_are_those_of_the_summary(self, drawings, evidence):
        known = {(own.model, own.statistic): own.estimate for own in summary(evidence.labels, resamples=50)}
        ratings = drawings["likert"].table.set_index("system")
        flags = drawings["metadata_flags"].table.set_index(["system", "flag"])
        for system in ("base", "sft", "ppo"):
            for row, own in ((ratings.loc[system], "likert"), (flags.loc[(system, "sexual")], "sexual")):
                expected = known[system, own]
                assert (row.value, row.low, row.high) == (expected.value, expected.low, expected.high)
            assert sum(ratings.loc[system, f"share_{rating}"] for rating in range(1, 8)) == pytest.approx(1)

    def test_every_flag_has_a_panel_and_many_labelers_have_cells_without_numbers(self, drawings, nasty):
        flags = {"fails_instruction", "inappropriate_for_customer_assistant", "$x_y$", "a" * 70}
        assert set(nasty["metadata_flags"].table.flag) == flags
        assert len(nasty["metadata_flags"].figure.axes) == 4
        assert len(drawings["labeler_agreement"].figure.axes[0].texts) == 2 * 3 + 2  # cells, groups
        assert len(nasty["labeler_agreement"].figure.axes[0].texts) == 2

    def test_models_without_runs_are_after_the_systems(self, evidence):
        said = tuple(Label("1", None, name, "x", name, likert=4) for name in ("zeta", "ppo", "alpha"))
        table = draw(preference.likert, replace(evidence, labels=said)).table
        assert list(table.system) == ["ppo", "alpha", "zeta"]

    def test_agreement_is_that_of_each_two_labelers(self, drawings, evidence):
        table = drawings["labeler_agreement"].table
        judgements = questions(evidence.labels)[0].overlapping()
        assert judgements.question == "ranking"
        assert len(table) == 3
        for row in table.itertuples():
            one, other = judgements.labelers.index(row.labeler), judgements.labelers.index(row.other)
            expected = with_reference(judgements, one, other)
            assert (row.value, row.n) == (expected.value, expected.n)

    def test_labelers_are_sorted_by_group_and_number(self):
        who = {"a2": "x", "a10": "x", "b": "w", "contrary": "x"}
        given = [
            Label(str(p), None, "text", name, "m", group, likert=7 - p % 7 if name == "contrary" else 1 + p % 7)
            for p in range(9)
            for name, group in who.items()
        ]
        found = draw(preference.agreement, Evidence((), labels=tuple(given)))
        (axes,) = found.figure.axes
        assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a2", "a10", "contrary"]
        value = found.table.set_index(["labeler", "other"]).value
        assert value["a2", "a10"] == 1
        assert value["a2", "contrary"] == pytest.approx(1 / 9)  # 1 + p % 7 = 7 - p % 7 only for p = 3
