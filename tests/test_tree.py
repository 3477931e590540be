"""Prefix trees: what they spell, who attends to whom, what they cost, and how they fill batches."""

import itertools

import numpy as np
from alignbench.models.tree import (
    attention_mask,
    chain,
    common_length,
    cut_into_batches,
    grow_trees,
    shared_prefix,
)
from hypothesis import given, settings
from hypothesis import strategies as st

INFINITE = float("inf")
examples = settings(max_examples=80, deadline=None, database=None, derandomize=True)

# Few token ids, so that sequences share; of one byte and of several, since their bytes are what is sorted.
token_ids = st.sampled_from([0, 1, 2, 255, 256, 65_536, 151_000])
token_lists = st.lists(token_ids, min_size=1, max_size=7)
distinct_lists = st.lists(token_lists, min_size=1, max_size=12, unique_by=tuple)
costs = st.sampled_from([0.0, 2.0, 10.0, 60.0, INFINITE])


def tokens_of(*lists):
    return [np.array(tokens, np.int32) for tokens in lists]


def only_tree(*lists, skip=0):
    (tree,) = grow_trees(tokens_of(*lists), skip, pairs_per_token=INFINITE, largest=1_000)
    return tree


def distinct_prefixes(lists):
    return {tuple(tokens[:end]) for tokens in lists for end in range(1, len(tokens) + 1)}


def common_start(lists):
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False))
    return [column[0] for column in columns]


def ancestors_or_selves(tree):
    """By definition: j is above i, or is i, if some sequence passes through j no later than through i."""
    return {(int(i), int(j)) for path in tree.paths.values() for at, i in enumerate(path) for j in path[: at + 1]}


# ---- exact small cases -------------------------------------------------------------------------------------


def test_two_choices_that_share_a_prefix_cost_it_once():
    tree = only_tree([5, 6, 7, 8], [5, 6, 9])
    assert tree.tokens.tolist() == [5, 6, 7, 8, 9]
    assert tree.depths.tolist() == [0, 1, 2, 3, 2]
    assert tree.ends.tolist() == [5, 5, 4, 4, 5]
    assert {index: path.tolist() for index, path in tree.paths.items()} == {0: [0, 1, 2, 3], 1: [0, 1, 4]}


def test_branches_below_branches_are_numbered_depth_first():
    tree = only_tree([1, 3], [1, 2, 5], [1, 2, 4, 6], [1, 2, 4, 7])
    assert tree.tokens.tolist() == [1, 2, 4, 6, 7, 5, 3]
    assert tree.depths.tolist() == [0, 1, 2, 3, 3, 2, 1]
    assert tree.ends.tolist() == [7, 6, 5, 4, 5, 6, 7]
    assert {index: path.tolist() for index, path in tree.paths.items()} == {
        2: [0, 1, 2, 3],
        3: [0, 1, 2, 4],
        1: [0, 1, 5],
        0: [0, 6],
    }


def test_a_sequence_that_begins_another_adds_no_node():
    tree = only_tree([1, 2, 3], [1, 2])
    assert tree.tokens.tolist() == [1, 2, 3]
    assert tree.ends.tolist() == [3, 3, 3]
    assert tree.paths[1].tolist() == [0, 1]


def test_sequences_without_a_common_token_are_a_forest_of_several_roots():
    tree = only_tree([1, 2], [3, 4])
    assert tree.depths.tolist() == [0, 1, 0, 1]
    assert tree.ends.tolist() == [2, 2, 4, 4]


def test_skipped_tokens_are_in_no_tree_and_depths_begin_behind_them():
    tree = only_tree([9, 9, 1, 2], [9, 9, 1, 3], skip=2)
    assert tree.tokens.tolist() == [1, 2, 3]
    assert tree.depths.tolist() == [0, 1, 1]
    assert tree.paths[1].tolist() == [0, 2]


def test_a_chain_is_a_sequence_alone_under_its_own_index():
    tree = chain(7, np.array([4, 4, 2], np.int32))
    assert (len(tree), tree.tokens.tolist(), tree.depths.tolist()) == (3, [4, 4, 2], [0, 1, 2])
    assert tree.ends.tolist() == [3, 3, 3]
    assert {index: path.tolist() for index, path in tree.paths.items()} == {7: [0, 1, 2]}


