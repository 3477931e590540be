"""Prompts and samples in progress, and the pages of the running samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from alignbench.models.distributions import Drawn, Stream
from alignbench.models.encode import Tokens
from alignbench.models.generate.decoding import Decoding, Thoughts
from alignbench.models.generate.packed import Block, OwnPages, Pages, Part, Rank, trimmed
from alignbench.types.engine import Completion

NOT_FINITE = "the logits are not finite"
NO_MEMORY = "out of the device's memory"


@dataclass(slots=True, eq=False)
class Job:
    """A prompt to continue: its index in the call, and the completion of each sample, None if it is not complete.

    together: numbers of the samples to start
    pages: of the prompt, after those that all prompts share; start: first page that its samples do not share
    """

    index: int
    key: str
    tokens: Tokens
    completions: list[Completion | None]
    together: list[int] = field(default_factory=list)
    pages: Pages = field(default_factory=Pages)
    start: int = 0

    @property
    def missing(self) -> list[int]:
        return [number for number, completion in enumerate(self.completions) if completion is None]

    @property
    def complete(self) -> tuple[Completion, ...]:
        return tuple(completion for completion in self.completions if completion is not None)

    def samples(self, numbers: Sequence[int], seed: int) -> list[Sample]:
        return [Sample(self, number, Stream(seed, self.key, number)) for number in numbers]


@dataclass(slots=True, eq=False)
class Sample:
    """A continuation in progress. length: positions whose keys and values are stored; pages: its own in the pool"""

    job: Job
    number: int
    stream: Stream
    tokens: list[int] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    thoughts: Thoughts | None = None
    length: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def sequence(self) -> list[int]:
        return [*self.job.tokens.tolist(), *self.tokens]

    def append(self, drawn: Drawn, decoding: Decoding) -> Completion | None:
        """Append a token. If the sample ends with it, store and return the completion."""
        self.tokens.append(drawn.token)
        self.drawn.append(drawn)
        if len(self.tokens) == 1:
            self.thoughts = decoding.thoughts()
        completion = None
        if drawn.token < 0:
            completion = Completion.failed(NOT_FINITE)
        elif end := decoding.end(self.tokens, self.thoughts):
            completion = decoding.completion(end, self.drawn, self.thoughts)
        self.job.completions[self.number] = completion
        return completion


class Pool:
    """Pages of `page` positions that belong to one running sample each, of which `width` are stored. dense: trimmed
    pages would be copied, as half-precision products in torch's CPU build do"""

    def __init__(self, page: int, width: int, dense: bool) -> None:
        self.page, self.dense = page, dense
        self.pages = Pages(0, width)
        self.owners: list[Sample] = []  # of pages 0, 1, …

    def copy(self, samples: Sequence[Sample], source: Pages, page: int, length: int) -> None:
        """Give each sample a page with a copy of the first `length` positions of a page of `source`."""
        self.pages.copy([self._new_page(sample) for sample in samples], source, page, length)

    def _new_page(self, sample: Sample) -> int:
        if len(self.owners) == self.pages.count:
            self.pages.grow(max(8, self.pages.count * 2))
        self.owners.append(sample)
        sample.pages.append(len(self.owners) - 1)
        return sample.pages[-1]

    def release(self, sample: Sample) -> None:
        """Drop the pages of a sample, and move the last pages to where they were, so that those in use come first."""
        for page in sorted(sample.pages, reverse=True):
            last, owner = len(self.owners) - 1, self.owners.pop()
            if page == last:
                self.pages.clear(page)
            else:
                self.pages.copy([page], self.pages, last, self.pages.width)
                owner.pages[owner.pages.index(last)] = page
                self.owners[page] = owner
        sample.pages = []

    def block(self, rows: list[Sample], shared: list[Part], shared_pages: int) -> Block:
        """The new tokens of the running samples, which are sorted by their pages. shared: the first `shared_pages`
        pages of every sequence"""

        def tensor(values: object) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.int64))

        for row in rows:
            if row.length // self.page - row.job.start >= len(row.pages):
                self._new_page(row)
        rows.sort(key=lambda row: row.pages[0])
        fill, number, owner = (np.zeros(len(self.owners), np.int64) for _ in range(3))
        siblings: dict[Job, list[int]] = {}
        for i, row in enumerate(rows):
            number[row.pages] = row.job.start + np.arange(len(row.pages))
            fill[row.pages] = np.minimum(self.page, row.length + 1 - number[row.pages] * self.page)
            owner[row.pages] = i
            if row.job.start > shared_pages:
                siblings.setdefault(row.job, []).append(i)
        most = max(row.length // self.page for row in rows) + 1
        ranks: list[Rank] = [] if most > 1 else [(slice(None), slice(None), 0)]
        for rank in range(max(len(row.pages) for row in rows) if most > 1 else 0):
            members = [i for i, row in enumerate(rows) if rank < len(row.pages)]
            pages = [rows[i].pages[rank] for i in members]
            ranks.append((tensor(members), tensor(pages), tensor(number[pages])))
        columns = np.arange(self.pages.width if self.dense else trimmed(int(fill.max()), self.pages.width))
        mask = np.where(columns < fill[:, None], 0.0, -np.inf).astype(np.float32)
        own = OwnPages(
            pages=self.pages,
            used=len(self.owners),
            page=tensor([row.pages[row.length // self.page - row.job.start] for row in rows]),
            offset=tensor([row.length % self.page for row in rows]),
            owner=tensor(owner),
            mask=torch.from_numpy(mask)[:, None, None],
            ranks=ranks,
        )
        of_prompts = [
            Part(job.pages, 0, job.start - shared_pages, shared_pages, tensor(members))
            for job, members in siblings.items()
        ]
        return Block(slice(0, len(rows)), most, [*shared, *of_prompts, own])
