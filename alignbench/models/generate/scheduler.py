"""Generation on packed rows (packed.py). The schedule does not affect the numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alignbench.models.causal_lm import Budget
from alignbench.models.encode import Tokens, shared_prefix
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.packed import PAGE, Block, PackedModel, Pages, Part, trimmed
from alignbench.models.generate.samples import Job, Run, Sample

LEAST_PREFIX = 16  # tokens: a shorter shared prefix is not worth its own pages


@dataclass
class Scheduler:
    """most_rows: samples that run at once; if None, those of the budget"""

    packed: PackedModel
    most_rows: int | None = None
    page: int = PAGE

    def run(self, jobs: Sequence[Job], decoding: Decoding, budget: Budget) -> Iterator[Job]:
        """Continue the jobs, and yield each one when all its samples are complete."""
        if jobs:
            run = _Run(self, jobs, decoding, budget)
            while run.waiting or run.rows:
                yield from run.step()


class _Run(Run):
    """prefix: number of tokens that all prompts begin with, whose keys and values are in `first`, and of which all
    samples share `shared` pages; pool: pages that belong to one running sample each; owners: these samples"""

    def __init__(self, scheduler: Scheduler, jobs: Sequence[Job], decoding: Decoding, budget: Budget) -> None:
        self.packed, self.page = scheduler.packed, scheduler.page
        # the last prompt token is not part of it: its output predicts the first new one
        shortest = min(len(job.tokens) for job in jobs) - 1
        common = shared_prefix([job.tokens for job in jobs], shortest if len(jobs) > 1 else 0)
        self.prefix, self.shared, self.first = 0, 0, Pages(-(-len(common) // self.page), self.page)
        if len(common) >= LEAST_PREFIX:
            self._compute([(common, self.first)])
            self.prefix, self.shared = len(common), len(common) // self.page
        longest = max(len(job.tokens) for job in jobs) + decoding.sampling.most_tokens - self.shared * self.page
        self.pool = Pages(0, trimmed(longest, self.page), dense=self.packed.model.dtype.itemsize < 4)
        self.owners: list[Sample] = []
        super().__init__(jobs, decoding, budget, scheduler.most_rows or budget.rows(longest))

    def fit(self, jobs: list[Job]) -> bool:
        return sum(len(job.tokens) - self.prefix for job in jobs) <= self.budget.tokens

    def enter(self, jobs: list[Job]) -> torch.Tensor:
        for job in jobs:
            length = len(job.tokens) - self.shared * self.page
            job.pages = Pages(-(-length // self.page), trimmed(length, self.page))
            job.start = len(job.tokens) // self.page if len(job.completions) > 1 else self.shared
            if rest := self.prefix % self.page:  # the first page begins with the end of the shared prefix
                job.pages.copy([0], self.first, self.shared, rest)
        return self._compute([(job.tokens, job.pages) for job in jobs if job.pages is not None])

    def advance(self) -> torch.Tensor:
        positions = np.array([row.position for row in self.rows])
        siblings: dict[Job, list[int]] = {}
        for at, row in enumerate(self.rows):
            if row.position // self.page - row.job.start >= len(row.pages):
                self._new_page(row)
            if row.job.start > self.shared:
                siblings.setdefault(row.job, []).append(at)
        rows, numbers = np.zeros((2, self.pool.count), np.int64)
        for at, row in enumerate(self.rows):
            rows[row.pages], numbers[row.pages] = at, row.job.start + np.arange(len(row.pages))
        parts = self._shared_part(positions)
        for job, members in siblings.items():
            assert job.pages is not None
            own = np.arange(self.shared, job.start)
            parts.append(Part(job.pages, self.page, own, np.array(members), positions))
        parts.append(Part(self.pool, self.page, numbers, rows[:, None], positions))
        where = [row.pages[row.position // self.page - row.job.start] for row in self.rows]
        block = self._block(0, positions, parts, np.array(where))
        tokens = np.array([row.tokens[-1] for row in self.rows])
        return self.packed.logits(tokens, positions, list(range(len(self.rows))), [block])

    def keep(self, sources: list[int], kept: list[int], entered: bool) -> None:
        samples = [self.computed[at] for at in kept]
        for job in {sample.job: None for sample in samples if entered}:
            assert job.pages is not None
            begun = [sample for sample in samples if sample.job is job]
            for number in range(job.start, -(-len(job.tokens) // self.page)):
                used = min(self.page, len(job.tokens) - number * self.page)
                pages = [self._new_page(sample) for sample in begun]
                self.pool.copy(pages, job.pages, number - self.shared, used)
        for sample in self.computed:
            if sample.job.completions[sample.number] is not None:
                self._release(sample)
            if not sample.job.missing or sample.job.start == self.shared:  # every sample has a copy
                sample.job.pages = None
        self.rows = self.rows + samples if entered else samples

    def _compute(self, prompts: list[tuple[Tokens, Pages]]) -> torch.Tensor:
        """Compute prompts without the shared prefix, and return the logits after each. Blocks end where pages do."""
        blocks, tokens, positions, ends = list[Block](), list[Tokens](), list[NDArray[np.int64]](), list[int]()
        column = 0
        for prompt, pages in prompts:
            start = self.prefix
            while start < len(prompt):
                number = start // self.page
                places = np.arange(start, min(len(prompt), (number + 1) * self.page))
                each, parts = np.arange(len(places)), self._shared_part(places)
                before = np.arange(self.shared, number)
                if len(before):
                    parts.append(Part(pages, self.page, before, each, places))
                parts.append(Part(pages, self.page, np.array([number]), each, places, number - self.shared))
                blocks.append(self._block(column, places, parts, np.full(len(places), number - self.shared)))
                positions.append(places)
                start, column = start + len(places), column + len(places)
            tokens.append(prompt[self.prefix :])
            ends.append(column - 1)
        return self.packed.logits(np.concatenate(tokens), np.concatenate(positions), ends, blocks)

    def _shared_part(self, positions: NDArray[np.int64]) -> list[Part]:
        """The pages that all sequences share."""
        numbers = np.arange(self.shared)
        return [Part(self.first, self.page, numbers, np.arange(len(positions)), positions)] if self.shared else []

    def _block(self, column: int, positions: NDArray[np.int64], parts: list[Part], where: NDArray[np.int64]) -> Block:
        offset = torch.from_numpy(positions % self.page)
        most = int(positions.max()) // self.page + 1
        return Block(slice(column, column + len(positions)), parts, torch.from_numpy(where), offset, most)

    def _new_page(self, sample: Sample) -> int:
        sample.pages.append(self.pool.count)
        self.owners.append(sample)
        self.pool.count += 1
        return sample.pages[-1]

    def _release(self, sample: Sample) -> None:
        """Drop the pages of a sample, and move the last pages to where they were, so that those in use come first."""
        for page in sorted(sample.pages, reverse=True):
            self.pool.count -= 1
            last, owner = self.pool.count, self.owners.pop()
            for states in (states for layer in self.pool.layers.values() for states in layer):
                states[page], states[last] = states[last], 0  # 0 · NaN would be NaN for the next owner
            owner.pages[owner.pages.index(last)] = page
            if page != last:
                self.owners[page] = owner
        sample.pages = []