def test_siblings_do_not_see_each_other_and_padding_sees_itself():
    forked, short = only_tree([5, 6, 7], [5, 8]), only_tree([3, 4])
    assert attention_mask([forked, short], 5).astype(int).tolist() == [
        [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 0, 0, 1, 0],
            [0, 0, 0, 0, 1],
        ],
        [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 0, 1, 0],
            [0, 0, 0, 0, 1],
        ],
    ]


# ---- what every tree keeps ---------------------------------------------------------------------------------


@examples
@given(distinct_lists, costs, st.integers(1, 30))
def test_every_sequence_is_in_one_tree_and_spelt_by_its_path(lists, pairs_per_token, largest):
    trees = grow_trees(tokens_of(*lists), 0, pairs_per_token=pairs_per_token, largest=largest)
    assert sorted(index for tree in trees for index in tree.paths) == list(range(len(lists)))
    for tree in trees:
        for index, path in tree.paths.items():
            assert tree.tokens[path].tolist() == lists[index]
            assert tree.depths[path].tolist() == list(range(len(lists[index])))


@examples
@given(distinct_lists, costs, st.integers(1, 30))
def test_no_tree_has_a_node_that_spells_nothing(lists, pairs_per_token, largest):
    for tree in grow_trees(tokens_of(*lists), 0, pairs_per_token=pairs_per_token, largest=largest):
        assert len(tree) == len(distinct_prefixes([lists[index] for index in tree.paths]))
        assert set(np.concatenate(list(tree.paths.values())).tolist()) == set(range(len(tree)))


@examples
@given(distinct_lists)
def test_one_tree_of_everything_has_a_node_for_each_distinct_prefix(lists):
    (tree,) = grow_trees(tokens_of(*lists), 0, pairs_per_token=INFINITE, largest=2**30)
    assert len(tree) == len(distinct_prefixes(lists))


@examples
@given(distinct_lists, token_lists, costs)
def test_a_skipped_prefix_changes_nothing_in_the_trees(lists, prefix, pairs_per_token):
    bare = grow_trees(tokens_of(*lists), 0, pairs_per_token=pairs_per_token, largest=20)
    longer = tokens_of(*(prefix + tokens for tokens in lists))
    skipped = grow_trees(longer, len(prefix), pairs_per_token=pairs_per_token, largest=20)
    assert [tree.tokens.tolist() for tree in skipped] == [tree.tokens.tolist() for tree in bare]
    assert [tree.depths.tolist() for tree in skipped] == [tree.depths.tolist() for tree in bare]
    assert [list(tree.paths) for tree in skipped] == [list(tree.paths) for tree in bare]


@examples
@given(distinct_lists, costs, st.integers(1, 20))
def test_only_a_sequence_that_alone_is_too_long_makes_a_tree_too_large(lists, pairs_per_token, largest):
    for tree in grow_trees(tokens_of(*lists), 0, pairs_per_token=pairs_per_token, largest=largest):
        assert len(tree) <= largest or len(tree.paths) == 1


@examples
@given(distinct_lists, costs, st.integers(0, 5))
def test_a_node_attends_to_its_ancestors_and_itself_and_padding_to_itself(lists, pairs_per_token, padding):
    trees = grow_trees(tokens_of(*lists), 0, pairs_per_token=pairs_per_token, largest=30)
    width = max(len(tree) for tree in trees) + padding
    mask = attention_mask(trees, width)
    assert mask.shape == (len(trees), width, width)
    for row, tree in enumerate(trees):
        expected = np.eye(width, dtype=bool)
        for i, j in ancestors_or_selves(tree):
            expected[i, j] = True
        assert (mask[row] == expected).all()


# ---- what joining costs ------------------------------------------------------------------------------------


@examples
@given(distinct_lists, st.sampled_from([0.0, 2.0, 10.0, 60.0]))
def test_trees_never_cost_more_than_the_sequences_alone(lists, pairs_per_token):
    def cost(sizes):
        return sum(size * pairs_per_token + size**2 for size in sizes)

    trees = grow_trees(tokens_of(*lists), 0, pairs_per_token=pairs_per_token, largest=2**30)
    assert cost(len(tree) for tree in trees) <= cost(len(tokens) for tokens in lists)


