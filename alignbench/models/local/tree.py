"""Prefix trees: token sequences laid out so that each token of a shared prefix is computed once.

A node attends to the cached prefix of all sequences, its ancestors and itself, and its position is its depth. One tree
for a whole task would have the fewest tokens, but attention is quadratic in its size and mostly masked. A sequence
therefore joins a tree only if the tokens saved cost more than the attention added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignbench.models.encode import Tokens, common_length


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
            trees.append(_tree(members))
            members, shared, joint = [], 0, len(sequence)
        members.append((index, sequence, shared))
        size = joint
    return [*trees, _tree(members)] if members else trees


def chain(index: int, sequence: Tokens) -> Tree:
    """A single sequence: the tree without branches of a padded row."""
    return _tree([(index, sequence, 0)])


def _tree(members: list[tuple[int, Tokens, int]]) -> Tree:
    """Number the nodes of sequences in lexicographic order, each with the tokens shared with the previous one."""
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
    """Group rows into batches of at most `budget` padded tokens; a larger row gets its own batch.

    Rows are taken from the largest to the smallest, and the cuts minimise padded tokens plus `overhead` tokens per
    batch, by dynamic programming. Returns the indices of the rows of each batch.
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


def attention_mask(trees: Sequence[Tree], width: int) -> NDArray[np.bool_]:
    """(rows, width, width): whether node i may attend to node j of its row. Padding attends to itself only."""
    ends = np.broadcast_to(np.arange(1, width + 1, dtype=np.int32), (len(trees), width)).copy()
    for row, tree in enumerate(trees):
        ends[row, : len(tree)] = tree.ends
    node = np.arange(width)
    return (node[None, None, :] <= node[None, :, None]) & (node[None, :, None] < ends[:, None, :])
