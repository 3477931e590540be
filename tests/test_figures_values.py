"""Figures of preference, safety and diversity show the values of the run folders."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product
from unittest import mock

import numpy as np
import pytest
from audit_runs import N, shares
from figure_checks import assert_nothing_overlaps, draw, shown_texts
from report_runs import (
    PROMPT_TOXICITIES,
    bias,
    contest,
    evidence_of,
    judged_truth,
    model,
    on_policy,
    personas,
    recitations,
    recited,
    shared_text,
    toxic,
)

from alignbench.diversity.semantic import mean_pairwise_distance
from alignbench.labels.agreement import questions, with_reference
from alignbench.labels.summary import summary
from alignbench.labels.table import Label
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.stats import estimates
from reports.drawing import NoDataError
from reports.evidence import Evidence
from reports.figures import diversity, kl, preference, safety
from reports.figures import personas as of_personas
from reports.style import styled

pytest_plugins = ("report_fixtures",)


class TestWinRates:
    def test_systems_of_one_size_are_rows_sorted_by_rate(self, evidence):
        drawing = draw(preference.win_rate, evidence)
        (axes,) = drawing.figure.axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["ptx", "ppo", "sft", "base"]
        assert "baseline: sft-large" in [text.get_text() for text in axes.texts]
        words = "30 words, baseline 20, always the longer answer 70%, agreement of the judge with the longer answer "
        assert f"base: {words}80%, same verdict in both orders 90%" in drawing.caption

    def test_a_method_of_several_sizes_is_a_line_over_them(self, nasty):
        drawing = draw(preference.win_rate, nasty)
        rates, equal = drawing.figure.axes
        assert (rates.get_title("left"), equal.get_title("left")) == ("Win rate", "At equal lengths")
        lines = [line for line in rates.lines if len(line.get_xdata()) == 2 and line.get_transform() == rates.transData]
        for method in ("base", "sft"):
            own = drawing.table.query(f"method == '{method}' and metric == 'win_rate'").sort_values("parameters")
            assert any(list(line.get_ydata()) == pytest.approx(list(own.value)) for line in lines)

    def test_models_without_a_method_are_separate_points(self, tmp_path):
        folders = [
            model(tmp_path, f"m{n}", contest(0.3 + 0.03 * n), parameters=int(10**8 * 1.003**n), stage=None)
            for n in range(6)
        ]
        figure = draw(preference.win_rate, *folders).figure
        assert_nothing_overlaps(figure)
        axes = figure.axes[0]
        at = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() != "None"]
        assert len(set(map(float, at))) == 6
        assert axes.get_xlim()[0] < min(at) < max(at) < axes.get_xlim()[1]

    def test_the_baseline_is_at_fifty_percent_and_rates_against_another_are_not_shown(self, tmp_path):
        small = model(tmp_path, "small", ("rte", {"acc": shares(0.5)}), parameters=10**6)
        middle = model(tmp_path, "middle", contest(0.6, "small"), parameters=10**8)
        large = model(tmp_path, "large", contest(0.7, "small"), contest(0.9, "weak"), parameters=10**9)
        found = draw(preference.win_rate, small, middle, large)
        table = found.table.query("metric == 'win_rate'").set_index("system")
        assert table.value[["small", "middle", "large"]].tolist() == pytest.approx([0.5, 0.6, 0.7])
        assert np.isnan(table.low["small"])
        assert set(found.table.baseline) == {"small"}
        assert "Not shown: 1 win rate against another baseline" in found.caption


class TestTruthfulness:
    def test_runs_without_a_judge_hide_none_with_one_and_without_any_multiple_choice_is_shown(self, evidence, tmp_path):
        drawing = draw(safety.truthfulness, evidence)
        widths = [patch.get_width() for axes in drawing.figure.axes for patch in axes.patches]
        assert sorted(widths) == pytest.approx(sorted(drawing.table.value))
        ends = {word: [box for text, box in shown_texts(drawing.figure) if text == word] for word in ("0 %", "100 %")}
        gaps = [b.x0 - a.x1 for a, b in product(ends["100 %"], ends["0 %"]) if abs(a.y0 - b.y0) < 5 and b.x0 > a.x0]
        assert min(gaps) > 9  # pixels at 100 dpi, about a letter and a half
        values = {"mc1": [*shares(0.4)[1:], None], "mc2": [0.5] * (N - 1) + [None], "mc3": [0.5] * (N - 1) + [None]}
        columns = [{"chance": {"mc1": 0.25, "mc2": 0.5, "mc3": 0.25}}] * N
        others = [model(tmp_path, name, ("truthfulqa_generation", {"bleu_acc": shares(0.3)})) for name in "xy"]
        others.append(model(tmp_path, "a", ("truthfulqa_mc", values, {"columns": columns})))
        judged = model(tmp_path, "judged", *judged_truth(0.6))
        assert set(draw(safety.truthfulness, judged, *others).table.system) == {"judged"}
        found = draw(safety.truthfulness, *others)
        assert set(found.table.metric) == {"mc1", "mc2"}
        assert "1 unscored document" in found.caption
        assert "chance 25 %" in [text.get_text() for text in found.figure.axes[0].texts]


class TestToxicity:
    def test_each_scorer_has_a_row_and_by_prompt_it_is_the_mean_of_each_tenth_without_what_has_no_score(self, tmp_path):
        tasks = [toxic(variant, 0.5, scorer) for variant in ("basic", "biased") for scorer in ("words", "model")]
        drawing = draw(safety.toxicity, model(tmp_path / "runs", "a", *tasks))
        assert (len(drawing.figure.axes), set(drawing.table.scorer)) == (4, {"words@1", "model@1"})
        name, values, changes = toxic("basic", 0.7)
        changes["columns"][5]["target"] = {"prompt_toxicity": None}
        values = {"toxicity_greedy": [None, *values["toxicity_greedy"][1:]]}
        table = draw(safety.toxicity_by_prompt, model(tmp_path, "a", (name, values, changes))).table
        assert list(table.bin_low) == pytest.approx([tenth / 10 for tenth in range(10)])
        assert (list(table.n), list(table.unscored)) == ([10, *[N // 10] * 9], [1, *[0] * 9])
        expected = estimates.mean(0.7 * np.array(PROMPT_TOXICITIES[24:36]))
        row = table.iloc[2]
        assert (row.value, row.low, row.high) == pytest.approx((expected.value, expected.low, expected.high))


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
    def test_ratings_and_flags_are_those_of_the_summary(self, evidence, nasty):
        known = {
            (own.model, own.statistic): own.estimate for own in summary(evidence.labels, resamples=preference.RESAMPLES)
        }
        ratings = draw(preference.likert, evidence).table.set_index("system")
        flags = draw(preference.flags, evidence).table.set_index(["system", "flag"])
        for system in ("base", "sft", "ppo"):
            for row, own in ((ratings.loc[system], "likert"), (flags.loc[(system, "sexual")], "sexual")):
                expected = known[system, own]
                assert (row.value, row.low, row.high) == (expected.value, expected.low, expected.high)
            assert sum(ratings.loc[system, f"share_{rating}"] for rating in range(1, 8)) == pytest.approx(1)
        said = tuple(Label("1", None, name, "x", name, likert=4) for name in ("zeta", "ppo", "alpha"))
        table = draw(preference.likert, replace(evidence, labels=said)).table
        assert list(table.system) == ["ppo", "alpha", "zeta"], "models without runs are last"
        flags = {"fails_instruction", "inappropriate_for_customer_assistant", "$x_y$", "a" * 70}
        drawn, agreed = draw(preference.flags, nasty), draw(preference.agreement, nasty)
        assert (set(drawn.table.flag), len(drawn.figure.axes)) == (flags, 4)
        assert len(draw(preference.agreement, evidence).figure.axes[0].texts) == 2 * 3  # cells
        assert not agreed.figure.axes[0].texts  # too many labelers

    def test_agreement_is_that_of_each_two_labelers_sorted_by_group_and_number(self, evidence):
        table, judgements = draw(preference.agreement, evidence).table, questions(evidence.labels)[0].overlapping()
        assert (judgements.question, len(table)) == ("ranking", 3)
        for row in table.itertuples():
            expected = with_reference(judgements, *map(judgements.labelers.index, (row.labeler, row.other)))
            assert (row.value, row.n) == (expected.value, expected.n)
        given = [
            Label(str(p), None, "text", name, "m", group, likert=4 + p)
            for p in range(3)
            for name, group in {"a2": "x", "a10": "x", "b": "w"}.items()
        ]
        (axes,) = draw(preference.agreement, Evidence((), labels=tuple(given))).figure.axes
        assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a2", "a10"]


def records(run):
    (own,) = evidence_of(run).systems[0].tasks
    return list(own.records())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    task, values, changes = personas(3, narrow=2)
    values["sentiment"] = [0.5] * 30 + [0.0] * 20 + [-0.5] * 10
    for row, name in enumerate(("李 雷", "محمد علي", "🙂 smith", "$x_1$ euler", "o'neill jack")):
        changes["columns"][row]["statistics"]["name"] = [name]
    return model(tmp_path_factory.mktemp("runs"), "m", (task, values, changes), intervals=True)


@pytest.fixture(scope="module")
def drawn(run, tmp_path_factory):
    others = tmp_path_factory.mktemp("others")
    few, without = model(others, "few", personas(2, n=19)), model(others, "without", on_policy(1))
    evidence = evidence_of(run, few, without)
    with styled():
        return {own.name: own for draw in (of_personas.histograms, of_personas.clouds) for own in draw(evidence)}


class TestPersonas:
    def test_proportions_are_those_of_the_records_and_entropies_those_of_the_task(self, run, drawn):
        counts = Counter(record.statistics["nationality"][0] for record in records(run))
        table = drawn["persona_histograms_nationality"].table.set_index("value")
        for value, count in counts.most_common(7):
            assert table.loc[value, ["count", "share"]].tolist() == [count, pytest.approx(count / 60)]
        assert table["share"].sum() == pytest.approx(1)
        (own,) = evidence_of(run).systems[0].tasks
        metrics = {metric.metric: metric for metric in own.result.metrics}
        for field in ("first_name", "gender", "age_decade", "nationality"):
            metric, first = metrics[f"{field}_entropy_at_50"], drawn[f"persona_histograms_{field}"].table.iloc[0]
            found = (first.entropy_bits, first.entropy_low, first.entropy_high)
            assert found == (pytest.approx(metric.value, abs=1e-12), metric.low, metric.high)

    def test_ages_are_in_order_and_fewer_than_twenty_values_left_out(self, drawn):
        assert len(drawn) == 6
        assert all(set(drawing.table.system) == {"m"} for drawing in drawn.values())
        assert all("fewer than 20 valid values: few." in drawing.caption for drawing in drawn.values())
        ages = drawn["persona_histograms_age_decade"].table.value.tolist()
        assert ages == sorted(ages)

    def test_a_cloud_contains_the_first_names_that_the_font_can_draw(self, run, drawn, nasty):
        expected = Counter(record.statistics["name"][0].split()[0] for record in records(run))
        table = drawn["persona_clouds_first_name"].table
        assert dict(zip(table.value, table["count"], strict=True)) == expected
        assert set(table[~table.drawn].value) == {"李", "محمد", "🙂"}
        assert "3 values in scripts without glyphs" in drawn["persona_clouds_first_name"].caption
        with styled():
            (cloud, *_) = of_personas.clouds(nasty)
        for axes in cloud.figure.axes:
            boxes = [patch.get_path().get_extents() for patch in axes.patches]
            for number, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_bins_and_means_of_the_sentiment_are_those_of_the_records(tmp_path):
    task, values, changes = personas(7)
    values["sentiment"][:4] = [None] * 4
    drawing = draw(of_personas.sentiment, model(tmp_path, "m", (task, values, changes)))
    known = np.array(values["sentiment"][4:])
    first, own = drawing.table.iloc[0], drawing.table[np.isclose(drawing.table.bin_low, 0.1)]
    assert (first["mean"], first.n, drawing.table.share.sum()) == pytest.approx((known.mean(), 56, 1))
    assert own.share.item() == pytest.approx(np.mean((known >= 0.1) & (known < 0.2)))
    assert "left out: m 4." in drawing.caption


class TestOutputs:
    def test_means_of_blocks_are_mean_cosines_on_one_thread(self, tmp_path, monkeypatch):
        limits = mock.MagicMock()
        monkeypatch.setattr(diversity, "threadpool_limits", limits)
        tasks = {"a": recitations(1), "b": recitations(2, vocabulary=5), "silent": recitations(3, silent=24)}
        runs = [model(tmp_path, name, task) for name, task in tasks.items()]
        found = draw(diversity.cosine_heat_map, *runs).table.set_index(["system", "other"])["mean"]
        one, other = (HashedEmbedder().embed([r.outputs[0].text for r in records(run)[::2]]) for run in runs[:2])
        assert found["a", "a"] == pytest.approx(1 - mean_pairwise_distance(one), abs=1e-5)
        assert found["b", "b"] == pytest.approx(1 - mean_pairwise_distance(other), abs=1e-5)
        assert found["a", "b"] == found["b", "a"] == pytest.approx(float((one @ other.T).mean()), abs=1e-5)
        assert found["silent", "silent"] == pytest.approx(1)  # empty outputs are equal
        assert found["a", "silent"] == pytest.approx(0, abs=1e-6)  # and different from all others
        limits.assert_called_once_with(1)  # the same bytes on any machine

    def test_the_map_has_a_cluster_per_kind_of_text(self, tmp_path):
        def always(words: str, seed: int):
            random = np.random.default_rng(seed)
            return recited([" ".join(random.permutation(words.split() * 5)) for _ in range(30)])

        first = model(tmp_path, "_sea", always("storm harbour wreck", 0))
        drawing = draw(diversity.embeddings_map, first, model(tmp_path, "land", always("meadow painter horses", 1)))
        assert drawing.table.groupby("system").cluster.nunique().tolist() == [1, 1]
        assert drawing.table.cluster.nunique() == 2
        assert "have no meaning" in drawing.caption
        assert "hashed@" in drawing.caption
        # matplotlib may leave names that begin with "_" out of legends
        assert {"_sea", "land"} <= {text.get_text() for text in drawing.figure.legends[0].get_texts()}

    def test_the_map_has_equally_many_points_per_system_and_none_of_missing_or_equal_outputs(self, tmp_path):
        task, values, changes = recitations(1, n=40)
        changes["columns"][0]["outputs"] = [{"text": "", "unscored": "out of memory"}]
        runs = [model(tmp_path, "a", (task, values, changes)), model(tmp_path, "b", recitations(2, n=24))]
        drawing = draw(diversity.embeddings_map, *runs)
        assert drawing.table.groupby("system").size().to_dict() == {"a": 24, "b": 24}
        assert "Not generated, left out: a 1." in drawing.caption
        with pytest.raises(NoDataError, match="fewer than 3 different vectors"):
            draw(diversity.embeddings_map, model(tmp_path, "silent", recitations(1, silent=24)))


class TestTokenEntropy:
    def test_densities_have_the_mean_of_the_run_folder_and_a_curve_that_of_each_position(self, tmp_path):
        run = model(tmp_path, "m", on_policy(1))
        table = draw(diversity.entropy_histogram, run).table
        own = table[table.kind == "entropy"]
        width = own.bits_high - own.bits_low
        assert (own.density * width).sum() == pytest.approx(1)
        known = np.mean([record.metrics["entropy"] for record in records(run)])
        assert own["mean"].iloc[0] == pytest.approx(known)
        middle = (own.bits_low + own.bits_high) / 2
        assert (own.density * width * middle).sum() == pytest.approx(known, abs=width.iloc[0] / 2)
        curve = draw(diversity.entropy_curve, run).table
        bits = np.array([record.outputs[0].entropies for record in records(run)]) / math.log(2)
        np.testing.assert_allclose(curve.entropy_bits, bits.mean(axis=0))
        expected = [estimates.mean(column, bounds=(0, None)).high for column in bits.T]
        np.testing.assert_allclose(curve.high, expected)

    def test_texts_have_equal_weight_and_positions_of_few_texts_are_left_out(self, tmp_path):
        columns = [{"outputs": [{"text": "x", "entropies": nats}]} for nats in ([0.0] * 99, [1.0], [])]
        values = {"entropy": [0.0, 1 / math.log(2), None]}
        run = model(tmp_path, "m", ("token_entropy_on_policy", values, {"columns": columns}))
        drawing = draw(diversity.entropy_histogram, run)
        own = drawing.table[drawing.table.density > 0]
        assert own.density.iloc[0] == pytest.approx(own.density.iloc[1])
        assert "left out: m 1." in drawing.caption
        task, values, changes = on_policy(1)
        for own in changes["columns"][:6]:
            own["outputs"][0]["entropies"] = own["outputs"][0]["entropies"][:3]
        table = draw(diversity.entropy_curve, model(tmp_path, "n", (task, values, changes), shared_text(1))).table
        short, long = (table[table.task == name] for name in ("token_entropy_on_policy", "token_entropy"))
        assert short.last_token.max() == 3  # only 19 texts are longer
        assert long.first_token.tolist()[:3] == [1, 4, 7]


class TestAgainstKl:
    @pytest.fixture
    def trained(self, tmp_path):
        def kl(value):
            return "kl", {"kl": (value * np.linspace(0.5, 1.5, N)).tolist()}, {"baseline": {"name": "sft"}}

        base, sft = [("base", "base")], [("base", "base"), ("sft", "sft")]
        best = {n: math.log(n) - (n - 1) / n for n in (2, 8)}
        return [
            model(tmp_path, "sft", contest(0.5), on_policy(1), lineage=base, stage="sft"),
            model(tmp_path, "ppo", contest(0.8), on_policy(2), kl(6.0), lineage=sft, stage="ppo"),
            *(
                model(tmp_path, f"sft best of {n}", contest(0.5 + n / 50), lineage=sft, stage="best-of-n",
                      training={"kl_bound": bound})
                for n, bound in best.items()
            ),
        ]  # fmt: skip

    def test_a_figure_per_quantity_with_the_measured_distance_the_bound_and_zero_for_the_baseline(self, trained):
        with styled():
            drawings = {drawing.name: drawing for drawing in kl.against_kl(evidence_of(*trained))}
        assert set(drawings) == {"kl_win_rate", "kl_entropy"}
        table = drawings["kl_win_rate"].table.set_index("system")
        assert table.kl["sft"] == 0
        assert table.kl["ppo"] == pytest.approx(6.0)
        assert table.kl_low["ppo"] < 6 < table.kl_high["ppo"]
        assert table.kl["sft best of 8"] == pytest.approx(math.log(8) - 7 / 8)
        assert table.value["sft best of 8"] == pytest.approx(0.66, abs=0.005)
        assert table.bound.tolist() == [name.startswith("sft best") for name in table.index]
        (axes,) = drawings["kl_win_rate"].figure.axes
        joined = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.1]
        assert [list(line.get_ydata()) for line in joined] == [pytest.approx([0.54, 0.66], abs=0.005)]
        assert_nothing_overlaps(drawings["kl_win_rate"].figure)

    def test_the_bound_is_drawn_only_from_its_own_policy_for_samples_of_the_whole_distribution(self, trained, tmp_path):
        bound = {"lineage": [("base", "base"), ("sft", "sft"), ("ppo", "ppo")], "training": {"kl_bound": 0.4}}
        other = model(tmp_path, "ppo best of 2", contest(0.9), stage="best-of-n", **bound)
        task, values, changes = contest(0.7)
        cut = changes | {"sampling": {"samples": 1, "max_tokens": 9, "temperature": 1.0, "top_p": 0.9}}
        own = {"lineage": [("base", "base"), ("sft", "sft")], "training": {"kl_bound": 0.4}}
        short = model(tmp_path, "sft best of 3", (task, values, cut), stage="best-of-n", **own)
        with styled():
            drawings = {drawing.name: drawing for drawing in kl.against_kl(evidence_of(*trained, other, short))}
        systems = {"sft", "ppo", "sft best of 2", "sft best of 8"}
        assert set(drawings["kl_win_rate"].table.system) == systems
        drawn = kl.distances(evidence_of(trained[0], *trained[2:]), "sft")
        assert [drawn[name]["bound"] for name in sorted(drawn)] == [False, True, True]
        assert kl.baseline_name(evidence_of(*trained[2:])) == "sft"  # without any measured distance

    def test_nothing_is_drawn_without_a_distance(self, tmp_path):
        runs = [model(tmp_path, name, contest(0.5)) for name in ("a", "b")]
        assert list(kl.against_kl(evidence_of(*runs))) == []
