"""Prefix trees: the sequences they contain, their attention masks, their cost, and batches of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.models.encode import common_length, shared_prefix
from alignbench.models.local.tree import attention_mask, chain, cut_into_batches, grow_trees

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


def common_start(lists):
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False))
    return [column[0] for column in columns]


# ---- exact small cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "skip", "tokens", "depths", "ends", "paths"),
    [
        # two choices after a shared prefix
        (
            [[5, 6, 7, 8], [5, 6, 9]],
            0,
            [5, 6, 7, 8, 9],
            [0, 1, 2, 3, 2],
            [5, 5, 4, 4, 5],
            {0: [0, 1, 2, 3], 1: [0, 1, 4]},
        ),
        # branches below branches, depth first
        (
            [[1, 3], [1, 2, 5], [1, 2, 4, 6], [1, 2, 4, 7]],
            0,
            [1, 2, 4, 6, 7, 5, 3],
            [0, 1, 2, 3, 3, 2, 1],
            [7, 6, 5, 4, 5, 6, 7],
            {2: [0, 1, 2, 3], 3: [0, 1, 2, 4], 1: [0, 1, 5], 0: [0, 6]},
        ),
        # a sequence that is the beginning of another adds no node
        ([[1, 2, 3], [1, 2]], 0, [1, 2, 3], [0, 1, 2], [3, 3, 3], {0: [0, 1, 2], 1: [0, 1]}),
        # sequences without a common token have several roots
        ([[1, 2], [3, 4]], 0, [1, 2, 3, 4], [0, 1, 0, 1], [2, 2, 4, 4], {0: [0, 1], 1: [2, 3]}),
        # skipped tokens are in no tree, and depths begin after them
        ([[9, 9, 1, 2], [9, 9, 1, 3]], 2, [1, 2, 3], [0, 1, 1], [3, 2, 3], {0: [0, 1], 1: [0, 2]}),
    ],
)
def test_small_trees(lists, skip, tokens, depths, ends, paths):
    (tree,) = grow_trees(tokens_of(*lists), skip)
    assert (tree.tokens.tolist(), tree.depths.tolist(), tree.ends.tolist()) == (tokens, depths, ends)
    assert {index: path.tolist() for index, path in tree.paths.items()} == paths


def test_a_chain_is_a_single_sequence_with_its_index():
    tree = chain(7, np.array([4, 4, 2], np.int32))
    assert (len(tree), tree.tokens.tolist(), tree.depths.tolist()) == (3, [4, 4, 2], [0, 1, 2])
    assert tree.ends.tolist() == [3, 3, 3]
    assert {index: path.tolist() for index, path in tree.paths.items()} == {7: [0, 1, 2]}


def test_siblings_do_not_attend_to_each_other_and_padding_attends_to_itself():
    (forked,), (short,) = grow_trees(tokens_of([5, 6, 7], [5, 8])), grow_trees(tokens_of([3, 4]))
    rows = ["10000 11000 11100 10010 00001", "10000 11000 00100 00010 00001"]
    expected = [[[int(cell) for cell in line] for line in row.split()] for row in rows]
    assert attention_mask([forked, short], 5).astype(int).tolist() == expected


# ---- properties of every forest ----------------------------------------------------------------------------


@examples
@given(distinct_lists, costs, st.integers(1, 30))
def test_a_forest_has_every_sequence_once_and_no_other_node_and_keeps_the_size_limit(lists, pairs_per_token, largest):
    trees = grow_trees(tokens_of(*lists), pairs_per_token=pairs_per_token, largest=largest)
    assert sorted(index for tree in trees for index in tree.paths) == list(range(len(lists)))
    for tree in trees:
        for index, path in tree.paths.items():
            assert tree.tokens[path].tolist() == lists[index]
            assert tree.depths[path].tolist() == list(range(len(lists[index])))
        assert len(tree) == len(distinct_prefixes([lists[index] for index in tree.paths]))
        assert set(np.concatenate(list(tree.paths.values())).tolist()) == set(range(len(tree)))
        assert len(tree) <= largest or len(tree.paths) == 1
    (whole,) = grow_trees(tokens_of(*lists))
    assert len(whole) == len(distinct_prefixes(lists))


@examples
@given(distinct_lists, token_lists, costs)
def test_a_skipped_prefix_changes_nothing_in_the_trees(lists, prefix, pairs_per_token):
    bare = grow_trees(tokens_of(*lists), pairs_per_token=pairs_per_token, largest=20)
    longer = tokens_of(*(prefix + tokens for tokens in lists))
    skipped = grow_trees(longer, len(prefix), pairs_per_token=pairs_per_token, largest=20)
    for read in (lambda tree: tree.tokens.tolist(), lambda tree: tree.depths.tolist(), lambda tree: list(tree.paths)):
        assert list(map(read, skipped)) == list(map(read, bare))


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


# ---- the cost of a tree ------------------------------------------------------------------------------------


@examples
@given(distinct_lists, st.sampled_from([0.0, 2.0, 10.0, 60.0]))
def test_trees_never_cost_more_than_the_single_sequences(lists, pairs_per_token):
    def cost(sizes):
        return sum(size * pairs_per_token + size**2 for size in sizes)

    trees = grow_trees(tokens_of(*lists), pairs_per_token=pairs_per_token)
    assert cost(len(tree) for tree in trees) <= cost(len(tokens) for tokens in lists)


def test_the_choices_of_a_question_share_a_tree_and_unrelated_questions_do_not():
    # every text of a tokenizer with a beginning-of-sequence token shares that one
    questions = [[1, *range(100 * i, 100 * i + 60)] for i in range(1, 11)]
    trees = grow_trees(tokens_of(*questions), pairs_per_token=6.0 * 768, largest=2_048)
    assert max(len(tree.paths) for tree in trees) == 1
    choices = tokens_of(*([*question, 50 + c, 50 - c] for c in range(1, 5) for question in questions))
    trees = grow_trees(choices, pairs_per_token=6.0 * 768, largest=2_048)
    assert [len(tree) for tree in trees] == [61 + 4 * 2] * 10
    assert [sorted(tree.paths) for tree in trees] == [[q, 10 + q, 20 + q, 30 + q] for q in range(10)]


def test_a_wider_network_shares_more():
    pair = tokens_of([1, 2, 3, 4, *range(10, 40)], [1, 2, 3, 4, *range(50, 80)])
    # together: 64 nodes instead of 2 · 34, so 4 tokens saved for 64² − 2 · 34² = 1,784 pairs
    assert len(grow_trees(pair, pairs_per_token=445.9)) == 2
    assert len(grow_trees(pair, pairs_per_token=446.1)) == 1


@examples
@given(token_lists, st.lists(st.lists(token_ids, max_size=4), min_size=1, max_size=5), st.integers(0, 12))
def test_the_shared_prefix_is_the_common_beginning_of_all_sequences_up_to_a_limit(start, rests, longest):
    lists = [start + rest for rest in rests]
    tokens = list(tokens_of(*lists).values())
    assert shared_prefix(tokens, longest).tolist() == common_start(lists)[:longest]
    assert common_length(tokens[0], tokens[-1]) == len(common_start([lists[0], lists[-1]]))


# ---- batches -----------------------------------------------------------------------------------------------


@examples
@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 120), st.sampled_from([0, 1, 5, 16, 60]))
def test_batches_are_the_cheapest_cuts_of_the_sorted_rows(sizes, budget, overhead):
    def cost(batches):
        return sum(max(batch) * len(batch) + overhead for batch in batches)

    lengths, possible = sorted(sizes, reverse=True), [[]]
    for cuts in itertools.product([False, True], repeat=max(0, len(sizes) - 1)):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(lengths)]
        batches = [lengths[start:stop] for start, stop in itertools.pairwise(edges) if stop]
        if all(len(batch) == 1 or max(batch) * len(batch) <= budget for batch in batches):
            possible.append(batches)
    found = cut_into_batches(sizes, budget, overhead)
    assert cost([[sizes[row] for row in batch] for batch in found]) == min(map(cost, possible[1:]))


@examples
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 600), st.integers(0, 50))
def test_batches_have_each_row_once_from_the_largest_and_keep_the_budget(sizes, budget, overhead):
    batches = cut_into_batches(sizes, budget, overhead)
    from_the_largest = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    assert [row for batch in batches for row in batch] == from_the_largest
    for batch in batches:
        assert len(batch) == 1 or max(sizes[row] for row in batch) * len(batch) <= budget
