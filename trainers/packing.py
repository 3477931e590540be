"""The packed row: prompts and responses side by side, each token computed once and seeing its own example alone.

A prompt with several responses is a small tree: the prompt stands in the row once, and every response attends to it
and to itself. The row goes through a stock transformers model with position ids and our attention in place of the
model's, so there is no padding, no attention across examples, and pad tokens cannot be taken for real ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

NAME = "alignbench_training"


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt, at least one, and of its responses, at least one token each."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass(frozen=True, slots=True)
class Group:
    """Segments of the row of about one length, whose attention is one call.

    queries: (segments, longest) columns of the row, the last one repeated where a segment is shorter
    keys: (segments, longest prompt + longest) columns that the queries may see
    mask: (segments, 1, longest, keys) 0 or −∞; None: plainly causal, queries and keys being the same
    real: (segments · longest,) which queries are no repetitions
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor | None
    real: torch.Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """One row of examples.

    tokens, positions: (1, columns)
    order: (columns,) where each column's attention stands among the groups' real queries
    before: (targets,) columns whose output predicts each response token, response after response
    targets: (targets,) those tokens
    last: (responses,) column of each response's last token
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    groups: list[Group]
    order: torch.Tensor
    before: torch.Tensor
    targets: torch.Tensor
    last: torch.Tensor


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> Packed:
    """Lay examples out in one row, in their order."""
    tokens: list[int] = []
    positions: list[int] = []
    before: list[int] = []
    targets: list[int] = []
    last: list[int] = []
    segments: list[tuple[int, int, int, int]] = []  # start and stop of the prompt that it sees, and its own
    for example in examples:
        start, stop = len(tokens), len(tokens) + len(example.prompt)
        tokens += example.prompt
        positions += range(stop - start)
        alone = len(example.responses) == 1  # prompt and response are then one causal segment
        if not alone:
            segments.append((start, start, start, stop))
        for response in example.responses:
            own = len(tokens)
            tokens += response
            positions += range(stop - start, stop - start + len(response))
            before += [stop - 1, *range(own, len(tokens) - 1)]
            targets += response
            last.append(len(tokens) - 1)
            segments.append((start, start, start, len(tokens)) if alone else (start, stop, own, len(tokens)))
    buckets: dict[tuple[bool, int], list[tuple[int, int, int, int]]] = {}
    for segment in segments:
        sees_prompt = segment[1] > segment[0]
        buckets.setdefault((sees_prompt, math.ceil(4 * math.log2(segment[3] - segment[2]))), []).append(segment)
    groups = [_group(bucket, sees_prompt, device) for (sees_prompt, _), bucket in buckets.items()]
    filled = torch.cat([group.queries.flatten()[group.real] for group in groups])
    row = {"tokens": [tokens], "positions": [positions], "before": before, "targets": targets, "last": last}
    tensors = {name: torch.tensor(values, device=device) for name, values in row.items()}
    return Packed(**tensors, groups=groups, order=torch.argsort(filled))


def _group(segments: list[tuple[int, int, int, int]], sees_prompt: bool, device: torch.device | str) -> Group:
    longest = max(stop - start for _, _, start, stop in segments)
    prompt = max(stop - start for start, stop, _, _ in segments)
    step, ahead = np.arange(longest), np.arange(prompt)
    queries = np.stack([np.minimum(start + step, stop - 1) for _, _, start, stop in segments])
    real = np.concatenate([start + step < stop for _, _, start, stop in segments])
    keys, mask = queries, None
    if sees_prompt:
        before = np.stack([np.minimum(start + ahead, stop - 1) for start, stop, _, _ in segments])
        keys = np.concatenate([before, queries], axis=1)
        seen = np.zeros((len(segments), 1, longest, prompt + longest), bool)
        for number, (start, stop, _, _) in enumerate(segments):
            seen[number, :, :, : stop - start] = True
        seen[..., prompt:] = step[None, :] <= step[:, None]
        mask = torch.from_numpy(np.where(seen, np.float32(0), np.float32(-np.inf))).to(device)
    return Group(
        torch.from_numpy(queries).to(device), torch.from_numpy(keys).to(device), mask, torch.from_numpy(real).to(device)
    )


def micro_batches(sizes: Sequence[int], world: int, budget: int) -> list[list[list[int]]]:
    """Share a batch among `world` processes and cut each share: [process][micro-batch] -> places in the batch.

    A micro-batch has about `budget` tokens at most, unless one example alone has more. All processes get the same
    number of micro-batches, since each of their backward passes may wait for the others'.
    """
    shares = [list(range(rank, len(sizes), world)) for rank in range(world)]
    count = max(1, max(math.ceil(sum(sizes[i] for i in share) / budget) for share in shares))
    return [_cut(share, sizes, min(count, min(map(len, shares)))) for share in shares]


def _cut(share: list[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Into `count` parts of about equal sums, longest examples first so that neighbours are of a length."""
    parts: list[list[int]] = []
    left = sorted(share, key=lambda i: (-sizes[i], i))
    for remaining in range(count, 0, -1):
        part: list[int] = []
        goal, size = sum(sizes[i] for i in left) / remaining, 0
        while left and (not part or size + sizes[left[0]] / 2 <= goal) and len(left) >= remaining:
            size += sizes[left[0]]
            part.append(left.pop(0))
        parts.append(part)
    parts[-1] += left
    return parts


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Our attention in the model while open."""
    top, text = model.config, model.config.get_text_config()
    before = [config._attn_implementation for config in (top, text)]
    top._attn_implementation = NAME
    try:
        yield
    finally:
        for config, implementation in zip((top, text), before, strict=True):
            config._attn_implementation = implementation


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    packed: Packed | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in place of its own attention: (1, heads, columns, size) each, rotated already."""
    if packed is None:
        raise ValueError("the model does not pass keyword arguments on to its attention")
    if softcap or any(arguments.get(name) is not None for name in ("s_aux", "position_bias", "head_mask")):
        raise ValueError("attention sinks, biases and soft caps are not supported")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # under autocast rotary positions leave queries and keys in fp32
    q, k, v = (states.squeeze(0).transpose(0, 1).to(value.dtype) for states in (query, key, value))
    found = []
    for group in packed.groups:
        mine, keys, values = (
            states.index_select(0, columns.flatten()).view(*columns.shape, *states.shape[1:]).transpose(1, 2)
            for states, columns in ((q, group.queries), (k, group.keys), (v, group.keys))
        )
        out = _attend(mine, keys, values, group.mask, scale)
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
    # torch's fused kernel multiplies half precision at the rate of fp32 on a CPU
    segments, heads, width, size = query.shape
    grouped = (query * scale).reshape(segments, key.shape[1], -1, size)
    scores = (grouped @ key.transpose(2, 3)).view(segments, key.shape[1], -1, width, key.shape[2])
    if mask is None:
        scores = scores + torch.full((width, width), -torch.inf, dtype=scores.dtype).triu(1)
    else:
        scores = scores + mask.unsqueeze(1).to(scores.dtype)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (weights.view(*grouped.shape[:3], -1) @ value).view(segments, heads, width, -1)


AttentionInterface.register(NAME, _attention)
