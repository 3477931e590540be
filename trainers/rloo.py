"""RLOO (arXiv 2402.14740): REINFORCE on whole responses; the baseline of a response is the mean reward of the other
responses to its prompt. No value model. The loop and all other steps are those of PPO."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alignbench.progress import Progress
from trainers import ppo
from trainers.config import setting
from trainers.packing import Packed
from trainers.record import Setup
from trainers.rollouts import Rollout, RolloutConfig
from trainers.run import Callback, Metrics, Result


@dataclass(frozen=True)
class Config(RolloutConfig):
    """Settings of RLOO. An iteration is one optimizer step, so that its gradient is that of the sampling policy."""

    samples: int = setting(4, "responses to each prompt (paper: 2 or 4)", low=2)
    batch: int = setting(64, "episodes per iteration", low=2)


def train(config: Config, *, progress: Progress | None = None, callback: Callback | None = None) -> Result:
    """As `ppo.train`."""
    return ppo.optimise(ppo.setup(config, progress), compute_advantages, update, callback)


def compute_advantages(config: Config, rollouts: Sequence[Rollout]) -> None:
    """r_i − mean of the other rewards r_j of its prompt, for each token of response i; r = score − β·KL, both summed
    over the response (eq. 9). Responses to one prompt are neighbours."""
    rewards = np.array([r.score - config.beta * r.kl for r in rollouts]).reshape(-1, config.samples)
    others = (rewards.sum(1, keepdims=True) - rewards) / (config.samples - 1)
    for rollout, advantage in zip(rollouts, (rewards - others).ravel(), strict=True):
        rollout.advantages = np.full(len(rollout.response_ids), advantage)


@ppo.timed
def update(s: Setup, iteration: int, rollouts: Sequence[Rollout]) -> Metrics:
    """One step on −1/N Σ_i A_i log π(y_i), with log π(y_i) summed over the tokens of response i of N."""

    def columns_of(batch: Sequence[Rollout], packed: Packed) -> tuple[torch.Tensor, ...]:
        logprobs, _ = s.policy.module(packed)
        return (-ppo.column(batch, "advantages", logprobs) * logprobs,)

    (loss,) = ppo.accumulate(s, s.policy, rollouts, columns_of, len(rollouts))
    return {"policy_loss": loss, "gradient_norm": ppo.take_step(s, s.policy, iteration)}
