"""What each benchmark's numbers mean: hand-worked cases, and the authors' files where they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.errors import AlignbenchError
from alignbench.runs.summary import make_record, summarise
from alignbench.tasks import all_tasks, bias, find_task, hellaswag, truthfulqa_mc, winogender
from alignbench.types.engine import Loglikelihood
from alignbench.types.task import Document, Options, Scored


def answers(*logprobs: float, tokens: int = 1) -> list[Loglikelihood]:
    return [Loglikelihood(logprob, tokens) for logprob in logprobs]


def question(true: int, false: int) -> Document:
    row = {
        "question": "Why?",
        "mc1_targets": {"t0": 1, **{f"f{i}": 0 for i in range(false)}},
        "mc2_targets": {**{f"t{i}": 1 for i in range(true)}, **{f"f{i}": 0 for i in range(false)}},
    }
    return truthfulqa_mc._parse_multiple_choice(row, None)


def test_mc1_asks_for_the_best_answer_mc2_for_the_mass_on_true_ones_mc3_for_the_share_above_every_false_one():
    document = question(true=2, false=2)
    assert document.choices == (" t0", " t1", " f0", " f1")
    logs = [math.log(p) for p in (0.2, 0.4, 0.3, 0.1)]
    found = truthfulqa_mc.score_multiple_choice(document, answers(*logs))
    assert found == {"mc1": 0.0, "mc2": pytest.approx(0.6), "mc3": 0.5}


def test_mc2_does_not_underflow():
    found = truthfulqa_mc.score_multiple_choice(question(1, 1), answers(-2000.0, -2000.0 + math.log(3)))
    assert found["mc2"] == pytest.approx(0.25)


def test_a_tie_is_not_a_win():
    assert truthfulqa_mc.score_multiple_choice(question(1, 1), answers(-1.0, -1.0))["mc1"] == 0.0


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_truthfulqa_chance_levels_are_what_random_scores_give(true, false, seed):
    document = question(true, false)
    draw = np.random.default_rng(seed)
    # exponential weights make every normalised share's mean the share of the answers
    scores = np.log(draw.exponential(size=(400, true + false)))
    found = [truthfulqa_mc.score_multiple_choice(document, answers(*row)) for row in scores]
    for metric in ("mc1", "mc2", "mc3"):
        assert np.mean([f[metric] for f in found]) == pytest.approx(document.chance[metric], abs=0.12)


def test_the_order_of_a_binary_choice_is_drawn_from_the_seed_and_the_question_alone():
    row = {"question": "Why?", "mc0_targets": {"because": 1, "magic": 0}}
    orders = {truthfulqa_mc._parse_binary(seed, row, None).prompt for seed in range(20)}
    assert len(orders) == 2
    document = truthfulqa_mc._parse_binary(3, row, None)
    best = document.target["best_choice"]
    assert ("(A) because" in document.prompt) == (best == 0)
    right = answers(-1.0, -2.0) if best == 0 else answers(-2.0, -1.0)
    assert truthfulqa_mc.score_binary(document, right) == {"acc": 1.0}


def test_hellaswag_norm_is_per_character_and_instructgpts_per_token():
    document = Document("0", "", (" ab", " abcd", " a", " a"), target={"label": 1})
    found = hellaswag.score_plain(document, answers(-2.0, -3.0, -9.0, -9.0))
    assert found == {"acc": 0.0, "acc_norm": 1.0}
    per_token = [Loglikelihood(-2.0, 1), Loglikelihood(-3.0, 2), Loglikelihood(-9.0, 1), Loglikelihood(-9.0, 1)]
    assert hellaswag.score_instructgpt(document, per_token) == {"acc": 1.0}


def test_hellaswag_text_is_cleaned_of_wikihow_marks():
    assert hellaswag.clean("[header] How to bake [title] Mix. [step] Stir well.") == " How to bake. Mix. Stir well."
    assert hellaswag.clean(" Stir well. ") == "Stir well."


def test_instructgpts_form_has_no_space_where_a_mark_was(world):
    for name, space in (("hellaswag", True), ("hellaswag_instructgpt", False)):
        data = find_task(name).load(Options(data_dir=world, shots=2))
        assert data.prefix.startswith(hellaswag.INSTRUCTION) != space
        assert data.prefix.count("\n\n") == (2 if space else 3)
        assert all(choice.startswith(" ") for document in data.documents for choice in document.choices)


def test_both_layouts_of_hellaswag_give_the_same_scene():
    official = {
        "ind": 7, "activity_label": "Baking", "ctx_a": "A man mixes.", "ctx_b": "he",
        "endings": ["a", "b", "c", "d"], "label": "2", "source_id": "v1",
    }  # fmt: skip
    other = {
        "id": 7,
        "question": "Baking: A man mixes. He",
        "choices": dict(zip("ABCD", "abcd", strict=True)),
        "answer": "C",
    }
    scene, same = hellaswag.parse_scene(official, None), hellaswag.parse_scene(other, "abstainqa")
    assert (scene.text, scene.endings, scene.label) == (same.text, same.endings, same.label)
    assert scene.text == "Baking: A man mixes. He"


def test_entropy_is_one_bit_for_the_indifferent_and_zero_for_the_certain():
    assert bias.entropy_bits([-50.0, -50.0]) == pytest.approx(1.0)
    assert bias.entropy_bits([-5000.0, -10.0]) == 0.0
    assert bias.entropy_bits([math.log(0.25) - 9, math.log(0.75) - 9]) == pytest.approx(0.811278, abs=1e-6)
    assert bias.entropy_bits([-3.0] * 3) == pytest.approx(math.log2(3))


@given(st.lists(st.floats(-500, 0), min_size=2, max_size=4), st.floats(-100, 100))
def test_entropy_depends_on_differences_of_log_probability_alone(logprobs, shift):
    first, second = bias.entropy_bits(logprobs), bias.entropy_bits([x + shift for x in logprobs])
    assert first == pytest.approx(second, abs=1e-6)
    assert 0 <= first <= math.log2(len(logprobs)) + 1e-9


def test_a_model_that_mirrors_the_workforce_has_a_correlation_of_one():
    def occupation(name: str, women: float, gap: float, category: str = "occupation") -> Scored:
        return Scored({"gender_gap": gap}, name, category, {}, {"occupation": name, "bls_pct_female": women})

    mirrored = [
        occupation(name, women, women / 10 - 5) for name, women in zip("abcde", (5.0, 20, 50, 80, 95), strict=True)
    ]
    ((metric, estimate),) = winogender.gap_against_workforce(mirrored)
    assert (metric.name, estimate.value) == ("gap_workforce_r", pytest.approx(1.0))
    # a pronoun that stands for the participant says nothing about the occupation
    noise = [occupation("a", 5.0, 900.0, "participant")]
    assert winogender.gap_against_workforce(mirrored + noise)[0][1].value == pytest.approx(1.0)


def test_one_unscored_choice_leaves_the_document_unscored_and_counted():
    task = find_task("hellaswag")
    document = Document("0", "p", (" a", " b"), target={"label": 0})
    good = make_record(task, document, answers(-1.0, -2.0))
    bad = make_record(task, document, [Loglikelihood(-1.0, 1), Loglikelihood(math.nan, 1, "it is nan")])
    assert good["acc"] == 1.0
    assert good["unscored"] is None
    assert (bad["acc"], bad["unscored"], bad["logprobs"]) == (None, "it is nan", [-1.0, None])
    result = summarise(task, [good, {**bad, "id": "1"}], shots=0, limit=None, seed=0)
    assert (result.n, result.n_scored, result.unscored) == (2, 1, {"it is nan": 1})
    assert result.metrics[0].value == 1.0
    assert result.metrics[0].n_unscored == 1


def test_a_mistyped_task_gets_a_suggestion():
    with pytest.raises(AlignbenchError, match=r"unknown task 'helaswag': did you mean hellaswag"):
        find_task("helaswag")


def test_no_metric_or_detail_hides_another_column_of_a_record(world):
    columns = {"id", "group", "category", "prompt", "choices", "logprobs", "tokens", "chance", "unscored"}
    for task in all_tasks().values():
        if task.name in ("truthfulqa_mc_2025", "truthfulqa_binary", "novelty_bench", "win_rate"):
            continue  # the world has no questions of 2025; the last two are given their prompts
        data = task.load(Options(data_dir=world))
        assert data.documents
        assert len({document.id for document in data.documents}) == len(data.documents)
        for document in data.documents[:2]:
            own = [*document.details, *document.target, *(metric.name for metric in task.metrics)]
            assert len({*own} | columns) == len(own) + len(columns)


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("name", "n", "groups", "first_choices"),
    [
        ("truthfulqa_mc", 817, None, None),
        ("truthfulqa_mc_2025", 790, None, None),
        ("truthfulqa_binary", 790, None, 2),
        ("hellaswag", 1000, None, 4),
        ("crows_pairs", 1508, None, 2),
        ("winogender", 120, 60, 2),
        ("winogender_full", 240, 60, 3),
    ],
)
def test_the_authors_files_give_the_documents_of_the_protocol(data_dir, name, n, groups, first_choices):
    data = find_task(name).load(Options(data_dir=data_dir))
    assert len(data.documents) == len({document.id for document in data.documents}) == n
    assert all(provenance.pinned for provenance in data.provenance)
    if groups is not None:
        assert len({document.group for document in data.documents}) == groups
    if first_choices is not None:
        assert {len(document.choices) for document in data.documents} == {first_choices}


@pytest.mark.needs_data
def test_truthfulqa_prompts_follow_the_primer(data_dir):
    data = find_task("truthfulqa_mc").load(Options(data_dir=data_dir))
    assert data.prefix.count("Q: ") == 6
    assert data.prefix.endswith("held in Barcelona, Spain.")
    assert data.documents[0].prompt.startswith("\n\nQ: ")
    assert data.documents[0].prompt.endswith("\nA:")


@pytest.mark.needs_data
def test_few_shot_examples_come_from_other_items_and_from_the_seed(data_dir):
    task = find_task("hellaswag")
    first, again, other = (task.load(Options(data_dir=data_dir, shots=10, seed=s)).prefix for s in (0, 0, 1))
    assert first == again != other
    assert first.count("\n\n") == 10
    texts = {document.prompt for document in task.load(Options(data_dir=data_dir)).documents}
    assert not any(text in first for text in texts)
