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
from alignbench.models.engine import Completion, Prompt, Sampling
from alignbench.models.jobs import NOT_FINITE
from alignbench.models.local import LocalEngine
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
