"""Samples responses from a policy in training."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.models.generate.samples import NOT_FINITE
from alignbench.models.local import LocalEngine
from alignbench.types.engine import Completion, Prompt, Sampling
from trainers.loop import NotFiniteError, map_split
from trainers.models import Policy, base_model


class Sampler:
    """Samples from a policy in training with the generation engine. Created before the policy is prepared.

    A policy that is sharded or samples in half precision is sampled from a copy, whose weights exist only meanwhile.
    """

    def __init__(self, policy: Policy, tokenizer: Any, window: int | None, accelerator: Accelerator) -> None:
        self.accelerator, self.model, self.copy = accelerator, base_model(policy.model), None
        half = accelerator.mixed_precision == "bf16"
        if half or accelerator.distributed_type == "FSDP":
            dtype = torch.bfloat16 if half else torch.float32
            one = torch.zeros((), dtype=dtype, device=accelerator.device)
            # parameters of the right shape that share one number; deepcopy takes them from its memo
            empty = {id(p): nn.Parameter(one.expand(p.shape), requires_grad=False) for p in self.model.parameters()}
            self.copy = copy.deepcopy(self.model, dict[int, Any](empty)).to(accelerator.device)
        self.engine = LocalEngine(self.copy or self.model, Encoder(tokenizer), window=window)

    @torch.no_grad()
    def sample(self, keys: Sequence[str], prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """One response per prompt, random by its key and the seed alone; the same list on every process.

        A prompt may be given several times, under different keys.
        Raises NotFiniteError for weights that give no finite logits, AlignbenchError for a prompt that does not fit.
        """
        self.model.eval()

        def generate(indices: list[int]) -> list[Completion]:
            asked = [Prompt(keys[i], prompts[i]) for i in indices]
            found = {at: completions[0] for at, completions in self.engine.generate(asked, sampling, seed=seed)}
            return [found[at] for at in range(len(indices))]

        with self._weights():
            completions = map_split(self.accelerator, len(prompts), generate)
        for prompt, completion in zip(prompts, completions, strict=True):
            if completion.unscored:
                kind = NotFiniteError if completion.unscored == NOT_FINITE else AlignbenchError
                raise kind(f"prompt {prompt[:60]!r}: no response ({completion.unscored})")
        return completions

    @contextmanager
    def _weights(self) -> Iterator[None]:
        """While open, the engine's model has the policy's weights."""
        self.engine.weights_changed()
        if self.copy is None:
            yield
            return
        self.copy.eval()
        pairs = list(zip(self.copy.parameters(), self.model.parameters(), strict=True))
        before = [mine.data for mine, _ in pairs]
        try:
            for mine, new in pairs:
                whole = new.full_tensor() if hasattr(new, "full_tensor") else new.detach()
                mine.data = whole.to(mine.device, mine.dtype)
            yield
        finally:
            for (mine, _), empty in zip(pairs, before, strict=True):
                mine.data = empty
            self.engine.weights_changed()
