"""PPO: what stops a run, what a stopped or finished run leaves, and mistakes in its settings."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import training_runs
from stages import QUESTIONS, checkpoint, lines_of, refusal, same_weights, weights_of, write_rows
from tiny import tiny_model, tiny_tokenizer

from alignbench.cli.app import main
from trainers import loop, losses, ppo
from trainers.models import Texts
from trainers.ppo import PPOConfig, train
from trainers.rollout import Sampler
from trainers.run import Run

folder = pytest.fixture(scope="module")(training_runs.prepare)


@pytest.fixture
def optimise(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    return training_runs.runner("ppo", folder, tmp_path)


def stop_of(out: Path) -> dict:
    return next(line for line in lines_of(out / "log.jsonl") if line["event"] == "stopped")


def recipe_of(out: Path) -> dict:
    return json.loads((out / "final" / "recipe.json").read_text())


def finite(folder: Path) -> bool:
    return all(weight.isfinite().all() for weight in weights_of(folder).values())


# Stops: the result is the last good state


def test_a_run_stops_when_the_kl_exceeds_its_limit(folder, optimise):
    settings = {"episodes": 80, "lr": 3e-2, "warmup": 0, "ema": 0.0, "save_every": 1}
    free = [line["kl"] for line in lines_of(optimise(**settings) / "metrics.jsonl")]
    limit = free[3] * 0.9
    good = next(i for i, kl in enumerate(free) if kl > limit)  # iterations before the first that exceeds it
    assert 0 < good < 10
    out = optimise(stop_kl=limit, **settings)
    assert max(line["kl"] for line in lines_of(out / "metrics.jsonl")) <= limit
    assert "exceeds" in stop_of(out)["reason"]
    assert stop_of(out)["kept"] == good - 1  # the weights that sampled the last good batch
    expected = optimise(**(settings | {"episodes": 8 * (good - 1)})) / "final" if good > 1 else folder / "model"
    assert same_weights(out / "final", expected)
    assert recipe_of(out)["metrics"]["iterations"] == good - 1


def times_nan(monkeypatch, module, name: str, call: int) -> None:
    """Multiply the result of a function's call by NaN."""
    calls, function = iter(range(100)), getattr(module, name)

    def broken(*arguments):
        found = function(*arguments)
        factor = math.nan if next(calls) == call else 1
        return [item * factor for item in found] if isinstance(found, list) else found * factor

    monkeypatch.setattr(module, name, broken)


def test_a_gradient_that_is_not_finite_stops_the_run_and_removes_later_checkpoints(folder, optimise, monkeypatch):
    times_nan(monkeypatch, losses, "value_loss", 3)
    out = optimise(episodes=48, save_every=2, checkpoint_every=1, ema=0.0)
    assert stop_of(out)["reason"] == "iteration 4: the gradient is not finite"
    assert stop_of(out)["kept"] == recipe_of(out)["metrics"]["iterations"] == 2
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["iteration-1", "iteration-2"]
    assert finite(out / "final")
    assert not same_weights(out / "final", folder / "model")


def test_log_probabilities_that_are_not_finite_stop_the_run(folder, optimise, monkeypatch):
    times_nan(monkeypatch, loop, "map_packed", 1)
    out = optimise(episodes=40, save_every=1, ema=0.0)
    assert stop_of(out)["reason"] == "iteration 2: log-probabilities or values are not finite"
    assert stop_of(out)["kept"] == 0  # the first step's weights cannot be trusted
    assert same_weights(out / "final", folder / "model")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lr": 1e25, "ema": 0.0}, "no response (the logits are not finite)"),  # the weights are finite
        ({"lr": 1e39}, "iteration 1: the step left weights that are not finite"),  # more than fp32 holds
        ({"value_lr": 1e39}, "iteration 1: the step left weights that are not finite"),
        ({"value_lr": 1e30}, ""),
    ],
)
def test_too_large_a_learning_rate_leaves_the_last_finite_weights(folder, optimise, settings, reason):
    out = optimise(reward="judge", episodes=40, warmup=0, save_every=1, **settings)
    assert finite(out / "final")
    assert finite(out / "final" / "value")
    assert reason in stop_of(out)["reason"]
    if reason:
        assert same_weights(out / "final", folder / "model")
        assert same_weights(out / "final" / "value", folder / "judge")


@pytest.mark.parametrize("killed", [False, True])
def test_a_finished_run_is_not_trained_again(folder, optimise, tmp_path, monkeypatch, killed):
    save = Run.save_checkpoint

    def save_and_die(self, *arguments):
        save(self, *arguments)
        raise KeyboardInterrupt

    # its last state is older than its last line
    config = training_runs.config_of(folder, "ppo", tmp_path / "run", episodes=24, save_every=10)
    if killed:  # after final/ was renamed
        with monkeypatch.context() as patched:
            patched.setattr(Run, "save_checkpoint", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                train(config)
    first = None if killed else train(config)
    files = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "final/recipe.json")
    before = [(tmp_path / "run" / name).read_bytes() for name in files]
    monkeypatch.setattr(Sampler, "sample", None)
    final, metrics = train(config)
    assert first in (None, (final, metrics))
    lines = lines_of(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"step": 3, **metrics} == lines[-1] | {"iterations": 3}
    assert [(tmp_path / "run" / name).read_bytes() for name in files] == before


