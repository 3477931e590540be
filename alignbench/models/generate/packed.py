"""Packed rows: tokens of many sequences in one row of a transformers model, which attend to pages of keys. For a CPU.

Attention is computed page by page and combined in order of position, so that the numbers of a token depend,
bit for bit, only on the tokens before it. Matrix products of at least FLOOR rows have the same rows however many they
are, and trailing zeros change nothing in steps of TRIM columns (verified by tests/test_generate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from alignbench.models.attention import refuse_unsupported

NAME = "alignbench_packed"
TRIM = 32
FLOOR = 4
Places = NDArray[np.int64]


def trimmed(length: int, page: int) -> int:
    """Columns that `length` tokens occupy in a page."""
    return min(page, -(-length // TRIM) * TRIM)


class Pages:
    """Keys and values of `count` pages: per layer, (pages, heads, width, size) each. A page holds adjacent positions
    and begins at a multiple of its length. dense: all columns are read, since a part of them would be copied, as
    half-precision products in torch's CPU build do"""

    def __init__(self, count: int = 0, width: int = 0, dense: bool = False) -> None:
        self.count, self.width, self.dense = count, width, dense
        self.layers: dict[int, list[Tensor]] = {}

    def layer(self, index: int, *states: Tensor) -> list[Tensor]:
        """Keys and values of a layer with room for all pages. states: (tokens or pages, heads, …, size)"""
        found = self.layers.get(index) or [t.new_zeros((0, t.shape[1], self.width, t.shape[-1])) for t in states]
        if (missing := self.count - len(found[0])) > 0:
            found = [nn.functional.pad(t, (*[0] * 7, max(missing, len(t)))) for t in found]
        self.layers[index] = found
        return found

    def copy(self, targets: Sequence[int], source: Pages, page: int, length: int) -> None:
        """Copy the first `length` positions of a page of `source` to each of the target pages."""
        for index, layer in source.layers.items():
            for new, old in zip(self.layer(index, *layer), layer, strict=True):
                new[targets, :, :length] = old[page, :, :length]


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, softcap: float | None
) -> tuple[Tensor, ...]:
    """Attention of (pages, heads, queries, size) scaled queries, each over its own page only.

    mask: (pages, queries, columns), added to the scores. Returns Σ exp(score − highest) · value, (pages, heads,
    queries, size), the mass Σ exp(score − highest), and the highest score, (pages, heads, queries) each.
    """
    count = query.shape[2]
    if count < FLOOR:
        query = nn.functional.pad(query, (0, 0, 0, FLOOR - count))
        mask = None if mask is None else nn.functional.pad(mask, (0, 0, 0, FLOOR - count))
    scores = torch.matmul(query, keys.transpose(-1, -2))
    if scores.dtype.itemsize < 4:
        scores = scores.float()
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if mask is not None:
        scores += mask[:, None]
    highest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    out = torch.matmul(weights.to(values.dtype), values)
    return out[:, :, :count], weights.sum(-1)[:, :, :count], highest[:, :, :count, 0]


class Part:
    """Adjacent pages of a storage from `first` on, and the tokens of a block that attend to them.

    numbers: (pages,) of each page in its sequence; tokens: the same for all pages, or one for each, (pages, 1)
    positions: of the block's tokens
    """

    def __init__(
        self, pages: Pages, page: int, numbers: Places, tokens: Places, positions: Places, first: int = 0
    ) -> None:
        last = positions[np.atleast_2d(tokens)] - page * numbers[:, None]  # column that a token sees, (pages, tokens)
        width = pages.width if pages.dense else trimmed(int(last.max()) + 1, pages.width)
        self.pages, self.which = pages, (slice(first, first + len(numbers)), slice(None), slice(width))
        self.tokens, self.numbers = torch.from_numpy(np.atleast_2d(tokens)), torch.from_numpy(numbers[:, None])
        self.mask: Tensor | None = None
        if last.min() < width - 1:
            seen = np.arange(width) <= last[..., None]
            self.mask = torch.from_numpy(np.where(seen, np.float32(0), np.float32(-np.inf)))


@dataclass(slots=True)
class Block:
    """Adjacent columns of a packed row: tokens of a prompt that lie on one page, or the new tokens of running samples.

    parts: what the tokens attend to; keys and values of the tokens are stored in the pages of the last one
    where, offset: (tokens,) page and column in which each token is stored
    most: maximum number of pages of a sequence
    """

    columns: slice
    parts: Sequence[Part]
    where: Tensor
    offset: Tensor
    most: int

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, softcap: float | None) -> Tensor:
        """Attention of (tokens, heads, group, size) scaled queries, with new keys and values (tokens, heads, size)."""
        for stored, own in zip(self.parts[-1].pages.layer(layer, keys, values), (keys, values), strict=True):
            stored[self.where, :, self.offset] = own
        tokens, heads, group, _ = query.shape
        # of each page of a token's sequence; −∞, and mass 0, where there is none
        dtype = torch.promote_types(query.dtype, torch.float32)
        highest = torch.full((tokens, self.most, heads, group), -torch.inf, dtype=dtype)
        sums, masses = highest.new_zeros((*highest.shape, values.shape[2])), torch.zeros_like(highest)
        for part in self.parts:
            k, v = (states[part.which] for states in part.pages.layer(layer, keys, values))
            own = query[part.tokens].transpose(1, 2).flatten(2, 3).expand(len(k), -1, -1, -1)
            mask = part.mask if part.mask is None or group == 1 else part.mask.repeat_interleave(group, 1)
            for target, found in zip((sums, masses, highest), attend(own, k, v, mask, softcap), strict=True):
                split = found.view(*found.shape[:2], -1, group, *found.shape[3:])
                target[part.tokens, part.numbers] = split.transpose(1, 2).to(dtype)
        if self.most == 1:
            return sums[:, 0] / masses[:, 0, ..., None]
        weights = (highest - highest.amax(1, keepdim=True)).exp_()
        out, whole = sums[:, 0] * weights[:, 0, ..., None], masses[:, 0] * weights[:, 0]
        for number in range(1, self.most):  # in order, so that pages without weight change nothing
            out += sums[:, number] * weights[:, number, ..., None]
            whole += masses[:, number] * weights[:, number]
        return out / whole[..., None]


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """Called by transformers, with (1, heads, tokens, size) states after rotation; keys and values have fewer heads."""
    refuse_unsupported(given)
    scaling, softcap = given.get("scaling"), given.get("softcap")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    tokens, heads, size = q.shape
    grouped = (q * scale).view(tokens, k.shape[1], heads // k.shape[1], size)
    out = q.new_zeros((*grouped.shape[:3], v.shape[2]))
    layer: int = module.layer_idx  # type: ignore[assignment]
    for block in given["packed"]:
        at = block.columns
        out[at] = block.attend(layer, grouped[at], k[at], v[at], softcap).to(out.dtype)
    return out.view(1, tokens, heads, -1), None


AttentionInterface.register(NAME, packed_attention)
