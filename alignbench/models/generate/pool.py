"""The pages of the running samples: their owners, and where a step reads and writes keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alignbench.models.generate.attention import Decode, Group, Pages, trimmed
from alignbench.models.generate.samples import Prefill, Sample


class Pool:
    """Pages that belong to one running sample each.

    page: positions per page; width: positions stored per page, fewer if no sample fills one
    itemsize: bytes per number of the model
    """

    def __init__(self, page: int, width: int, device: torch.device, itemsize: int) -> None:
        self.page = page
        self.width = width
        self.device = device
        self.itemsize = itemsize
        self.pages = Pages(0, width)
        self.owners: list[Sample] = []  # of pages 0, 1, …
        self.free: list[int] = []

    def copy(self, samples: Sequence[Sample], source: Pages, page: int, length: int) -> None:
        """Give each sample a page with a copy of the first `length` positions of a page of `source`."""
        self.pages.copy([self._new_page(sample) for sample in samples], source, page, length)

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

    def release(self, sample: Sample, clear: bool) -> None:
        if clear:
            self.pages.clear(sample.pages)
        self.free += sample.pages
        sample.pages = []

    def _compact(self) -> None:
        """Move the last pages into free ones, so that those in use come first."""
        self.free.sort()
        while self.free:
            last = len(self.owners) - 1
            if self.free[-1] == last:
                self.free.pop()
            else:
                target, owner = self.free.pop(0), self.owners[last]
                self.pages.copy([target], self.pages, last, self.width)
                owner.pages[owner.pages.index(last)] = target
                self.owners[target] = owner
            self.owners.pop()

    def decode(self, rows: list[Sample], prefix: Pages | None, shared_pages: int) -> Decode:
        """Where the keys and values of the running samples are, and where those of their new tokens are stored.

        Sorts the samples by their pages. prefix, shared_pages: what all of them begin with
        """
        for row in rows:
            if row.length // self.page - row.prefill.start >= len(row.pages):
                self._new_page(row)
        self._compact()
        rows.sort(key=lambda row: row.pages[0])
        used = len(self.owners)
        fill, number, owner = (np.zeros(used, np.int64) for _ in range(3))
        for i, row in enumerate(rows):
            numbers = row.prefill.start + np.arange(len(row.pages))
            fill[row.pages] = np.minimum(self.page, row.length + 1 - numbers * self.page)
            number[row.pages] = numbers
            owner[row.pages] = i
        # half-precision products in torch's CPU build copy tensors that are not dense, as trimmed pages are
        dense = self.device.type == "cpu" and self.itemsize < 4
        columns = np.arange(self.width if dense else trimmed(int(fill.max()), self.width))
        mask = np.where(columns < fill[:, None], 0.0, -np.inf).astype(np.float32)

        def tensor(values: object) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.int64)).to(self.device)

        most = max(row.length // self.page for row in rows) + 1
        ranks = []
        for rank in range(max(len(row.pages) for row in rows) if most > 1 else 0):
            members = [i for i, row in enumerate(rows) if rank < len(row.pages)]
            pages = [rows[i].pages[rank] for i in members]
            ranks.append((tensor(members), tensor(pages), tensor(number[pages])))
        groups = [Group(prefix, shared_pages, 0, slice(None))] if prefix is not None and shared_pages else []
        siblings: dict[Prefill, list[int]] = {}
        for i, row in enumerate(rows):
            if row.prefill.start > shared_pages:
                siblings.setdefault(row.prefill, []).append(i)
        for prefill, members in siblings.items():
            assert prefill.own is not None
            groups.append(Group(prefill.own, prefill.start - shared_pages, shared_pages, tensor(members)))
        return Decode(
            rows=len(rows),
            pool=self.pages,
            used=used,
            page=tensor([row.pages[row.length // self.page - row.prefill.start] for row in rows]),
            offset=tensor([row.length % self.page for row in rows]),
            owner=tensor(owner),
            number=tensor(number),
            mask=torch.from_numpy(mask).to(self.device)[:, None, None],
            ranks=ranks,
            most=most,
            groups=groups,
        )
