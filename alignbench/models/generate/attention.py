"""Keys and values in pages of fixed length, and attention over them.

Attention is computed page by page and combined in order of position, so that the numbers of a token depend, bit for
bit, only on the tokens before it. On a CPU, matrix products of at least FLOOR rows have the same rows however many they
are, and trailing zeros change nothing in steps of TRIM columns (verified by tests/test_generate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

PAGE = 128
TRIM = 32
FLOOR = 4


def trimmed(length: int, page: int) -> int:
    """Columns that `length` tokens occupy in a page."""
    return min(page, -(-length // TRIM) * TRIM)


class Pages:
    """Keys and values of `count` pages: per layer, (pages, heads, width, size) of keys and of values.

    A page holds adjacent positions and begins at a multiple of its length.
    """

    def __init__(self, count: int = 0, width: int = 0) -> None:
        self.count = count
        self.width = width
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def layer(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The storage of a layer, created on first use to fit (tokens or pages, heads, …, size) keys and values."""
        if index not in self.layers:
            k, v = (t.new_zeros((self.count, t.shape[1], self.width, t.shape[-1])) for t in (keys, values))
            self.layers[index] = k, v
        return self.layers[index]

    def grow(self, count: int) -> None:
        for index, layer in self.layers.items():
            k, v = (t.new_zeros((count, *t.shape[1:])) for t in layer)  # unused pages take no memory until written
            k[: self.count], v[: self.count] = layer
            self.layers[index] = k, v
        self.count = count

    def copy(self, targets: Sequence[int], source: Pages, page: int, length: int) -> None:
        """Copy the first `length` positions of a page of `source` to each of the target pages."""
        for index, layer in source.layers.items():
            for new, old in zip(self.layer(index, *layer), layer, strict=True):
                where = targets[0] if len(targets) == 1 else torch.tensor(targets, device=new.device)
                new[where, :, :length] = old[page, :, :length]

    def clear(self, page: int) -> None:
        """Set a page to zero: 0 · NaN would be NaN for its next owner."""
        for keys, values in self.layers.values():
            keys[page], values[page] = 0, 0


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, softcap: float | None
) -> tuple[torch.Tensor, ...]:
    """Attention of (pages, heads, queries, size) scaled queries, each over its own page only.

    mask: added to the scores, (…, queries or 1, columns). Returns Σ exp(score − highest) · value, (pages, heads,
    queries, size), the highest score, and the mass Σ exp(score − highest), (pages, heads, queries) each.
    """
    count = query.shape[2]
    if count < FLOOR:
        query = query.repeat(1, 1, FLOOR, 1)[:, :, :FLOOR]
        if mask is not None and mask.shape[-2] > 1:
            mask = mask.repeat(*[1] * (mask.ndim - 2), FLOOR, 1)[..., :FLOOR, :]
    scores = torch.matmul(query, keys.transpose(-1, -2))
    if scores.dtype.itemsize < 4:
        scores = scores.float()
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if mask is not None:
        scores += mask
    highest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    out = torch.matmul(weights.to(values.dtype), values)
    return out[:, :, :count], highest[:, :, :count, 0], weights.sum(-1)[:, :, :count]


# Tokens of a block, one of the pages of each, and the number of that page in the token's sequence
Rank = tuple[Any, Any, Any]


@dataclass(slots=True)
class Part:
    """Adjacent pages that the same tokens of a block attend to.

    pages, first, count: pages first … first + count − 1 of a storage; number: index of the first one in the sequence
    columns: the tokens, relative to the block
    mask: (tokens, columns of the page up to the last token), causal, if the tokens themselves are stored in this single
        page, from `offset` on
    """

    pages: Pages
    first: int
    count: int
    number: int
    columns: torch.Tensor | slice = field(default_factory=lambda: slice(None))
    mask: torch.Tensor | None = None
    offset: int = 0

    @property
    def ranks(self) -> list[Rank]:
        return [(self.columns, page, self.number + page) for page in range(self.count)]

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softcap: float | None
    ) -> list[torch.Tensor]:
        """Store keys and values, and attend; see `attend` for the results, (pages, tokens, heads, group, …) each."""
        k, v = self.pages.layer(layer, keys, values)
        width, mask, group = self.pages.width, self.mask, query.shape[2]
        if mask is not None:
            there = slice(self.offset, self.offset + len(keys))
            k[self.first, :, there], v[self.first, :, there] = keys.transpose(0, 1), values.transpose(0, 1)
            width = mask.shape[-1]
            mask = mask.repeat_interleave(group, 0) if group > 1 else mask
        k, v = (t[self.first : self.first + self.count, :, :width] for t in (k, v))
        queries = query[self.columns].transpose(0, 1).reshape(1, k.shape[1], -1, query.shape[3])
        found = attend(queries.expand(self.count, -1, -1, -1), k, v, mask, softcap)
        return [t.view(self.count, k.shape[1], -1, group, *t.shape[3:]).transpose(1, 2) for t in found]


