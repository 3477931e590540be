"""Figures of diversity (personas, sentiment, outputs, token entropies) show the values of the run folders."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from figure_checks import draw
from report_runs import evidence_of, model, on_policy, personas, recitations, recited, shared_text

from alignbench.diversity.semantic import mean_pairwise_distance
from alignbench.scorers.embeddings import HashedEmbedder
from reports.drawing import NoDataError
from reports.figures import diversity
from reports.figures import personas as of_personas
from reports.style import styled

pytest_plugins = ("report_fixtures",)


def records(run):
    (own,) = evidence_of(run).systems[0].tasks
    return list(own.records())


class TestPersonas:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        task, values, changes = personas(3, narrow=2)
        values["sentiment"] = [0.5] * 30 + [0.0] * 20 + [-0.5] * 10
        for row, name in enumerate(("李 雷", "محمد علي", "🙂 smith", "$x_1$ euler", "o'neill jack")):
            changes["columns"][row]["statistics"]["name"] = [name]
        return model(tmp_path_factory.mktemp("runs"), "m", (task, values, changes), intervals=True)

    @pytest.fixture(scope="class")
    def drawn(self, run, tmp_path_factory):
        others = tmp_path_factory.mktemp("others")
        few, without = model(others, "few", personas(2, n=19)), model(others, "without", on_policy(1))
        evidence = evidence_of(run, few, without)
        with styled():
            return {own.name: own for draw in (of_personas.histograms, of_personas.clouds) for own in draw(evidence)}

    def test_fewer_than_twenty_values_are_left_out(self, drawn):
        assert len(drawn) == 7
        for drawing in drawn.values():
            assert set(drawing.table.system) == {"m"}
            assert "fewer than 20 valid values: few." in drawing.caption

    def test_proportions_are_those_of_the_records(self, run, drawn):
        counts = Counter(record.statistics["nationality"][0] for record in records(run))
        table = drawn["persona_histograms_nationality"].table.set_index("value")
        for value, count in counts.most_common(7):
            assert table["count"][value] == count
            assert table["share"][value] == pytest.approx(count / 60)
        assert table["share"].sum() == pytest.approx(1)

    @pytest.mark.parametrize("field", ["first_name", "gender", "age_decade", "nationality"])
    def test_entropies_are_those_of_the_task(self, field, run, drawn):
        (own,) = evidence_of(run).systems[0].tasks
        (metric,) = [m for m in own.result.metrics if m.metric == f"{field}_entropy_at_50"]
        first = drawn[f"persona_histograms_{field}"].table.iloc[0]
        assert first.entropy_bits == pytest.approx(metric.value, abs=1e-12)
        assert (first.entropy_low, first.entropy_high) == (metric.low, metric.high)

    def test_ages_are_in_order_and_opinions_are_signs_of_the_sentiment(self, drawn):
        ages = drawn["persona_histograms_age_decade"].table.value.tolist()
        assert ages == sorted(ages)
        opinions = drawn["persona_histograms_opinion"]
        counts = opinions.table.set_index("value")["count"].to_dict()
        assert counts == {"positive": 30, "neutral": 20, "negative": 10}
        assert "textblob@0.20.1" in opinions.caption

    def test_a_cloud_contains_the_first_names_that_the_font_can_draw(self, run, drawn, nasty):
        expected = Counter(record.statistics["name"][0].split()[0] for record in records(run))
        table = drawn["persona_clouds_first_name"].table
        assert dict(zip(table.value, table["count"], strict=True)) == expected
        assert set(table[~table.drawn].value) == {"李", "محمد", "🙂"}
        assert "3 values in scripts without glyphs" in drawn["persona_clouds_first_name"].caption
        for axes in nasty["persona_clouds_first_name"].figure.axes:
            boxes = [patch.get_path().get_extents() for patch in axes.patches]
            for number, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_bins_and_means_of_the_sentiment_are_those_of_the_records(tmp_path):
    task, values, changes = personas(7)
    values["sentiment"][:4] = [None] * 4
    drawing = draw(of_personas.sentiment, model(tmp_path, "m", (task, values, changes)))
    known = np.array(values["sentiment"][4:])
    assert drawing.table["mean"].iloc[0] == pytest.approx(known.mean())
    assert drawing.table.share.sum() == pytest.approx(1)
    own = drawing.table[np.isclose(drawing.table.bin_low, 0.1)]
    assert own.share.item() == pytest.approx(np.mean((known >= 0.1) & (known < 0.2)))
    assert drawing.table.n.iloc[0] == 56
    assert "left out: m 4." in drawing.caption


class TestOutputs:
    def test_means_of_blocks_are_mean_cosines(self, tmp_path, monkeypatch):
        threads = []

        @contextmanager
        def limits(number):
            threads.append(number)
            yield

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
        assert threads == [1]  # the same bytes on any machine

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

    def test_the_map_has_equally_many_points_per_system_and_counts_missing_outputs(self, tmp_path):
        task, values, changes = recitations(1, n=40)
        changes["columns"][0]["outputs"] = [{"text": "", "unscored": "out of memory"}]
        runs = [model(tmp_path, "a", (task, values, changes)), model(tmp_path, "b", recitations(2, n=24))]
        drawing = draw(diversity.embeddings_map, *runs)
        assert drawing.table.groupby("system").size().to_dict() == {"a": 24, "b": 24}
        assert "Not generated, left out: a 1." in drawing.caption

    def test_empty_outputs_have_no_map(self, tmp_path):
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
        error = bits.std(axis=0, ddof=1) / 5
        np.testing.assert_allclose(curve.high - curve.entropy_bits, 2.0639 * error, rtol=1e-4)

    def test_texts_have_equal_weight_and_those_without_entropies_are_counted(self, tmp_path):
        columns = [{"outputs": [{"text": "x", "entropies": nats}]} for nats in ([0.0] * 99, [1.0], [])]
        values = {"entropy": [0.0, 1 / math.log(2), None]}
        run = model(tmp_path, "m", ("token_entropy_on_policy", values, {"columns": columns}))
        drawing = draw(diversity.entropy_histogram, run)
        own = drawing.table[drawing.table.density > 0]
        assert own.density.iloc[0] == pytest.approx(own.density.iloc[1])
        assert "left out: m 1." in drawing.caption

    def test_positions_of_few_texts_are_left_out_and_long_texts_are_binned(self, tmp_path):
        task, values, changes = on_policy(1)
        for own in changes["columns"][:6]:
            own["outputs"][0]["entropies"] = own["outputs"][0]["entropies"][:3]
        table = draw(diversity.entropy_curve, model(tmp_path, "m", (task, values, changes), shared_text(1))).table
        short, long = (table[table.task == name] for name in ("token_entropy_on_policy", "token_entropy"))
        assert short.last_token.max() == 3  # only 19 texts are longer
        assert long.first_token.tolist()[:3] == [1, 4, 7]
