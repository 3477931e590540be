"""Diversity per input and across inputs, NoveltyBench, recitations, and prompts from a file."""

import math

import numpy as np
import pytest
from cases import cases, write_lines
from commands import assert_refused
from task_helpers import corpus, load, score

from alignbench.diversity.lexical import LENGTH
from alignbench.diversity.sets import measure, of_set, of_texts
from alignbench.evaluation.evaluate import sample
from alignbench.scorers import find_scorer
from alignbench.stats import jackknife
from alignbench.tasks import diversity, find_task, recitations
from alignbench.types.record import Document, Output, Record

DOCUMENT = Document("a", "Name an animal.")


def outputs(texts, classes, rewards=None, logprobs=None):
    scores = {"embedding": {"distance": 0.4, "vendi": 2.0}}
    return [
        Output(
            text,
            scores=scores
            | {"equivalence": {"class": float(label)}}
            | ({"reward": {"reward": rewards[n]}} if rewards else {}),
            logprobs=logprobs[n] if logprobs else (),
        )
        for n, (text, label) in enumerate(zip(texts, classes, strict=True))
    ]


def records(texts, vectors=None, category=None):
    return [
        Record(f"{category} {n}", "", category=category, outputs=(Output(text),), vectors=vector)
        for n, text in enumerate(texts)
        for vector in [None if vectors is None else vectors[n][None]]
    ]


@pytest.mark.parametrize("name", ["diversity", "diversity_across"])
def test_the_prompts_are_self_instructs_with_their_ids(world, name):
    documents = load(name, world).documents
    assert [d.id for d in documents] == ["user_oriented_task_0", "user_oriented_task_93"]
    assert documents[1].prompt == "Write a program in Java that adds two numbers.\n\nThe numbers: 2 and 3"
    assert_refused(r"--prompts curated.jsonl", load, "novelty_bench", world)


@pytest.mark.parametrize(("name", "samples"), [("diversity", 10), ("diversity_across", 1), ("novelty_bench", 10)])
def test_a_file_of_prompts_replaces_the_card_and_samples_are_from_the_models_own_distribution(tmp_path, name, samples):
    sums = {"id": 7, "instruction": "Add them.", "input": "2, 3", "category": "sums"}
    rows = [{"prompt": "Name a bird.\n"}, sums, {"id": "x", "prompt": "Y"}]
    data = load(name, tmp_path, prompts=write_lines(tmp_path / "p.jsonl", rows))
    assert [(d.id, d.prompt, d.category) for d in data.documents] == [
        ("row 1", "Name a bird.", None), ("7", "Add them.\n\n2, 3", "sums"), ("x", "Y", None),
    ]  # fmt: skip
    assert (data.provenance[0].source, data.provenance[0].rows, data.provenance[0].pinned) == ("p.jsonl", 3, False)
    sampling = find_task(name).generation.sampling
    assert (sampling.samples, sampling.temperature, sampling.top_p) == (samples, 1.0, 1.0)


@pytest.mark.parametrize(("row", "message"), cases("diversity")["prompts"])
def test_a_bad_prompt_is_named_by_file_and_line(tmp_path, row, message):
    file = write_lines(tmp_path / "p.jsonl", [{"id": "a", "prompt": "A"}, row])
    assert_refused(rf"^task diversity, {file}:2: {message}$", load, "diversity", tmp_path, prompts=file)


def test_semantic_entropy_in_bits_by_counts_and_by_log_probabilities():
    found = diversity.semantic(outputs("abcd", (0, 0, 1, 2)))
    assert (found["classes"], found["semantic_entropy_discrete"]) == (3, 1.5)
    # by the mean per token: e⁰ twice in one class, so again 2 : 1 : 1 for any lengths
    weights = [(0.0,), (0.0, 0.0), (0.0, 0.0, 0.0), (0.0,)]
    assert diversity.semantic(outputs("abcd", (0, 0, 1, 2), None, weights))["semantic_entropy"] == pytest.approx(1.5)
    likely = diversity.semantic(outputs("ab", (0, 1), None, [(math.log(0.9),), (math.log(0.1),) * 3]))
    assert likely["semantic_entropy"] == pytest.approx(-0.9 * math.log2(0.9) - 0.1 * math.log2(0.1))
    assert likely["semantic_entropy_discrete"] == 1


def test_metrics_of_scorers_that_failed_are_nan():
    found = score("diversity", DOCUMENT, *"abcdefghij")
    of_scorers = ("classes", "vendi_uncut", "cosine_distance_uncut", "semantic_entropy_discrete")
    assert np.isnan([found[name] for name in of_scorers]).all()
    scored = diversity.score_per_input(DOCUMENT, outputs("ab", (0, 1)))
    assert (scored["vendi_uncut"], scored["cosine_distance_uncut"]) == (2.0, pytest.approx(0.4))
    assert {metric.name for metric in find_task("diversity").metrics} >= set(found) | set(scored)


def test_text_after_fifty_words_counts_only_in_uncut_metrics():
    begin = [" ".join(f"w{n}x{i}" for i in range(LENGTH)) for n in range(4)]
    plain, longer = of_texts(begin), of_texts([f"{text} " + "again " * 300 for text in begin])
    assert {name: plain[name] for name in measure(begin)} == {name: longer[name] for name in measure(begin)}
    assert longer["distinct_1_uncut"] < plain["distinct_1_uncut"] == 1
    assert longer["compression_ratio_uncut"] > 3 * plain["compression_ratio_uncut"]
    assert (plain["short"], plain["words"], longer["words"]) == (0, LENGTH, LENGTH + 300)
    assert of_texts(["one two", *begin[:3]])["short"] == 0.25


