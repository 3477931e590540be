"""Generation for one prompt at a time with the model's own cache: correct for all models, but slow."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from alignbench.models.causal_lm import TOLERANCE, devices_of, release_cached_memory
from alignbench.models.distributions import draw
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.samples import NO_MEMORY, Job
from alignbench.types.engine import Completion

CACHES = ("past_key_values", "cache_params")  # the names that models use
UNSUPPORTED = AttributeError, NotImplementedError, TypeError, ValueError


class SequentialModel:
    """A model in evaluation mode. `tokens_computed` counts the tokens that went through it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device, self.tokens_computed = devices_of(model)[0], 0
        self._cache_works: bool | None = None  # None: not tested yet
        parameters = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def run(self, jobs: Iterable[Job], decoding: Decoding, notify: Callable[[str], None]) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete."""
        for job in jobs:
            at_once = len(job.missing)
            while missing := job.missing[:at_once]:
                try:
                    self._complete(job, missing, decoding)
                except torch.OutOfMemoryError:
                    release_cached_memory(self.device)
                    at_once = len(missing) // 2
                    if at_once:
                        notify(f"out of memory: {at_once} samples of a prompt at once")
                        continue
                    notify("a single prompt does not fit into the device's memory: unscored")
                    job.completions = [completion or Completion.failed(NO_MEMORY) for completion in job.completions]
            yield job

    def _complete(self, job: Job, numbers: Sequence[int], decoding: Decoding) -> None:
        samples = job.samples(numbers, decoding.seed)
        tokens = torch.from_numpy(job.tokens.astype(np.int64))[None].to(self.device)
        logits, cache = self._forward(tokens, None if self._cache_works is False else {})
        # reordering by a list of equal rows repeats them, also in the caches of state-space models
        same = torch.zeros(len(samples), dtype=torch.long, device=tokens.device)
        try:
            for part in cache.values() if len(samples) > 1 else ():
                part.reorder_cache(same)
        except UNSUPPORTED:
            cache = {}
        running, rows = samples, [0] * len(samples)  # all samples draw from the prompt's row
        while True:
            drawn = draw(logits, rows, [sample.stream for sample in running], decoding.sampling)
            running = [s for s, token in zip(running, drawn, strict=True) if s.append(token, decoding) is None]
            if not running:
                return
            rows = [samples.index(sample) for sample in running]
            # finished rows continue with their last token, unused, so that the cache keeps its shape
            new = torch.tensor([max(0, sample.tokens[-1]) for sample in samples], device=tokens.device)[:, None]
            tokens = torch.cat([tokens.expand(len(samples), -1), new], dim=1)
            logits, cache = self._next(tokens, cache)

    def _next(self, tokens: torch.Tensor, cache: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits (rows, vocabulary) after the last token of each row. The first call tests the cache."""
        if self._cache_works is not None:
            return self._forward(tokens, cache if self._cache_works else None)
        with_cache = recomputed = self._forward(tokens, None)
        with suppress(*UNSUPPORTED):
            with_cache = self._forward(tokens, cache) if cache else recomputed
        one, other = (torch.log_softmax(logits.float(), -1) for logits, _ in (with_cache, recomputed))
        self._cache_works = (
            with_cache is not recomputed and float((one - other).abs().mean()) <= TOLERANCE[self.model.dtype]
        )
        return with_cache if self._cache_works else recomputed

    @torch.inference_mode()
    def _forward(self, tokens: torch.Tensor, cache: dict[str, Any] | None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits after the last token of each row, and the new cache. cache: of all tokens but the last; empty at the
        beginning; None to compute all tokens without a cache"""
        tokens = tokens[:, -1:] if cache else tokens
        self.tokens_computed += tokens.numel()
        out = self.model(input_ids=tokens, use_cache=cache is not None, **(cache or {}), **self._options)
        kept = {} if cache is None else {name: out[name] for name in CACHES if out.get(name) is not None}
        return out.logits[:, -1], kept
