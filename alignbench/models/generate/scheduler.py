"""Scheduling of packed generation: which tokens go through the model together, when each sample ends, and a test of
whether a model supports it.

The prefix that all prompts share is computed once. Each step then computes one packed row (packed.py): one new token of
every running sample, and as many tokens of the next prompts as the token budget allows. A prompt is computed once for
all its samples. A sample that ends leaves at once, and the next one takes its place. A sample depends only on its
prompt and its own random numbers, so the schedule does not affect the results.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignbench.models.causal_lm import find_rows, release_cached_memory, tolerance
from alignbench.models.encode import Tokens, shared_prefix
from alignbench.models.generate.attention import PAGE, Block, Pages, Part, Step, trimmed
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.packed import PackedModel
from alignbench.models.generate.samples import NO_MEMORY, Job, Pool, Prefill, Sample
from alignbench.models.generate.sampling import Stream, draw
from alignbench.types.engine import Completion, Sampling

LEAST_PREFIX = 16  # tokens: a shorter shared prefix is not worth its own pages
LEAST_PREFILL = 64  # prompt tokens per step, however many samples run


@dataclass
class Prefix:
    """Tokens that every prompt of a call begins with, and their pages."""

    tokens: Tokens
    pages: Pages


@dataclass
class Scheduler:
    """Packed generation with one model. The last shared prefix is kept for the next call.

    token_budget: tokens per step
    most_rows: samples that run at once; if None, it follows the free memory
    """

    packed: PackedModel
    token_budget: int
    notify: Callable[[str], None]
    most_rows: int | None = None
    page: int = PAGE
    least_prefix: int = LEAST_PREFIX
    prefix: Prefix | None = None

    def run(self, jobs: Sequence[Job], decoding: Decoding) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete."""
        if jobs:
            run = _Run(self, jobs, decoding, self._shared_prefix([job.tokens for job in jobs]))
            while not run.finished:
                yield from run.step()

    def _shared_prefix(self, prompts: list[Tokens]) -> Prefix | None:
        # the last prompt token is not part of it: its output predicts the first new one
        longest = min(map(len, prompts)) - 1
        common = shared_prefix(prompts, longest) if len(prompts) > 1 else prompts[0][:0]
        kept = self.prefix
        if (
            kept is not None
            and len(common) - self.least_prefix <= len(kept.tokens) <= longest
            and all(np.array_equal(tokens[: len(kept.tokens)], kept.tokens) for tokens in prompts)
        ):
            return kept
        if len(common) < self.least_prefix:
            return None
        self.prefix = kept = None  # frees its memory first
        pages = Pages(-(-len(common) // self.page), self.page)
        try:
            for start in range(0, len(common), self.token_budget):
                stop = min(len(common), start + self.token_budget)
                step = Step(self.blocks(start, stop, 0, [], pages, 0))
                self.packed.logits(common[start:stop].astype(np.int64), np.arange(start, stop), [], step)
        except torch.OutOfMemoryError:
            release_cached_memory(self.packed.device)
            self.notify("the shared prefix does not fit into the device's memory; computing it with every prompt")
            return None
        self.prefix = Prefix(common, pages)
        return self.prefix

    def blocks(
        self, start: int, stop: int, column: int, shared: list[Part], own: Pages, first_page: int
    ) -> list[Block]:
        """Cut positions start … stop − 1 of a prompt, from `column` on in the packed row, at page boundaries.

        shared: the pages before the prompt's own, which begin with page `first_page` of the sequence
        """
        blocks = []
        while start < stop:
            number, offset = divmod(start, self.page)
            count = min(stop - start, self.page - offset)
            seen = torch.arange(trimmed(offset + count, self.page)) <= offset + torch.arange(count)[:, None]
            mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf).to(self.packed.device)
            before = number - first_page
            parts = shared + ([Part(own, 0, before, first_page)] if before else [])
            parts.append(Part(own, before, 1, number, mask=mask, offset=offset))
            blocks.append(Block(slice(column, column + count), number + 1, parts))
            start, column = start + count, column + count
        return blocks


class _Run:
    """One call. Samples wait, are prefilled with their prompt, are ready to run, and run."""

    def __init__(self, scheduler: Scheduler, jobs: Sequence[Job], decoding: Decoding, prefix: Prefix | None) -> None:
        self.scheduler = scheduler
        self.packed = scheduler.packed
        self.page = scheduler.page
        self.jobs = jobs
        self.decoding = decoding
        self.prefix = None if prefix is None else prefix.pages
        self.prefix_length = 0 if prefix is None else len(prefix.tokens)
        self.shared_pages = self.prefix_length // self.page
        self.token_budget = scheduler.token_budget
        longest = max(len(job.tokens) for job in jobs) + decoding.sampling.max_tokens - self.shared_pages * self.page
        self.width = trimmed(longest, self.page)
        self.most_rows = scheduler.most_rows or find_rows(self.packed.model, longest)
        self._begin()

    def _begin(self) -> None:
        self.waiting = deque(Prefill(job, job.missing, self.prefix_length) for job in self.jobs if job.missing)
        self.filling: deque[Prefill] = deque()
        self.ready: deque[Sample] = deque()
        self.rows: list[Sample] = []
        dense = self.packed.device.type == "cpu" and self.packed.model.dtype.itemsize < 4
        self.pool = Pool(self.page, self.width, self.packed.device, dense)

    @property
    def finished(self) -> bool:
        return not (self.waiting or self.filling or self.ready or self.rows)

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Compute one packed row, draw from it, and return the jobs that this completes."""
        try:
            self._start_samples()
            prompts = self._next_prompts()
            if not self.rows and not prompts:
                return []
            filled = [prefill for prefill, stop in prompts if stop == len(prefill.job.tokens)]
            begun = [
                Sample(prefill, number, Stream(self.decoding.seed, prefill.job.key, number))
                for prefill in filled
                for number in prefill.numbers
            ]
            logits, sources = self._compute(prompts)
            drawn = draw(logits, sources, [sample.stream for sample in self.rows + begun], self.decoding.sampling)
        except torch.OutOfMemoryError:
            release_cached_memory(self.packed.device)
            return self._restart()
        for prefill, stop in prompts:
            prefill.done = stop
        for prefill in filled:
            self.filling.remove(prefill)
            whole = len(prefill.job.tokens) // self.page
            prefill.start = whole if len(prefill.numbers) > 1 else self.shared_pages
        for row in self.rows:
            row.length += 1
        running, self.rows = self.rows, []
        done = []
        for place, sample in enumerate(running + begun):
            completion = sample.append(drawn, place, self.decoding)
            if completion is None:
                (self.rows if place < len(running) else self.ready).append(sample)
                continue
            self.pool.release(sample, clear=completion.unscored is not None)
            if not sample.prefill.job.missing:
                done.append(sample.prefill.job)
        return done

    def _start_samples(self) -> None:
        """Give ready samples their pages, as many as may run."""
        while self.ready and len(self.rows) < self.most_rows:
            prefill = self.ready[0].prefill
            together: list[Sample] = []
            while self.ready and self.ready[0].prefill is prefill and len(self.rows) + len(together) < self.most_rows:
                together.append(self.ready.popleft())
            assert prefill.own is not None
            length = len(prefill.job.tokens)
            for number in range(prefill.start, -(-length // self.page)):
                used = min(self.page, length - number * self.page)
                self.pool.copy(together, prefill.own, number - self.shared_pages, used)
            for sample in together:
                sample.length = length
            self.rows += together
            if prefill.start == self.shared_pages and not any(sample.prefill is prefill for sample in self.ready):
                prefill.own = None  # every sample has a copy

    def _next_prompts(self) -> list[tuple[Prefill, int]]:
        """The prompts of the next step, and the position up to which it computes each."""
        prompts: list[tuple[Prefill, int]] = []
        left = max(self.token_budget - len(self.rows), min(LEAST_PREFILL, self.token_budget))
        promised = len(self.rows) + len(self.ready) + sum(len(prefill.numbers) for prefill in self.filling)
        while left > 0:
            if len(prompts) == len(self.filling):
                if not self.waiting or promised >= self.most_rows:
                    break
                self.filling.append(self.waiting.popleft())
                promised += len(self.filling[-1].numbers)
            prefill = self.filling[len(prompts)]
            stop = min(len(prefill.job.tokens), prefill.done + left)
            left -= stop - prefill.done
            prompts.append((prefill, stop))
        return prompts

    def _own_pages(self, prefill: Prefill) -> Pages:
        """The prompt's own pages; the first one begins with the part of the shared prefix that lies on it."""
        if prefill.own is None:
            length = len(prefill.job.tokens) - self.shared_pages * self.page
            prefill.own = Pages(-(-length // self.page), trimmed(length, self.page))
            if self.prefix is not None and (rest := self.prefix_length % self.page):
                prefill.own.copy([0], self.prefix, self.shared_pages, rest)
        return prefill.own

    def _compute(self, prompts: list[tuple[Prefill, int]]) -> tuple[torch.Tensor, list[int]]:
        """Run the model. Returns logits, and the row of each running sample and of each sample of a filled prompt."""
        blocks = [self.pool.block(self.rows, self.prefix, self.shared_pages)] if self.rows else []
        shared = [Part(self.prefix, 0, self.shared_pages, 0)] if self.prefix is not None and self.shared_pages else []
        tokens = [np.array([row.tokens[-1] for row in self.rows], np.int64)]
        positions = [np.array([row.length for row in self.rows], np.int64)]
        outputs = list(range(len(self.rows)))  # columns
        sources = list(range(len(self.rows)))
        column = len(self.rows)
        for prefill, stop in prompts:
            own = self._own_pages(prefill)
            blocks += self.scheduler.blocks(prefill.done, stop, column, shared, own, self.shared_pages)
            tokens.append(prefill.job.tokens[prefill.done : stop].astype(np.int64))
            positions.append(np.arange(prefill.done, stop))
            column += stop - prefill.done
            if stop == len(prefill.job.tokens):
                sources += [len(outputs)] * len(prefill.numbers)
                outputs.append(column - 1)
        return self.packed.logits(np.concatenate(tokens), np.concatenate(positions), outputs, Step(blocks)), sources

    def _restart(self) -> list[Job]:
        """After running out of memory, generate all incomplete samples again, with fewer samples or tokens at once.

        They come out the same. If nothing is left to reduce, a job is left unscored and returned.
        """
        failed: list[Job] = []
        running = len(self.rows) or min(len(self.ready), self.most_rows)
        if running > 1:
            self.most_rows = self.scheduler.most_rows = running // 2
            self.scheduler.notify(f"out of memory: at most {self.most_rows} samples at once from now on")
        elif self.filling and self.token_budget > LEAST_PREFILL // 4:
            self.token_budget = self.scheduler.token_budget = self.token_budget // 2
            self.scheduler.notify(f"out of memory: {self.token_budget} tokens per step from now on")
        else:
            job = self.filling[0].job if self.filling else (self.rows or self.ready)[0].prefill.job
            job.completions = [completion or Completion.failed(NO_MEMORY) for completion in job.completions]
            self.scheduler.notify("a single prompt does not fit into the device's memory: unscored")
            failed.append(job)
        self._begin()
        return failed


def why_not_packed(packed: PackedModel, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> str | None:
    """None if packed rows of these tokens give the log-probabilities of the unmodified model, or else the reason.

    The test has a shared prefix, two prompts and two samples of each, like real calls.
    """
    model = packed.model
    kind = model.config.model_type
    if not getattr(model, "_supports_attention_backend", False):
        return f"{kind} does not support a custom attention function"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return f"{kind} takes no position ids"
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") in ("dynamic", "longrope"):  # they depend on the longest sequence of the batch
            return f"{kind} scales its position embeddings by the length of the sequence"
    tokens = np.resize(tokens, 12)
    prompts = [tokens[:7], np.concatenate([tokens[:4], tokens[8:], tokens[:2]])]
    jobs = [Job(index, "probe", prompt, [None, None]) for index, prompt in enumerate(prompts)]
    scheduler = Scheduler(packed, token_budget=8, notify=lambda _: None, most_rows=3, least_prefix=2)
    decoding = Decoding(tokenizer, (), Sampling(max_tokens=3, samples=2, temperature=1.0))
    before = packed.tokens_computed
    try:
        list(scheduler.run(jobs, decoding))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, AssertionError) as error:
        return f"{kind} does not run on packed rows ({type(error).__name__})"
    finally:
        packed.tokens_computed = before
    found = [(job.tokens, completion) for job in jobs for completion in job.complete if completion.unscored is None]
    worst = max((_difference(model, *pair) for pair in found), default=0.0)
    if worst > 4 * tolerance(model):  # of single tokens, not means over the vocabulary
        return f"{kind} does not run on packed rows (log-probabilities differ by {worst:.2g} nats)"
    return None


@torch.inference_mode()
def _difference(model: PreTrainedModel, prompt: Tokens, completion: Completion) -> float:
    """Largest difference of log-probabilities and entropies from the unmodified model, in nats."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tokens]], device=model.device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    logprobs = torch.log_softmax(logits.float(), -1)
    chosen = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    expected = torch.cat([chosen, torch.special.entr(logprobs.exp()).sum(-1)]).cpu()
    return float((torch.tensor(completion.logprobs + completion.entropies) - expected).abs().max())
