"""Tasks with choices: chance levels, the order of choices, texts that are cleaned, bias."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_helpers import corpus

from alignbench.tasks import common_sense, safety, truthfulqa
from alignbench.types.engine import Loglikelihood
from alignbench.types.record import Record


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_truthfulqa_chance_levels_are_the_means_of_random_scores(true, false, seed):
    labels = {f"answer {n}": int(n < true) for n in range(true + false)}
    best = {answer: int(answer == "answer 0") for answer in labels}
    document = truthfulqa.parse_multiple_choice({"question": "Why?", "mc1_targets": best, "mc2_targets": labels})
    assert document.choices == tuple(f" {answer}" for answer in labels)
    # with exponential weights the mean of every normalised proportion is the proportion of answers
    scores = np.log(np.random.default_rng(seed).exponential(size=(400, true + false)))
    found = [truthfulqa.score_multiple_choice(document, [Loglikelihood(x, 1) for x in row]) for row in scores]
    for metric in ("mc1", "mc2", "mc3"):
        assert np.mean([f[metric] for f in found]) == pytest.approx(document.chance[metric], abs=0.12)


def test_the_order_of_a_binary_choice_depends_on_the_seed_and_the_question_alone():
    row = {"question": "Why?", "mc0_targets": {"because": 1, "magic": 0}}
    documents = [truthfulqa.parse_binary(seed, row) for seed in range(20)]
    assert len({document.prompt for document in documents}) == 2
    assert all(("(A) because" in d.prompt) == (d.target["best_choice"] == 0) for d in documents)


def test_texts_are_cleaned_of_marks_and_spaces_of_tokens_and_wsc_marks_the_pronoun_also_if_its_index_is_wrong():
    assert common_sense.clean("[header] How to bake [title] Mix. [step] Stir well.") == " How to bake. Mix. Stir well."
    assert common_sense.clean(" Stir well. ") == "Stir well."
    assert (
        common_sense.join_tokens("it 's slow , and ( oddly ) does n't end ! ") == "it's slow, and (oddly) doesn't end!"
    )
    assert common_sense.join_tokens("the 1950s 'sugar' barn") == "the 1950s 'sugar' barn"
    text = "He said he, the miller, knew his cow."
    assert common_sense.mark(text, "he", 2) == "He said *he*, the miller, knew his cow."
    assert common_sense.mark(text, "he", 1) == "*He* said he, the miller, knew his cow."
    assert common_sense.mark(text, "his", 5) == "He said he, the miller, knew *his* cow."
    with pytest.raises(ValueError, match="no word 'she'"):
        common_sense.mark(text, "she", 0)


@given(st.lists(st.floats(-500, 0), min_size=2, max_size=4), st.floats(-100, 100))
def test_entropy_depends_on_differences_of_log_probability_alone(logprobs, shift):
    first, second = safety.entropy_bits(logprobs), safety.entropy_bits([x + shift for x in logprobs])
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
