"""Prefix trees, their forward pass through an unmodified transformers model, and a test of whether it supports them.

A node of a tree attends to the cached prefix of all sequences, its ancestors and itself, and its position is its depth:
position ids, and FlexAttention on a GPU, or else a 4-D attention mask and a key-value cache. One tree for a whole task
would have the fewest tokens, but attention is quadratic in its size, so a sequence joins one only if that costs less.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from alignbench.errors import AlignbenchError
from alignbench.models.attention import TREE, Layers, replaced_attention, tree_mask
from alignbench.models.causal_lm import ERRORS, TOLERANCE, devices_of, select_before_head, takes_positions
from alignbench.models.encode import Tokens, common_length

Cell = tuple[int, int]  # (row of the batch, node of its tree)


@dataclass(frozen=True)
class Tree:
    """A row of a batch: the nodes of a prefix tree in depth-first order.

    tokens: (nodes,) token ids
    depths: (nodes,) position of each node in its sequence, not counting the shared prefix
    ends: (nodes,) one past the last node of each node's subtree
    paths: sequence index -> (length,) nodes of that sequence
    """

    tokens: Tokens
    depths: NDArray[np.int32]
    ends: NDArray[np.int32]
    paths: dict[int, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.tokens)


def grow_trees(
    sequences: Mapping[int, Tokens], skip: int = 0, *, pairs_per_token: float = np.inf, largest: float = np.inf
) -> list[Tree]:
    """Lay out distinct sequences as prefix trees, without their first `skip` tokens. The defaults give one tree.

    pairs_per_token: number of query-key pairs of attention that cost as much as one token in the rest of the network
        (about six times the hidden size of a transformer: 24·d² operations per layer for a token, 4·d for a pair)
    largest: maximum nodes of a tree, unless a single sequence is longer
    """
    # Big-endian bytes sort like the token ids; neighbours then share the longest prefixes.
    order = sorted(sequences, key=lambda index: sequences[index][skip:].astype(">i4").tobytes())
    trees: list[Tree] = []
    members: list[tuple[int, Tokens, int]] = []  # sequence index, its tokens, tokens shared with the previous one
    size = 0
    for index in order:
        sequence = sequences[index][skip:]
        shared = common_length(members[-1][1], sequence) if members else 0
        joint = size + len(sequence) - shared
        added_pairs = joint**2 - size**2 - len(sequence) ** 2
        if members and (joint > largest or shared * pairs_per_token < added_pairs):
            trees.append(tree_of(members))
            members, shared, joint = [], 0, len(sequence)
        members.append((index, sequence, shared))
        size = joint
    return [*trees, tree_of(members)] if members else trees


def tree_of(members: list[tuple[int, Tokens, int]]) -> Tree:
    """members: in lexicographic order, each with the tokens shared with the previous one"""
    size = sum(len(sequence) - shared for _, sequence, shared in members)
    tokens, depths, ends = np.empty(size, np.int32), np.empty(size, np.int32), np.full(size, size, np.int32)
    paths: dict[int, NDArray[np.int32]] = {}
    path, start = np.empty(0, np.int32), 0
    for index, sequence, shared in members:
        ends[path[shared:]] = start  # the branch that this sequence leaves is complete
        stop = start + len(sequence) - shared
        tokens[start:stop] = sequence[shared:]
        depths[start:stop] = np.arange(shared, len(sequence))
        paths[index] = path = np.concatenate([path[:shared], np.arange(start, stop, dtype=np.int32)])
        start = stop
    return Tree(tokens, depths, ends, paths)


def cut_into_batches(sizes: Sequence[int], budget: int, overhead: int) -> list[list[int]]:
    """Indices of the rows of batches of at most `budget` padded tokens; a larger row gets its own batch.

    Rows are taken from the largest to the smallest, and the cuts minimise padded tokens plus `overhead` tokens per
    batch, by dynamic programming.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    lengths = np.array([sizes[i] for i in order], np.int64)
    best = np.zeros(len(order) + 1)  # best[j]: lowest cost of the first j rows
    cut = np.zeros(len(order) + 1, np.int64)  # first row of their last batch
    first = 0  # the earliest row that fits in a batch with row j - 1
    for j in range(1, len(order) + 1):
        while first < j - 1 and lengths[first] * (j - first) > budget:
            first += 1
        costs = best[first:j] + lengths[first:j] * (j - np.arange(first, j)) + overhead
        cut[j] = first + np.argmin(costs)
        best[j] = costs.min()
    batches, j = list[list[int]](), len(order)
    while j:
        batches.append(order[cut[j] : j])
        j = int(cut[j])
    return batches[::-1]


