"""PPO: what stops a run, and what a stopped or finished run leaves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import training_runs
from stages import lines_of, recipe_of, same_weights, weights_of

from trainers import loop, losses, ppo
from trainers.models import Sampler
from trainers.ppo import PPOConfig, train
from trainers.run import Run

folder = pytest.fixture(scope="module")(training_runs.prepare)


@pytest.fixture
def optimise(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    return training_runs.runner("ppo", folder, tmp_path)


def stop_of(out: Path) -> tuple[str, int]:
    """Why the run stopped, and after how many iterations the result was taken."""
    event = next(line for line in lines_of(out / "log.jsonl") if line["event"] == "stopped")
    assert recipe_of(out)["metrics"]["iterations"] == event["kept"]
    assert all(w.isfinite().all() for part in ("final", "final/value") for w in weights_of(out / part).values())
    return event["reason"], event["kept"]


def test_a_run_stops_when_the_kl_exceeds_its_limit(folder, optimise):
    settings = {"episodes": 80, "lr": 3e-2, "warmup": 0, "ema": 0.0, "save_every": 1}
    free = [line["kl"] for line in lines_of(optimise(**settings) / "metrics.jsonl")]
    limit = free[3] * 0.9
    good = next(i for i, kl in enumerate(free) if kl > limit)  # iterations before the first that exceeds it
    assert 0 < good < 10
    out = optimise(stop_kl=limit, **settings)
    assert max(line["kl"] for line in lines_of(out / "metrics.jsonl")) <= limit
    reason, kept = stop_of(out)
    assert "exceeds" in reason
    assert kept == good - 1  # the weights that sampled the last good batch
    expected = optimise(**(settings | {"episodes": 8 * kept})) / "final" if kept else folder / "model"
    assert same_weights(out / "final", expected)


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
    assert stop_of(out) == ("iteration 4: the gradient is not finite", 2)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["iteration-1", "iteration-2"]
    assert not same_weights(out / "final", folder / "model")


def test_log_probabilities_that_are_not_finite_stop_the_run(folder, optimise, monkeypatch):
    times_nan(monkeypatch, loop, "map_packed", 1)
    out = optimise(episodes=40, save_every=1, ema=0.0)
    # the first step's weights cannot be trusted
    assert stop_of(out) == ("iteration 2: log-probabilities or values are not finite", 0)
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
    assert reason in stop_of(out)[0]
    if reason:
        assert same_weights(out / "final", folder / "model")
        assert same_weights(out / "final" / "value", folder / "judge")


@pytest.mark.parametrize("killed", [False, True])
def test_a_finished_run_is_not_trained_again(folder, optimise, tmp_path, monkeypatch, killed):
    save, first = Run.save_checkpoint, None

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
    else:
        first = train(config)
    files = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors", "final/recipe.json")
    before = [(tmp_path / "run" / name).read_bytes() for name in files]
    monkeypatch.setattr(Sampler, "sample", None)
    final, metrics = train(config)
    assert first in (None, (final, metrics))
    lines = lines_of(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"step": 3, **metrics} == lines[-1] | {"iterations": 3}
    assert [(tmp_path / "run" / name).read_bytes() for name in files] == before


def test_the_presets_are_the_papers_numbers():
    for name, preset in ppo.PRESETS.items():
        config = PPOConfig(model="sft", reward="rm", prompts="p.jsonl", out="o", **preset)
        assert (config.episodes, config.batch, config.minibatch, config.inner_epochs) == (256_000, 512, 64, 1)
        assert (config.beta, config.clip, config.ema, config.value_lr) == (0.02, 0.2, 0.992, 9e-6)
        assert (config.ptx, config.ptx_examples) == (0 if name.endswith("no-ptx") else 27.8, 8)
