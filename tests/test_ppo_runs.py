"""Runs of PPO: warnings, reward functions of a notebook, callbacks, and finished runs that are extended."""

import math
from pathlib import Path

import pytest
import stages
from cases import read_lines
from commands import refusal

from alignbench.models.checkpoint import find_checkpoint
from alignbench.progress import Progress
from alignbench.provenance import function_identity
from trainers import ppo
from trainers.rollouts import Prompt, Rollout, RolloutConfig, warnings

folder = pytest.fixture(scope="module")(stages.prepare)
optimise = stages.runner("ppo")


def test_scores_that_do_not_vary_no_end_and_a_fixed_score_that_is_too_high_are_warnings(folder, optimise, tmp_path):
    said = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            said.extend([text] * text.startswith("warning"))

    def run(**changed):
        config = stages.config_of(folder, "ppo", tmp_path / f"warned-{len(said)}", **changed)
        ppo.train(config, progress=Heard())
        return [e["reason"] for e in read_lines(Path(config.out) / "log.jsonl") if e["event"] == "warning"]

    logged = run(reward="training_rewards:same", max_tokens=1, episodes=16)
    none, equal = (
        "no response of 8 ended within 1 tokens; raise max_tokens, give stop",
        "the reward of every response is 2, so there is ",
    )
    assert [reason.startswith((none, equal)) for reason in logged] == [True] * 4
    assert len(said) == 2  # on the screen once each
    assert said[0].startswith(f"warning: iteration 1: {none}")
    stop = {"stop": ("e", "a", "o", "n"), "max_tokens": 6, "batch": 16, "minibatch": 16, "episodes": 16}
    (reason,) = run(reward="training_rewards:negative", no_end_score=0.0, **stop)
    assert reason.startswith("no_end_score 0 is above the worst of a response that ended, -")
    assert run(reward="training_rewards:negative", no_end_score=-9.0, **stop) == []


def test_an_explosion_of_kl_a_collapse_of_entropy_and_learning_nothing_are_warnings():
    config = RolloutConfig(model="m", reward="r", prompts="p", out="o", batch=4, max_tokens=9)
    calm = {"score": 1.0, "score_std": 1.0, "kl": 2.0, "entropy": 2.0, "response_tokens": 20.0}
    ended = [Rollout(Prompt("p", [1], "p"), "r", [2], True) for _ in range(4)]
    for number, rollout in enumerate(ended):
        rollout.score = rollout.raw_score = float(number)

    def kinds(*history):
        return set(warnings(config, ended, history))

    assert kinds(calm) == kinds(*[calm] * 19) == set()
    assert kinds(*[calm] * 20) == {"learning"}
    assert kinds(*[calm] * 10, *[calm | {"score": 3.0}] * 10) == set()
    assert kinds(calm, calm | {"kl": 11.0, "entropy": 0.1}) == {"kl", "entropy"}
    assert kinds(calm, calm | {"kl": 11.0, "response_tokens": 40.0}) == set()


def my_reward(prompts, responses):
    return [len(response) / 10 for response in responses]


def test_a_function_of_a_notebook_is_a_reward_and_a_changed_one_is_refused(folder, optimise, tmp_path):
    out, expected = (optimise(reward=reward) for reward in (my_reward, "training_rewards:length"))
    assert (out / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    recipe = stages.recipe_of(out)
    assert recipe["config"]["reward"] == recipe["models"]["reward_function"]["name"] == "test_ppo_runs.my_reward"
    assert find_checkpoint(str(out / "final")).training["rewards"] == []
    typed = []  # without a source file, as in an interpreter
    for text in ("1.0", "2.0", "1.0"):
        exec(f"def typed_reward(prompts, responses): return [{text}] * len(responses)", names := {"__name__": "typed"})
        typed.append(names["typed_reward"])
    stages.train(folder, "ppo", tmp_path / "typed", reward=typed[0])
    stages.train(folder, "ppo", tmp_path / "typed", reward=typed[2])
    line = refusal(lambda: stages.train(folder, "ppo", tmp_path / "typed", reward=typed[1]))
    assert "reward_function.source_sha256 was" in line
    assert function_identity(math.fsum)["name"] == "math.fsum"


def test_a_callback_sees_each_iteration_and_may_stop(folder, optimise, tmp_path):
    seen, config = [], stages.config_of(folder, "ppo", tmp_path / "run", episodes=32, warmup=0)
    final, metrics = ppo.train(config, callback=lambda metrics: seen.append(metrics) or len(seen) == 2)
    assert [line["step"] for line in seen] == [1, 2] == [line["step"] for line in stages.steps_of(final.parent)]
    assert seen == stages.steps_of(final.parent)
    assert metrics["iterations"] == 2
    assert stages.same_weights(final, optimise(episodes=16, warmup=0) / "final")
    assert ppo.train(config, callback=pytest.fail) == (final, metrics)  # it is finished


@pytest.mark.parametrize("stage", ["ppo", "rloo"])
def test_a_finished_run_is_extended_to_what_an_uninterrupted_run_gives(folder, tmp_path, monkeypatch, stage):
    monkeypatch.chdir(folder)
    settings = {"reward": my_reward, "checkpoint_every": 2, "save_every": 3}
    for episodes in (16, 32):
        stages.long(folder, stage, tmp_path / "twice", **(settings | {"episodes": episodes}))
    stages.long(folder, stage, tmp_path / "once", **(settings | {"episodes": 32}))
    files = {path.relative_to(tmp_path / "once") for path in (tmp_path / "once").rglob("*.safetensors")}
    files = {path for path in files if path.parts[0] != "state"} | {Path("metrics.jsonl"), Path("samples.jsonl")}
    assert {str(path) for path in files} >= {"final/model.safetensors", "checkpoints/iteration-2/model.safetensors"}
    for path in files:
        assert (tmp_path / "twice" / path).read_bytes() == (tmp_path / "once" / path).read_bytes(), path
    recipes = [stages.recipe_of(tmp_path / name) for name in ("twice", "once")]
    assert recipes[0]["metrics"] == recipes[1]["metrics"]
    assert recipes[0]["config"]["episodes"] == 32
    line = refusal(lambda: stages.long(folder, stage, tmp_path / "twice", **(settings | {"episodes": 16})))
    assert "it has 32 episodes" in line
