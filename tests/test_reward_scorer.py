"""Reward models score as in our trainers, or as in transformers."""

import json
import re

import numpy as np
import pytest
import torch
import transformers
from cases import cases, update
from commands import refusal
from scorer_models import save_classifier, stock_logits
from stages import tiny_classifier
from tiny import save_tiny_checkpoint, tiny_tokenizer

from alignbench.models.template import render_pair, renderer
from alignbench.scorers import Item, find_scorer
from trainers.config import StageConfig
from trainers.loop import make_accelerator
from trainers.reward import load_reward

CHAT, CHATML = cases("judges")["template"], cases("templates")["end_of_turn"][0][0]
ROLES = ("user", "assistant")
PAIRS = [tuple(pair) for pair in cases("scorers")["pairs"]]
ENCODABLE = [tuple(text.encode("utf-8", "replace").decode() for text in pair) for pair in PAIRS]
LONG = ("What do bees make?", " honey" * 600)
pytestmark = pytest.mark.usefixtures("one_thread")


def save_decoder(folder, *, pad=True, recipe=None, bias=0.0, template=None, architecture="llama", **overrides):
    """pad: the tokenizer has a padding token, or "end", which is also its end token"""
    tokenizer = tiny_tokenizer(pad=pad is True)
    tokenizer.chat_template = template
    if pad == "end":
        tokenizer.pad_token = tokenizer.eos_token
    model = tiny_classifier(architecture, tokenizer, **overrides)
    if bias:
        model.config.alignbench_reward_bias = bias
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if recipe is not None:
        whole = {"stage": "reward", "lineage": [], "models": {}, "parent": {}, "config": {}} | recipe
        (folder / "recipe.json").write_text(json.dumps(whole))
    return folder


def rewards(folder, pairs=PAIRS):
    scorer = find_scorer(f"reward=model:{folder}")
    return [found["reward"] for found in scorer.score([Item(output, prompt) for prompt, output in pairs])]


def trainers_rewards(folder, pairs=ENCODABLE):
    return load_reward(str(folder), make_accelerator(StageConfig(out=str(folder), trackers=(), cpu=True)), 4096)(
        *zip(*pairs, strict=True)
    )


def stock(folder, *texts, **options):
    return float(stock_logits(folder, *texts, **options)[0])


@pytest.mark.parametrize(("architecture", "pad"), [("llama", True), ("llama", False), ("gpt2", True), ("gpt2", False)])
def test_a_reward_model_of_our_trainers_scores_as_in_training(tmp_path, architecture, pad):
    folder = save_decoder(tmp_path / "rm", pad=pad, recipe={}, bias=-1.5, architecture=architecture)
    found = rewards(folder)
    assert found == pytest.approx(trainers_rewards(folder), abs=1e-4)
    assert np.std(found) > 0.1


def test_the_bias_is_added_and_is_part_of_the_identity_as_are_the_weights(tmp_path):
    without, biased = (save_decoder(tmp_path / str(bias), recipe={}, bias=bias) for bias in (0.0, 2.5))
    assert np.subtract(rewards(biased), rewards(without)) == pytest.approx(2.5, abs=1e-4)
    one = find_scorer(f"reward=model:{without}")
    other = find_scorer(f"reward=model:{save_decoder(tmp_path / 'other', seed=1)}")
    assert (one.kind, one.name, len(one.revision)) == ("reward", "model:0.0", 64)
    assert len({one.revision, other.revision, find_scorer(f"reward=model:{biased}").revision}) == 3


def test_a_reward_model_trained_on_chats_reads_chats_in_evaluation_and_in_training(tmp_path):
    trained = save_decoder(tmp_path / "trained", recipe={"config": {"template": True}}, template=CHAT)
    render = renderer(transformers.AutoTokenizer.from_pretrained(trained))
    asked = [
        render_pair(*([{"role": role, "content": text.strip()}] for role, text in zip(ROLES, own, strict=True)), render)
        for own in ENCODABLE
    ]
    assert asked[0][0] == "user: Which planet is red?</s><s>assistant:"  # the tokenizer begins with <s>
    assert rewards(trained) == pytest.approx(trainers_rewards(trained), abs=1e-4)
    plain = save_decoder(tmp_path / "plain", recipe={})  # reads the rendered texts as they are
    assert rewards(trained) == pytest.approx(trainers_rewards(plain, asked), abs=1e-4)


@pytest.mark.parametrize(("template", "last"), [(CHAT, "</s>"), (CHATML, "<|im_end|>\n")])
@pytest.mark.parametrize("pad", [True, False, "end"])
def test_another_decoder_reads_the_dialogue_up_to_the_last_token_of_its_template(tmp_path, template, last, pad):
    """As in transformers, which skips padding; the trainers read it at the same token."""
    folder = save_decoder(tmp_path / "rm", template=template, pad=pad)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dialogues = [[{"role": role, "content": text} for role, text in zip(ROLES, own, strict=True)] for own in ENCODABLE]
    texts = [tokenizer.apply_chat_template(dialogue, tokenize=False) for dialogue in dialogues]
    assert all(text.endswith(last) for text in texts)
    expected = pytest.approx([stock(folder, text, add_special_tokens=False) for text in texts], abs=1e-4)
    assert rewards(folder) == expected
    assert trainers_rewards(folder) == expected
    asked, answers = [dialogue[:1] for dialogue in dialogues], [response for _, response in ENCODABLE]
    assert trainers_rewards(folder, list(zip(asked, answers, strict=True))) == expected


@pytest.mark.parametrize("pad", ["own", "none", "end", "of the tokenizer only"])
def test_a_decoder_without_a_template_reads_the_texts_and_the_end_token(tmp_path, pad):
    padding = "end" if pad == "end" else pad != "none"
    folder = save_decoder(tmp_path / "rm", pad=padding, architecture="bloom" if pad == "own" else "llama")
    if pad == "of the tokenizer only":  # transformers would read the output of a batch at padding
        update(folder / "config.json", pad_token_id=None)
    pairs = [*PAIRS[:2], *[LONG] * (pad == "own")]  # a model without positions takes any length
    expected = [stock(folder, f"{prompt}{response}</s>") for prompt, response in pairs]
    assert rewards(folder, pairs) == pytest.approx(expected, abs=1e-3)
    assert pad == "own" or trainers_rewards(folder, pairs) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("architecture", ["Roberta", "DebertaV2"])
def test_an_encoder_reads_a_pair_of_texts_and_none_is_truncated(tmp_path, architecture):
    folder = save_classifier(tmp_path / "rm", ("LABEL_0",), architecture, positions=130)
    expected = [stock(folder, *pair) for pair in ENCODABLE]
    assert rewards(folder) == pytest.approx(expected, abs=1e-4)
    items = [Item(output, prompt) for prompt, output in (PAIRS[0], LONG, PAIRS[1])]
    first, reason, last = find_scorer(f"reward=model:{folder}").score(items)
    assert re.fullmatch(r"\d+ tokens do not fit the reward model's window of 1\d\d", reason)
    assert [first["reward"], last["reward"]] == pytest.approx(expected[:2], abs=1e-4)


def test_a_model_that_does_not_fit_into_memory_is_one_line(tmp_path, monkeypatch):
    folders = save_tiny_checkpoint(tmp_path / "lm"), save_decoder(tmp_path / "rm")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    monkeypatch.setattr(transformers.PreTrainedModel, "to", full)
    for spec, folder in zip(("preference=lm", "reward=model"), folders, strict=True):
        assert f"checkpoint {folder.name}: its weights do not fit" in refusal(find_scorer, f"{spec}:{folder}")
