"""Prefix trees: the sequences they contain, their attention masks, their cost, and batches of them."""

import itertools

import numpy as np
import pytest
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.models.encode import common_length, shared_prefix
from alignbench.models.local.tree import attention_mask, cut_into_batches, grow_trees

examples = settings(max_examples=60, deadline=None, database=None, derandomize=True)

# Few token ids, so that sequences share them; of one byte and of several, since their bytes are sorted.
token_ids = st.sampled_from([0, 1, 2, 255, 256, 65_536, 151_000])
token_lists = st.lists(token_ids, min_size=1, max_size=7)
distinct_lists = st.lists(token_lists, min_size=1, max_size=12, unique_by=tuple)
costs = st.sampled_from([0.0, 2.0, 10.0, 60.0, float("inf")])


def tokens_of(*lists):
    return dict(enumerate(np.array(tokens, np.int32) for tokens in lists))


def distinct_prefixes(lists):
    return {tuple(tokens[:end]) for tokens in lists for end in range(1, len(tokens) + 1)}


@pytest.mark.parametrize(("lists", "skip", "tokens", "depths", "ends", "paths"), cases("trees"))
def test_small_trees(lists, skip, tokens, depths, ends, paths):
    (tree,) = grow_trees(tokens_of(*lists), skip)
    assert (tree.tokens.tolist(), tree.depths.tolist(), tree.ends.tolist()) == (tokens, depths, ends)
    assert {index: path.tolist() for index, path in tree.paths.items()} == paths


@examples
@given(distinct_lists, costs, st.integers(1, 30), token_lists)
def test_a_forest_has_every_sequence_once_and_no_other_node_and_keeps_the_size_limit(lists, pairs, largest, prefix):
    """Without the skipped prefix, if there is one."""
    trees = grow_trees(tokens_of(*lists), pairs_per_token=pairs, largest=largest)
    assert sorted(index for tree in trees for index in tree.paths) == list(range(len(lists)))
    for tree in trees:
        for index, path in tree.paths.items():
            assert tree.tokens[path].tolist() == lists[index]
            assert tree.depths[path].tolist() == list(range(len(lists[index])))
        assert len(tree) == len(distinct_prefixes([lists[index] for index in tree.paths]))
        assert set(np.concatenate(list(tree.paths.values())).tolist()) == set(range(len(tree)))
        assert len(tree) <= largest or len(tree.paths) == 1
    longer = tokens_of(*(prefix + tokens for tokens in lists))
    skipped = grow_trees(longer, len(prefix), pairs_per_token=pairs, largest=largest)
    for one, other in zip(skipped, trees, strict=True):
        assert np.array_equal((one.tokens, one.depths, one.ends), (other.tokens, other.depths, other.ends))
        assert list(one.paths) == list(other.paths)


@examples
@given(distinct_lists, costs, st.integers(0, 5))
def test_a_node_attends_to_its_ancestors_and_itself_and_padding_to_itself(lists, pairs_per_token, padding):
    trees = grow_trees(tokens_of(*lists), pairs_per_token=pairs_per_token, largest=30)
    width = max(len(tree) for tree in trees) + padding
    mask = attention_mask(trees, width)
    assert mask.shape == (len(trees), width, width)
    for row, tree in enumerate(trees):
        expected = np.eye(width, dtype=bool)
        for path in tree.paths.values():  # by definition, the nodes before it in a sequence
            for at, node in enumerate(path):
                expected[node, path[: at + 1]] = True
        assert (mask[row] == expected).all()


@examples
@given(distinct_lists, st.sampled_from([0.0, 2.0, 10.0, 60.0]))
def test_trees_never_cost_more_than_the_single_sequences(lists, pairs_per_token):
    def cost(sizes):
        return sum(size * pairs_per_token + size**2 for size in sizes)

    trees = grow_trees(tokens_of(*lists), pairs_per_token=pairs_per_token)
    assert cost(len(tree) for tree in trees) <= cost(len(tokens) for tokens in lists)


def test_the_choices_of_a_question_share_a_tree_and_a_wider_network_shares_more():
    choices = tokens_of(*([*range(100 * q, 100 * q + 60), 50 + c] for c in range(4) for q in range(1, 11)))
    trees = grow_trees(choices, pairs_per_token=6.0 * 768, largest=2_048)
    assert [sorted(tree.paths) for tree in trees] == [[q, 10 + q, 20 + q, 30 + q] for q in range(10)]
    pair = tokens_of([1, 2, 3, 4, *range(10, 40)], [1, 2, 3, 4, *range(50, 80)])
    # together: 64 nodes instead of 2 · 34, so 4 tokens saved for 64² − 2 · 34² = 1,784 pairs
    assert [len(grow_trees(pair, pairs_per_token=pairs)) for pairs in (445.9, 446.1)] == [2, 1]


@examples
@given(token_lists, st.lists(st.lists(token_ids, max_size=4), min_size=1, max_size=5), st.integers(0, 12))
def test_the_shared_prefix_is_the_common_beginning_of_all_sequences_up_to_a_limit(start, rests, longest):
    lists = [start + rest for rest in rests]
    found = shared_prefix(list(tokens_of(*lists).values()), longest)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False))
    assert found.tolist() == [column[0] for column in same][:longest]
    assert common_length(found, np.array(lists[0], np.int32)) == len(found)


@examples
@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 120), st.sampled_from([0, 1, 5, 16, 60]))
def test_batches_are_the_cheapest_cuts_of_the_sorted_rows(sizes, budget, overhead):
    def cost(batches):
        return sum(max(batch) * len(batch) + overhead for batch in batches)

    order, possible = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)), [[]]
    for cuts in itertools.product([False, True], repeat=max(0, len(sizes) - 1)):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(sizes)]
        batches = [[sizes[i] for i in order[a:b]] for a, b in itertools.pairwise(edges) if b]
        if all(len(batch) == 1 or max(batch) * len(batch) <= budget for batch in batches):
            possible.append(batches)
    found = cut_into_batches(sizes, budget, overhead)
    assert [row for batch in found for row in batch] == order
    assert [[sizes[row] for row in batch] for batch in found] in possible
    assert cost([[sizes[row] for row in batch] for batch in found]) == min(map(cost, possible[1:]))
