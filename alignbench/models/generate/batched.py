"""Generation with the model's own cache: many prompts at once on a GPU, or one prompt at a time, for any model.

The rows of a batch are padded on the left, so that they end together. A sample that ends leaves, and when enough have
left, the next prompts are computed and join. transformers' continuous batching has no seed per sample, no entropies,
and only log-probabilities after temperature and top-p.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from alignbench.models.attention import JOINT, Layers, layers_of, replaced_attention
from alignbench.models.causal_lm import Budget, devices_of, release_cached_memory, select_before_head
from alignbench.models.distributions import draw
from alignbench.models.encode import Tokens, shared_prefix
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.probe import why_not
from alignbench.models.generate.samples import NO_MEMORY, Job, Sample
from alignbench.types.engine import Completion

CACHES = ("past_key_values", "cache_params")  # the names that models use
LEAST_PREFIX = 16  # tokens: a shorter shared prefix is not worth its own attention


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
        self.least_prefix = LEAST_PREFIX

    def run(self, jobs: Sequence[Job], decoding: Decoding, budget: Budget, *, padded: bool) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete.

        padded: many prompts at once, which attend to what they share without copies of it; the model takes a 4-D mask
        and position ids. Otherwise one prompt at a time, exactly as if it were alone.
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


class _Run:
    """One call. rows: the running samples, whose keys and values are `cache`; mask: added to their scores,
    (rows, 1, 1, columns); entering: samples whose prompts are being computed"""

    def __init__(
        self, batched: BatchedModel, jobs: Sequence[Job], decoding: Decoding, budget: Budget, padded: bool
    ) -> None:
        self.batched, self.model, self.padded = batched, batched.model, padded
        self.jobs, self.decoding, self.budget = jobs, decoding, budget
        longest = max((len(job.tokens) for job in jobs), default=0) + decoding.sampling.most_tokens
        self.limit = (batched.most_rows or budget.rows(longest)) if padded else decoding.sampling.samples
        self.cached = padded or bool(batched.cached)
        self.skip = 0
        self.shared: Layers = ()
        if padded and len(jobs) > 1:
            with suppress(torch.OutOfMemoryError):
                self._share(shared_prefix([job.tokens for job in jobs], min(len(job.tokens) for job in jobs) - 1))
        self._begin()

    def _begin(self) -> None:
        self.waiting = deque(job for job in self.jobs if job.missing)
        for job in self.waiting:
            job.together = job.missing
        self.rows: list[Sample] = []
        self.entering: list[Sample] = []
        self.cache: dict[str, Any] = {}
        self.mask = torch.empty(0)

    @torch.inference_mode()
    def _share(self, tokens: Tokens) -> None:
        if len(tokens) >= self.batched.least_prefix:
            found = DynamicCache()
            with select_before_head(self.model, lambda hidden: hidden[:, -1:]):
                self.model(input_ids=self._tensor(tokens[None]), past_key_values=found, use_cache=True)
            self.skip, self.shared = len(tokens), layers_of(found)
            self.batched.tokens_computed += self.skip

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Compute the next prompts or a token of each row, draw, and return the jobs that this completes."""
        if self.waiting and (not self.rows or (self.padded and len(self.rows) <= self.limit * 3 // 4)):
            samples, sources, logits, cache, mask = self._enter()
        else:
            samples, sources, cache = self.rows, list(range(len(self.rows))), self.cache
            tokens = [row.sequence[-1:] if self.cached else row.sequence for row in samples]
            positions = self._tensor([[len(row.sequence) - 1] for row in samples])
            mask = nn.functional.pad(self.mask, (0, 1)) if self.padded else self.mask
            logits, cache = self._forward(self._tensor(tokens), positions, mask, cache)
        drawn = draw(logits, sources, [sample.stream for sample in samples], self.decoding.sampling)
        kept = [at for at, own in enumerate(drawn) if samples[at].append(own, self.decoding) is None]
        self._keep([samples[at] for at in kept], [sources[at] for at in kept], cache, mask)
        ended = {sample.job: None for sample in samples if not sample.job.missing}
        return list(ended)

    def _enter(self) -> tuple[list[Sample], list[int], torch.Tensor, dict[str, Any], torch.Tensor]:
        """Compute the next prompts, from the longest on."""
        jobs, sources = list[Job](), list[int]()
        self.entering = []
        while self.waiting and (room := self.limit - len(self.rows) - len(self.entering)) > 0:
            job = self.waiting[0]
            width = len((jobs or [job])[0].tokens) - self.skip
            if jobs and (not self.padded or width * (len(jobs) + 1) > self.budget.tokens):
                break
            jobs.append(job)
            begun = job.samples(job.together[:room], self.decoding.seed)
            sources += [len(jobs) - 1] * len(begun)
            self.entering += begun
            job.together = job.together[room:]
            if not job.together:
                self.waiting.popleft()
        tokens, used = np.zeros((len(jobs), width), np.int64), np.zeros((len(jobs), width), np.bool_)
        for row, job in enumerate(jobs):
            own = job.tokens[self.skip :]
            tokens[row, width - len(own) :], used[row, width - len(own) :] = own, True
        positions = self._tensor((used.cumsum(1) - 1).clip(0) + self.skip)
        cache = {"past_key_values": DynamicCache()} if self.padded else {}
        mask = self._mask(used) if self.padded else self.mask
        logits, cache = self._forward(self._tensor(tokens), positions, mask, cache, int(used.sum()))
        return self.entering, sources, logits, cache, mask[:, :, -1:] if self.padded else mask

    def _mask(self, used: NDArray[np.bool_]) -> torch.Tensor:
        """(rows, 1, width, width): 0 for tokens up to the query, or else the lowest finite number."""
        seen = torch.from_numpy(np.tril(used[:, None, None, :] & used[:, None, :, None])).to(self.batched.device)
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=self.batched.device)
        return mask.masked_fill_(~seen, torch.finfo(self.model.dtype).min)

    def _keep(self, samples: list[Sample], sources: list[int], cache: dict[str, Any], mask: torch.Tensor) -> None:
        """These samples go on, each with a row of the cache. If they have just entered, they join the running ones."""
        if sources != list(range(len(mask if self.padded else self.rows))):
            index = self._tensor(sources)
            for part in cache.values():
                part.reorder_cache(index)
            mask = mask[index] if self.padded else mask
        if self.entering and self.rows:
            width = max(self.mask.shape[-1], mask.shape[-1])
            pairs = zip(self.cache["past_key_values"].layers, cache["past_key_values"].layers, strict=True)
            for running, own in pairs:
                for name in ("keys", "values"):
                    both = [_padded(getattr(layer, name), width, 2) for layer in (running, own)]
                    setattr(running, name, torch.cat(both))
            lowest = torch.finfo(mask.dtype).min
            samples, mask = self.rows + samples, torch.cat([_padded(m, width, 3, lowest) for m in (self.mask, mask)])
            cache = self.cache
        self.rows, self.cache, self.mask, self.entering = samples, cache if self.cached else {}, mask, []

    def after_failure(self) -> list[Job]:
        """Out of memory: generate all incomplete samples again, half as many at once. A job that does not fit alone is
        left unscored and returned."""
        samples, failed = self.entering or self.rows, list[Job]()
        if len(samples) > 1:
            self.limit = len(samples) // 2
            if self.padded:
                self.batched.most_rows = self.limit
            self.batched.notify(f"out of memory: at most {self.limit} samples at once from now on")
        else:
            job = samples[0].job
            job.completions = [completion or Completion.failed(NO_MEMORY) for completion in job.completions]
            self.batched.notify("a single prompt does not fit into the device's memory: unscored")
            failed.append(job)
        self._begin()
        release_cached_memory(self.batched.device)
        return failed

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: dict[str, Any], used: int = 0
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits after the last token of each row, and the new cache."""
        self.batched.tokens_computed += used or tokens.numel()
        arguments = {"input_ids": tokens, "use_cache": self.cached, **cache}
        if self.padded:
            arguments |= {"attention_mask": mask, "position_ids": positions}
        if self.shared:
            arguments["shared"] = self.shared
        attention = replaced_attention(self.model, JOINT) if self.shared else nullcontext()
        with select_before_head(self.model, lambda hidden: hidden[:, -1:]), attention:
            out = self.model(**arguments)
        return out.logits[:, -1], {name: out[name] for name in CACHES if self.cached and out.get(name) is not None}

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.int64)).to(self.batched.device)


def _padded(states: torch.Tensor, width: int, dim: int, value: float = 0.0) -> torch.Tensor:
    """Padded on the left of a dimension."""
    return nn.functional.pad(states, (*[0, 0] * (states.ndim - 1 - dim), width - states.shape[dim], 0), value=value)