def padded_ends(trees: Sequence[Tree], width: int) -> NDArray[np.int64]:
    """(rows, width): the ends of the nodes' subtrees. Each node of padding is a tree of its own."""
    ends = np.tile(np.arange(1, width + 1), (len(trees), 1))
    for row, tree in enumerate(trees):
        ends[row, : len(tree)] = tree.ends
    return ends


def attention_mask(trees: Sequence[Tree], width: int) -> NDArray[np.bool_]:
    """(rows, width, width): whether node i may attend to node j of its row. Padding attends to itself only."""
    ends, node = padded_ends(trees, width), np.arange(width)
    return (node[None, None, :] <= node[None, :, None]) & (node[None, :, None] < ends[:, None, :])


@dataclass(frozen=True)
class Prefix:
    """Tokens that every sequence begins with, and their keys and values per layer, (1, heads, tokens, size)."""

    tokens: Tokens
    layers: Layers

    def __len__(self) -> int:
        return len(self.tokens)


class Forward:
    """A model in evaluation mode and the number of tokens it has computed, not counting padding.

    flex: trees go through FlexAttention, which neither has a mask in memory nor copies the prefix for each row; without
    it, a mask goes through the model's own attention, which is faster on a CPU
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device, *others = devices_of(model)
        self.tokens_computed = 0
        self.flex = self.device.type == "cuda" and not others
        self.cached: Prefix | None = None

    @torch.inference_mode()
    def logits(self, batch: list[Tree], cells: list[Cell], prefix: Prefix | None) -> torch.Tensor:
        """Logits (cells, vocabulary) after the given (row, node) cells of a batch.

        prefix: of the tokens before the trees; None: the rows are single sequences, padded on the right
        """
        width, skip = max(len(t) for t in batch), len(prefix or ())
        tokens, positions, used = (np.full((len(batch), width), fill, np.int64) for fill in (0, skip, 0))
        for row, t in enumerate(batch):
            tokens[row, : len(t)] = t.tokens
            positions[row, : len(t)] += t.depths
            used[row, : len(t)] = 1
        self.tokens_computed += sum(map(len, batch))
        arguments: dict[str, Any] = {"input_ids": self._tensor(tokens), "use_cache": False}
        if prefix is None:
            arguments["attention_mask"] = self._tensor(used)
        else:
            arguments["position_ids"] = self._tensor(positions)
        if prefix is not None and self.flex:
            arguments |= {"tree": tree_mask(self._tensor(padded_ends(batch, width))), "shared": prefix.layers}
        elif prefix is not None:
            # as every attention implementation adds it to its scores: 0 or the lowest finite number
            mask = torch.zeros((len(batch), 1, width, skip + width), dtype=self.model.dtype, device=self.device)
            blocked = torch.from_numpy(~attention_mask(batch, width)).to(self.device)
            mask[:, 0, :, skip:].masked_fill_(blocked, torch.finfo(self.model.dtype).min)
            arguments["attention_mask"] = mask
            if skip:  # the model appends the batch's own keys to copies of these
                rows = (len(batch), -1, -1, -1)
                arguments["past_key_values"] = DynamicCache(
                    [(k.expand(rows), v.expand(rows)) for k, v in prefix.layers]
                )
        attention = replaced_attention(self.model, TREE) if "tree" in arguments else nullcontext()
        with self._head_at(cells), attention:
            logits: torch.Tensor = self.model(**arguments).logits
        return logits[0]

    @torch.inference_mode()
    def prefix(self, tokens: Tokens) -> Prefix:
        """Key-value cache of the shared prefix. The last one is kept, since a task's windows often share it."""
        if self.cached and np.array_equal(tokens, self.cached.tokens):
            return self.cached
        if not len(tokens):
            return Prefix(tokens, [])
        self.tokens_computed += len(tokens)
        cache = DynamicCache()
        with self._head_at([(0, len(tokens) - 1)]):
            self.model(input_ids=self._tensor(tokens[None].astype(np.int64)), past_key_values=cache, use_cache=True)
        self.cached = Prefix(tokens, [(layer.keys, layer.values) for layer in cache.layers])
        return self.cached

    def _head_at(self, cells: list[Cell]) -> AbstractContextManager[Any]:
        """While open, the LM head reads the given cells only, as one row of that many tokens."""
        rows, columns = self._tensor(np.array(cells, np.int64)).T
        return select_before_head(self.model, lambda t: t[rows.to(t.device), columns.to(t.device)].unsqueeze(0))

    def _tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def why_no_tree(forward: Forward, tokens: Tokens) -> str | None:
    """None if a small tree of these tokens gives the log-probabilities of padded rows, or else the reason (such as
    ALiBi, state-space models). Raises AlignbenchError if the model attends to later tokens."""
    kind, limit = forward.model.config.model_type, TOLERANCE[forward.model.dtype]
    tokens = np.resize(tokens, 12)
    prefix, trunk, a, b = np.split(tokens, 4)
    first, second = np.concatenate([prefix, trunk, a]), np.concatenate([prefix, trunk, a[:1], b])
    probes = [first, second, np.concatenate([prefix, b, a])]
    distinct = list({probe.tobytes(): probe for probe in probes}.values())

    def logprobs(batch: list[Tree], cached: Prefix | None) -> list[torch.Tensor]:
        """Of each probe: (tokens after the prefix, vocabulary), in nats."""
        skip = 0 if cached else len(prefix)
        paths = {probe: (row, path[skip:]) for row, t in enumerate(batch) for probe, path in t.paths.items()}
        cells = [(row, int(node)) for row, path in paths.values() for node in path]
        found = torch.log_softmax(forward.logits(batch, cells, cached).float(), -1)
        parts = dict(zip(paths, torch.split(found, [len(path) for _, path in paths.values()]), strict=True))
        return [parts[probe] for probe in range(len(distinct))]

    plain = logprobs([tree_of([(i, probe, 0)]) for i, probe in enumerate(distinct)], None)
    if not np.array_equal(first, second):
        # whole distributions, since a leak may not affect the probabilities of these few tokens
        leak = float((plain[0][:3] - plain[1][:3]).abs().mean())
        if leak > limit:
            change = f"log-probabilities of a prefix change by {leak:.2g} nats with the text after it"
            raise AlignbenchError(f"{kind} is not a causal language model: it attends to later tokens ({change})")
    if not takes_positions(forward.model):
        return f"{kind} takes no position ids"
    reason = None
    while True:
        try:
            found = logprobs(grow_trees(dict(enumerate(distinct)), len(prefix)), forward.prefix(prefix))
            worst = max(float((one - other).abs().mean()) for one, other in zip(found, plain, strict=True))
            # NaN on both sides is no difference
            reason = f"log-probabilities differ by {worst:.2g} nats" if worst > limit else None
        except ERRORS as error:
            reason = type(error).__name__
        if reason is None or not forward.flex:
            return reason and f"{kind} does not support a tree mask ({reason})"
        forward.flex = False
