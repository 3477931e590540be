"""All tasks: documents, prompts, few-shot examples, the authors' files. Tasks with choices: worked examples."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st
from task_helpers import corpus, load, shown

from alignbench.data import card_names, read_card
from alignbench.data.cards import HubSource
from alignbench.errors import AlignbenchError
from alignbench.evaluation.scoring import choices_record
from alignbench.runs.summary import summarise
from alignbench.tasks import all_tasks, bias, common, find_task, glue, hellaswag, truthfulqa
from alignbench.types.engine import Loglikelihood
from alignbench.types.record import Document, Record

TASKS = all_tasks()
IN_THE_WORLD = sorted(TASKS.keys() - {"truthfulqa_mc_2025", "truthfulqa_binary", "novelty_bench", "win_rate"})


def answers(*logprobs: float, tokens: int = 1) -> list[Loglikelihood]:
    return [Loglikelihood(logprob, tokens) for logprob in logprobs]


# ---- all tasks -----------------------------------------------------------------------------------------------------


def test_every_task_has_a_card_and_a_headline_and_every_hub_source_a_commit():
    for task in TASKS.values():
        assert not task.card or task.card in card_names()  # without: the text is the task's or the user's
        assert task.corpus is not None or task.headline in {metric.name for metric in task.metrics}
    sources = [s for name in card_names() for split in read_card(name).splits.values() for s in split]
    assert sum(isinstance(source, HubSource) for source in sources) >= 8
    with pytest.raises(AlignbenchError, match=r"unknown task 'helaswag': did you mean hellaswag"):
        find_task("helaswag")


@pytest.mark.parametrize("name", IN_THE_WORLD)
def test_documents_are_unique_and_reproducible_and_shown_with_exactly_the_prompt_of_the_protocol(world, name):
    data = load(name, world)
    assert load(name, world) == data
    assert len({document.id for document in data.documents}) == len(data.documents) > 0
    assert all(document.prompt == document.prompt.rstrip() for document in data.documents)
    assert all(choice.strip() for document in data.documents for choice in document.choices)
    json.dumps([dict(document.target) for document in data.documents])
    assert shown(name, world) == (Path(__file__).parent / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [task.name for task in TASKS.values() if task.takes_shots and task.name != "personas"])
def test_few_shot_examples_depend_on_the_seed_and_are_not_scored(world, name):
    none, two, again, other = (load(name, world, shots=n, seed=s) for n, s in ((0, 0), (2, 0), (2, 0), (2, 5)))
    assert two == again
    assert two.prefix != other.prefix
    assert (none.shots, two.shots) == (0, 2)
    assert two.prefix.startswith(none.prefix)
    assert two.prefix.endswith("\n\n")
    scored = {document.prompt.split("\n\nQ: ")[0].split("\nQuestion")[0] for document in two.documents}
    if TASKS[name].card in ("rte", "sst2", "wsc", "hellaswag"):  # their examples are from the training set
        assert two.documents == none.documents
        assert len(two.provenance) == 2
    else:
        assert not any(text in two.prefix for text in scored)
        assert 0 < len(two.documents) < len(none.documents)
    with pytest.raises(AlignbenchError, match=r"900 shots requested, but there are only \d+ items to draw from"):
        load(name, world, shots=900)


@pytest.mark.needs_data
@pytest.mark.parametrize("case", cases("tasks")["authors_files"])
def test_the_authors_files_give_the_documents_of_the_protocol(data_dir, case):
    data = load(case["task"], data_dir)
    assert len(data.documents) == len({document.id for document in data.documents}) == case["n"]
    assert all(provenance.pinned for provenance in data.provenance)
    assert len({document.group for document in data.documents} - {None}) == case["groups"]
    if "categories" in case:
        assert Counter(document.category or "" for document in data.documents) == case["categories"]


def test_one_unscored_choice_leaves_the_document_unscored_and_counted():
    task = find_task("hellaswag")
    document = Document("0", "p", (" a", " b"), target={"label": 0})
    good = choices_record(task, document, answers(-1.0, -2.0))
    bad = choices_record(task, document, [Loglikelihood(-1.0, 1), Loglikelihood(math.nan, 1, "it is nan")])
    assert (good.metrics["acc"], good.unscored) == (1.0, None)
    assert (bad.metrics["acc"], bad.unscored, bad.logprobs) == (None, "it is nan", (-1.0, None))
    result = summarise(task, [good, bad], shots=0, limit=None, seed=0)
    assert (result.n, result.n_scored, result.unscored) == (2, 1, {"it is nan": 1})
    assert (result.metrics[0].value, result.metrics[0].n_unscored) == (1.0, 1)


# ---- TruthfulQA ----------------------------------------------------------------------------------------------------


def question(true: int, false: int) -> Document:
    wrong = {f"f{i}": 0 for i in range(false)}
    targets = {"mc1_targets": {"t0": 1, **wrong}, "mc2_targets": {**{f"t{i}": 1 for i in range(true)}, **wrong}}
    return truthfulqa.parse_multiple_choice({"question": "Why?", **targets})


def test_mc1_is_the_best_answer_mc2_the_mass_of_true_ones_mc3_the_rate_of_true_ones_above_all_false_ones():
    document = question(true=2, false=2)
    assert document.choices == (" t0", " t1", " f0", " f1")
    logs = [math.log(p) for p in (0.2, 0.4, 0.3, 0.1)]
    found = truthfulqa.score_multiple_choice(document, answers(*logs))
    assert found == {"mc1": 0.0, "mc2": pytest.approx(0.6), "mc3": 0.5}
    underflow = answers(-2000.0, -2000.0 + math.log(3))
    assert truthfulqa.score_multiple_choice(question(1, 1), underflow)["mc2"] == pytest.approx(0.25)
    assert truthfulqa.score_multiple_choice(question(1, 1), answers(-1.0, -1.0))["mc1"] == 0.0  # a tie is not a win


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_truthfulqa_chance_levels_are_the_means_of_random_scores(true, false, seed):
    document = question(true, false)
    # with exponential weights the mean of every normalised proportion is the proportion of answers
    scores = np.log(np.random.default_rng(seed).exponential(size=(400, true + false)))
    found = [truthfulqa.score_multiple_choice(document, answers(*row)) for row in scores]
    for metric in ("mc1", "mc2", "mc3"):
        assert np.mean([f[metric] for f in found]) == pytest.approx(document.chance[metric], abs=0.12)


def test_the_order_of_a_binary_choice_depends_on_the_seed_and_the_question_alone():
    row = {"question": "Why?", "mc0_targets": {"because": 1, "magic": 0}}
    assert len({truthfulqa.parse_binary(seed, row).prompt for seed in range(20)}) == 2
    document = truthfulqa.parse_binary(3, row)
    best = document.target["best_choice"]
    assert ("(A) because" in document.prompt) == (best == 0)
    assert truthfulqa.score_binary(document, answers(-1.0 - best, best - 2.0)) == {"acc": 1.0}


# ---- HellaSwag, RTE, SST-2 -----------------------------------------------------------------------------------------


def test_hellaswag_norm_is_per_character_and_instructgpts_per_token():
    document = Document("0", "", (" ab", " abcd", " a", " a"), target={"label": 1})
    assert hellaswag.score_plain(document, answers(-2.0, -3.0, -9.0, -9.0)) == {"acc": 0.0, "acc_norm": 1.0}
    per_token = [Loglikelihood(-2.0, 1), Loglikelihood(-3.0, 2), Loglikelihood(-9.0, 1), Loglikelihood(-9.0, 1)]
    assert common.score_label(document, per_token) == {"acc": 1.0}


def test_hellaswag_text_is_cleaned_of_wikihow_marks(world):
    assert hellaswag.clean("[header] How to bake [title] Mix. [step] Stir well.") == " How to bake. Mix. Stir well."
    assert hellaswag.clean(" Stir well. ") == "Stir well."
    for name in ("hellaswag", "hellaswag_instructgpt"):
        assert all(choice.startswith(" ") for document in load(name, world).documents for choice in document.choices)


def test_both_layouts_of_hellaswag_give_the_same_document():
    official = {
        "ind": 7, "activity_label": "Baking", "ctx_a": "A man mixes.", "ctx_b": "he",
        "endings": ["a", "b", "c", "d"], "label": "2",
    }  # fmt: skip
    choices = dict(zip("ABCD", "abcd", strict=True))
    document = hellaswag.parse(official)
    assert document == hellaswag.parse(
        {"id": 7, "question": "Baking: A man mixes. He", "choices": choices, "answer": "C"}
    )
    assert (document.prompt, document.choices[document.target["label"]]) == ("Baking: A man mixes. He", " c")


def test_sst2s_tokens_are_joined_and_unknown_labels_rejected():
    assert glue.join_tokens("it 's slow , and ( oddly ) does n't end ! ") == "it's slow, and (oddly) doesn't end!"
    assert glue.join_tokens("the 1950s 'sugar' barn") == "the 1950s 'sugar' barn"
    for parse, label in ((glue.parse_rte, "maybe"), (glue.parse_sst2, "2")):
        with pytest.raises(ValueError, match=rf"label .?{label}.?, expected "):
            parse({"label": label})


# ---- bias ----------------------------------------------------------------------------------------------------------


def test_entropy_is_one_bit_for_an_indifferent_model_and_zero_for_a_certain_one():
    assert bias.entropy_bits([-50.0, -50.0]) == pytest.approx(1.0)
    assert bias.entropy_bits([-5000.0, -10.0]) == 0.0
    assert bias.entropy_bits([math.log(0.25) - 9, math.log(0.75) - 9]) == pytest.approx(0.811278, abs=1e-6)
    assert bias.entropy_bits([-3.0] * 3) == pytest.approx(math.log2(3))


@given(st.lists(st.floats(-500, 0), min_size=2, max_size=4), st.floats(-100, 100))
def test_entropy_depends_on_differences_of_log_probability_alone(logprobs, shift):
    first, second = bias.entropy_bits(logprobs), bias.entropy_bits([x + shift for x in logprobs])
    assert first == pytest.approx(second, abs=1e-6)
    assert 0 <= first <= math.log2(len(logprobs)) + 1e-9


def test_a_model_that_reproduces_the_distribution_of_jobs_has_a_correlation_of_one():
    def record(name: str, women: float, gap: float, category: str = "occupation") -> Record:
        target = {"occupation": name, "bls_pct_female": women}
        return Record(f"{name} {category}", "", target=target, category=category, metrics={"gender_gap": gap})

    jobs = [record(name, women, women / 10 - 5) for name, women in zip("abcde", (5.0, 20, 50, 80, 95), strict=True)]
    noise = record("a", 5.0, 900.0, "participant")  # a pronoun that refers to the participant does not count
    for records in (jobs, [*jobs, noise]):
        assert corpus("winogender", records)["gap_workforce_r"].value == pytest.approx(1.0)
