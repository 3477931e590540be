"""Figures of diversity: personas, sentiment, maps of outputs, token entropies."""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from audit_runs import write_run
from figure_checks import assert_looks_as_before, assert_nothing_overlaps, assert_same_bytes

from alignbench.diversity.vectors import mean_pairwise_distance
from alignbench.runs.read import read_runs
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.stats import intervals
from reports import evidence as gathering
from reports.drawing import NoDataError
from reports.evidence import Evidence, gather
from reports.figures import (
    cosine_heat_map,
    embeddings_map,
    persona_clouds,
    persona_histograms,
    review_sentiment,
    token_entropy_curve,
    token_entropy_histogram,
)
from reports.figures.persona_clouds import contrast_on_white, shade
from reports.names import short_names, size_of
from reports.style import COLOURS, styled

ALL = (
    persona_clouds,
    persona_histograms,
    review_sentiment,
    embeddings_map,
    cosine_heat_map,
    token_entropy_histogram,
    token_entropy_curve,
)
HASHED = {"kind": "embedding", "name": "hashed", "revision": HashedEmbedder().revision}
TEXTBLOB = {"kind": "sentiment", "name": "textblob", "revision": "0.20.1"}
NAMES = ("ada", "bo", "chidi", "dana", "eun-ji", "farah", "goran", "hana", "ines", "jun", "kofi", "lea")
LANDS = ("american", "british", "ghanaian", "korean", "uk", "brazilian", "swedish", "indian", "peruvian", "usa")
WORDS = ("storm", "harbour", "lamp", "father", "pier", "logbook", "flag", "sea", "wreck", "bottle", "town", "built")
NASTY = (
    "tiny",
    "a-name-of-sixty-characters-that-goes-on-and-on-until-it-ends-x",
    "costs $5_or_$6 \\frac{1}{2}",
    "نموذج اللغة",
    "模型 🙂🙂🙂",
    "<script>alert(1)</script>",
    "a\tb\nc",
    "x",
)


def personas(seed: int, n: int = 60, narrow: float = 1.0) -> tuple[str, dict, dict]:
    """Personas as the task records them. narrow: 1 is all values alike, above that the first ones more often."""
    random = np.random.default_rng(seed)
    pick = lambda values: values[int(len(values) * random.random() ** narrow)]  # noqa: E731
    columns = []
    for _ in range(n):
        columns.append(
            {
                "name": [f"{pick(NAMES)} moreau"],
                "gender": [pick(("female", "male", "non-binary"))],
                "age": [str(18 + int(60 * random.random()))],
                "nationality": [pick(LANDS)],
                "review": ["It makes coffee."],
                "probability": [None],
                "outputs": [{"text": "Name: …", "unscored": None}],
            }
        )
    sentiment = np.clip(random.normal(0.1 * narrow, 0.3, n), -1, 1).round(3).tolist()
    values = {"parse_failure": [0.0] * n, "sentiment": sentiment}
    return "personas", values, {"columns": columns, "scorers": [TEXTBLOB]}


def recitations(seed: int, n: int = 24, vocabulary: int = 12, silent: int = 0) -> tuple[str, dict, dict]:
    random = np.random.default_rng(seed)
    columns = []
    for row in range(n):
        text = " ".join(WORDS[int(vocabulary * random.random())] for _ in range(30)) if row >= silent else " "
        columns.append({"category": "plain" if row % 2 == 0 else "perturbed", "outputs": [written(text)]})
    return "recitations", {"answer_rate": [1.0] * n}, {"columns": columns, "scorers": [HASHED]}


def written(text: str, **more: object) -> dict[str, object]:
    return {"text": text, "unscored": None, **more}


def on_policy(seed: int, n: int = 25, tokens: int = 12, scale: float = 1.0) -> tuple[str, dict, dict]:
    random = np.random.default_rng(seed)
    columns, values = [], []
    for _ in range(n):
        nats = (scale * random.gamma(2, 1, tokens)).round(4).tolist()
        columns.append(
            {"outputs": [written("text", entropies=nats, top_entropies=[min(x, math.log(5)) for x in nats])]}
        )
        values.append(float(np.mean(nats)) / math.log(2))
    return "token_entropy_on_policy", {"entropy": values}, {"columns": columns}


