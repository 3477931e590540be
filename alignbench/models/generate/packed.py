"""Packed rows: tokens of many sequences in one row through a transformers model, with attention over paged keys.

For a CPU. Attention is computed page by page and combined in order of position, so that the numbers of a token depend,
bit for bit, only on the tokens before it. Matrix products of at least FLOOR rows have the same rows however many they
are, and trailing zeros change nothing in steps of TRIM columns (verified by tests/test_generate.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, PreTrainedModel

from alignbench.models.attention import refuse_unsupported, replaced_attention
from alignbench.models.causal_lm import select_before_head

NAME = "alignbench_packed"
ELEMENTS = 32  # fp32 numbers per iteration of torch's vectorised loops (two vectors of 512 bits)
LARGEST_MULTIPLE = 32  # columns, for widths that have no smaller common multiple
PAGE = 128
TRIM = 32
FLOOR = 4


def trimmed(length: int, page: int) -> int:
    """Columns that `length` tokens occupy in a page."""
    return min(page, -(-length // TRIM) * TRIM)


class Pages:
    """Keys and values: per layer, (pages, heads, width, size) each. A page holds adjacent positions and begins at a
    multiple of its length."""

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
                where = targets[0] if len(targets) == 1 else torch.tensor(targets)
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
    """Pages first … first + count − 1 of a storage, adjacent in a sequence from `number` on.

    columns: the tokens that attend to them, relative to the block
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
        """Store keys and values, and attend: (pages, tokens, heads, group, …) each."""
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
    """The first `used` pages, which belong to one running sample each.

    page, offset: (samples,) where keys and values of the new token are stored
    owner: (used,) the sample of each page; page i belongs to sample i if each has one
    mask: (used, 1, 1, columns) −∞ beyond each page's last token
    """

    pages: Pages
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
        k, v = self.pages.layer(layer, keys, values)
        k[self.page, :, self.offset], v[self.page, :, self.offset] = keys, values
        width = self.mask.shape[-1]
        query = query if self.used == len(query) else query.index_select(0, self.owner)
        return attend(query, k[: self.used, :, :width], v[: self.used, :, :width], self.mask, softcap)


@dataclass(slots=True)
class Block:
    """Adjacent columns of a packed row: tokens of a prompt that lie on one page, or the new tokens of running samples.

    most: maximum number of pages of a sequence; parts: in order of position
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


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    packed: Sequence[Block] = (),
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Called by transformers, with (1, heads, tokens, size) states after rotation; keys and values have fewer heads."""
    refuse_unsupported(arguments)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    tokens, heads, size = q.shape
    grouped = (q * scale).view(tokens, k.shape[1], heads // k.shape[1], size)
    out = q.new_zeros((*grouped.shape[:3], v.shape[2]))
    layer: int = module.layer_idx  # type: ignore[assignment]
    for block in packed:
        at = block.columns
        out[at] = block.attend(layer, grouped[at], k[at], v[at], softcap).to(out.dtype)
    return out.view(1, tokens, heads, -1), None


AttentionInterface.register(NAME, packed_attention)


class PackedModel:
    """A model in evaluation mode that computes packed rows. `tokens_computed` does not count padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tokens_computed = 0
        self._columns: dict[int, tuple[int, int]] = {}  # number of threads -> see `_column_counts`

    @torch.inference_mode()
    def logits(
        self, tokens: NDArray[np.integer], positions: NDArray[np.integer], outputs: list[int], blocks: list[Block]
    ) -> torch.Tensor:
        """Logits (outputs, vocabulary) at the columns `outputs` of a packed row. tokens, positions: (columns,)"""
        self.tokens_computed += len(tokens)
        least, multiple = self._column_counts()
        missing = -(-max(least, len(tokens)) // multiple) * multiple - len(tokens)
        row, places = (torch.from_numpy(np.pad(t.astype(np.int64), (0, missing))[None]) for t in (tokens, positions))
        columns = torch.tensor(outputs + [0] * max(0, max(least, 1) - len(outputs)))
        with replaced_attention(self.model, NAME), select_before_head(self.model, lambda t: t.index_select(1, columns)):
            logits: torch.Tensor = self.model(input_ids=row, position_ids=places, use_cache=False, packed=blocks).logits
        if not blocks[-1].parts[-1].pages.layers:
            raise ValueError("the model does not call its attention through transformers' interface")
        return logits[0, : len(outputs)]

    def _column_counts(self) -> tuple[int, int]:
        """The minimum number of columns, and their multiple, for which a token's numbers do not depend on it on a CPU.

        Products of few rows use other kernels, which sum in another order (tested with the model's own layers), and the
        last elements of each thread's share of an activation function are not vectorised unless they fill two vectors.
        """
        threads = torch.get_num_threads()
        if threads not in self._columns:
            layers: dict[tuple[Any, ...], torch.nn.Module] = {}  # one of each shape
            for module in self.model.modules():
                weight, kind = module._parameters.get("weight"), type(module).__name__
                if kind in ("Linear", "Conv1D") and isinstance(weight, torch.Tensor) and weight.ndim == 2:
                    shape = weight.shape if kind == "Linear" else weight.shape[::-1]  # outputs, inputs
                    layers.setdefault((*shape, kind, getattr(module, "bias", None) is None), module)
            head = self.model.get_output_embeddings()
            shares = ELEMENTS * math.lcm(*range(1, min(threads, 4) + 1))
            outputs = [outputs for (outputs, *_), layer in layers.items() if layer is not head]
            multiple = math.lcm(*(shares // math.gcd(shares, width) for width in outputs))
            least = max((_rows_that_agree(layer, inputs) for (_, inputs, *_), layer in layers.items()), default=1)
            if self.model.dtype.itemsize < 4:  # rounding to half precision hides most differences from the test
                least = max(least, 4 * threads)
            self._columns[threads] = least, min(multiple, LARGEST_MULTIPLE)
        return self._columns[threads]


@torch.inference_mode()
def _rows_that_agree(layer: torch.nn.Module, inputs: int) -> int:
    """The minimum number of rows from which on a layer's output has the same rows as for many."""
    generator, dtype = torch.Generator().manual_seed(0), layer.get_parameter("weight").dtype
    rows = torch.randn((1, 64, inputs), generator=generator).to(dtype)
    whole = layer(rows)
    least = 64
    for count in (48, 32, 24, *range(20, 0, -1)):
        if not torch.equal(layer(rows[:, :count]), whole[:, :count]):
            break
        least = count
    return least
