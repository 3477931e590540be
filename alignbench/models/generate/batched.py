"""Generation with the model's own cache: many prompts at once on a GPU, or one prompt at a time, for any model.

The rows of a batch are padded on the left, so that they end together. transformers' continuous batching has no seed per
sample, no entropies, and only log-probabilities after temperature and top-p.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from alignbench.models.causal_lm import NO_MEMORY, Budget, devices_of, release_cached_memory, select_before_head
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.probe import why_not
from alignbench.models.generate.samples import Job, Run
from alignbench.types.engine import Completion

CACHES = ("past_key_values", "cache_params")  # the names that models use


class BatchedModel:
    """A model in evaluation mode.

    tokens_computed: without padding
    cached: whether the model's own cache works; if not, all tokens are computed again for each new one. None: untested
    """

    def __init__(self, model: PreTrainedModel, notify: Callable[[str], None]) -> None:
        self.model, self.notify, self.device = model, notify, devices_of(model)[0]
        self.tokens_computed = 0
        self.cached: bool | None = None
        self.most_rows: int | None = None

    def run(self, jobs: Sequence[Job], decoding: Decoding, budget: Budget, *, padded: bool) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete.

        padded: many prompts at once, for which the model takes a 4-D mask and position ids. Otherwise one prompt at a
        time, exactly as if it were alone.
        """
        if jobs and not padded and self.cached is None:
            self.cached = True
            reason = why_not(lambda own, how: self.run(own, how, budget, padded=False), self.model, decoding, jobs)
            self.cached = reason is None
        run = _Run(self, sorted(jobs, key=lambda job: -len(job.tokens)) if padded else jobs, decoding, budget, padded)
        while run.waiting or run.rows:
            done = None
            # after `suppress`, no traceback refers to the tensors of the failed step
            with suppress(torch.OutOfMemoryError):
                done = run.step()
            yield from run.after_failure() if done is None else done


class _Run(Run):
    """cache: keys and values of the running samples; mask: added to their scores, (rows, 1, 1, columns), if padded;
    new: cache and mask of prompts whose samples begin"""

    def __init__(
        self, batched: BatchedModel, jobs: Sequence[Job], decoding: Decoding, budget: Budget, padded: bool
    ) -> None:
        self.batched, self.model, self.padded, self.joins = batched, batched.model, padded, padded
        longest = max((len(job.tokens) for job in jobs), default=0) + decoding.sampling.most_tokens
        limit = (batched.most_rows or budget.rows(longest)) if padded else decoding.sampling.samples
        self.cached = padded or bool(batched.cached)
        super().__init__(jobs, decoding, budget, limit)

    def begin(self) -> None:
        super().begin()
        self.cache: dict[str, Any] = {}
        self.mask: Tensor | None = None
        self.new: tuple[dict[str, Any], Tensor | None] = {}, None

    def fit(self, jobs: list[Job]) -> bool:
        return self.padded and len(jobs[0].tokens) * len(jobs) <= self.budget.tokens

    def enter(self, jobs: list[Job]) -> Tensor:
        width = len(jobs[0].tokens)
        tokens, used = np.zeros((len(jobs), width), np.int64), np.zeros((len(jobs), width), np.bool_)
        for row, job in enumerate(jobs):
            tokens[row, -len(job.tokens) :], used[row, -len(job.tokens) :] = job.tokens, True
        mask = self._mask(used) if self.padded else None
        cache = {"past_key_values": DynamicCache()} if self.padded else {}
        logits, cache = self._forward(tokens, (used.cumsum(1) - 1).clip(0), mask, cache, int(used.sum()))
        self.new = cache, None if mask is None else mask[:, :, -1:]
        return logits

    def advance(self) -> Tensor:
        rows = [row.tokens[-1:] if self.cached else [*row.job.tokens.tolist(), *row.tokens] for row in self.rows]
        tokens = np.array(rows, np.int64)
        if self.mask is not None:
            self.mask = nn.functional.pad(self.mask, (0, 1))
        positions = np.array([[row.position] for row in self.rows])
        logits, self.cache = self._forward(tokens, positions, self.mask, self.cache, tokens.size)
        return logits

    def keep(self, sources: list[int], kept: list[int], entered: bool) -> None:
        cache, mask = self.new if entered else (self.cache, self.mask)
        self.new = {}, None
        index = [sources[at] for at in kept]
        if index != list(range(sources[-1] + 1)):
            places = torch.tensor(index, dtype=torch.long, device=self.batched.device)
            for part in cache.values():
                part.reorder_cache(places)
            mask = None if mask is None else mask[places]
        samples = [self.computed[at] for at in kept]
        if entered and self.rows and self.mask is not None and mask is not None:
            width = max(self.mask.shape[-1], mask.shape[-1])
            pairs = zip(self.cache["past_key_values"].layers, cache["past_key_values"].layers, strict=True)
            for running, own in pairs:
                for name in ("keys", "values"):
                    both = [_padded(getattr(layer, name), width, 2) for layer in (running, own)]
                    setattr(running, name, torch.cat(both))
            lowest = torch.finfo(mask.dtype).min
            samples, mask = self.rows + samples, torch.cat([_padded(m, width, 3, lowest) for m in (self.mask, mask)])
            cache = self.cache
        self.rows, self.cache, self.mask = samples, cache if self.cached else {}, mask

    def after_failure(self) -> list[Job]:
        """Out of memory: generate all incomplete samples again, half as many at once. A job that does not fit alone is
        left unscored and returned."""
        together, failed = {*self.rows, *self.computed}, list[Job]()
        if len(together) > 1:
            self.limit = len(together) // 2
            if self.padded:
                self.batched.most_rows = self.limit
            self.batched.notify(f"out of memory: at most {self.limit} samples at once from now on")
        else:
            failed = [self.computed[0].job]
            for job in failed:
                job.completions = [completion or Completion.failed(NO_MEMORY) for completion in job.completions]
            self.batched.notify("a single prompt does not fit into the device's memory: unscored")
        self.begin()
        release_cached_memory(self.batched.device)
        return failed

    def _mask(self, used: NDArray[np.bool_]) -> Tensor:
        """(rows, 1, width, width): 0 for tokens up to the query, or else the lowest finite number."""
        seen = self._tensor(np.tril(used[:, None, None, :] & used[:, None, :, None]))
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=self.batched.device)
        return mask.masked_fill_(~seen, torch.finfo(self.model.dtype).min)

    def _forward(
        self, tokens: NDArray[Any], positions: NDArray[Any], mask: Tensor | None, cache: dict[str, Any], used: int
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits after the last token of each row, and the new cache. used: tokens without padding"""
        self.batched.tokens_computed += used
        arguments = {"input_ids": self._tensor(tokens), "use_cache": self.cached, **cache}
        if self.padded:
            arguments |= {"attention_mask": mask, "position_ids": self._tensor(positions)}
        with select_before_head(self.model, lambda hidden: hidden[:, -1:]):
            out = self.model(**arguments)
        return out.logits[:, -1], {name: out[name] for name in CACHES if self.cached and out.get(name) is not None}

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.batched.device)


def _padded(states: Tensor, width: int, dim: int, value: float = 0.0) -> Tensor:
    """Padded on the left of a dimension."""
    return nn.functional.pad(states, (*[0, 0] * (states.ndim - 1 - dim), width - states.shape[dim], 0), value=value)
