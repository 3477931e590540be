"""The prefix tree: token sequences laid out so that each token of a shared prefix is computed once.

Pure functions over token ids. Three steps lead from the sequences of a task to batches:

1. `shared_prefix`: the tokens that every sequence begins with (a few-shot prefix); computed once and kept
   as key-value cache.
2. `grow_trees`: what is left becomes a forest. A tree's nodes are tokens in depth-first order; a node attends
   to the shared prefix, to its ancestors and to itself, and stands at the position of its depth.
3. `cut_into_batches`: trees of about the same size become the rows of one batch, padded to the largest.

One tree for a whole task would be the smallest in tokens, but attention inside a tree is quadratic in its
size and most of it is masked away between unrelated branches. `grow_trees` therefore joins a sequence to the
current tree only while the tokens that it saves cost more than the attention that it adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Tree:
    """A row of a batch: the nodes of one prefix tree in depth-first order.

    tokens: (nodes,) token ids
    depths: (nodes,) position of each node in its sequence, the shared prefix not counted
    ends: (nodes,) one past the last node of each node's subtree
    paths: sequence index -> (length,) the nodes that spell that sequence
    """

    tokens: Tokens
    depths: NDArray[np.int32]
    ends: NDArray[np.int32]
    paths: dict[int, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.tokens)


def common_length(a: Tokens, b: Tokens) -> int:
    """Number of leading tokens that two sequences share."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n


def shared_prefix(sequences: Sequence[Tokens], longest: int) -> Tokens:
    """The tokens, at most `longest`, that all the sequences begin with."""
    prefix = sequences[0][:longest]
    for sequence in sequences:
        prefix = prefix[: common_length(prefix, sequence)]
        if not len(prefix):
            break
    return prefix


def grow_trees(sequences: Sequence[Tokens], skip: int, *, pairs_per_token: float, largest: int) -> list[Tree]:
    """Lay distinct sequences out as prefix trees, without their first `skip` tokens.

    pairs_per_token: how many query-key pairs of attention cost as much as one token in the rest of the
        network (about six times the hidden size in a transformer: 24·d² operations a layer for a token,
        4·d for a pair).
    largest: the most nodes of a tree, unless one sequence alone is longer.
    """
    # Big-endian bytes sort as the token ids do; neighbours then share the longest prefixes.
    order = sorted(range(len(sequences)), key=lambda i: sequences[i][skip:].astype(">i4").tobytes())
    trees: list[Tree] = []
    members: list[tuple[int, Tokens, int]] = []  # sequence index, its tokens, tokens shared with the one before
    size = 0
    previous: Tokens | None = None
    for index in order:
        sequence = sequences[index][skip:]
        shared = common_length(previous, sequence) if previous is not None else 0
        joined = size + len(sequence) - shared
        added_pairs = joined**2 - size**2 - len(sequence) ** 2
        if members and (joined > largest or shared * pairs_per_token < added_pairs):
            trees.append(_tree(members))
            members, size, shared, joined = [], 0, 0, len(sequence)
        members.append((index, sequence, shared))
        size, previous = joined, sequence
    if members:
        trees.append(_tree(members))
    return trees


def tree_of(indices: Sequence[int], sequences: Sequence[Tokens], skip: int) -> Tree:
    """Some of the sequences as one tree, whatever its size."""
    (tree,) = grow_trees([sequences[i] for i in indices], skip, pairs_per_token=float("inf"), largest=2**31)
    return Tree(tree.tokens, tree.depths, tree.ends, {indices[i]: path for i, path in tree.paths.items()})


def chain(index: int, sequence: Tokens) -> Tree:
    """A sequence on its own: the tree without branches that the padded path uses."""
    return _tree([(index, sequence, 0)])


def _tree(members: list[tuple[int, Tokens, int]]) -> Tree:
    """Number the nodes of sequences in lexicographic order, each with what it shares with the one before."""
    size = sum(len(sequence) - shared for _, sequence, shared in members)
    tokens = np.empty(size, np.int32)
    depths = np.empty(size, np.int32)
    ends = np.full(size, size, np.int32)
    paths: dict[int, NDArray[np.int32]] = {}
    path = np.empty(0, np.int32)
    start = 0
    for index, sequence, shared in members:
        ends[path[shared:]] = start  # the branch that this sequence leaves is complete
        stop = start + len(sequence) - shared
        tokens[start:stop] = sequence[shared:]
        depths[start:stop] = np.arange(shared, len(sequence))
        path = np.concatenate([path[:shared], np.arange(start, stop, dtype=np.int32)])
        paths[index] = path
        start = stop
    return Tree(tokens, depths, ends, paths)


def cut_into_batches(sizes: Sequence[int], budget: int, overhead: int) -> list[list[int]]:
    """Group rows into batches of at most `budget` padded tokens; a row over the budget gets its own.

    Rows are taken from the largest to the smallest, and the cuts minimise the padded tokens plus `overhead`
    tokens a batch. Returns the rows' indices, batch by batch.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    lengths = np.array([sizes[i] for i in order], np.int64)
    best = np.zeros(len(order) + 1)  # best[j]: least cost of the first j rows
    cut = np.zeros(len(order) + 1, np.int64)  # where the last of their batches begins
    first = 0  # the earliest row that may stand in a batch with row j - 1
    for j in range(1, len(order) + 1):
        while first < j - 1 and lengths[first] * (j - first) > budget:
            first += 1
        begins = np.arange(first, j)
        costs = best[first:j] + lengths[first:j] * (j - begins) + overhead
        k = int(np.argmin(costs))
        best[j], cut[j] = costs[k], first + k
    batches = []
    j = len(order)
    while j:
        batches.append(order[cut[j] : j])
        j = int(cut[j])
    return batches[::-1]


def attention_mask(trees: Sequence[Tree], width: int) -> NDArray[np.bool_]:
    """(rows, width, width): may node i attend to node j of its row? Padding attends to itself alone."""
    ends = np.broadcast_to(np.arange(1, width + 1, dtype=np.int32), (len(trees), width)).copy()
    for row, tree in enumerate(trees):
        ends[row, : len(tree)] = tree.ends
    node = np.arange(width)
    return (node[None, None, :] <= node[None, :, None]) & (node[None, :, None] < ends[:, None, :])
