"""Packed rows: prompts and responses side by side in one row, each token computed once (details 2, 3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface

from alignbench.models.attention import refuse_unsupported

PACKED = "alignbench_training"  # the attention's name in transformers
Segment = tuple[int, int, int, int]  # columns: start and stop of the prompt that it attends to, its own start and stop


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt, at least one, and of its responses, at least one token each."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest response, to be compared with a model's window."""
        return len(self.prompt) + max(map(len, self.responses))


@dataclass(frozen=True, slots=True)
class Group:
    """Segments of similar length, computed by one attention call.

    queries: (segments, longest) columns of the row; shorter segments repeat their last column
    keys: (segments, longest prompt + longest) columns that the queries may attend to
    mask: (segments, 1, longest, keys), 0 or −∞; None: causal, with keys equal to queries
    real: (segments · longest,) which queries are not repetitions
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor | None
    real: torch.Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """A row of examples.

    tokens, positions: (1, columns)
    order: (columns,) index of each column among the real queries of all groups
    before: (targets,) the column whose output predicts each response token, response after response
    targets: (targets,) those tokens
    last: (responses,) the column of each response's last token
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    groups: list[Group]
    order: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor
    last: torch.Tensor


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> Packed:
    """Lay out examples in one row, in their order."""
    tokens, positions, before, targets, last = (list[int]() for _ in range(5))
    segments: list[Segment] = []
    for example in examples:
        start, stop = len(tokens), len(tokens) + len(example.prompt)
        tokens += example.prompt
        positions += range(stop - start)
        single = len(example.responses) == 1  # prompt and response are then one causal segment
        if not single:
            segments.append((start, start, start, stop))
        for response in example.responses:
            own = len(tokens)
            tokens += response
            positions += range(stop - start, stop - start + len(response))
            before += [stop - 1, *range(own, len(tokens) - 1)]
            targets += response
            last.append(len(tokens) - 1)
            segments.append((start, start, start, len(tokens)) if single else (start, stop, own, len(tokens)))
    buckets: dict[tuple[bool, int], list[Segment]] = {}
    for segment in segments:
        kind = segment[1] > segment[0], math.ceil(4 * math.log2(segment[3] - segment[2]))
        buckets.setdefault(kind, []).append(segment)
    groups = [_group(bucket, has_prompt, device) for (has_prompt, _), bucket in buckets.items()]
    filled = torch.cat([group.queries.flatten()[group.real] for group in groups])
    row = {"tokens": [tokens], "positions": [positions], "before": before, "targets": targets, "last": last}
    tensors = {name: torch.tensor(values, device=device) for name, values in row.items()}
    return Packed(**tensors, groups=groups, order=torch.argsort(filled))


def _group(segments: list[Segment], has_prompt: bool, device: torch.device | str) -> Group:
    starts, stops, own_starts, own_stops = np.array(segments).T[..., None]  # (segments, 1) each
    own = np.arange((own_stops - own_starts).max())
    queries = np.minimum(own_starts + own, own_stops - 1)
    keys, mask = queries, None
    if has_prompt:
        prompt = np.arange((stops - starts).max())
        keys = np.concatenate([np.minimum(starts + prompt, stops - 1), queries], axis=1)
        seen = np.zeros((len(segments), 1, len(own), keys.shape[1]), bool)
        seen[..., : len(prompt)] = (prompt < stops - starts)[:, None, None]
        seen[..., len(prompt) :] = own[None, :] <= own[:, None]
        mask = torch.from_numpy(np.where(seen, np.float32(0), np.float32(-np.inf))).to(device)
    real = (own_starts + own < own_stops).flatten()
    queries, keys, real = (torch.from_numpy(array).to(device) for array in (queries, keys, real))
    return Group(queries, keys, mask, real)


def _attention(
    module: torch.nn.Module, *states: torch.Tensor, packed: Packed | None = None, **arguments: Any
) -> tuple[torch.Tensor, None]:
    """Called by transformers in place of its own attention; query, key, value: (1, heads, columns, size), rotated."""
    if packed is None:
        raise ValueError("the model does not pass keyword arguments to its attention")
    refuse_unsupported(arguments)
    if arguments.get("softcap"):
        raise ValueError("attention with soft caps is not supported")
    # under autocast rotary positions leave queries and keys in fp32
    q, k, v = (part.squeeze(0).transpose(0, 1).to(states[2].dtype) for part in states[:3])
    scale, found = arguments.get("scaling"), []
    for group in packed.groups:
        queries, keys, values = (
            part.index_select(0, columns.flatten()).view(*columns.shape, *part.shape[1:]).transpose(1, 2)
            for part, columns in ((q, group.queries), (k, group.keys), (v, group.keys))
        )
        out = _attend(queries, keys, values, group.mask, q.shape[-1] ** -0.5 if scale is None else scale)
        found.append(out.transpose(1, 2).flatten(0, 1)[group.real])
    return torch.cat(found).index_select(0, packed.order).unsqueeze(0), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """(segments, heads, queries, size) over (segments, key heads, keys, size)."""
    if query.device.type != "cpu" or query.dtype.itemsize >= 4:
        mask = mask if mask is None else mask.to(query.dtype)
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
    # on a CPU torch's fused kernel multiplies half precision no faster than fp32
    segments, heads, width, size = query.shape
    grouped = (query * scale).reshape(segments, key.shape[1], -1, size)
    scores = (grouped @ key.transpose(2, 3)).view(segments, key.shape[1], -1, width, key.shape[2])
    causal = torch.full((width, width), -torch.inf).triu(1) if mask is None else mask.unsqueeze(1)
    scores = scores + causal.to(scores.dtype)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (weights.view(*grouped.shape[:3], -1) @ value).view(segments, heads, width, -1)


AttentionInterface.register(PACKED, _attention)
