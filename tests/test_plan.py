"""The memory plan of a training: bytes counted on real models, and its advice."""

from dataclasses import replace

import pytest
from tiny import save_tiny_checkpoint

from trainers import loop, ppo, rloo
from trainers.models import Policy, add_lora, load
from trainers.plan import REMEDIES, advise, plan, sizes


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = str(save_tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama"))
    return ppo.Config(model=folder, reward="module:function", prompts="p", out="o", batch=64)


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_and_states_are_those_of_real_models(config, rank):
    model, _, _ = load(config.model, "causal")
    policy = Policy(add_lora(model, rank, 0) if rank else model)
    optimizer = loop.make_optimizer(policy.parameters(), 1e-3, config)
    trained = [p for p in policy.parameters() if p.requires_grad]
    sum(p.sum() for p in trained).backward()
    optimizer.step()
    moments = sum(s[name].nbytes for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
    found = plan("rloo", rloo.Config(model=config.model, reward="m:f", prompts="p", out="o", lora=rank))
    assert found["trained models"] == sum(p.nbytes for p in policy.parameters())
    assert found["gradients, of one model at a time"] == sum(p.grad.nbytes for p in trained)
    assert found["optimizer"] == moments
    assert found["averaged weights"] == sum(w.nbytes for w in loop.Ema(policy, 0.9).weights.values())
    assert found["frozen models"] == (0 if rank else 4 * sizes(config.model)["parameters"])


def test_full_ppo_keeps_at_most_20_bytes_and_lora_7_under_bf16(config):
    half, parameters = replace(config, reward=config.model, mixed_precision="bf16"), sizes(config.model)["parameters"]
    names = ("trained models", "gradients, of one model at a time", "optimizer", "averaged weights", "frozen models")
    small = plan("ppo", replace(half, offload=True, optimizer="adam-8bit"))
    assert sum(small[name] for name in names) == 16 * parameters
    assert sum(plan("ppo", half)[name] for name in names) == 36 * parameters
    assert 4 * plan("ppo", half, 4)["frozen models"] == plan("ppo", half)["frozen models"], "sharded"
    adapters, lora = sizes(config.model, 1)["adapters"], plan("ppo", replace(half, lora=1))
    # two adapters with 4 bytes of weights and 8 of moments, one gradient, one average
    assert sum(lora[name] for name in names) == 6 * parameters + (2 * 12 + 4 + 4) * adapters


def test_the_advice_names_settings_with_which_it_fits(config):
    assert advise("ppo", config, 1, 80) == "fits"
    least = {name: value for remedy in REMEDIES for name, value in remedy.items()}
    total = sum(plan("ppo", replace(config, **least)).values()) / 2**30
    assert advise("ppo", config, 1, total).endswith("or a smaller model")
    assert "does with mixed_precision=bf16" in advise("ppo", config, 1, 1.2 * total)


def test_vllm_has_its_own_part_of_the_device(config):
    vllm = replace(config, rollouts="vllm", vllm_memory=0.5)
    found, total = plan("ppo", vllm), sum(plan("ppo", vllm).values()) / 2**30
    assert found == {name: number for name, number in plan("ppo", config).items() if not name.startswith("sampling")}
    assert [advise("ppo", vllm, 1, total / room) == "fits" for room in (0.39, 0.41)] == [True, False]  # of 0.9 - 0.5
