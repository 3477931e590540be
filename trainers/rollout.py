"""Rollouts: responses sampled from the policy, with everything that PPO computes for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.models.generate.samples import NOT_FINITE
from alignbench.models.local import LocalEngine
from alignbench.types.engine import Completion, Prompt, Sampling
from trainers import losses
from trainers.loop import NotFiniteError, map_split
from trainers.losses import Array
from trainers.models import Policy, base_model
from trainers.packing import Example


@dataclass(slots=True)
class Rollout:
    """One episode. Arrays are (tokens,) of the response; log-probabilities and entropies are in nats.

    prompt_ids, response_ids: the ids that were sampled, never text that was tokenised again (detail 19)
    ended: by an end-of-sequence token or a stop string, not by the length limit
    score: the reward of the whole text, before KL
    logprobs, reference: of the sampled tokens, under the policy before this update and under the reference
    values: before each token
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

    @property
    def kl(self) -> float:
        """KL from the reference, summed over the tokens, in nats (k1, detail 16)."""
        return float(losses.kl_k1(self.logprobs, self.reference).sum())


def describe(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Batch metrics: means over responses, or over tokens for the entropy. KL in nats per response (detail 16)."""
    scores = [rollout.score for rollout in rollouts]
    metrics = {
        "score": np.mean(scores),
        "score_std": np.std(scores),
        "kl": np.mean([rollout.kl for rollout in rollouts]),
        "kl_k3": np.mean([losses.kl_k3(r.logprobs, r.reference).sum() for r in rollouts]),
        "entropy": concat(rollouts, "entropies").mean(),
        "response_tokens": np.mean([len(rollout.response_ids) for rollout in rollouts]),
        "ended": np.mean([rollout.ended for rollout in rollouts]),
    }
    return {name: float(value) for name, value in metrics.items()}


def concat(rollouts: Sequence[Rollout], name: str) -> Array:
    """The arrays `name` of all rollouts, concatenated: (tokens,)."""
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def split(rollouts: Sequence[Rollout], name: str, values: Array) -> None:
    """The inverse of `concat`: assign each rollout its part of (tokens,) as the array `name`."""
    sizes = np.cumsum([len(rollout.response_ids) for rollout in rollouts])[:-1]
    for rollout, part in zip(rollouts, np.split(values, sizes), strict=True):
        setattr(rollout, name, part)


class Sampler:
    """Samples from a policy in training with the generation engine. Created before the policy is prepared.

    A policy that is sharded or samples in half precision has a copy, which is updated before each call.
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
        """One response per prompt, the same list on every process; its random numbers depend on key and seed alone."""
        training = self.model.training
        self.model.eval()
        if self.copy is not None:
            with torch.no_grad():
                for mine, new in zip(self.copy.parameters(), self.model.parameters(), strict=True):
                    mine.copy_(new.full_tensor() if hasattr(new, "full_tensor") else new)
        self.engine.weights_changed()

        def generate(indices: list[int]) -> list[Completion]:
            asked = [Prompt(keys[i], prompts[i]) for i in indices]
            found = {at: completions[0] for at, completions in self.engine.generate(asked, sampling, seed=seed)}
            return [found[at] for at in range(len(indices))]

        completions = map_split(self.accelerator, len(prompts), generate)
        self.model.train(training)
        for prompt, completion in zip(prompts, completions, strict=True):
            if completion.unscored:
                kind = NotFiniteError if completion.unscored == NOT_FINITE else AlignbenchError
                raise kind(f"prompt {prompt[:60]!r}: no response ({completion.unscored})")
        return completions
