"""Parts of the training loops: accumulation, clipping, Adam, averages, data order, work split over processes."""

import copy
import itertools
import math

import pytest
import torch
from commands import refusal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from stages import an_accelerator
from torch import nn

from trainers import loop
from trainers.config import StageConfig
from trainers.loop import (
    infinite_shuffle,
    make_optimizer,
    map_packed,
    micro_batches,
    shuffled,
    split_by_example,
    take_step,
)
from trainers.packing import Example

accelerator = pytest.fixture(scope="module")(an_accelerator)


def test_adam_has_the_papers_settings_and_omits_frozen_weights():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimizer = make_optimizer(layer.parameters(), 3e-4, StageConfig(out=""))
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.95), 1e-5, 0)
    assert [p.shape for p in group["params"]] == [(2, 3)]
    for _ in range(2):  # relative to the peak, not to the previous rate
        loop.set_learning_rate(optimizer, 0.1)
        assert group["lr"] == pytest.approx(3e-5)


@pytest.mark.parametrize(("max_norm", "moved"), [(None, (30.0, 40.0)), (1.0, (0.6, 0.8))], ids=["off", "on"])
def test_the_gradient_is_clipped_and_its_unclipped_norm_returned(max_norm, moved):
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[30.0, 40.0]])
    assert take_step(layer, torch.optim.SGD(layer.parameters(), lr=1.0), max_norm) == pytest.approx(50)
    torch.testing.assert_close(before - layer.weight.detach(), torch.tensor([moved]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_moments(bad):
    layer = nn.Linear(3, 2)
    optimizer = make_optimizer(layer.parameters(), 0.1, StageConfig(out=""))
    layer(torch.ones(1, 3)).sum().backward()
    take_step(layer, optimizer, None)
    before = copy.deepcopy((layer.state_dict(), optimizer.state_dict()["state"]))
    layer(torch.ones(1, 3)).sum().backward()
    layer.bias.grad[1] = bad
    with pytest.raises(loop.NotFiniteError):
        take_step(layer, optimizer, 1.0)
    torch.testing.assert_close((layer.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0)
    assert all(p.grad is None for p in layer.parameters())


def test_different_purposes_and_keys_give_different_orders():
    keys = ((0,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 1))  # numpy's seeds (0,) and (0, 0) are the same
    assert len({shuffled(50, purpose, *key) for key in keys for purpose in ("prompts", "text")}) == 12
    passes = infinite_shuffle(30, 0, 90, "text", 7)
    assert len({tuple(item for _, item in passes[at : at + 30]) for at in (0, 30, 60)}) == 3


@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 40), st.integers(0, 3))
def test_each_pass_of_an_infinite_shuffle_has_every_item_once_from_any_start_as_its_key_says(count, start, number, key):
    whole = infinite_shuffle(count, 0, start + number, "text", key)
    shuffled.cache_clear()
    assert infinite_shuffle(count, start, number, "text", key) == whole[start:]
    for lap in range((start + number) // count):
        assert sorted(whole[lap * count : (lap + 1) * count]) == [(lap, item) for item in range(count)]


# Work of several processes (on two real ones: test_training_resume.py)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), max_size=9), st.integers(1, 40))
def test_map_packed_gives_one_result_per_example_in_order(accelerator, lengths, budget):
    examples = [Example([7] * (1 + i), [[i] * length for length in some]) for i, some in enumerate(lengths)]

    def compute(packed):
        tokens = split_by_example(packed, packed.before, torch.stack([packed.targets, packed.targets + 1]))
        last = split_by_example(packed, packed.last, packed.tokens[0, packed.last])
        return [(t.tolist(), found.tolist()) for t, found in zip(tokens, last, strict=True)]

    found = map_packed(accelerator, examples, budget, compute)
    assert found == [([[i] * sum(some), [i + 1] * sum(some)], [i] * len(some)) for i, some in enumerate(lengths)]


@given(st.lists(st.integers(1, 500), min_size=4, max_size=80), st.integers(1, 4), st.integers(1, 3000))
def test_micro_batches_partition_the_batch_within_the_budget(sizes, world, budget):
    batches = micro_batches(sizes, world, budget)
    assert len(batches) == world
    assert sorted(itertools.chain(*itertools.chain(*batches))) == list(range(len(sizes)))
    assert len({len(process) for process in batches}) == 1  # each process has equally many
    assert all(all(process) for process in batches)
    (batches,) = micro_batches(sizes, 1, budget)
    assert all(sum(sizes[i] for i in indices) <= budget + max(sizes) for indices in batches)
    assert len(batches) <= max(1, math.ceil(sum(sizes) / budget))
    assert [sizes[i] for indices in batches for i in indices] == sorted(sizes, reverse=True)  # similar lengths


def test_a_row_longer_than_the_window_is_named():
    loop.check_lengths([("data.jsonl:1", 3), ("data.jsonl:4", 8)], 8, "ranking")
    loop.check_lengths([("data.jsonl:1", 3), ("data.jsonl:4", 9)], None, "ranking")
    line = refusal(lambda: loop.check_lengths([("data.jsonl:1", 3), ("data.jsonl:4", 9)], 8, "ranking"))
    assert line.startswith("data.jsonl:4: the ranking has 9 tokens, the model's window 8")


def test_a_state_holds_only_what_is_trained_and_loads_over_the_frozen_weights(accelerator, tmp_path):
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimizer = make_optimizer(layer.parameters(), 0.1, StageConfig(out=""))
    module, _ = accelerator.prepare(layer, optimizer)
    before = copy.deepcopy(module.state_dict())
    try:
        loop.save_training(tmp_path, accelerator)
        (file,) = tmp_path.glob("model*.safetensors")
        assert list(load_file(file)) == ["weight"]
        with torch.no_grad():
            layer.weight.zero_()
        loop.load_training(tmp_path, accelerator)
        torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    finally:
        accelerator.free_memory()