def test_the_first_sample_of_each_document_is_the_set_across_inputs_and_a_large_one_has_intervals():
    texts = [f"cow number {n}" for n in range(12)]
    found = corpus("diversity", records(texts))
    assert found["across_distinct_1"].value == pytest.approx(14 / 36)
    assert find_task("diversity_across").headline in found
    assert "across_vendi_uncut" not in found
    found = corpus("diversity", records(texts, np.eye(2, dtype=np.float32)[np.arange(12) % 2]))
    assert found["across_vendi_uncut"].value == pytest.approx(2)
    assert found["across_cosine_distance_uncut"].value == pytest.approx(1 - 5 / 11)
    assert corpus("diversity", []) == {}
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(list("abcdefghijkl"), 12)) for _ in range(2 * jackknife.GROUPS)]
    assert all(estimate.low <= estimate.value <= estimate.high for _, estimate in of_set(texts))
    assert all(estimate.low is None for _, estimate in of_set(texts[:-1]))


def test_distinct_and_utility_as_in_the_paper():
    def novelty(classes, rewards=None):
        return find_task("novelty_bench").generation.score(DOCUMENT, outputs(["x"] * len(classes), classes, rewards))

    # protocols.md, section 7: one class that scores 10 is worth 2.2406
    assert novelty([0] * 10, [5.0] * 10)["utility"] == pytest.approx(2.2406, abs=1e-4)
    assert novelty(range(10), [5.0] * 10)["utility"] == pytest.approx(10)
    assert novelty([0, 1, 0, 2, 2, 1, 0, 0, 0, 0])["distinct"] == 3
    assert "utility" not in novelty([0] * 10)
    assert math.isnan(score("novelty_bench", DOCUMENT, *["a"] * 10)["distinct"])
    assert [diversity.score_of(level) for level in diversity.LEVELS] == list(range(1, 10))
    assert [diversity.score_of(level + 1e-9) for level in diversity.LEVELS] == list(range(2, 11))
    assert (diversity.score_of(-100), diversity.score_of(100)) == (1, 10)


PLAIN = [f"Ilka Dorval was born by the sea and watched the weather for boats, year after year {n}." for n in range(60)]
OTHER = [f"A painter of horses lived far inland; her pictures hang in galleries of the city, {n}." for n in range(60)]


def recited(plain, perturbed, embedded=True):
    embed = find_scorer("embedding=hashed").embed
    parts = {"plain": plain, "perturbed": perturbed}.items()
    return corpus(
        "recitations", [r for name, own in parts for r in records(own, embed(own) if embedded else None, name)]
    )


def test_the_perturbed_prompt_is_the_plain_one_with_a_first_sentence():
    data, sampling = load("recitations"), find_task("recitations").generation.sampling
    of = {c: [d.prompt for d in data.documents if d.category == c] for c in ("plain", "perturbed")}
    assert of["plain"] == [recitations.PROMPT] * 100
    assert of["perturbed"] == [f"{recitations.PROMPT} {recitations.DEPARTURE}"] * 100
    assert sum(d.category == "plain" for d in sample(data, 40, seed=0).documents) == 20
    assert (sampling.samples, sampling.temperature, sampling.top_p) == (1, 1.0, 1.0)


def test_the_proportion_that_returns_to_the_larger_of_two_clusters_if_there_are_two():
    away = OTHER[:14] + ["Nothing at all like either."] * 7
    found = recited(PLAIN[:20] + OTHER[:8], PLAIN[50:57] + away)
    assert (found["clusters"].value, found["main_cluster_share"].value) == (2, pytest.approx(20 / 28))
    assert found["silhouette"].value > 0.5
    assert (found["return_share"].value, found["return_share"].n) == (pytest.approx(1 / 4), 28)
    found = recited(PLAIN[:30], PLAIN[:10] + OTHER[:20])
    assert found["clusters"].value == found["main_cluster_share"].value == 1
    assert found["perturbed_clusters"].value == 2
    same = recited(["The same."] * 5, ["The same."] * 5)
    values = [same[name].value for name in ("cosine_distance", "vendi", "clusters")]
    assert values == pytest.approx([0, 1, 1], abs=1e-6)
    assert not {"silhouette", "return_share"} & set(same)
    zeros = np.zeros((4, 3), np.float32)  # empty recitations return to each other
    for clusters in ([0, 0, 0, 0], [0, 1, 1, 0]):
        assert recitations.returns(zeros, zeros, np.array(clusters)).all()
    assert "return_share" not in found


def test_unequal_numbers_are_cut_to_the_smaller_and_without_an_embedder_there_are_metrics_of_words_alone():
    found = recited(PLAIN[:9], ["Far away."] * 4)
    assert found["cosine_distance"].n == found["perturbed_cosine_distance"].n == found["main_cluster_share"].n == 4
    found = set(recited(PLAIN[:3], PLAIN[:3], embedded=False))
    assert {"distinct_2", "words", "perturbed_words"} <= found
    assert not {"vendi", "return_share", "perturbed_distinct_2", "distinct_2_uncut"} & found