@dataclass(slots=True)
class OwnPages:
    """Pages that belong to one running sample each, and where their new tokens are stored.

    pool: the pages, of which the first `used` are in use
    page, offset: (samples,) where keys and values of the new token are stored
    owner: (used,) the sample of each page; page i belongs to sample i if each has one
    mask: (used, 1, 1, columns) −∞ beyond each page's last token
    ranks: in order of position
    """

    pool: Pages
    used: int
    page: torch.Tensor
    offset: torch.Tensor
    owner: torch.Tensor
    mask: torch.Tensor
    ranks: list[Rank]

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softcap: float | None
    ) -> tuple[torch.Tensor, ...]:
        """Store keys and values, and attend; (used, heads, group, …) each."""
        k, v = self.pool.layer(layer, keys, values)
        k[self.page, :, self.offset], v[self.page, :, self.offset] = keys, values
        width = self.mask.shape[-1]
        query = query if self.used == len(query) else query.index_select(0, self.owner)
        return attend(query, k[: self.used, :, :width], v[: self.used, :, :width], self.mask, softcap)


@dataclass(slots=True)
class Block:
    """Adjacent tokens of a packed row: those of a prompt that lie on one page, or the new tokens of running samples.

    columns: of the packed row
    most: maximum number of pages of a sequence
    parts: in order of position
    """

    columns: slice
    most: int
    parts: Sequence[Part | OwnPages]

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softcap: float | None
    ) -> torch.Tensor:
        """Attention of (tokens, heads, group, size) scaled queries, with new keys and values (tokens, heads, size)."""
        found = [part.attend(layer, query, keys, values, softcap) for part in self.parts]
        ranks = [(rank, own) for part, own in zip(self.parts, found, strict=True) for rank in part.ranks]
        if self.most == 1:
            (((_, pages, _), (out, _, mass)),) = ranks
            return out[pages] / mass[pages].unsqueeze(-1)
        # −∞, and mass 0, where a token has no such page
        highest = found[0][1].new_full((len(query), self.most, *query.shape[1:3]), -torch.inf)
        mass = torch.zeros_like(highest)
        for (tokens, pages, numbers), own in ranks:
            highest[tokens, numbers], mass[tokens, numbers] = own[1][pages], own[2][pages]
        weights = (highest - highest.amax(1, keepdim=True)).exp_()
        masses = mass * weights
        whole = masses[:, 0].clone()
        for number in range(1, self.most):  # in order, so that pages without weight change nothing
            whole += masses[:, number]
        out = weights.new_zeros((*query.shape[:3], values.shape[2]))
        for (tokens, pages, numbers), own in ranks:
            weighted = own[0][pages] * weights[tokens, numbers].unsqueeze(-1)
            if isinstance(tokens, torch.Tensor):
                out.index_add_(0, tokens, weighted)
            else:
                out[tokens] += weighted
        return out / whole.unsqueeze(-1)


@dataclass(slots=True)
class Step:
    """One packed row. calls: of `attention`, to verify that the model makes them"""

    blocks: list[Block]
    calls: int = 0

    def attention(
        self,
        layer: int,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        softcap: float | None,
    ) -> torch.Tensor:
        """Store the new keys and values, and attend: (tokens, heads, size) each, with grouped keys and values."""
        self.calls += 1
        tokens, heads, size = query.shape
        grouped = (query * scale).view(tokens, keys.shape[1], heads // keys.shape[1], size)
        out = query.new_zeros((*grouped.shape[:3], values.shape[2]))
        for block in self.blocks:
            there = block.columns
            out[there] = block.attend(layer, grouped[there], keys[there], values[there], softcap).to(out.dtype)
        return out.view(tokens, heads, values.shape[2])
