"""Prompts and samples in progress, and the pages of the running samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from alignbench.models.encode import Tokens
from alignbench.models.generate.attention import Block, OwnPages, Pages, Part, trimmed
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.sampling import Drawn, Stream
from alignbench.types.engine import Completion

NOT_FINITE = "the logits are not finite"
NO_MEMORY = "out of the device's memory"


@dataclass(slots=True, eq=False)
class Job:
    """A prompt to continue: its index in the call, its key, its tokens, and its completions (None: not complete)."""

    index: int
    key: str
    tokens: Tokens
    completions: list[Completion | None]

    @property
    def missing(self) -> list[int]:
        """Numbers of the samples that are not complete."""
        return [number for number, completion in enumerate(self.completions) if completion is None]

    @property
    def complete(self) -> tuple[Completion, ...]:
        return tuple(completion for completion in self.completions if completion is not None)


@dataclass(slots=True, eq=False)
class Prefill:
    """A prompt being computed for those of its samples that start together.

    numbers: the samples
    done: positions computed so far
    own: its pages after the shared ones
    start: first page of the sequence that its samples do not share
    """

    job: Job
    numbers: Sequence[int]
    done: int = 0
    own: Pages | None = None
    start: int = 0


@dataclass(slots=True, eq=False)
class Sample:
    """A continuation in progress.

    length: positions whose keys and values are stored
    pages: its own pages in the pool
    """

    prefill: Prefill
    number: int
    stream: Stream
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    top_entropies: list[float] = field(default_factory=list)
    length: int = 0
    pages: list[int] = field(default_factory=list)

    def append(self, drawn: Drawn, row: int, decoding: Decoding) -> Completion | None:
        """Append the token drawn in a row. If the sample ends with it, store and return the completion."""
        completion = None
        if drawn.tokens[row] < 0:
            completion = Completion.failed(NOT_FINITE)
        else:
            self.tokens.append(drawn.tokens[row])
            self.logprobs.append(drawn.logprobs[row])
            self.entropies.append(drawn.entropies[row])
            self.top_entropies += drawn.top_entropies[row : row + 1]
            if end := decoding.end(self.tokens):
                logprobs, entropies, top_entropies = map(tuple, (self.logprobs, self.entropies, self.top_entropies))
                completion = Completion(end[1], end[0], tuple(self.tokens), logprobs, entropies, top_entropies)
        self.prefill.job.completions[self.number] = completion
        return completion


class Pool:
    """Pages that belong to one running sample each.

    page: positions per page; width: positions stored per page, fewer if no sample fills one
    dense: trimmed pages would be copied, as half-precision products in torch's CPU build do
    """

    def __init__(self, page: int, width: int, device: torch.device, dense: bool) -> None:
        self.page = page
        self.device = device
        self.dense = dense
        self.pages = Pages(0, width)
        self.owners: list[Sample] = []  # of pages 0, 1, …
        self.free: list[int] = []

    def copy(self, samples: Sequence[Sample], source: Pages, page: int, length: int) -> None:
        """Give each sample a page with a copy of the first `length` positions of a page of `source`."""
        self.pages.copy([self._new_page(sample) for sample in samples], source, page, length)

    def release(self, sample: Sample, clear: bool) -> None:
        if clear:
            self.pages.clear(sample.pages)
        self.free += sample.pages
        sample.pages = []

    def block(self, rows: list[Sample], prefix: Pages | None, shared_pages: int) -> Block:
        """Where the keys and values of the running samples are, and where those of their new tokens are stored.

        Sorts the samples by their pages. prefix, shared_pages: what all of them begin with
        """
        for row in rows:
            if row.length // self.page - row.prefill.start >= len(row.pages):
                self._new_page(row)
        self._compact()
        rows.sort(key=lambda row: row.pages[0])
        fill, number, owner = (np.zeros(len(self.owners), np.int64) for _ in range(3))
        for i, row in enumerate(rows):
            number[row.pages] = row.prefill.start + np.arange(len(row.pages))
            fill[row.pages] = np.minimum(self.page, row.length + 1 - number[row.pages] * self.page)
            owner[row.pages] = i
        columns = np.arange(self.pages.width if self.dense else trimmed(int(fill.max()), self.pages.width))
        mask = np.where(columns < fill[:, None], 0.0, -np.inf).astype(np.float32)

        def tensor(values: object) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.int64)).to(self.device)

        most = max(row.length // self.page for row in rows) + 1
        ranks = []
        for rank in range(max(len(row.pages) for row in rows) if most > 1 else 0):
            members = [i for i, row in enumerate(rows) if rank < len(row.pages)]
            pages = [rows[i].pages[rank] for i in members]
            ranks.append((tensor(members), tensor(pages), tensor(number[pages])))
        parts = [Part(prefix, 0, shared_pages, 0)] if prefix is not None and shared_pages else []
        siblings: dict[Prefill, list[int]] = {}
        for i, row in enumerate(rows):
            if row.prefill.start > shared_pages:
                siblings.setdefault(row.prefill, []).append(i)
        for prefill, members in siblings.items():
            assert prefill.own is not None
            parts.append(Part(prefill.own, 0, prefill.start - shared_pages, shared_pages, tensor(members)))
        own = OwnPages(
            pool=self.pages,
            used=len(self.owners),
            page=tensor([row.pages[row.length // self.page - row.prefill.start] for row in rows]),
            offset=tensor([row.length % self.page for row in rows]),
            owner=tensor(owner),
            number=tensor(number),
            mask=torch.from_numpy(mask).to(self.device)[:, None, None],
            ranks=ranks,
        )
        return Block(slice(0, len(rows)), most, parts, own)

    def _new_page(self, sample: Sample) -> int:
        if self.free:
            page = self.free.pop()
            self.owners[page] = sample
        else:
            page = len(self.owners)
            if page == self.pages.count:
                self.pages.grow(max(8, self.pages.count * 2))
            self.owners.append(sample)
        sample.pages.append(page)
        return page

    def _compact(self) -> None:
        """Move the last pages into free ones, so that those in use come first."""
        self.free.sort()
        while self.free:
            last = len(self.owners) - 1
            if self.free[-1] == last:
                self.free.pop()
            else:
                target, owner = self.free.pop(0), self.owners[last]
                self.pages.copy([target], self.pages, last, self.pages.width)
                owner.pages[owner.pages.index(last)] = target
                self.owners[target] = owner
            self.owners.pop()