def test_unrelated_sequences_that_share_a_first_token_are_not_joined():
    # every text of a tokenizer with a beginning-of-sequence token shares that one
    unrelated = tokens_of(*([1, *range(100 * i, 100 * i + 60)] for i in range(1, 41)))
    trees = grow_trees(unrelated, 0, pairs_per_token=6.0 * 768, largest=2_048)
    assert max(len(tree.paths) for tree in trees) == 1


def test_the_choices_of_a_question_are_joined_and_the_questions_are_not():
    questions = [[1, *range(100 * i, 100 * i + 60)] for i in range(1, 11)]
    choices = tokens_of(*([*question, 50 + c, 50 - c] for c in range(1, 5) for question in questions))
    trees = grow_trees(choices, 0, pairs_per_token=6.0 * 768, largest=2_048)
    assert [len(tree) for tree in trees] == [61 + 4 * 2] * 10
    assert [sorted(tree.paths) for tree in trees] == [[q, 10 + q, 20 + q, 30 + q] for q in range(10)]


def test_a_wider_network_joins_what_a_narrow_one_keeps_apart():
    pair = tokens_of([1, 2, 3, 4, *range(10, 40)], [1, 2, 3, 4, *range(50, 80)])
    # joined: 64 nodes instead of 2 · 34, so 4 tokens saved for 64² - 2 · 34² = 1,784 pairs
    assert len(grow_trees(pair, 0, pairs_per_token=445.9, largest=2_048)) == 2
    assert len(grow_trees(pair, 0, pairs_per_token=446.1, largest=2_048)) == 1


# ---- shared prefix -----------------------------------------------------------------------------------------


@examples
@given(token_lists, st.lists(st.lists(token_ids, max_size=4), min_size=1, max_size=5), st.integers(0, 12))
def test_the_shared_prefix_is_what_all_sequences_begin_with_up_to_a_limit(start, rests, longest):
    lists = [start + rest for rest in rests]
    found = shared_prefix(tokens_of(*lists), longest)
    assert found.tolist() == common_start(lists)[:longest]


@examples
@given(token_lists, token_lists)
def test_common_length_counts_the_leading_tokens_that_two_sequences_share(a, b):
    assert common_length(*tokens_of(a, b)) == len(common_start([a, b]))


# ---- batches -----------------------------------------------------------------------------------------------


def cheapest(lengths, budget, overhead):
    """The least cost of all ways to cut sorted rows into neighbours that fit the budget."""
    best = INFINITE
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(lengths)]
        batches = [lengths[start:stop] for start, stop in itertools.pairwise(edges)]
        if all(len(batch) == 1 or max(batch) * len(batch) <= budget for batch in batches):
            best = min(best, sum(max(batch) * len(batch) + overhead for batch in batches))
    return best


@examples
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 120),
    st.sampled_from([0, 1, 5, 16, 60]),
)
def test_batches_are_the_cheapest_cuts_of_the_sorted_rows(sizes, budget, overhead):
    batches = cut_into_batches(sizes, budget, overhead)
    cost = sum(max(sizes[row] for row in batch) * len(batch) + overhead for batch in batches)
    assert cost == cheapest(sorted(sizes, reverse=True), budget, overhead)


@examples
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 600), st.integers(0, 50))
def test_batches_hold_each_row_once_from_the_largest_and_keep_the_budget(sizes, budget, overhead):
    batches = cut_into_batches(sizes, budget, overhead)
    from_the_largest = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    assert [row for batch in batches for row in batch] == from_the_largest
    for batch in batches:
        assert len(batch) == 1 or max(sizes[row] for row in batch) * len(batch) <= budget


def test_a_batch_of_its_own_is_worth_its_overhead_only_where_it_saves_more_padding():
    assert cut_into_batches([10, 2, 2], 100, overhead=15) == [[0], [1, 2]]  # 10 + 4 + 30 against 30 + 15
    assert cut_into_batches([10, 2, 2], 100, overhead=17) == [[0, 1, 2]]  # 10 + 4 + 34 against 30 + 17
    assert cut_into_batches([], 100, overhead=1) == []
