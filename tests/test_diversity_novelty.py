"""Classes of equivalent outputs: how they are made, what they are worth, and how uncertain they show a model to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from alignbench.diversity.novelty import classes, distinct_classes, partition, utility
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.diversity.entropy import plug_in
from alignbench.diversity.semantic import semantic_entropy

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=12)


def test_an_output_joins_the_first_class_whose_first_member_it_equals():
    values = [0, 3, 6, 4, 2, 9]
    asked: list[tuple[int, int]] = []

    def near(one: int, two: int) -> bool:
        asked.append((one, two))
        return abs(values[one] - values[two]) <= 3

    # 6 is near 3 but not near 0, the first of 3's class; 4 is near 6, and 2 near 0
    assert classes(near, len(values)) == [0, 0, 1, 1, 0, 1]
    assert asked == [(0, 1), (0, 2), (0, 3), (2, 3), (0, 4), (0, 5), (2, 5)]


def test_what_compares_with_many_at_once_makes_the_same_classes():
    values = [5, 1, 5, 2, 1]
    found = partition(lambda new, firsts: next((c for c, f in enumerate(firsts) if values[f] == values[new]), None), 5)
    assert found == classes(lambda one, two: values[one] == values[two], 5) == [0, 1, 0, 2, 1]
    assert classes(lambda one, two: True, 0) == []


@settings(deadline=None)
@given(LABELS)
def test_an_equivalence_gives_back_its_own_classes_numbered_as_they_appear(labels):
    found = classes(lambda one, two: labels[one] == labels[two], len(labels))
    assert distinct_classes(found) == len(set(labels))
    assert list(dict.fromkeys(found)) == list(range(len(set(labels))))
    assert len(set(zip(found, labels, strict=True))) == len(set(labels))


# Utility


def test_one_class_of_the_highest_score_over_ten_outputs():
    assert utility([0] * 10, [10] * 10) == pytest.approx(2.2406, abs=5e-5)


def test_only_the_first_of_a_class_counts_and_later_ones_count_less():
    weights = np.array([1, 0.8, 0.64])
    assert utility([0, 0, 1], [2, 9, 5]) == pytest.approx((2 + 0.64 * 5) / weights.sum())
    assert utility([0, 1, 1], [2, 9, 5], patience=0.5) == pytest.approx((2 + 0.5 * 9) / 1.75)


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=10), st.floats(0.05, 0.95))
def test_outputs_that_all_differ_are_worth_the_weighted_mean_of_their_scores(scores, patience):
    weights = patience ** np.arange(len(scores))
    expected = float(np.average(scores, weights=weights))
    assert utility(list(range(len(scores))), scores, patience) == pytest.approx(expected)
    assert utility([0] * len(scores), scores, patience) <= expected + 1e-9


def test_a_utility_needs_a_score_of_each_output_and_a_patience():
    assert math.isnan(utility([], []))
    with pytest.raises(ValueError, match="2 labels and 1 scores"):
        utility([0, 1], [3])
    with pytest.raises(ValueError, match="between 0 and 1"):
        utility([0], [3], patience=1)


# Semantic entropy


def test_semantic_entropy_by_hand():
    """Two classes with the probabilities .2 + .1 and .3 (scaled: .5, .5), and .6 against .3."""
    assert semantic_entropy(["a", "a", "b"]) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert semantic_entropy("aab", np.log([0.2, 0.1, 0.3])) == pytest.approx(math.log(2))
    p = 2 / 3
    assert semantic_entropy("ab", np.log([0.6, 0.3])) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


@settings(deadline=None)
@given(LABELS, st.floats(-2000, 0))
def test_equally_likely_outputs_have_the_discrete_entropy(labels, logprob):
    expected = plug_in(np.bincount(labels))
    assert semantic_entropy(labels) == pytest.approx(expected)
    assert semantic_entropy(labels, [logprob] * len(labels)) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-50, 0)), min_size=1, max_size=12))
def test_semantic_entropy_is_between_none_and_that_of_equal_classes(outputs):
    labels, logprobs = [label for label, _ in outputs], [value for _, value in outputs]
    found = semantic_entropy(labels, logprobs)
    assert -1e-12 <= found <= math.log(len(set(labels))) + 1e-9
    merged = semantic_entropy([min(label, 3) for label in labels], logprobs)
    assert merged <= found + 1e-9  # fewer meanings, less uncertainty


def test_one_meaning_is_no_uncertainty_and_no_output_tells_nothing():
    assert semantic_entropy([7, 7, 7], [-1, -2, -3]) == 0
    assert math.isnan(semantic_entropy([]))
    assert math.isnan(semantic_entropy([], []))
    with pytest.raises(ValueError, match="1 labels and 2 log-probabilities"):
        semantic_entropy([0], [-1, -2])
