"""Scheduling of packed generation: which tokens go through the model together, and when each sample ends.

The prefix that all prompts share is computed once. Each step then computes one packed row (packed.py): one new token of
every running sample, and as many tokens of the next prompts as the token budget allows. A prompt is computed once for
all its samples. A sample that ends leaves at once, and the next one takes its place. A sample depends only on its
prompt and its own random numbers, so the schedule does not affect the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alignbench.models.causal_lm import find_rows, release_cached_memory
from alignbench.models.encode import Tokens, shared_prefix
from alignbench.models.generate.attention import PAGE, Pages, Piece, Segment, Step, trimmed
from alignbench.models.generate.packed import PackedModel
from alignbench.models.generate.pool import Pool
from alignbench.models.generate.samples import NO_MEMORY, Job, Prefill, Sample
from alignbench.models.generate.sampling import Stream, draw
from alignbench.models.generate.stopping import Ending
from alignbench.types.engine import Sampling

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

    def run(self, jobs: Sequence[Job], sampling: Sampling, ending: Ending, seed: int) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete."""
        if not jobs:
            return
        run = _Run(self, self._shared_prefix([job.tokens for job in jobs]), jobs, sampling, ending, seed)
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
                step = Step(None, [Segment(None, 0, pages, self.pieces(start, stop, 0, 0))])
                self.packed.logits(common[start:stop].astype(np.int64), np.arange(start, stop), [], step)
        except torch.OutOfMemoryError:
            release_cached_memory(self.packed.device)
            self.notify("the shared prefix does not fit into the device's memory; computing it with every prompt")
            return None
        self.prefix = Prefix(common, pages)
        return self.prefix

    def pieces(self, start: int, stop: int, column: int, first_page: int) -> list[Piece]:
        """Cut positions start … stop − 1, from `column` on in the packed row, at page boundaries."""
        pieces = []
        while start < stop:
            offset = start % self.page
            count = min(stop - start, self.page - offset)
            width = trimmed(offset + count, self.page)
            seen = torch.arange(width) <= offset + torch.arange(count)[:, None]
            mask = torch.zeros((count, width)).masked_fill_(~seen, -torch.inf).to(self.packed.device)
            pieces.append(Piece(column, column + count, start // self.page - first_page, offset, mask))
            start, column = start + count, column + count
        return pieces


class _Run:
    """One call. Samples wait, are prefilled with their prompt, are ready to run, and run."""

    def __init__(
        self,
        scheduler: Scheduler,
        prefix: Prefix | None,
        jobs: Sequence[Job],
        sampling: Sampling,
        ending: Ending,
        seed: int,
    ) -> None:
        self.scheduler = scheduler
        self.packed = scheduler.packed
        self.page = scheduler.page
        self.prefix = None if prefix is None else prefix.pages
        self.prefix_length = 0 if prefix is None else len(prefix.tokens)
        self.shared_pages = self.prefix_length // self.page
        self.jobs = jobs
        self.sampling = sampling
        self.ending = ending
        self.seed = seed
        self.token_budget = scheduler.token_budget
        self.longest = max(len(job.tokens) for job in jobs) + sampling.max_tokens - self.shared_pages * self.page
        self.most_rows = scheduler.most_rows or find_rows(self.packed.model, self.longest)
        self._begin()

    def _begin(self) -> None:
        self.waiting = deque(
            Prefill(job, job.missing, done=self.prefix_length) for job in self.jobs if job.missing
        )
        self.filling: deque[Prefill] = deque()
        self.ready: deque[Sample] = deque()
        self.rows: list[Sample] = []
        itemsize = self.packed.model.dtype.itemsize
        self.pool = Pool(self.page, trimmed(self.longest, self.page), self.packed.device, itemsize)

    @property
    def finished(self) -> bool:
        return not (self.waiting or self.filling or self.ready or self.rows)

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Compute one packed row, draw from it, and return the jobs that this completes."""
        try:
            self._start_samples()
            segments, filled = self._segments()
            if not self.rows and not segments:
                return []
            logits, sources = self._compute(segments, filled)
            begun = [Sample(f, number, Stream(self.seed, f.job.key, number)) for f in filled for number in f.numbers]
            drawn = draw(logits, sources, [sample.stream for sample in (*self.rows, *begun)], self.sampling)
        except torch.OutOfMemoryError:
            release_cached_memory(self.packed.device)
            return self._restart()
        for prefill, segment in segments:
            prefill.done += sum(piece.stop - piece.start for piece in segment.pieces)
        for prefill in filled:
            self.filling.remove(prefill)
            whole = len(prefill.job.tokens) // self.page
            prefill.start = whole if len(prefill.numbers) > 1 else self.shared_pages
        for row in self.rows:
            row.length += 1
        running, self.rows = self.rows, []
        done = []
        for place, sample in enumerate((*running, *begun)):
            completion = sample.append(drawn, place, self.ending)
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
                filled = min(self.page, length - number * self.page)
                self.pool.copy(together, prefill.own, number - self.shared_pages, filled)
            for sample in together:
                sample.length = length
            self.rows += together
            if prefill.start == self.shared_pages and not any(sample.prefill is prefill for sample in self.ready):
                prefill.own = None  # every sample has a copy

    def _segments(self) -> tuple[list[tuple[Prefill, Segment]], list[Prefill]]:
        """The prompt tokens of the next step, and the prompts that it completes."""
        segments: list[tuple[Prefill, Segment]] = []
        filled: list[Prefill] = []
        column = len(self.rows)
        left = max(self.token_budget - column, min(LEAST_PREFILL, self.token_budget))
        promised = len(self.rows) + len(self.ready) + sum(len(prefill.numbers) for prefill in self.filling)
        while left > 0:
            if len(segments) == len(self.filling):
                if not self.waiting or promised >= self.most_rows:
                    break
                self.filling.append(self.waiting.popleft())
                promised += len(self.filling[-1].numbers)
            prefill = self.filling[len(segments)]
            stop = min(len(prefill.job.tokens), prefill.done + left)
            pieces = self.scheduler.pieces(prefill.done, stop, column, self.shared_pages)
            segments.append((prefill, Segment(self.prefix, self.shared_pages, self._own_pages(prefill), pieces)))
            column, left = column + stop - prefill.done, left - (stop - prefill.done)
            if stop == len(prefill.job.tokens):
                filled.append(prefill)
        return segments, filled

    def _own_pages(self, prefill: Prefill) -> Pages:
        """The prompt's own pages; the first one begins with the part of the shared prefix that lies on it."""
        if prefill.own is None:
            length = len(prefill.job.tokens) - self.shared_pages * self.page
            prefill.own = Pages(-(-length // self.page), trimmed(length, self.page))
            if self.prefix is not None and (rest := self.prefix_length % self.page):
                prefill.own.copy([0], self.prefix, self.shared_pages, rest)
        return prefill.own

    def _compute(
        self, segments: list[tuple[Prefill, Segment]], filled: list[Prefill]
    ) -> tuple[torch.Tensor, list[int]]:
        """Run the model. Returns logits, and the row of each running sample and of each sample of `filled`."""
        decode = self.pool.decode(self.rows, self.prefix, self.shared_pages) if self.rows else None
        tokens = [np.array([row.tokens[-1] for row in self.rows], np.int64)]
        positions = [np.array([row.length for row in self.rows], np.int64)]
        outputs = list(range(len(self.rows)))  # columns
        sources = list(range(len(self.rows)))
        for prefill, segment in segments:
            stop = prefill.done + segment.pieces[-1].stop - segment.pieces[0].start
            tokens.append(prefill.job.tokens[prefill.done : stop].astype(np.int64))
            positions.append(np.arange(prefill.done, stop))
            if prefill in filled:
                sources += [len(outputs)] * len(prefill.numbers)
                outputs.append(segment.pieces[-1].stop - 1)
        step = Step(decode, [segment for _, segment in segments])
        return self.packed.logits(np.concatenate(tokens), np.concatenate(positions), outputs, step), sources

    def _restart(self) -> list[Job]:
        """After running out of memory, generate all incomplete samples again, with fewer samples or tokens at once.

        They come out the same. Where nothing is left to reduce, a job is left unscored and returned.
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
            failed.append((self.filling[0] if self.filling else (self.rows or self.ready)[0].prefill).job)
            failed[0].fail(NO_MEMORY)
            self.scheduler.notify("a single prompt does not fit into the device's memory: unscored")
        self._begin()
        return failed
