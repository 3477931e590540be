"""Rollouts by vLLM, with the stand-in of test_vllm.py: what is sent to it, and what PPO does with its samples."""

import math
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import stages
import torch
from cases import read_lines
from commands import refusal
from test_vllm import LLM, SamplingParams, VLLMClientError

from alignbench.models.remote.vllm import merged_weights
from alignbench.progress import Progress
from alignbench.types.engine import Sampling
from trainers import loop
from trainers.config import StageConfig
from trainers.models import Policy, add_lora, base_model, load
from trainers.sampler import Sampler, load_vllm

pytestmark = pytest.mark.usefixtures("one_thread")
folder = pytest.fixture(scope="module")(stages.prepare)
optimise = stages.runner("ppo")
VLLM = {"rollouts": "vllm", "temperature": 0.7, "episodes": 16, "lr": 1e-2, "warmup": 0}


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    """The engines that were loaded. One that follows the policy's weights, and drops its cache when they change."""
    made = []

    class Following(LLM):
        def __init__(self, model, **options):
            super().__init__(model, **options)
            self.stale, self.loaded = False, []
            made.append(self)

        def collective_rpc(self, method, kwargs):
            assert method == "reload_weights"
            weights = {name: tensor.clone() for name, tensor in kwargs["weights_iterator"]}
            self.loaded.append(dict(weights))
            with torch.no_grad():
                for name, own in self.model.named_parameters():
                    own.copy_(weights.pop(name))
            assert not weights, "names that the checkpoint does not have"
            self.stale = True

        def reset_prefix_cache(self):
            self.stale = False
            return True

        def generate(self, prompts, params, **options):
            assert not self.stale
            self.temperature = params[0].temperature
            return super().generate(prompts, params, **options)

        def _logprobs(self, ids):
            if self.settings["logprobs_mode"] == "raw_logprobs" or not self.temperature:
                return super()._logprobs(ids)
            with torch.no_grad():
                return torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float() / self.temperature, -1)

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Following, SamplingParams=SamplingParams))
    monkeypatch.setitem(sys.modules, "vllm.exceptions", SimpleNamespace(VLLMClientError=VLLMClientError))
    return made


def test_each_batch_is_sampled_by_the_policys_weights_and_the_ratio_is_1(folder, optimise, engines):
    out = optimise(**VLLM)
    (engine,) = engines
    expected = {"logprobs_mode": "processed_logprobs", "gpu_memory_utilization": 0.3, "dtype": "float32"}
    assert expected.items() <= engine.settings.items()
    lines = read_lines(out / "metrics.jsonl")
    assert len(lines) == 2
    for line in lines:
        assert line["sampler_kl"] == pytest.approx(0, abs=1e-6)
        assert line["ratio"] == pytest.approx(1, abs=2e-5)
    first, second, averaged = engine.loaded
    assert all(torch.equal(first[name], own) for name, own in stages.weights_of(folder / "model").items())
    final = stages.weights_of(out / "final")
    assert all(torch.equal(averaged[name], final[name]) for name in final), "the checkpoint is measured on its weights"
    assert not torch.equal(first["model.norm.weight"], second["model.norm.weight"])
    params = [p for _, own in engine.calls for p in own]
    assert {(p.temperature, p.top_p, p.top_k, p.logprobs) for p in params} == {(0.7, 1.0, 0, 0)}


def test_old_weights_are_a_warning_and_a_change_of_the_engine_is_refused(folder, optimise, monkeypatch):
    settings = VLLM | {"lr": 0.3}
    monkeypatch.setattr(Sampler, "_weights", lambda self: nullcontext())
    out = optimise(**settings)
    assert read_lines(out / "metrics.jsonl")[1]["sampler_kl"] > 0.1
    warned = [line["kind"] for line in read_lines(out / "log.jsonl") if line["event"] == "warning"]
    assert "sampler" in warned
    line = refusal(lambda: stages.train(folder, "ppo", out, **(settings | {"rollouts": "local"})))
    assert "config.rollouts was vllm, now local" in line


def test_a_logprob_that_is_not_finite_stops_at_the_last_state(optimise, monkeypatch):
    calls = iter(range(100))

    def spoil(output):
        if 8 <= next(calls) < 16:  # the second iteration
            next(iter(output.outputs[0].logprobs[0].values())).logprob = math.nan

    monkeypatch.setattr(LLM, "spoil", spoil)
    out = optimise(save_every=1, **VLLM)
    (event,) = [line for line in read_lines(out / "log.jsonl") if line["event"] == "stopped"]
    assert "a log-probability from vLLM is not a number" in event["reason"]
    assert event["kept"] == 0


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_adapters_are_added_to_the_weights_of_their_layers(folder, precision):
    pytest.importorskip("peft", reason="the extra `train` is not installed")
    model = add_lora(load(str(folder / "model"), "causal")[0], 2, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    found = dict(merged_weights(base_model(model)))
    expected = dict(model.merge_and_unload().named_parameters())
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, {name: p.detach() for name, p in expected.items()})


def test_it_ends_responses_where_the_policy_does_and_needs_one_process(folder, engines):
    config = stages.config_of(folder, "ppo", folder / "none", rollouts="vllm")
    accelerator = loop.make_accelerator(StageConfig(out="", cpu=True, mixed_precision="bf16"), Progress().say)
    model, tokenizer, _ = load(str(folder / "model"), "causal")
    model.generation_config.eos_token_id = [0, 7]
    sampler = Sampler(Policy(model), tokenizer, 64, accelerator, load_vllm(config, accelerator))
    sampler.sample(["a"], ["The doctor"], Sampling(3), 0)
    ((_, (params,)),) = engines[0].calls
    assert (params.stop_token_ids, engines[0].settings["dtype"]) == ([0, 7], "bfloat16")
    many = SimpleNamespace(num_processes=2)
    assert refusal(load_vllm, config, many).startswith("rollouts=vllm: needs a training in one process")
