"""RLOO: its advantages by hand, and its gradient against explicit REINFORCE."""

import pytest
import stages
import torch
from transformers import AutoModelForCausalLM

from trainers import rloo
from trainers.rollouts import Prompt, Rollout

folder = pytest.fixture(scope="module")(stages.prepare)
optimise = stages.runner("rloo")


def test_the_baseline_of_a_response_is_the_mean_reward_of_the_others_to_its_prompt():
    config = rloo.Config(model="m", reward="r", prompts="p", out="o", samples=3, batch=6, beta=0.5)
    rollouts = []
    for score, kl in ((1.0, 0.0), (2.0, 2.0), (6.0, 0.0), (5.0, 0.0), (5.0, 0.0), (5.0, 4.0)):
        rollouts.append(own := Rollout(Prompt("p", [1], "p"), "r", [2, 3], True))
        own.score, own.logprobs, own.reference = score, torch.tensor([kl, 0.0]).numpy(), torch.zeros(2).numpy()
    rloo.compute_advantages(config, rollouts)
    # rewards 1, 1, 6 and 5, 5, 3
    expected = [1 - 3.5, 1 - 3.5, 6 - 1, 5 - 4, 5 - 4, 3 - 5]
    assert [rollout.advantages.tolist() for rollout in rollouts] == [[advantage] * 2 for advantage in expected]


@pytest.mark.parametrize("micro_tokens", [8192, 60])
def test_the_gradient_is_that_of_reinforce_on_whole_responses(folder, optimise, monkeypatch, micro_tokens):
    found, compute = [], rloo.compute_advantages

    def keep(config, rollouts):
        compute(config, rollouts)
        found.extend(rollouts)

    monkeypatch.setattr(rloo, "compute_advantages", keep)
    gradients = stages.keep_gradients(monkeypatch)
    out = optimise(reward="judge", temperature=0.7, samples=4, micro_tokens=micro_tokens)
    assert [r.prompt for r in found[:4]] == [found[0].prompt] * 4
    assert len({r.response for r in found[:4]}) == 4
    policy = stages.exact(AutoModelForCausalLM.from_pretrained(folder / "model"))
    scores, loss = torch.tensor([r.score for r in found]), 0.0  # KL is 0 at the start
    for i, r in enumerate(found):
        group = scores[i // 4 * 4 :][:4]
        advantage = (scores[i] - (group.sum() - scores[i]) / 3).item()
        loss = loss - advantage * stages.logprobs_alone(policy, r.prompt.ids, r.response_ids, 0.7).sum() / len(found)
    loss.backward()
    expected = {f"model.{name}": gradient for name, gradient in stages.gradients_of(policy).items()}
    stages.assert_same_gradients(gradients[0], expected)
    (line,) = stages.steps_of(out)
    assert line["policy_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert "value_loss" not in line
    assert stages.recipe_of(out)["stage"] == "rloo"
    assert not (out / "final" / "value").exists()


@pytest.mark.slow  # its loop is that of PPO, whose reward rises in test_ppo.py
def test_a_reward_of_letters_rises(optimise):
    settings = {"episodes": 32 * 25, "batch": 32, "lr": 1e-2, "warmup": 2, "stop": tuple("eaon"), "max_tokens": 32}
    lines = stages.steps_of(optimise(reward="training_rewards:letters", ema=0.0, **settings))
    first, last = (sum(line["score"] for line in part) / 3 for part in (lines[:3], lines[-3:]))
    assert last > first + 5 * lines[0]["score_std"] / (3 * 32) ** 0.5
