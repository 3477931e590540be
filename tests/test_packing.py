"""Packed rows against one example at a time through the model as it is, and against a stock left-padded batch."""

from __future__ import annotations

import copy
import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer
from training_models import assert_same_gradients, gradients, logprobs_alone, score_alone, tiny_classifier

from alignbench.errors import AlignbenchError
from trainers.losses import policy_loss, value_loss
from trainers.models import ActorCritic, Policy, Scalar, check_packing
from trainers.packing import Example, _attend, micro_batches, pack, packed_attention

PACKED = ["llama", "gpt2", "gpt_neox", "qwen2", "mistral", "gemma", "opt"]
REFUSED = ["gemma2", "bloom", "mpt", "falcon", "mamba"]
CLOSE = 2e-5  # nats at a token: a wrong mask or position moves them by hundredths and more


@cache
def model_of(architecture):
    return tiny_model(architecture, tiny_tokenizer())


def examples_of(seed, shape):
    """An example for each (prompt length, response lengths)."""
    generator = np.random.default_rng(seed)
    return [
        Example(
            generator.integers(3, 300, prompt).tolist(), [generator.integers(3, 300, n).tolist() for n in responses]
        )
        for prompt, responses in shape
    ]


SHAPE = [(5, [4]), (1, [1]), (9, [3, 7, 1, 12]), (2, [6, 6]), (1, [2, 1]), (17, [1]), (3, [20])]


def alone(model, examples, temperature=1.0):
    return torch.cat([logprobs_alone(model, e.prompt, r, temperature) for e in examples for r in e.responses])


# The log-probabilities of the model as it is


@pytest.mark.parametrize("architecture", PACKED)
def test_packed_rows_give_the_log_probabilities_of_each_response_after_its_prompt_alone(architecture):
    model, examples = model_of(architecture), examples_of(0, SHAPE)
    check_packing(model, "folder", "causal")
    with torch.no_grad():
        expected = alone(model, examples)
        found, entropies = Policy(copy.deepcopy(model))(pack(examples))
    assert found.shape == entropies.shape == (sum(len(r) for e in examples for r in e.responses),)
    assert torch.allclose(found, expected, atol=CLOSE)


@pytest.mark.parametrize("architecture", REFUSED)
def test_an_architecture_that_packed_rows_would_get_wrong_is_refused_in_one_line(architecture):
    with pytest.raises(AlignbenchError, match="cannot be trained packed") as caught:
        check_packing(model_of(architecture), "folder", "causal")
    assert str(caught.value).startswith("checkpoint folder: ")
    assert ("soft caps" in str(caught.value)) == (architecture == "gemma2")
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.lists(st.integers(1, 20), min_size=1, max_size=4)), min_size=1, max_size=6
    ),
    st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_neighbours_and_order_change_nothing(shape, seed):
    model, examples = model_of("llama"), examples_of(seed, shape)
    policy = Policy(copy.deepcopy(model))
    with torch.no_grad():
        rows = [policy(pack([example]))[0] for example in examples]
        order = np.random.default_rng(seed).permutation(len(examples))
        together = policy(pack([examples[i] for i in order]))[0]
    assert torch.allclose(together, torch.cat([rows[i] for i in order]), atol=CLOSE)


@pytest.mark.parametrize("architecture", PACKED)
def test_packed_rows_equal_a_left_padded_batch_with_positions_from_its_mask(architecture):
    """Detail 3: the batch as the trainers of other projects have it, pad being the end token."""
    tokenizer = tiny_tokenizer(pad=False)
    model, pad = tiny_model(architecture, tokenizer), tokenizer.eos_token_id
    examples = [
        Example(e.prompt, [[*r, pad] for r in e.responses]) for e in examples_of(1, [(5, [4]), (1, [1]), (12, [9])])
    ]
    prompts, responses = max(len(e.prompt) for e in examples), max(len(e.responses[0]) for e in examples)
    tokens = torch.full((len(examples), prompts + responses), pad)
    mask = torch.zeros_like(tokens)
    for row, example in enumerate(examples):
        start, stop = prompts - len(example.prompt), prompts + len(example.responses[0])
        tokens[row, start:stop] = torch.tensor([*example.prompt, *example.responses[0]])
        mask[row, start:stop] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits.log_softmax(-1)
        found = Policy(copy.deepcopy(model))(pack(examples))[0]
    rows = padded[:, prompts - 1 : -1].gather(-1, tokens[:, prompts:, None])[..., 0]
    expected = torch.cat([row[: len(e.responses[0])] for row, e in zip(rows, examples, strict=True)])
    assert torch.allclose(found, expected, atol=CLOSE)


def test_the_temperature_divides_the_logits():
    model, examples = model_of("llama"), examples_of(2, SHAPE)
    with torch.no_grad():
        found = Policy(copy.deepcopy(model), temperature=0.7)(pack(examples))[0]
        assert torch.allclose(found, alone(model, examples, 0.7), atol=CLOSE)
        assert not torch.allclose(found, alone(model, examples), atol=0.01)


def test_the_end_token_is_a_token_like_any_other_in_prompt_and_response():
    """Detail 2: there is no pad token, so none can be taken for one."""
    tokenizer = tiny_tokenizer(pad=False)
    model, end = tiny_model("llama", tokenizer, pad_token_id=0), tokenizer.eos_token_id
    examples = [Example([end, 5, end], [[7, end], [end]]), Example([end], [[end, end, 9, end]])]
    with torch.no_grad():
        assert torch.allclose(Policy(copy.deepcopy(model))(pack(examples))[0], alone(model, examples), atol=CLOSE)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_under_autocast_packed_rows_are_as_near_to_fp32_as_the_model_is(architecture):
    model, examples = model_of(architecture), examples_of(3, SHAPE)
    policy = Policy(copy.deepcopy(model))
    with torch.no_grad():
        expected = policy(pack(examples))[0]
        with torch.autocast("cpu", torch.bfloat16):
            found, stock = policy(pack(examples))[0], alone(model, examples).float()
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert float((found - expected).abs().mean()) < 1.5 * float((stock - expected).abs().mean())


