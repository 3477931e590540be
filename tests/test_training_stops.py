"""Mistakes in the settings and data of a stage are one line, before anything is trained; and what stops PPO."""

import math
import shutil
from pathlib import Path

import pytest
import stages
from cases import cases, read_lines, update
from commands import refusal
from tiny import tiny_tokenizer

from trainers import loop, losses, ppo
from trainers.models import Texts


def with_window(source, copy, window: int) -> str:
    shutil.copytree(source, copy)
    update(copy / "config.json", max_position_embeddings=window)
    return str(copy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = stages.prepare(tmp_path_factory)
    for window in (24, 64, 512):
        with_window(folder / "model", folder / f"window-{window}", window)
    with_window(folder / "judge", folder / "judge-24", 24)
    stages.checkpoint(folder / "small", vocab_size=300)
    other = stages.checkpoint(folder / "other", tokenizer=tiny_tokenizer(bos=False))
    stages.train(folder, "reward", folder / "run", model=other).joinpath("final").rename(folder / "foreign")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
    stages.write_rows(folder / "chat.jsonl", [{"messages": turns}])
    stages.write_rows(folder / "plain.jsonl", [{"prompt": "q", "response": "zz"}] * 4)
    stages.write_rows(folder / "long.jsonl", [{"prompt": "bees " * 3000, "response": " wax"}])
    pair = {"chosen": " honey", "rejected": " no"}
    last_long = [*({"prompt": f"q{n}"} | pair for n in range(11)), {"prompt": "bees " * 99} | pair]
    stages.write_rows(folder / "last-long.jsonl", last_long)
    stages.write_rows(folder / "held-out.jsonl", [pair | {"prompt": "q", "labeler": "labeler 1"}])
    rows = [pair | {"prompt": q, "labeler": f"labeler {n}"} for q in stages.QUESTIONS for n in range(6)]
    stages.write_rows(folder / "labelled.jsonl", rows)
    return folder


@pytest.mark.parametrize(("stage", "settings", "words"), cases("rejected_trainings"))
def test_a_mistake_is_one_line_before_any_training(folder, tmp_path, monkeypatch, stage, settings, words):
    monkeypatch.chdir(folder)
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    line = refusal(lambda: stages.train(folder, stage, tmp_path / "run", **settings))
    assert words.replace("{folder}", str(folder)) in line
    assert (tmp_path / "run" / "metrics.jsonl").exists() == ("gradient" in words)


def test_only_tokens_that_occur_need_an_embedding_and_only_lengths_that_occur_the_window(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    stages.train(folder, "sft", tmp_path / "sft", model="small", data="plain.jsonl")
    longest = max(map(len, Texts(tiny_tokenizer()).prompts(list(stages.QUESTIONS)))) + 8
    reference = with_window(folder / "model", tmp_path / "reference", longest)
    # the reward model reads an end token too; a partial character may have more tokens when it is read again
    value, judge = (with_window(folder / "judge", tmp_path / f"judge-{n}", n) for n in (longest, longest + 1))
    monkeypatch.setattr(ppo, "score_all", lambda *arguments: [0.0] * len(arguments[-1]))
    stages.train(folder, "ppo", tmp_path / "ppo", reference=reference, value=value, reward=judge)
    line = refusal(lambda: stages.train(folder, "ppo", tmp_path / "short", reward=value))
    assert f"the reward model's window {longest}; set long=" in line


# What stops PPO: the result is the last good state


optimise = stages.runner("ppo")


def stop_of(out: Path) -> tuple[str, int]:
    """Why the run stopped, and after how many iterations the result was taken."""
    event = next(line for line in read_lines(out / "log.jsonl") if line["event"] == "stopped")
    assert stages.recipe_of(out)["metrics"]["iterations"] == event["kept"]
    assert all(w.isfinite().all() for part in ("final", "final/value") for w in stages.weights_of(out / part).values())
    return event["reason"], event["kept"]


def test_a_run_stops_when_the_kl_exceeds_its_limit(folder, optimise):
    settings = {"episodes": 80, "lr": 3e-2, "warmup": 0, "ema": 0.0, "save_every": 1}
    free = [line["kl"] for line in read_lines(optimise(**settings) / "metrics.jsonl")]
    limit = free[3] * 0.9
    good = next(i for i, kl in enumerate(free) if kl > limit)  # iterations before the first that exceeds it
    assert 0 < good < 10
    out = optimise(stop_when=f"kl > {limit}", **settings)
    assert max(line["kl"] for line in read_lines(out / "metrics.jsonl")) <= limit
    reason, kept = stop_of(out)
    assert reason == f"iteration {good + 1}: kl > {limit}"
    assert kept == good - 1  # the weights that sampled the last good batch
    expected = optimise(**(settings | {"episodes": 8 * kept})) / "final" if kept else folder / "model"
    assert stages.same_weights(out / "final", expected)


@pytest.mark.parametrize(
    ("module", "name", "call", "stop"),
    [
        (losses, "value_loss", 3, ("iteration 4: the gradient is not finite", 2)),
        # the first step's weights cannot be trusted
        (loop, "map_packed", 1, ("iteration 2: log-probabilities or values are not finite", 0)),
    ],
)
def test_numbers_that_are_not_finite_stop_the_run_and_remove_later_checkpoints(
    folder, optimise, monkeypatch, module, name, call, stop
):
    calls, function = iter(range(100)), getattr(module, name)

    def broken(*arguments):
        found, factor = function(*arguments), math.nan if next(calls) == call else 1
        return [item * factor for item in found] if isinstance(found, list) else found * factor

    monkeypatch.setattr(module, name, broken)
    out = optimise(episodes=48, save_every=2, checkpoint_every=1, ema=0.0)
    assert stop_of(out) == stop
    kept = sorted(path.name for path in (out / "checkpoints").glob("*"))
    assert kept == ["iteration-1", "iteration-2"][: stop[1]]
    assert stages.same_weights(out / "final", folder / "model") == (stop[1] == 0)


@pytest.mark.parametrize(("settings", "reason"), cases("training")["too_large"])
def test_too_large_a_learning_rate_leaves_the_last_finite_weights(folder, optimise, settings, reason):
    out = optimise(reward="judge", episodes=40, warmup=0, save_every=1, **settings)
    assert reason in stop_of(out)[0]
    if reason:
        assert stages.same_weights(out / "final", folder / "model")
        assert stages.same_weights(out / "final" / "value", folder / "judge")


def test_the_presets_are_the_papers_numbers():
    for name, preset in ppo.PRESETS.items():
        config = ppo.Config(model="sft", reward="rm", prompts="p.jsonl", out="o", **preset)
        assert (config.episodes, config.batch, config.minibatch, config.inner_epochs) == (256_000, 512, 64, 1)
        assert (config.beta, config.clip, config.ema, config.value_lr) == (0.02, 0.2, 0.992, 9e-6)
        assert (config.ptx, config.ptx_examples) == (0 if name.endswith("no-ptx") else 27.8, 8)
