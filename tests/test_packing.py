"""Packed rows against stock models in float64, one example at a time, and against a stock left-padded batch."""

import copy
from functools import cache

import numpy as np
import pytest
import stages
import torch
from commands import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer

from alignbench.models.attention import TREE
from alignbench.models.generate import packed as generate
from trainers import packing
from trainers.models import Policy, Scalar, check_packing
from trainers.packing import Example, pack

PACKED = ["llama", "gpt2", "gpt_neox", "qwen2", "mistral", "gemma", "opt"]
REFUSED = ["gemma2", "bloom", "mpt", "falcon", "mamba"]
CLOSE = 5e-5  # nats per token: fp32 is off by 5e-6 here, a wrong mask or position by hundredths and more
SHAPE = [(5, [4]), (1, [1]), (9, [3, 7, 1, 12]), (2, [6, 6]), (1, [2, 1]), (17, [1]), (3, [20])]


@cache
def model_of(architecture):
    return tiny_model(architecture, tiny_tokenizer())


def examples_of(seed, shape):
    """One example per (prompt length, response lengths)."""
    draw = np.random.default_rng(seed)
    return [
        Example(draw.integers(3, 300, prompt).tolist(), [draw.integers(3, 300, n).tolist() for n in responses])
        for prompt, responses in shape
    ]


def alone(model, examples, temperature=1.0):
    return torch.cat([stages.logprobs_alone(model, e.prompt, r, temperature) for e in examples for r in e.responses])


EXACT = stages.exact(model_of("llama"))


def assert_close(found, expected, atol=CLOSE):
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("architecture", PACKED)
def test_log_probabilities_are_those_of_each_response_after_its_prompt_alone(architecture):
    """Detail 3."""
    model, examples = model_of(architecture), examples_of(0, SHAPE)
    check_packing(Policy(model), "folder")
    with torch.no_grad():
        expected = alone(stages.exact(model), examples)
        found, entropies = Policy(copy.deepcopy(model))(pack(examples))
    assert found.shape == entropies.shape == (sum(len(r) for e in examples for r in e.responses),)
    assert_close(found, expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_scores_are_those_at_the_last_token_of_each_response_alone(architecture):
    model, examples = stages.tiny_classifier(architecture, tiny_tokenizer()), examples_of(5, SHAPE)
    check_packing(Scalar(model), "folder")
    with torch.no_grad():
        packed, reference = pack(examples), stages.exact(model)
        expected = torch.stack([stages.score_alone(reference, e.prompt, r) for e in examples for r in e.responses])
        assert_close(Scalar(model)(packed, packed.last), expected)


@pytest.mark.parametrize("architecture", REFUSED)
def test_an_architecture_that_cannot_be_packed_is_refused(architecture):
    line = refusal(lambda: check_packing(Policy(model_of(architecture)), "folder"))
    assert line.startswith(f"checkpoint folder: {architecture} cannot be trained packed")
    assert ("soft caps" in line) == (architecture == "gemma2")


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.lists(st.integers(1, 20), min_size=1, max_size=4)), min_size=1, max_size=6
    ),
    st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_any_row_of_examples_gives_the_results_of_each_alone(shape, seed):
    examples = examples_of(seed, shape)
    with torch.no_grad():
        found = Policy(copy.deepcopy(model_of("llama")))(pack(examples))[0]
        assert_close(found, alone(EXACT, examples))


def test_the_temperature_divides_the_logits_and_the_end_token_is_an_ordinary_token():
    """Details 2, 5: there is no pad token, so no token can be mistaken for padding."""
    tokenizer = tiny_tokenizer(pad=False)
    model, end = tiny_model("llama", tokenizer, pad_token_id=0), tokenizer.eos_token_id
    examples = [Example([end, 5, end], [[7, end], [end]]), Example([end], [[end, end, 9, end]])]
    with torch.no_grad():
        for temperature in (1.0, 0.7):
            found = Policy(copy.deepcopy(model), temperature=temperature)(pack(examples))[0]
            assert_close(found, alone(stages.exact(model), examples, temperature))


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_under_autocast_packed_rows_are_as_close_to_fp64_as_the_stock_model(architecture):
    model, examples = model_of(architecture), examples_of(3, SHAPE)
    policy = Policy(copy.deepcopy(model))
    with torch.no_grad():
        expected = alone(stages.exact(model), examples)
        with torch.autocast("cpu", torch.bfloat16):
            found, stock = policy(pack(examples))[0], alone(model, examples).float()
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) > 1e-3  # it did compute in bfloat16
    assert float((found - expected).abs().mean()) < 1.5 * float((stock - expected).abs().mean())


def test_the_models_own_attention_is_restored_after_a_row_and_after_an_error():
    model = tiny_model("llama", tiny_tokenizer())
    before = model.config._attn_implementation
    assert packing.PACKED not in (generate.NAME, TREE)  # a second attention of a name would replace the first
    with pytest.raises(IndexError), torch.no_grad():
        Policy(model)(pack([Example([10**6], [[1]])]))
    assert model.config._attn_implementation == before
    tokens = torch.arange(3, 20)[None]
    assert torch.equal(model(tokens).logits, model_of("llama")(tokens).logits)
