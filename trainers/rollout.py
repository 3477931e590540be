"""Rollouts: responses that the policy samples, and all that PPO has to know about them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.models.generate.samples import NOT_FINITE
from alignbench.models.local import LocalEngine
from alignbench.types.engine import Completion, Prompt, Sampling
from trainers import losses
from trainers.losses import Array
from trainers.models import Policy, base_model
from trainers.packing import Example
from trainers.steps import NotFiniteError, share

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(slots=True)
class Rollout:
    """One episode. Arrays are (tokens,) of the response, in nats where they are log-probabilities.

    prompt_ids, response_ids: exactly as sampled from, and as sampled; never text that was tokenised again
    ended: with an end-of-sequence token or a stop string, not by the cap on its length
    score: the reward of the whole text, before KL
    logprobs, reference: of the sampled tokens, under the policy before this update and under the reference
    values: before each token
    rewards, advantages, returns: of each token
    """

    prompt: str
    prompt_ids: list[int]
    response: str
    response_ids: list[int]
    ended: bool
    score: float = 0.0
    logprobs: Array = field(default_factory=lambda: np.empty(0))
    reference: Array = field(default_factory=lambda: np.empty(0))
    values: Array = field(default_factory=lambda: np.empty(0))
    entropies: Array = field(default_factory=lambda: np.empty(0))
    rewards: Array = field(default_factory=lambda: np.empty(0))
    advantages: Array = field(default_factory=lambda: np.empty(0))
    returns: Array = field(default_factory=lambda: np.empty(0))

    @property
    def example(self) -> Example:
        return Example(self.prompt_ids, [self.response_ids])


def describe(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What the batch is like: means over responses, or over tokens for entropy. KL in nats a response (detail 16)."""
    kl, k3 = (
        [float(estimate(r.logprobs, r.reference).sum()) for r in rollouts] for estimate in (losses.kl_k1, losses.kl_k3)
    )
    scores = [rollout.score for rollout in rollouts]
    return {
        "score": float(np.mean(scores)),
        "score_std": float(np.std(scores)),
        "kl": float(np.mean(kl)),
        "kl_k3": float(np.mean(k3)),
        "entropy": float(joined(rollouts, "entropies").mean()),
        "response_tokens": float(np.mean([len(rollout.response_ids) for rollout in rollouts])),
        "ended": float(np.mean([rollout.ended for rollout in rollouts])),
    }


def explained_variance(rollouts: Sequence[Rollout]) -> float:
    """Of the returns, by the values before the update."""
    return losses.explained_variance(joined(rollouts, "values"), joined(rollouts, "returns"))


def joined(rollouts: Sequence[Rollout], name: str) -> Array:
    """One of the arrays of all the rollouts, one after another: (tokens,)."""
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def spread(rollouts: Sequence[Rollout], name: str, values: Array) -> None:
    """The other way: each rollout's share of (tokens,) becomes its array of this name."""
    sizes = np.cumsum([len(rollout.response_ids) for rollout in rollouts])[:-1]
    for rollout, mine in zip(rollouts, np.split(values, sizes), strict=True):
        setattr(rollout, name, mine)


def sample_row(rollout: Rollout) -> dict[str, Any]:
    """A line of the sample table."""
    kl = float(losses.kl_k1(rollout.logprobs, rollout.reference).sum())
    return {"prompt": rollout.prompt, "response": rollout.response, "score": rollout.score, "kl": kl}


class Sampler:
    """Samples from a policy that is being trained, with the generation engine.

    The engine works on the policy's own model; where that is to be sharded, or to sample in half precision, on a copy
    that is brought up to date before each call. Made before the policy is prepared for training.
    """

    def __init__(self, policy: Policy, tokenizer: Any, window: int | None, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.model = base_model(policy.model)
        self.copy = None
        half = accelerator.mixed_precision == "bf16"
        if half or accelerator.distributed_type == "FSDP":
            self.copy = copy.deepcopy(self.model).to(accelerator.device, torch.bfloat16 if half else torch.float32)
        self.engine = LocalEngine(self.copy or self.model, Encoder(tokenizer), window=window)

    def sample(self, keys: Sequence[str], prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """One response a prompt, on every process all of them. A key and the seed name a response's random numbers,
        so that they depend neither on the number of processes nor on what was sampled before."""
        training = self.model.training
        self.model.eval()
        if self.copy is not None:
            with torch.no_grad():
                for mine, new in zip(self.copy.parameters(), self.model.parameters(), strict=True):
                    mine.copy_(new.full_tensor() if hasattr(new, "full_tensor") else new)
        self.engine.weights_changed()

        def write(places: list[int]) -> list[Completion]:
            asked = [Prompt(keys[i], prompts[i]) for i in places]
            found = {at: completions[0] for at, completions in self.engine.generate(asked, sampling, seed=seed)}
            return [found[at] for at in range(len(places))]

        completions = share(self.accelerator, len(prompts), write)
        self.model.train(training)
        for number, completion in enumerate(completions):
            if completion.unscored:
                kind = NotFiniteError if completion.unscored == NOT_FINITE else AlignbenchError
                raise kind(f"prompt {prompts[number][:60]!r}: no response ({completion.unscored})")
        return completions
