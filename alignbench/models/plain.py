"""The plain way to continue a prompt: the model and its own cache, one prompt at a time. Right for all, not fast."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from alignbench.models.jobs import NO_MEMORY, NOT_FINITE, Job, unscored
from alignbench.models.memory import free_cached
from alignbench.models.probe import AGREEMENT
from alignbench.models.sampling import Stream, draw
from alignbench.models.stopping import Ending
from alignbench.types.engine import Completion, Sampling

CACHES = ("past_key_values", "cache_params")  # what models call them


class PlainModel:
    """A model in evaluation mode. `tokens_computed` counts what went through it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tokens_computed = 0
        self.cache_works: bool | None = None  # None: not tried yet
        parameters = inspect.signature(model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def begin(self, prompt: NDArray[np.int32], rows: int) -> PlainRows:
        return PlainRows(self, prompt, rows)

    @torch.inference_mode()
    def forward(self, tokens: torch.Tensor, **arguments: Any) -> Any:
        self.tokens_computed += tokens.numel()
        return self.model(input_ids=tokens, **arguments, **self._last_only)


class PlainRows:
    """Several continuations of one prompt, which is computed once."""

    def __init__(self, plain: PlainModel, prompt: NDArray[np.int32], rows: int) -> None:
        self._plain = plain
        self._rows = rows
        self._tokens = torch.from_numpy(prompt.astype(np.int64))[None].to(plain.model.device)
        self._cache: dict[str, Any] = {}
        self._repeated = rows == 1

    def first(self) -> torch.Tensor:
        """Logits (1, vocabulary) after the prompt."""
        out = self._plain.forward(self._tokens, use_cache=self._plain.cache_works is not False)
        if self._plain.cache_works is not False:
            self._cache = {name: out[name] for name in CACHES if out.get(name) is not None}
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def next(self, tokens: list[int]) -> torch.Tensor:
        """Logits (rows, vocabulary) after one more token in each row."""
        plain = self._plain
        new = torch.tensor(tokens, device=plain.model.device)[:, None]
        self._tokens = torch.cat([self._tokens.expand(self._rows, -1), new], dim=1)
        if plain.cache_works is None:
            cached = self._with_cache(new)
            logits = self._without_cache()
            close = AGREEMENT.get(plain.model.dtype, 1e-3)
            plain.cache_works = cached is not None and (
                float((torch.log_softmax(cached.float(), -1) - torch.log_softmax(logits.float(), -1)).abs().mean())
                <= close
            )
            return cached if plain.cache_works and cached is not None else logits
        if not plain.cache_works:
            return self._without_cache()
        logits_with = self._with_cache(new)
        assert logits_with is not None
        return logits_with

    def _with_cache(self, new: torch.Tensor) -> torch.Tensor | None:
        if not self._cache:
            return None
        try:
            if not self._repeated:
                # reordering by a list of equal rows repeats them, in the caches of state-space models too
                beams = torch.zeros(self._rows, dtype=torch.long, device=new.device)
                for cache in self._cache.values():
                    cache.reorder_cache(beams)
                self._repeated = True
            out = self._plain.forward(new, use_cache=True, **self._cache)
        except (AttributeError, NotImplementedError, TypeError, ValueError):
            if self._plain.cache_works:
                raise
            return None
        self._cache = {name: out[name] for name in CACHES if out.get(name) is not None}
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _without_cache(self) -> torch.Tensor:
        logits: torch.Tensor = self._plain.forward(self._tokens, use_cache=False).logits[:, -1]
        return logits


def run_plainly(
    plain: PlainModel, job: Job, sampling: Sampling, ending: Ending, seed: int, notify: Callable[[str], None]
) -> None:
    """Continue one job with the model's own cache, as many samples at once as memory holds."""
    together = sampling.samples
    numbers = list(range(sampling.samples))
    while numbers:
        part = numbers[:together]
        try:
            completions = _continue(plain, job, part, sampling, ending, seed)
        except torch.OutOfMemoryError:
            free_cached(plain.model.device)
            if together == 1:
                notify("a prompt alone is too long for the device's memory: unscored")
                completions = [unscored(NO_MEMORY)] * len(part)
            else:
                together = max(1, together // 2)
                notify(f"out of memory: {together} samples of a prompt at once")
                continue
        for number, completion in zip(part, completions, strict=True):
            job.completions[number] = completion
        numbers = numbers[len(part) :]


def _continue(
    plain: PlainModel, job: Job, numbers: list[int], sampling: Sampling, ending: Ending, seed: int
) -> list[Completion]:
    rows = plain.begin(job.tokens, len(numbers))
    streams = [Stream(seed, job.key, number) for number in numbers]
    tokens: list[list[int]] = [[] for _ in numbers]
    logprobs: list[list[float]] = [[] for _ in numbers]
    entropies: list[list[float]] = [[] for _ in numbers]
    top_entropies: list[list[float]] = [[] for _ in numbers]
    completions: list[Completion | None] = [None] * len(numbers)
    logits, shared = rows.first(), True
    while True:
        running = [row for row, completion in enumerate(completions) if completion is None]
        drawn = draw(
            logits,
            [0 if shared else row for row in running],
            [streams[row] for row in running],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top=sampling.top_entropies,
        )
        for place, row in enumerate(running):
            if drawn.tokens[place] < 0:
                completions[row] = unscored(NOT_FINITE)
                continue
            tokens[row].append(drawn.tokens[place])
            logprobs[row].append(drawn.logprobs[place])
            entropies[row].append(drawn.entropies[place])
            top_entropies[row] += drawn.top_entropies[place : place + 1]
            if end := ending.of(tokens[row]):
                finish, text = end
                completions[row] = Completion(
                    text,
                    finish,
                    tuple(tokens[row]),
                    tuple(logprobs[row]),
                    tuple(entropies[row]),
                    tuple(top_entropies[row]),
                )
        if all(completions):
            return [completion for completion in completions if completion is not None]
        # a finished row goes on with its last token, unread: the cache keeps its shape
        logits, shared = rows.next([row[-1] if row else 0 for row in tokens]), False