@pytest.mark.parametrize("causal", [True, False])
def test_attention_in_half_precision_is_that_in_fp32(causal):
    """Four heads over two key heads, plainly causal or with a prompt of which the second segment sees a part."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator).bfloat16()
    key, value = torch.randn(2, 2, 2, 5 if causal else 8, 8, generator=generator).bfloat16()
    mask = None
    if not causal:
        mask = torch.zeros(2, 1, 5, 8)
        mask[..., 3:] = torch.full((5, 5), -torch.inf).triu(1)
        mask[1, ..., 1:3] = -torch.inf
    exact = _attend(query.float(), key.float(), value.float(), mask, 0.7)
    found = _attend(query, key, value, mask, 0.7)
    assert found.dtype == torch.bfloat16
    assert found.shape == exact.shape == query.shape
    assert torch.allclose(found.float(), exact, rtol=2**-6, atol=2**-6)


def test_the_models_own_attention_is_back_after_a_row_and_after_an_error():
    model = tiny_model("llama", tiny_tokenizer())
    before = model.config._attn_implementation
    with packed_attention(model):
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before
    policy = Policy(model)
    with pytest.raises(IndexError), torch.no_grad():
        policy(pack([Example([10**6], [[1]])]))
    tokens = torch.arange(3, 20)[None]
    assert torch.equal(model(tokens).logits, model_of("llama")(tokens).logits)


# Gradients


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_gradients_equal_those_of_one_example_at_a_time(architecture):
    model, examples = copy.deepcopy(model_of(architecture)), examples_of(4, SHAPE)
    torch.manual_seed(0)
    weights = torch.randn(sum(len(r) for e in examples for r in e.responses))
    expected = gradients(model, (alone(model, examples) * weights).sum())
    found = gradients(model, (Policy(model)(pack(examples))[0] * weights).sum())
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_scores_are_those_at_the_last_token_of_each_response_alone(architecture):
    model, examples = tiny_classifier(architecture, tiny_tokenizer()), examples_of(5, SHAPE)
    check_packing(model, "folder", "reward")
    with torch.no_grad():
        packed = pack(examples)
        expected = torch.stack([score_alone(model, e.prompt, r) for e in examples for r in e.responses])
        assert torch.allclose(Scalar(model)(packed, packed.last), expected, atol=CLOSE)


@pytest.mark.parametrize("budget", [1, 20, 60, 10**6])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_minibatch(budget):
    """Detail 15: sums divided by the tokens of the whole minibatch, however it is cut."""
    tokenizer = tiny_tokenizer()
    actor = ActorCritic(Policy(tiny_model("llama", tokenizer)), Scalar(tiny_classifier("gpt2", tokenizer)))
    shape = [(5, [4]), (1, [1]), (9, [12]), (2, [6]), (17, [1]), (3, [20]), (4, [4])]
    examples = examples_of(6, shape)
    generator = torch.Generator().manual_seed(0)
    old = [torch.randn(3, len(e.responses[0]), generator=generator) for e in examples]
    divisor = sum(len(e.responses[0]) for e in examples)

    def loss_of(places):
        logprobs, _, values = actor(pack([examples[i] for i in places]))
        before, advantages, returns = torch.cat([old[i] for i in places], 1)
        loss = policy_loss(logprobs, before - 5, advantages, 0.2)[0] + value_loss(values, before, returns, 0.2)
        return loss.sum() / divisor

    expected = gradients(actor, loss_of(range(len(examples))))
    (batches,) = micro_batches([len(e) for e in examples], 1, budget)
    assert (len(batches) == 1) == (budget == 10**6)
    for places in batches:
        loss_of(places).backward()
    found = {name: p.grad for name, p in actor.named_parameters() if p.grad is not None}
    assert any(float(gradient.abs().max()) > 0.01 for gradient in found.values())
    assert_same_gradients(found, expected)


# Micro-batches

SIZES = st.lists(st.integers(1, 500), min_size=4, max_size=80)


@given(SIZES, st.integers(1, 4), st.integers(1, 3000))
def test_every_example_is_in_one_micro_batch_and_every_process_has_as_many(sizes, world, budget):
    batches = micro_batches(sizes, world, budget)
    assert len(batches) == world
    assert sorted(itertools.chain(*itertools.chain(*batches))) == list(range(len(sizes)))
    assert len({len(process) for process in batches}) == 1
    assert all(all(process) for process in batches)


@given(SIZES, st.integers(1, 3000))
def test_micro_batches_keep_to_the_budget_but_for_one_example(sizes, budget):
    (batches,) = micro_batches(sizes, 1, budget)
    for places in batches:
        assert sum(sizes[i] for i in places) <= budget + max(sizes)
    assert len(batches) <= max(1, math.ceil(sum(sizes) / budget))


@given(SIZES, st.integers(1, 3000))
def test_a_micro_batch_has_neighbours_in_length(sizes, budget):
    (batches,) = micro_batches(sizes, 1, budget)
    assert [sizes[i] for places in batches for i in places] == sorted(sizes, reverse=True)
