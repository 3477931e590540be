"""Keys and values in pages of fixed length, and attention over them.

A page holds adjacent positions and begins at a multiple of its length. Attention is computed page by page and combined
in order of position, so that the numbers of a token depend, bit for bit, only on the tokens before it: not on what is
computed in the same step, nor on which of those tokens were shared with other samples or computed earlier.
(Matrix products of at least FLOOR rows have the same rows on a CPU however many there are, and trailing zeros change
nothing in steps of TRIM columns; tests/test_generate.py verifies this.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

PAGE = 128
TRIM = 32
FLOOR = 4


def trimmed(length: int, page: int) -> int:
    """Columns that `length` tokens occupy in a page."""
    return min(page, -(-length // TRIM) * TRIM)


class Pages:
    """Keys and values of `count` pages: per layer, (pages, heads, width, size) of keys and of values."""

    def __init__(self, count: int, width: int) -> None:
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
        """Make room for `count` pages."""
        for index, layer in self.layers.items():
            larger = tuple(t.new_zeros((count, *t.shape[1:])) for t in layer)
            for new, old in zip(larger, layer, strict=True):
                new[: self.count] = old[: self.count]
            self.layers[index] = larger[0], larger[1]
        self.count = count

    def copy(self, targets: Sequence[int], source: Pages, page: int, length: int) -> None:
        """Copy the first `length` positions of a page of `source` to each of the target pages."""
        for index, layer in source.layers.items():
            for new, old in zip(self.layer(index, *layer), layer, strict=True):
                where = targets[0] if len(targets) == 1 else torch.tensor(targets, device=new.device)
                new[where, :, :length] = old[page, :, :length]

    def clear(self, pages: Iterable[int]) -> None:
        """Set pages to zero: 0 · NaN would be NaN for their next owner."""
        for page in pages:
            for keys, values in self.layers.values():
                keys[page], values[page] = 0, 0


# Attention over single pages before division by the mass of the softmax: Σ exp(score − highest) · value, (pages,
# heads, queries, size); the highest score and the mass Σ exp(score − highest), (pages, heads, queries) each
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, softcap: float | None
) -> Parts:
    """Attention of (pages, heads, queries, size) scaled queries, each over its own page only.

    mask: added to the scores, (…, queries or 1, columns)
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


def page_weights(highest: torch.Tensor, mass: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The factor of each page's output, (queries, pages, …), and the mass of the whole softmax, (queries, …).

    highest: −∞, and mass 0, where a query has no such page
    """
    weights = (highest - highest.amax(1, keepdim=True)).exp_()
    masses = mass * weights
    whole = masses[:, 0].clone()
    for number in range(1, weights.shape[1]):  # in order, so that pages without weight change nothing
        whole += masses[:, number]
    return weights, whole


@dataclass(slots=True)
class Part:
    """Adjacent pages that tokens of a block attend to.

    pages, first, count: pages first … first + count − 1 of a storage
    number: index of the first one in the sequence
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
    number: (used,) index of the page in its sequence
    mask: (used, 1, 1, columns) −∞ beyond each page's last token
    ranks: for each rank, the (samples, pages, numbers) of the samples' own pages of that rank, in order of position
    """

    pool: Pages
    used: int
    page: torch.Tensor
    offset: torch.Tensor
    owner: torch.Tensor
    number: torch.Tensor
    mask: torch.Tensor
    ranks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softcap: float | None
    ) -> Parts:
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
    parts: pages before those in `own`, in order of position
    """

    columns: slice
    most: int
    parts: list[Part]
    own: OwnPages | None = None

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softcap: float | None
    ) -> torch.Tensor:
        """Attention of (tokens, heads, group, size) scaled queries, with new keys and values (tokens, heads, size)."""
        parts = [part.attend(layer, query, keys, values, softcap) for part in self.parts]
        own = None if self.own is None else self.own.attend(layer, query, keys, values, softcap)
        if self.most == 1:
            out, _, mass = own or [t[0] for t in parts[0]]
            return out / mass.unsqueeze(-1)
        some = parts[0][1] if parts else own[1]  # type: ignore[index]
        highest = some.new_full((len(query), self.most, *query.shape[1:3]), -torch.inf)
        mass = torch.zeros_like(highest)
        for part, found in zip(self.parts, parts, strict=True):
            numbers = slice(part.number, part.number + part.count)
            highest[part.columns, numbers], mass[part.columns, numbers] = (t.transpose(0, 1) for t in found[1:])
        if self.own is not None and own is not None:
            highest[self.own.owner, self.own.number], mass[self.own.owner, self.own.number] = own[1:]
        weights, mass = page_weights(highest, mass)
        weights = weights.unsqueeze(-1)
        whole = weights.new_zeros((*query.shape[:3], values.shape[2]))
        for part, found in zip(self.parts, parts, strict=True):
            for at, out in enumerate(found[0], part.number):
                whole[part.columns] += out * weights[part.columns, at]
        if self.own is not None and own is not None:
            for samples, pages, number in self.own.ranks:
                whole.index_add_(0, samples, own[0][pages] * weights[samples, number])
        return whole / mass.unsqueeze(-1)


@dataclass(slots=True)
class Step:
    """The blocks of one packed row. calls: of `attention`, to verify that the model makes them"""

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