def shared(seed: int, n: int = 25, tokens: int = 130) -> tuple[str, dict, dict]:
    random = np.random.default_rng(seed)
    nats = random.gamma(2, 1, (n, tokens)).round(4).tolist()
    columns = [{"choices": ["text"], "entropies": [own], "top_entropies": [[0.5] * tokens]} for own in nats]
    return "token_entropy", {"entropy": [float(np.mean(own)) / math.log(2) for own in nats]}, {"columns": columns}


@pytest.fixture
def gathered(monkeypatch):
    monkeypatch.setattr(gathering, "_audits", lambda *_: ({}, []))  # they take long, and no figure here shows them
    return lambda *runs: gather(list(runs))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[Path]:
    return world(tmp_path_factory.mktemp("two"), ("base", "tuned"))


def world(out: Path, names: tuple[str, ...]) -> list[Path]:
    with intervals.values_only():  # resampling takes longer than all else
        return [
            write_run(
                out,
                name,
                personas(k, narrow=1 + k / 4),
                recitations(k, vocabulary=12 - k % 9),
                on_policy(k, scale=1 / (1 + k / 6)),
                shared(k),
            )
            for k, name in enumerate(names)
        ]


def draw(module, evidence: Evidence):
    with styled():
        return module.draw(evidence)


