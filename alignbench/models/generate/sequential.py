"""Generation for one prompt at a time with the model's own cache: correct for all models, but slow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from alignbench.models.causal_lm import release_cached_memory, tolerance
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.samples import NO_MEMORY, Job, Prefill, Sample
from alignbench.models.generate.sampling import Stream, draw
from alignbench.types.engine import Completion

CACHES = ("past_key_values", "cache_params")  # the names that models use
UNSUPPORTED = AttributeError, NotImplementedError, TypeError, ValueError


class SequentialModel:
    """A model in evaluation mode. `tokens_computed` counts the tokens that went through it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tokens_computed = 0
        self._cache_works: bool | None = None  # None: not tested yet
        parameters = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def complete(self, job: Job, numbers: Sequence[int], decoding: Decoding, notify: Callable[[str], None]) -> None:
        """Generate the given samples of a job together, or in halves if they do not fit into memory."""
        try:
            self._complete(job, numbers, decoding)
            return
        except torch.OutOfMemoryError:
            release_cached_memory(self.model.device)
        if len(numbers) == 1:
            notify("a single prompt does not fit into the device's memory: unscored")
            job.completions[numbers[0]] = Completion.failed(NO_MEMORY)
            return
        middle = len(numbers) // 2
        notify(f"out of memory: {middle} samples of a prompt at once")
        for half in (numbers[:middle], numbers[middle:]):
            self.complete(job, half, decoding, notify)

    def _complete(self, job: Job, numbers: Sequence[int], decoding: Decoding) -> None:
        prefill = Prefill(job, numbers)
        samples = [Sample(prefill, number, Stream(decoding.seed, job.key, number)) for number in numbers]
        tokens = torch.from_numpy(job.tokens.astype(np.int64))[None].to(self.model.device)
        logits, cache = self._forward(tokens, None if self._cache_works is False else {})
        cache = self._repeat(cache, len(samples))
        running, rows = list(range(len(samples))), [0] * len(samples)  # all samples draw from the prompt's row
        while running:
            drawn = draw(logits, rows, [samples[i].stream for i in running], decoding.sampling)
            running = [i for place, i in enumerate(running) if samples[i].append(drawn, place, decoding) is None]
            rows = running
            if running:
                # finished rows continue with their last token, unused, so that the cache keeps its shape
                last = [sample.tokens[-1] if sample.tokens else 0 for sample in samples]
                new = torch.tensor(last, device=tokens.device)[:, None]
                tokens = torch.cat([tokens.expand(len(samples), -1), new], dim=1)
                logits, cache = self._next(tokens, cache)

    def _next(self, tokens: torch.Tensor, cache: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits (rows, vocabulary) after the last token of each row. The first call tests the cache."""
        if self._cache_works is not None:
            return self._forward(tokens, cache if self._cache_works else None)
        with_cache = None
        if cache:
            with suppress(*UNSUPPORTED):
                with_cache = self._forward(tokens, cache)
        recomputed = self._forward(tokens, None)
        self._cache_works = with_cache is not None and self._agree(with_cache[0], recomputed[0])
        return with_cache if with_cache is not None and self._cache_works else recomputed

    def _agree(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        difference = torch.log_softmax(one.float(), -1) - torch.log_softmax(other.float(), -1)
        return float(difference.abs().mean()) <= tolerance(self.model)

    @torch.inference_mode()
    def _forward(self, tokens: torch.Tensor, cache: dict[str, Any] | None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits after the last token of each row, and the new cache.

        cache: of all tokens but the last; empty at the beginning; None to compute all tokens without a cache
        """
        tokens = tokens[:, -1:] if cache else tokens
        self.tokens_computed += tokens.numel()
        out = self.model(input_ids=tokens, use_cache=cache is not None, **(cache or {}), **self._options)
        kept = {} if cache is None else {name: out[name] for name in CACHES if out.get(name) is not None}
        return out.logits[:, -1], kept

    def _repeat(self, cache: dict[str, Any], rows: int) -> dict[str, Any]:
        """The cache of one row for several, empty if it does not support that."""
        # reordering by a list of equal rows repeats them, also in the caches of state-space models
        same = torch.zeros(rows, dtype=torch.long, device=self.model.device)
        try:
            for part in cache.values() if rows > 1 else ():
                part.reorder_cache(same)
        except UNSUPPORTED:
            return {}
        return cache
