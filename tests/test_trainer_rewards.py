"""Rewards of texts: functions, reward models, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from stages import refusal
from tiny import SENTENCES, tiny_tokenizer
from training_models import an_accelerator, exact, score_alone, tiny_classifier

from trainers.models import Scalar, Texts
from trainers.reward import RewardModel, checked, load_reward

accelerator = pytest.fixture(scope="module")(an_accelerator)
PAIRS = [
    ("Is it safe to mix bleach and vinegar?", " No. Never mix them."),
    ("Is it safe to mix bleach and vinegar?", " Yes"),
    ("What do bees make?", " honey, and wax for the hive"),
    ("What do bees make?", ""),
]


def raising(prompts, responses):
    raise RuntimeError("no server\nat that address")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda p, r: [1.0, math.nan], "nan for the response ' no'"),
        (lambda p, r: [math.inf, 0.0], "inf for the response ' yes'"),
        (lambda p, r: [1.0], "1 scores for 2 responses"),
        (lambda p, r: [1.0, 2.0, 3.0], "3 scores for 2 responses"),
        (lambda p, r: [1.0, "good"], "a score is not a number"),
        (lambda p, r: [1.0, None], "a score is not a number"),
        (lambda p, r: 1.0, "it raised TypeError"),
        (lambda p, r: None, "it raised TypeError"),
        (lambda p: [1.0, 2.0], "it raised TypeError"),
        (raising, "it raised RuntimeError (no server"),
    ],
)
def test_a_faulty_reward_is_named_in_one_line(function, words):
    line = refusal(lambda: checked(function, "my:score", ["a", "b"], [" yes", " no"]))
    assert line.startswith("reward my:score: ")
    assert words in line


def test_numbers_of_any_library_are_scores():
    for scores in ([1, 2.5], np.array([1, 2.5], np.float32), torch.tensor([1, 2.5]), (float(n) for n in (1, 2.5))):
        assert checked(lambda p, r, scores=scores: scores, "my:score", ["a", "b"], ["c", "d"]) == [1.0, 2.5]


def test_a_function_is_imported_from_the_current_folder(tmp_path, monkeypatch, accelerator):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "length_reward.py").write_text(
        "limit = 3\ndef score(prompts, responses):\n    return [len(r) - len(p) for p, r in zip(prompts, responses)]\n"
    )
    (tmp_path / "broken_reward.py").write_text("def score(prompts, responses:\n")
    assert load_reward("length_reward:score", accelerator, 64)(["ab"], ["abc"]) == [1]
    for spec, words in (
        ("length_reward:scores", "no such function"),
        ("length_reward:", "no such function"),
        ("absent_reward:score", "no such function"),
        ("broken_reward:score", "no such function"),
        ("length_reward:limit", "not a function"),
    ):
        assert words in refusal(lambda spec=spec: load_reward(spec, accelerator, 64))


def test_a_reward_model_reads_texts_with_its_own_tokenizer(accelerator):
    """Detail 20."""
    own, policys = tiny_tokenizer(bos=False), tiny_tokenizer()
    model = tiny_classifier("gpt2", own)
    found = RewardModel(Scalar(model), own, 512, 64, accelerator)(*zip(*PAIRS, strict=True))
    expected = []
    for prompt, response in PAIRS:
        ids = own(prompt + response)["input_ids"]
        assert ids != policys(prompt + response)["input_ids"]
        with torch.no_grad():
            expected.append(float(score_alone(exact(model), ids, [own.eos_token_id])))
    assert found == pytest.approx(expected, abs=5e-5)


def test_responses_to_one_prompt_compute_it_once(accelerator):
    tokenizer = tiny_tokenizer()
    model = tiny_classifier("llama", tokenizer)
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    responses = [" yes", " no", " maybe", " none of the above"]
    size = len(Texts(tokenizer).example(SENTENCES[0], responses))
    for budget in (4096, 16):  # also if the budget is smaller than the example
        seen.clear()
        RewardModel(Scalar(model), tokenizer, None, budget, accelerator)([SENTENCES[0]] * 4, responses)
        assert sum(seen) == size


def test_scores_are_in_the_order_of_the_texts_for_any_budget(accelerator):
    tokenizer = tiny_tokenizer()
    model = Scalar(tiny_classifier("llama", tokenizer))
    prompts, responses = zip(*PAIRS, *PAIRS[::-1], strict=True)
    scores = [RewardModel(model, tokenizer, None, budget, accelerator)(prompts, responses) for budget in (1, 50, 10**6)]
    for found in scores:
        assert found == pytest.approx(scores[0], abs=5e-5)
        assert found == pytest.approx(found[::-1], abs=5e-5)


def test_a_text_beyond_the_reward_models_window_is_refused(accelerator):
    tokenizer = tiny_tokenizer()
    scorer = RewardModel(Scalar(tiny_classifier("llama", tokenizer)), tokenizer, 12, 64, accelerator)
    assert "window of 12" in refusal(lambda: scorer([SENTENCES[0]], [" yes"]))