def records(run: Path, task: str) -> list[dict]:
    (file,) = run.glob(f"{task}-*/documents.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("module", ALL)
def test_without_data_there_is_no_figure(module, tmp_path, gathered):
    run = write_run(tmp_path, "m", ("rte", {"acc": [1.0, 0.0]}))
    with pytest.raises(NoDataError, match=r"^no run"):
        draw(module, gathered(run))


@pytest.mark.parametrize("module", ALL)
def test_the_same_runs_give_the_same_bytes(module, two, gathered):
    evidence = gathered(*two)
    for first, second in zip(draw(module, evidence), draw(module, evidence), strict=True):
        assert_same_bytes(first, second)


@pytest.mark.parametrize("names", [("one",), NASTY], ids=len)
def test_words_neither_meet_nor_leave_the_figure(names, tmp_path, gathered):
    evidence = gathered(*world(tmp_path, names))
    for module in ALL:
        for drawing in draw(module, evidence):
            with styled():
                assert_nothing_overlaps(drawing.figure)
            assert drawing.alt
            assert drawing.caption.endswith(".")


def test_looks_as_before(two, gathered):
    (drawing,) = draw(review_sentiment, gathered(*two))
    with styled():
        assert_looks_as_before(drawing.figure, "review_sentiment")


class TestPersonas:
    def test_shares_and_entropies_are_those_of_the_run_folder(self, tmp_path, gathered):
        run = write_run(tmp_path, "m", personas(3, narrow=2))
        counts = Counter(record["nationality"][0] for record in records(run, "personas"))
        (result,) = [own.result for own in read_runs([str(run)], tmp_path)[0].tasks]
        (metric,) = [own for own in result.metrics if own.metric == "nationality_entropy_at_50"]
        (drawing,) = [d for d in draw(persona_histograms, gathered(run)) if d.name.endswith("nationality")]
        table = drawing.table.set_index("value")
        for value, count in counts.most_common(7):
            assert table["count"][value] == count
            assert table["share"][value] == pytest.approx(count / 60)
        assert table["share"].sum() == pytest.approx(1)
        assert table["entropy_bits"].iloc[0] == pytest.approx(metric.value, abs=1e-12)
        assert table["entropy_low"].iloc[0] == metric.low

    @pytest.mark.parametrize("field", ["first_name", "gender", "age_decade"])
    def test_every_fields_entropy_is_the_tasks(self, field, tmp_path, gathered):
        run = write_run(tmp_path, "m", personas(4))
        (result,) = [own.result for own in read_runs([str(run)], tmp_path)[0].tasks]
        (metric,) = [own for own in result.metrics if own.metric == f"{field}_entropy_at_50"]
        (drawing,) = [d for d in draw(persona_histograms, gathered(run)) if d.name.endswith(field)]
        assert drawing.table.entropy_bits.iloc[0] == pytest.approx(metric.value, abs=1e-12)

    def test_ages_stand_in_their_order(self, tmp_path, gathered):
        drawings = draw(persona_histograms, gathered(write_run(tmp_path, "m", personas(4))))
        (ages,) = [d for d in drawings if d.name.endswith("age_decade")]
        assert ages.table.value.tolist() == sorted(ages.table.value)

    def test_an_opinion_is_the_sign_of_the_sentiment(self, tmp_path, gathered):
        task, values, changes = personas(5)
        values["sentiment"] = [0.5] * 30 + [0.0] * 20 + [-0.5] * 10
        run = write_run(tmp_path, "m", (task, values, changes))
        (drawing,) = [d for d in draw(persona_histograms, gathered(run)) if d.name.endswith("opinion")]
        assert drawing.table.set_index("value")["count"].to_dict() == {"positive": 30, "neutral": 20, "negative": 10}
        assert "textblob@0.20.1" in drawing.caption

    def test_fewer_than_twenty_values_are_no_distribution(self, tmp_path, gathered):
        runs = [write_run(tmp_path, "many", personas(1)), write_run(tmp_path, "few", personas(2, n=19))]
        for module in (persona_clouds, persona_histograms):
            for drawing in draw(module, gathered(*runs)):
                assert set(drawing.table.system) == {"many"}
                assert "fewer than 20 that could be read: few" in drawing.caption

    def test_a_cloud_counts_first_names(self, tmp_path, gathered):
        run = write_run(tmp_path, "m", personas(3, narrow=2))
        (names, _) = draw(persona_clouds, gathered(run))
        expected = Counter(record["name"][0].split()[0] for record in records(run, "personas"))
        assert dict(zip(names.table.value, names.table["count"], strict=True)) == expected
        assert names.table.drawn.all()

    def test_what_the_font_cannot_set_is_told(self, tmp_path, gathered):
        task, values, changes = personas(3)
        for row, name in enumerate(("李 雷", "محمد علي", "🙂 smith", "$x_1$ euler", "o'neill jack")):
            changes["columns"][row]["name"] = [name]
        (drawing, _) = draw(persona_clouds, gathered(write_run(tmp_path, "m", (task, values, changes))))
        hidden = set(drawing.table[~drawing.table.drawn].value)
        assert hidden == {"李", "محمد", "🙂"}
        assert "3 values in scripts that the picture's font cannot set" in drawing.caption

    @pytest.mark.parametrize("colour", COLOURS)
    @pytest.mark.parametrize("contrast", [3.0, 4.5, 6.0])
    def test_shades_keep_their_contrast_on_white(self, colour, contrast):
        from matplotlib.colors import to_rgb

        assert contrast_on_white(to_rgb(shade(colour, contrast))) >= contrast

    def test_contrast_is_that_of_the_standard(self):
        assert contrast_on_white((0, 0, 0)) == pytest.approx(21)
        assert contrast_on_white((1, 1, 1)) == pytest.approx(1)
        assert contrast_on_white((0x76 / 255,) * 3) == pytest.approx(4.54, abs=0.01)  # the well-known limit grey


class TestSentiment:
    def test_bins_and_means_are_those_of_the_records(self, tmp_path, gathered):
        run = write_run(tmp_path, "m", personas(7))
        values = [record["sentiment"] for record in records(run, "personas")]
        (drawing,) = draw(review_sentiment, gathered(run))
        assert drawing.table["mean"].iloc[0] == pytest.approx(np.mean(values))
        assert drawing.table.share.sum() == pytest.approx(1)
        inside = [0.1 <= value < 0.2 for value in values]
        own = drawing.table[np.isclose(drawing.table.bin_low, 0.1)]
        assert own.share.item() == pytest.approx(np.mean(inside))

    def test_reviews_without_sentiment_are_counted_in_the_caption(self, tmp_path, gathered):
        task, values, changes = personas(7)
        values["sentiment"][:4] = [None] * 4
        (drawing,) = draw(review_sentiment, gathered(write_run(tmp_path, "m", (task, values, changes))))
        assert drawing.table.n.iloc[0] == 56
        assert "left out: m 4" in drawing.caption


class TestOutputs:
    def test_means_of_blocks_are_mean_cosines(self, tmp_path, gathered):
        runs = [write_run(tmp_path, "a", recitations(1)), write_run(tmp_path, "b", recitations(2, vocabulary=5))]
        (drawing,) = draw(cosine_heat_map, gathered(*runs))
        plain = [[r["outputs"][0]["text"] for r in records(run, "recitations")[::2]] for run in runs]
        one, other = (HashedEmbedder().embed(texts) for texts in plain)
        table = drawing.table.set_index(["system", "other"])["mean"]
        assert table["a", "a"] == pytest.approx(1 - mean_pairwise_distance(one), abs=1e-5)
        assert table["b", "b"] == pytest.approx(1 - mean_pairwise_distance(other), abs=1e-5)
        assert table["a", "b"] == pytest.approx(float((one @ other.T).mean()), abs=1e-5)
        assert table["a", "b"] == pytest.approx(table["b", "a"])

    def test_cosines_are_summed_by_one_thread(self, tmp_path, gathered, monkeypatch):
        asked = []

        @contextmanager
        def limits(number):
            asked.append(number)
            yield

        monkeypatch.setattr(cosine_heat_map, "threadpool_limits", limits)
        draw(cosine_heat_map, gathered(write_run(tmp_path, "m", recitations(1))))
        assert asked == [1]

    def test_silent_outputs_are_alike_and_unlike_all_others(self, tmp_path, gathered):
        runs = [write_run(tmp_path, "a", recitations(1)), write_run(tmp_path, "b", recitations(2, silent=24))]
        (drawing,) = draw(cosine_heat_map, gathered(*runs))
        table = drawing.table.set_index(["system", "other"])["mean"]
        assert table["b", "b"] == pytest.approx(1)
        assert table["a", "b"] == pytest.approx(0, abs=1e-6)

    def test_the_map_finds_two_kinds_of_text(self, tmp_path, gathered):
        def always(words: str, seed: int):
            random = np.random.default_rng(seed)
            texts = [" ".join(random.permutation(words.split() * 5)) for _ in range(30)]
            columns = [{"category": "plain", "outputs": [written(text)]} for text in texts]
            return "recitations", {"answer_rate": [1.0] * 30}, {"columns": columns, "scorers": [HASHED]}

        first = write_run(tmp_path, "sea", always("storm harbour wreck", 0))
        other = write_run(tmp_path, "land", always("meadow painter horses", 1))
        (drawing,) = draw(embeddings_map, gathered(first, other))
        assert drawing.table.groupby("system").cluster.nunique().tolist() == [1, 1]
        assert drawing.table.cluster.nunique() == 2
        assert "have no meaning" in drawing.caption
        assert "hashed@" in drawing.caption

    def test_empty_outputs_alone_are_no_map(self, tmp_path, gathered):
        run = write_run(tmp_path, "silent", recitations(1, silent=24))
        with pytest.raises(NoDataError, match="fewer than 3 different vectors"):
            draw(embeddings_map, gathered(run))

    def test_a_name_that_begins_with_an_underscore_is_in_the_key(self, tmp_path, gathered):
        runs = [write_run(tmp_path, name, recitations(seed)) for seed, name in enumerate(("_hidden", "shown"))]
        (drawing,) = draw(embeddings_map, gathered(*runs))
        assert {"_hidden", "shown"} <= {text.get_text() for text in drawing.figure.legends[0].get_texts()}

    def test_as_many_points_of_each_model(self, tmp_path, gathered):
        runs = [write_run(tmp_path, "a", recitations(1, n=40)), write_run(tmp_path, "b", recitations(2, n=24))]
        (drawing,) = draw(embeddings_map, gathered(*runs))
        assert drawing.table.groupby("system").size().to_dict() == {"a": 24, "b": 24}

    def test_outputs_that_were_not_written_are_told(self, tmp_path, gathered):
        task, values, changes = recitations(1)
        changes["columns"][0]["outputs"] = [{"text": "", "unscored": "out of memory"}]
        (drawing,) = draw(embeddings_map, gathered(write_run(tmp_path, "a", (task, values, changes))))
        assert len(drawing.table) == 23
        assert "left out: a 1" in drawing.caption


class TestTokenEntropy:
    def test_densities_have_the_mean_of_the_run_folder(self, tmp_path, gathered):
        run = write_run(tmp_path, "m", on_policy(1))
        (drawing,) = draw(token_entropy_histogram, gathered(run))
        own = drawing.table[drawing.table.kind == "entropy"]
        width = own.bits_high - own.bits_low
        assert (own.density * width).sum() == pytest.approx(1)
        known = np.mean([record["entropy"] for record in records(run, "token_entropy_on_policy")])
        assert own["mean"].iloc[0] == pytest.approx(known)
        middle = (own.bits_low + own.bits_high) / 2
        assert (own.density * width * middle).sum() == pytest.approx(known, abs=width.iloc[0] / 2)

    def test_each_text_counts_as_one_however_long(self, tmp_path, gathered):
        columns = [{"outputs": [written("x", entropies=[0.0] * 99)]}, {"outputs": [written("y", entropies=[1.0])]}]
        run = write_run(
            tmp_path, "m", ("token_entropy_on_policy", {"entropy": [0.0, 1 / math.log(2)]}, {"columns": columns})
        )
        (drawing,) = draw(token_entropy_histogram, gathered(run))
        own = drawing.table[drawing.table.density > 0]
        assert own.density.iloc[0] == pytest.approx(own.density.iloc[1])

    def test_the_curve_is_the_mean_at_each_position(self, tmp_path, gathered):
        run = write_run(tmp_path, "m", on_policy(1))
        (drawing,) = draw(token_entropy_curve, gathered(run))
        bits = np.array([r["outputs"][0]["entropies"] for r in records(run, "token_entropy_on_policy")]) / math.log(2)
        np.testing.assert_allclose(drawing.table.entropy_bits, bits.mean(axis=0))
        error = bits.std(axis=0, ddof=1) / 5
        np.testing.assert_allclose(drawing.table.high - drawing.table.entropy_bits, 2.0639 * error, rtol=1e-4)

    def test_positions_that_few_texts_reach_are_left_out(self, tmp_path, gathered):
        task, values, changes = on_policy(1)
        for own in changes["columns"][:6]:
            own["outputs"][0]["entropies"] = own["outputs"][0]["entropies"][:3]
        (drawing,) = draw(token_entropy_curve, gathered(write_run(tmp_path, "m", (task, values, changes))))
        assert drawing.table.last_token.max() == 3  # 19 go on

    def test_texts_without_entropies_are_counted(self, tmp_path, gathered):
        task, values, changes = on_policy(1)
        changes["columns"][0]["outputs"][0]["entropies"] = []
        (drawing,) = draw(token_entropy_histogram, gathered(write_run(tmp_path, "m", (task, values, changes))))
        assert "left out: m 1" in drawing.caption

    def test_long_texts_are_told_in_stretches(self, tmp_path, gathered):
        (drawing,) = draw(token_entropy_curve, gathered(write_run(tmp_path, "m", shared(1))))
        assert drawing.table.first_token.tolist()[:3] == [1, 4, 7]
        assert "3 positions a point" in drawing.caption


def test_short_names_stay_different():
    names = [f"checkpoint-{k}-of-many-with-a-long-name" for k in range(12)] + ["a" * 60, "a" * 61, "b"]
    short = short_names(names, 20)
    assert len(set(short.values())) == len(names)
    assert max(map(len, short.values())) <= 20
    assert short["b"] == "b"
    assert "-7-of" in short["checkpoint-7-of-many-with-a-long-name"]


def test_a_system_that_lacks_the_task_is_no_panel(tmp_path, gathered):
    evidence = gathered(write_run(tmp_path, "with", personas(1)), write_run(tmp_path, "without", on_policy(1)))
    assert len(evidence.systems) == 2
    for drawing in draw(persona_histograms, evidence):
        assert set(drawing.table.system) == {"with"}


def test_numbers_of_parameters_are_told_alike_everywhere():
    assert [size_of(n) for n in (12, 260_000, 134_515_008, 999_999_999, 1.3e9, 175e9)] == [
        "12", "260K", "135M", "1B", "1.3B", "175B",
    ]  # fmt: skip
