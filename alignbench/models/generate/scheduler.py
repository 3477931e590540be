"""Scheduling of packed generation.

A step computes one packed row (packed.py): the next prompts, or a new token of every running sample. A sample that ends
leaves at once, and when a quarter have left, the next prompts are computed. A sample depends only on its prompt and its
own random numbers, so the schedule does not affect the results.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from alignbench.models.causal_lm import Budget
from alignbench.models.distributions import draw
from alignbench.models.encode import Tokens, shared_prefix
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.packed import PAGE, Block, PackedModel, Pages, Part, trimmed
from alignbench.models.generate.samples import Job, Pool, Sample

LEAST_PREFIX = 16  # tokens: a shorter shared prefix is not worth its own pages


class Prefix(NamedTuple):  # of every prompt of a call
    tokens: Tokens
    pages: Pages


@dataclass
class Scheduler:
    """most_rows: samples that run at once; if None, those of the budget"""

    packed: PackedModel
    most_rows: int | None = None
    page: int = PAGE
    least_prefix: int = LEAST_PREFIX

    def run(self, jobs: Sequence[Job], decoding: Decoding, budget: Budget) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete."""
        if jobs:
            run = _Run(self, jobs, decoding, budget, self._shared_prefix([job.tokens for job in jobs]))
            while run.waiting or run.ready or run.rows:
                yield from run.step()

    def _shared_prefix(self, prompts: list[Tokens]) -> Prefix:
        # the last prompt token is not part of it: its output predicts the first new one
        common = shared_prefix(prompts, min(map(len, prompts)) - 1 if len(prompts) > 1 else 0)
        if len(common) < self.least_prefix:
            return Prefix(common[:0], Pages())
        pages = Pages(-(-len(common) // self.page), self.page)
        self.packed.logits(common, np.arange(len(common)), [], self.blocks(0, len(common), 0, [], pages, 0))
        return Prefix(common, pages)

    def blocks(
        self, start: int, stop: int, column: int, shared: list[Part], own: Pages, first_page: int
    ) -> list[Block]:
        """Cut positions start … stop − 1 of a prompt, from `column` on in the packed row, at page boundaries.
        `shared` are the pages before its own, which begin with page `first_page` of the sequence."""
        blocks = []
        while start < stop:
            number, offset = divmod(start, self.page)
            count = min(stop - start, self.page - offset)
            seen = torch.arange(trimmed(offset + count, self.page)) <= offset + torch.arange(count)[:, None]
            mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
            before = number - first_page
            parts = shared + ([Part(own, 0, before, first_page)] if before else [])
            parts.append(Part(own, before, 1, number, mask=mask, offset=offset))
            blocks.append(Block(slice(column, column + count), number + 1, parts))
            start, column = start + count, column + count
        return blocks


class _Run:
    """One call. Prompts wait, their samples are ready to run, and run."""

    def __init__(
        self, scheduler: Scheduler, jobs: Sequence[Job], decoding: Decoding, budget: Budget, prefix: Prefix
    ) -> None:
        self.scheduler, self.packed, self.page = scheduler, scheduler.packed, scheduler.page
        self.decoding, self.budget, self.prefix = decoding, budget, prefix
        self.shared_pages = len(prefix.tokens) // self.page
        self.shared = [Part(prefix.pages, 0, self.shared_pages, 0)] if self.shared_pages else []
        longest = max(len(job.tokens) for job in jobs) + decoding.sampling.most_tokens - self.shared_pages * self.page
        self.most_rows = scheduler.most_rows or budget.rows(longest)
        self.waiting = deque(job for job in jobs if job.missing)
        self.ready: deque[Sample] = deque()
        self.rows: list[Sample] = []
        self.pool = Pool(self.page, trimmed(longest, self.page), dense=self.packed.model.dtype.itemsize < 4)

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Compute one packed row, draw from it, and return the jobs that this completes."""
        enters = self.waiting and len(self.rows) + len(self.ready) <= self.most_rows * 3 // 4
        if enters:
            samples, sources, logits = self._prefill()
        else:
            self._start_samples()
            block = self.pool.block(self.rows, self.shared, self.shared_pages)
            samples, sources = self.rows, list(range(len(self.rows)))
            tokens, positions = ([row.tokens[-1] for row in samples], [row.length for row in samples])
            logits = self.packed.logits(np.array(tokens), np.array(positions), sources, [block])
        done, going = [], list[Sample]()
        drawn = draw(logits, sources, [sample.stream for sample in samples], self.decoding.sampling)
        for sample, token in zip(samples, drawn, strict=True):
            sample.length += not enters
            if sample.append(token, self.decoding) is None:
                going.append(sample)
                continue
            self.pool.release(sample)
            if not sample.job.missing:
                sample.job.pages = Pages()
                done.append(sample.job)
        if enters:
            self.ready += going
        else:
            self.rows = going
        return done

    def _start_samples(self) -> None:
        """Give ready samples their pages, as many as may run."""
        while self.ready and len(self.rows) < self.most_rows:
            job = self.ready[0].job
            together: list[Sample] = []
            while self.ready and self.ready[0].job is job and len(self.rows) + len(together) < self.most_rows:
                together.append(self.ready.popleft())
            length = len(job.tokens)
            for number in range(job.start, -(-length // self.page)):
                used = min(self.page, length - number * self.page)
                self.pool.copy(together, job.pages, number - self.shared_pages, used)
            for sample in together:
                sample.length = length
            self.rows += together
            if job.start == self.shared_pages and not any(sample.job is job for sample in self.ready):
                job.pages = Pages()  # every sample has a copy

    def _prefill(self) -> tuple[list[Sample], list[int], torch.Tensor]:
        """Compute the next prompts: their samples, and the row of the logits of each sample."""
        begin, first_page, page = len(self.prefix.tokens), self.shared_pages, self.page
        samples, sources, blocks, outputs = list[Sample](), list[int](), list[Block](), list[int]()
        tokens, positions, column = list[Tokens](), list[Tokens](), 0
        while self.waiting and len(self.rows) + len(self.ready) + len(samples) < self.most_rows:
            job = self.waiting[0]
            length = len(job.tokens)
            if column and column + length - begin > self.budget.tokens:
                break
            self.waiting.popleft()
            job.pages = Pages(-(-length // page) - first_page, trimmed(length - first_page * page, page))
            if rest := begin % page:  # the first page begins with the end of the shared prefix
                job.pages.copy([0], self.prefix.pages, first_page, rest)
            blocks += self.scheduler.blocks(begin, length, column, self.shared, job.pages, first_page)
            tokens.append(job.tokens[begin:])
            positions.append(np.arange(begin, length, dtype=np.int32))
            column += length - begin
            numbers = job.missing
            job.start = length // page if len(numbers) > 1 else first_page
            samples += job.samples(numbers, self.decoding.seed)
            sources += [len(outputs)] * len(numbers)
            outputs.append(column - 1)
        logits = self.packed.logits(np.concatenate(tokens), np.concatenate(positions), outputs, blocks)
        return samples, sources, logits
