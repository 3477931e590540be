"""Diversity per input and across inputs, NoveltyBench's form, and prompts from a file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from task_helpers import load, score

from alignbench.diversity.measure import measure
from alignbench.diversity.sets import GROUPS, jackknife_error, of_set, of_texts
from alignbench.diversity.words import LENGTH
from alignbench.errors import AlignbenchError
from alignbench.tasks import diversity, find_task
from alignbench.tasks.novelty_bench import LEVELS, score_of
from alignbench.types.task import Document, Output, Scored

DOCUMENT = Document("a", "Name an animal.")


def outputs(texts, classes, rewards=None, logprobs=None):
    return [
        Output(
            text,
            {"embedding": {"distance": 0.4, "vendi": 2.0}, "equivalence": {"class": float(label)}}
            | ({"reward": {"reward": rewards[n]}} if rewards else {}),
            logprobs=logprobs[n] if logprobs else (),
        )
        for n, (text, label) in enumerate(zip(texts, classes, strict=True))
    ]


# Prompts


@pytest.mark.parametrize("name", ["diversity", "diversity_across"])
def test_the_prompts_are_self_instructs_with_their_ids(world, name):
    documents = load(name, world).documents
    assert [d.id for d in documents] == ["user_oriented_task_0", "user_oriented_task_93"]
    assert documents[1].prompt == "Write a program in Java that adds two numbers.\n\nThe numbers: 2 and 3"


def test_the_authors_252_prompts(data_dir):
    documents = load("diversity", data_dir).documents
    assert len({d.id for d in documents}) == 252
    assert all(d.prompt and d.prompt == d.prompt.rstrip() for d in documents)


def write(folder, *rows, name="p.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


@pytest.mark.parametrize("name", ["diversity", "diversity_across", "novelty_bench"])
def test_a_file_of_prompts_takes_the_place_of_the_card(tmp_path, name):
    file = write(
        tmp_path,
        {"prompt": "Name a bird.\n"},
        {"id": 7, "instruction": "Add them.", "input": "2, 3", "category": "sums"},
        {"id": "x", "instruction": "Sing."},
    )
    data = load(name, tmp_path, prompts=file)
    assert [(d.id, d.prompt, d.category) for d in data.documents] == [
        ("row 1", "Name a bird.", None),
        ("7", "Add them.\n\n2, 3", "sums"),
        ("x", "Sing.", None),
    ]
    assert (data.provenance[0].source, data.provenance[0].rows, data.provenance[0].pinned) == ("p.jsonl", 3, False)
    assert find_task(name).takes_prompts


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "B", "id": "a"}, "id 'a' stands above already"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"instruction": "", "input": ""}, "the prompt is empty"),
        ({"prompt": None}, "prompt is null, not text"),
        ({"input": "x"}, r"no field prompt or instruction \(found: input\)"),
    ],
)
def test_a_bad_prompt_is_named_by_file_and_line(tmp_path, row, message):
    file = write(tmp_path, {"id": "a", "prompt": "A"}, row)
    with pytest.raises(AlignbenchError, match=rf"^task diversity, {file}:2: {message}$"):
        load("diversity", tmp_path, prompts=file)


def test_novelty_bench_says_which_prompts_it_wants(world):
    with pytest.raises(AlignbenchError, match=r"--prompts curated.jsonl"):
        load("novelty_bench", world)


# Per input


def test_ten_equal_samples_are_one_answer_and_ten_different_ones_ten():
    same = score("diversity", DOCUMENT, *["A grey cat."] * 10)
    assert (same["self_bleu"], same["rouge_l_overlap"]) == pytest.approx((100, 1))
    assert same["distinct_1"] == pytest.approx(4 / 40)
    other = score("diversity", DOCUMENT, *[f"{chr(97 + n)}a {chr(97 + n)}b" for n in range(10)])
    assert (other["distinct_1"], other["rouge_l_overlap"]) == (1, 0)


def test_the_classes_entropy_in_bits_by_numbers_and_by_log_probabilities():
    found = diversity.semantic(outputs("abcd", (0, 0, 1, 2)))
    assert (found["classes"], found["semantic_entropy_discrete"]) == (3, 1.5)
    assert "semantic_entropy" not in found
    # of each token in the mean: e⁰ twice in the one class, so 2 : 1 : 1 again whatever their lengths
    weights = [(0.0,), (0.0, 0.0), (0.0, 0.0, 0.0), (0.0,)]
    assert diversity.semantic(outputs("abcd", (0, 0, 1, 2), None, weights))["semantic_entropy"] == pytest.approx(1.5)
    likely = diversity.semantic(outputs("ab", (0, 1), None, [(math.log(0.9),), (math.log(0.1),) * 3]))
    assert likely["semantic_entropy"] == pytest.approx(-0.9 * math.log2(0.9) - 0.1 * math.log2(0.1))
    assert likely["semantic_entropy_discrete"] == 1


def test_metrics_of_scorers_that_failed_are_not_a_number():
    found = score("diversity", DOCUMENT, *"abcdefghij")
    assert all(
        math.isnan(found[name])
        for name in ("classes", "vendi_uncut", "cosine_distance_uncut", "semantic_entropy_discrete")
    )
    told = diversity.score_per_input(DOCUMENT, outputs("ab", (0, 1)))
    assert (told["vendi_uncut"], told["cosine_distance_uncut"]) == (2.0, pytest.approx(0.4))
    assert {metric.name for metric in find_task("diversity").metrics} >= set(found) | set(told)


def test_what_stands_behind_fifty_words_counts_only_where_it_says_so():
    begin = [" ".join(f"w{n}x{i}" for i in range(LENGTH)) for n in range(4)]
    plain, longer = of_texts(begin), of_texts([f"{text} " + "again " * 300 for text in begin])
    for name in measure(begin):
        assert plain[name] == longer[name]
    assert longer["distinct_1_uncut"] < plain["distinct_1_uncut"] == 1
    assert longer["compression_ratio_uncut"] > 3 * plain["compression_ratio_uncut"]
    assert (plain["short"], plain["words"], longer["words"]) == (0, LENGTH, LENGTH + 300)
    assert of_texts(["one two", *begin[:3]])["short"] == 0.25


# Across inputs


def test_the_first_sample_of_each_document_is_the_set_across_inputs():
    views = [Scored({}, None, None, {}, {}, (f"cow number {n}", "cow cow cow")) for n in range(12)]
    found = {metric.name: estimate.value for metric, estimate in diversity.across(views)}
    assert found["across_distinct_1"] == pytest.approx(14 / 36)
    assert "across_vendi_uncut" not in found
    with_vectors = [
        Scored({}, None, None, {}, {}, view.texts, np.eye(2, dtype=np.float32)[[n % 2, 0]])
        for n, view in enumerate(views)
    ]
    found = {metric.name: estimate.value for metric, estimate in diversity.across(with_vectors)}
    assert found["across_vendi_uncut"] == pytest.approx(2)
    assert found["across_cosine_distance_uncut"] == pytest.approx(1 - 5 / 11)
    assert diversity.across([]) == []


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=GROUPS * 30)
    without = np.array([x[np.arange(len(x)) % GROUPS != g].mean() for g in range(GROUPS)])
    means = x.reshape(-1, GROUPS).mean(axis=0)
    assert jackknife_error(without) == pytest.approx(means.std(ddof=1) / math.sqrt(GROUPS))


def test_a_set_large_enough_has_intervals_that_hold_its_numbers():
    draw = np.random.default_rng(1)
    texts = [" ".join(draw.choice(list("abcdefghijkl"), 12)) for _ in range(2 * GROUPS)]
    for metric, estimate in of_set(texts):
        assert estimate.low <= estimate.value <= estimate.high, metric.name
    assert all(estimate.low is None for _, estimate in of_set(texts[:-1]))


def test_what_stands_for_the_task_is_of_equal_lengths():
    for name in ("diversity", "diversity_across"):
        assert "uncut" not in find_task(name).headline
    assert "across_self_bleu" in {
        metric.name for metric, _ in diversity.across([Scored({}, None, None, {}, {}, ("a",))] * 2)
    }


# NoveltyBench


def novelty(classes, rewards=None):
    writing = find_task("novelty_bench").generation
    return writing.score(DOCUMENT, outputs(["x"] * len(classes), classes, rewards))


def test_distinct_and_utility_as_the_paper_has_them():
    # protocols.md, section 7: one class that scores 10 is worth 2.2406
    assert novelty([0] * 10, [5.0] * 10)["utility"] == pytest.approx(2.2406, abs=1e-4)
    assert novelty(range(10), [5.0] * 10)["utility"] == pytest.approx(10)
    assert novelty([0, 1, 0, 2, 2, 1, 0, 0, 0, 0])["distinct"] == 3
    assert "utility" not in novelty([0] * 10)
    assert math.isnan(score("novelty_bench", DOCUMENT, *["a"] * 10)["distinct"])


def test_rewards_become_scores_from_1_to_10():
    assert [score_of(level) for level in LEVELS] == list(range(1, 10))
    assert [score_of(level + 1e-9) for level in LEVELS] == list(range(2, 11))
    assert (score_of(-100), score_of(100)) == (1, 10)


@pytest.mark.parametrize(("name", "samples"), [("diversity", 10), ("diversity_across", 1), ("novelty_bench", 10)])
def test_samples_are_drawn_from_the_models_own_distribution(name, samples):
    sampling = find_task(name).generation.sampling
    assert (sampling.samples, sampling.temperature, sampling.top_p) == (samples, 1.0, 1.0)
