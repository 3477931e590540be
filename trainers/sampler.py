"""Samples responses from a policy in training."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.models.generate.decoding import end_tokens
from alignbench.models.generate.samples import NOT_FINITE
from alignbench.models.local import LocalEngine
from alignbench.models.remote import vllm
from alignbench.types.engine import Completion, Prompt, Sampling
from trainers.loop import NotFiniteError, map_split
from trainers.models import Policy, base_model, find_plain, is_sharded


class Sampler:
    """Samples from a policy in training with the local engine, or vLLM. Created before the policy is placed.

    In the local engine, a policy that is sharded or samples in half precision is sampled from a copy, whose weights
    exist only meanwhile. vLLM has weights of its own, which each call of `sample` replaces by the policy's.
    """

    def __init__(
        self, policy: Policy, tokenizer: Any, window: int | None, accelerator: Accelerator,
        of_vllm: vllm.VllmEngine | None = None,
    ) -> None:  # fmt: skip
        self.accelerator, self.model, self.copy = accelerator, base_model(policy.model), None
        self.of_vllm, self.encoder, self.window = of_vllm, Encoder(tokenizer), window
        half = accelerator.mixed_precision == "bf16"
        if of_vllm is not None:
            of_vllm.ends = end_tokens(self.model, tokenizer)  # also the end of a turn, which training added
        elif half or is_sharded(accelerator):
            dtype = torch.bfloat16 if half else torch.float32
            one = torch.zeros((), dtype=dtype, device=accelerator.device)
            # parameters of the right shape that share one number; deepcopy takes them from its memo
            empty = {id(p): nn.Parameter(one.expand(p.shape), requires_grad=False) for p in self.model.parameters()}
            self.copy = copy.deepcopy(self.model, dict[int, Any](empty)).to(one.device).eval()

    @cached_property
    def engine(self) -> LocalEngine | vllm.VllmEngine:
        """Created when the model is on its device."""
        return self.of_vllm or LocalEngine(self.copy or self.model, self.encoder, window=self.window)

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
                kind = NotFiniteError if completion.unscored in (NOT_FINITE, vllm.NOT_FINITE) else AlignbenchError
                raise kind(f"prompt {prompt[:60]!r}: no response ({completion.unscored})")
        return completions

    @contextmanager
    def _weights(self) -> Iterator[None]:
        """While open, the engine's model has the policy's weights."""
        if isinstance(self.engine, vllm.VllmEngine):
            self.engine.follow(self.model)
            yield
            return
        self.engine.weights_changed()
        pairs = list(zip(self.copy.parameters(), self.model.parameters(), strict=True)) if self.copy else []
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


def load_vllm(config: Any, accelerator: Accelerator) -> vllm.VllmEngine | None:
    """The engine of `rollouts=vllm`, in this process; None with another setting.

    Raises AlignbenchError if vLLM is not installed or cannot load the policy, and for several processes.
    """
    if config.rollouts != "vllm":
        return None
    if accelerator.num_processes > 1:
        raise AlignbenchError("rollouts=vllm: needs a training in one process; start one, or set rollouts=local")
    dtype, memory = ("bfloat16" if accelerator.mixed_precision == "bf16" else "float32"), config.vllm_memory
    return vllm.load_vllm(find_plain(config.model), dtype=dtype, gpu_memory_utilization=memory, training=True)
