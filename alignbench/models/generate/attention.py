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


# Attention over single pages before division by the mass of the softmax: Σ exp(score − highest) · value, (pages, heads,
# queries, size); the highest score, (pages, heads, queries); and the mass Σ exp(score − highest), (pages, heads, queries)
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
class Piece:
    """Adjacent tokens of a prompt that lie on one page.

    start, stop: columns of the packed row
    page: index among the prompt's own pages; offset: of `start` on it
    mask: (tokens, columns of the page up to the last token), causal
    """

    start: int
    stop: int
    page: int
    offset: int
    mask: torch.Tensor


@dataclass(slots=True)
class Segment:
    """Prompt tokens that are computed in one step.

    shared: the pages before its own, of which the first `shared_pages` are whole
    own: the prompt's own pages, some of which may be filled already
    """

    shared: Pages | None
    shared_pages: int
    own: Pages
    pieces: list[Piece]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        softcap: float | None,
        out: torch.Tensor,
    ) -> None:
        """Causal attention of the tokens over the shared pages and its own, into `out`."""
        own_keys, own_values = self.own.layer(layer, keys, values)
        for piece in self.pieces:
            there = slice(piece.offset, piece.offset + piece.stop - piece.start)
            own_keys[piece.page, :, there] = keys[piece.start : piece.stop].transpose(0, 1)
            own_values[piece.page, :, there] = values[piece.start : piece.stop].transpose(0, 1)
        for piece in self.pieces:
            queries = query[piece.start : piece.stop]
            count, heads, group, size = queries.shape
            queries = queries.transpose(0, 1).reshape(1, heads, count * group, size)
            before: list[tuple[torch.Tensor, torch.Tensor]] = []
            if self.shared is not None and self.shared_pages:
                k, v = self.shared.layers[layer]
                before.append((k[: self.shared_pages], v[: self.shared_pages]))
            if piece.page:
                before.append((own_keys[: piece.page], own_values[: piece.page]))
            width = piece.mask.shape[-1]
            mask = piece.mask.repeat_interleave(group, 0) if group > 1 else piece.mask
            last = slice(piece.page, piece.page + 1)
            found = [attend(queries.expand(len(k), -1, -1, -1), k, v, None, softcap) for k, v in before]
            found.append(attend(queries, own_keys[last, :, :width], own_values[last, :, :width], mask, softcap))
            if before:
                weights, masses = page_weights(
                    torch.cat([highest for _, highest, _ in found])[None], torch.cat([mass for _, _, mass in found])[None]
                )
                weights = weights[0].unsqueeze(-1)  # pages, heads, queries, 1
                whole = weights.new_zeros((heads, count * group, values.shape[2]))
                for number, part in enumerate(part for parts in found for part in parts[0]):
                    whole += part * weights[number]
            else:
                whole, masses = found[0][0][0], found[0][2]
            whole = whole / masses[0].unsqueeze(-1)
            out[piece.start : piece.stop] = whole.view(heads, count, group, -1).transpose(0, 1).to(out.dtype)


@dataclass(slots=True)
class Group:
    """Pages that some of the rows share: the first `count`, the first of which is page `first` of these rows."""

    pages: Pages
    count: int
    first: int
    rows: torch.Tensor | slice


@dataclass(slots=True)
class Decode:
    """One new token of each running sample: columns 0 … rows − 1 of the packed row.

    pool: pages that belong to one row each; the first `used` are in use
    page, offset: (rows,) where the new token's keys and values are stored
    owner: (used,) the row of each page; page i belongs to row i if each row has one
    number: (used,) index of the page in its row, counted from position 0
    mask: (used, 1, 1, columns) −∞ beyond each page's last token
    ranks: for each rank, the (rows, pages, numbers) of the rows' own pages of that rank, in order of position
    most: maximum pages of a row, including shared ones
    """

    rows: int
    pool: Pages
    used: int
    page: torch.Tensor
    offset: torch.Tensor
    owner: torch.Tensor
    number: torch.Tensor
    mask: torch.Tensor
    ranks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    most: int
    groups: list[Group] = field(default_factory=list)

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, softcap: float | None
    ) -> torch.Tensor:
        """Attention of one (rows, heads, group, size) query per row over the shared pages and the row's own."""
        k, v = self.pool.layer(layer, keys, values)
        k[self.page, :, self.offset] = keys
        v[self.page, :, self.offset] = values
        width = self.mask.shape[-1]
        own_query = query if self.used == self.rows else query.index_select(0, self.owner)
        own, *own_mass = attend(own_query, k[: self.used, :, :width], v[: self.used, :, :width], self.mask, softcap)
        if self.most == 1:
            return (own / own_mass[1].unsqueeze(-1)).to(query.dtype)
        rows, heads, group, size = query.shape
        highest = own_mass[0].new_full((rows, self.most, heads, group), -torch.inf)
        mass = torch.zeros_like(highest)
        highest[self.owner, self.number], mass[self.owner, self.number] = own_mass
        shared: list[tuple[Group, torch.Tensor]] = []
        for common in self.groups:
            k, v = (t[: common.count] for t in common.pages.layers[layer])
            queries = query[common.rows].transpose(0, 1).reshape(1, heads, -1, size).expand(common.count, -1, -1, -1)
            out, *out_mass = attend(queries, k, v, None, softcap)
            there = slice(common.first, common.first + common.count)
            highest[common.rows, there], mass[common.rows, there] = (
                part.view(common.count, heads, -1, group).permute(2, 0, 1, 3) for part in out_mass
            )
            shared.append((common, out.view(common.count, heads, -1, group, values.shape[2]).transpose(1, 2)))
        weights, masses = page_weights(highest, mass)
        weights = weights.unsqueeze(-1)
        whole = weights.new_zeros((rows, heads, group, values.shape[2]))
        for common, out in shared:
            for number in range(common.count):
                whole[common.rows] += out[number] * weights[common.rows, common.first + number]
        for row, page, numbers in self.ranks:
            whole.index_add_(0, row, own[page] * weights[row, numbers])
        return (whole / masses.unsqueeze(-1)).to(query.dtype)


@dataclass(slots=True)
class Step:
    """One packed row: a token of each running sample, then prompt tokens, then padding.

    calls: number of calls of `attention`, to verify that the model makes them
    """

    decode: Decode | None
    segments: list[Segment]
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
        out = query.new_zeros((tokens, keys.shape[1], heads // keys.shape[1], values.shape[2]))
        if self.decode is not None:
            rows = self.decode.rows
            out[:rows] = self.decode.attend(layer, grouped[:rows], keys[:rows], values[:rows], softcap)
        for segment in self.segments:
            segment.attend(layer, grouped, keys, values, softcap, out)
        return out.view(tokens, heads, values.shape[2])