# Mistakes


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"minibatch": 3}, "batch 8 is not a multiple of minibatch 3"),
        ({"episodes": 4}, "episodes 4 are less than one batch of 8"),
        ({"ptx": 1.0}, "ptx: needs pretraining=FILE"),
        ({"stop": ("", "\n")}, "stop: an empty string would end every response"),
        ({"temperature": 0.0}, "temperature: 0.0 is not above 0"),
        ({"temperature": math.inf}, "temperature: inf is not finite"),
        *(({name: 0}, f"{name}: 0 is not at least 1") for name in ("batch", "minibatch", "inner_epochs", "max_tokens")),
        *(({name: 0}, f"{name}: 0 is not at least 1") for name in ("horizon", "ptx_examples")),
        *(({name: -1}, f"{name}: -1 is not at least 0") for name in ("warmup", "lora")),
        *(({name: 0.0}, f"{name}: 0.0 is not above 0") for name in ("clip", "target_kl")),
        ({"ptx_tokens": 1}, "ptx_tokens: 1 is not at least 2"),
        ({"ptx_mean": "text"}, "ptx_mean: 'text' is not one of token, example"),
        ({"ema": 1.0}, "ema: 1.0 is not at least 0 and at most 0.999999"),
        ({"lam": 1.1}, "lam: 1.1 is not at least 0 and at most 1"),
        ({"discount": -0.1}, "discount: -0.1 is not at least 0 and at most 1"),
        ({"reward": "training_rewards:nothing"}, "reward training_rewards:nothing: nan for the response"),
        ({"reward": "training_rewards:epochs"}, "reward training_rewards:epochs: not a function"),
    ],
)
def test_wrong_settings_are_refused(optimise, settings, line):
    assert refusal(lambda: optimise(**settings)).startswith(line)


def test_a_value_model_with_other_tokens_is_refused(folder, optimise, tmp_path):
    model = checkpoint(tmp_path / "other", tokenizer=tiny_tokenizer(bos=False))
    foreign = training_runs.train(folder, "reward", tmp_path / "foreign", model=model) / "final"
    assert "its tokenizer is not the policy's" in refusal(lambda: optimise(value=str(foreign)))


def test_a_token_without_an_embedding_is_refused(optimise, tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model("llama", tokenizer, vocab_size=len(tokenizer) - 60).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    assert "embeddings for" in refusal(lambda: optimise(model=str(tmp_path / "small")))


def with_window(source: Path, copy: Path, window: int) -> str:
    shutil.copytree(source, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": window}))
    return str(copy)


def test_an_episode_longer_than_a_models_window_is_refused(folder, optimise, tmp_path, monkeypatch):
    prompts = write_rows(tmp_path / "long.jsonl", [{"prompt": "Mars?"}, {"prompt": "bees " * 3000}])
    line = refusal(lambda: optimise(prompts=prompts))
    assert "prompt 2 has" in line
    assert "window 2048" in line
    longest = max(map(len, Texts(tiny_tokenizer()).prompts(list(QUESTIONS)))) + 8
    policies = [with_window(folder / "model", tmp_path / f"policy-{n}", n) for n in (longest - 1, longest)]
    judges = [with_window(folder / "judge", tmp_path / f"judge-{n}", n) for n in (longest - 1, longest, longest + 1)]
    assert f"reference's window {longest - 1}; drop it" in refusal(lambda: optimise(reference=policies[0]))
    assert f"value model's window {longest - 1}; drop it" in refusal(lambda: optimise(value=judges[0]))
    assert f"reward model's window {longest}; drop it" in refusal(lambda: optimise(reward=judges[1]))
    # a partial character in a response may have more tokens when it is read again
    monkeypatch.setattr(ppo, "score_all", lambda *arguments: [0.0] * len(arguments[-1]))
    optimise(reference=policies[1], value=judges[1], reward=judges[2])


def test_the_presets_are_the_papers_numbers():
    for name, preset in ppo.PRESETS.items():
        config = PPOConfig(model="sft", reward="rm", prompts="p.jsonl", out="o", **preset)
        assert (config.episodes, config.batch, config.minibatch, config.inner_epochs) == (256_000, 512, 64, 1)
        assert (config.beta, config.clip, config.ema, config.value_lr) == (0.02, 0.2, 0.992, 9e-6)
        assert (config.ptx, config.ptx_examples) == (0 if name.endswith("no-ptx") else 27.8, 8)


def test_on_the_command_line_a_mistake_is_one_line_with_exit_code_2(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    settings = ["model=model", "prompts=sft.jsonl", "reward=training_rewards:nothing", f"out={tmp_path / 'command'}"]
    settings += ["episodes=8", "batch=8", "minibatch=8", "max_tokens=4", "no_end_score=null", "trackers=[]", "cpu=true"]
    monkeypatch.setattr(sys, "argv", ["alignbench", "train", "ppo", *settings])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "training_rewards:nothing" in line
