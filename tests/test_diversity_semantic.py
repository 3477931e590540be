"""Diversity of meaning: published values, exact cases, and equality with the quadratic definitions."""

import math

import diversity_plain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import silhouette_score

from alignbench.diversity import semantic
from alignbench.diversity.entropy import plug_in
from alignbench.diversity.semantic import clusters, mean_pairwise_distance, partition, semantic_entropy, utility, vendi
from alignbench.scorers.embeddings import HashedEmbedder

# whole numbers: rows of zeros and equal rows are frequent, and no length underflows
VECTORS = st.tuples(st.integers(2, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-3, 3).map(float))
)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=12)


def test_published_vendi_scores_and_vendi_in_blocks_equals_that_of_the_whole_kernel():
    points = np.array([0, 0, 10, 10, 20, 20])
    probability = np.exp(-abs(np.subtract.outer(points, points)))
    for kernel, expected in ((probability, 2.9999), ([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]], 2.1573)):
        values, directions = np.linalg.eigh(kernel)
        vectors = directions * np.sqrt(np.maximum(values, 0))  # their cosines are the kernel
        assert vendi(vectors) == pytest.approx(expected, abs=1.1e-4)
    vectors = np.random.default_rng(0).normal(size=(semantic.BLOCK + 300, 12)).astype(np.float32)
    rows = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vendi(vectors) == pytest.approx(diversity_plain.vendi(rows @ rows.T), rel=1e-6)


@given(VECTORS, st.randoms(), st.integers(1, 1000))
def test_vendi_and_distances_equal_their_definitions_for_any_order_and_length_of_the_vectors(vectors, random, scale):
    kernel = diversity_plain.cosines(vectors)
    expected = [1 - np.mean(np.delete(row, i)) for i, row in enumerate(kernel)]
    assert semantic.distances_to_others(vectors) == pytest.approx(np.maximum(expected, 0), abs=1e-9)
    order = list(range(len(vectors)))
    random.shuffle(order)
    turned = vectors[order] * scale
    assert vendi(turned) == pytest.approx(diversity_plain.vendi(kernel), rel=1e-6)
    assert 1 - 1e-9 <= vendi(turned) <= len(vectors) + 1e-9
    assert mean_pairwise_distance(turned) == pytest.approx(diversity_plain.cosine_distance(kernel), abs=1e-9)


def blobs(centres, each, spread):
    points = np.eye(20)[:centres].repeat(each, axis=0)
    return (points + spread * np.random.default_rng(0).normal(size=points.shape)).astype(np.float32)


@pytest.mark.parametrize(("centres", "each"), [(2, 25), (3, 25), (5, 25), (9, 25), (3, semantic.SAMPLE // 3 + 100)])
def test_separate_groups_are_found_with_sklearns_silhouette_also_by_a_sample_of_many_rows(centres, each):
    vectors = blobs(centres, each, 0.05)
    found = clusters(vectors)
    assert found.labels.tolist() == np.repeat(range(centres), each).tolist()
    expected = silhouette_score(semantic.unit(vectors), found.labels, metric="cosine")
    assert found.silhouette == pytest.approx(expected, abs=1e-5 if each == 25 else 0.01)


@pytest.mark.parametrize(
    "vectors", [np.ones((20, 4)), blobs(1, 30, 0.02), np.zeros((5, 4)), np.eye(2), np.ones((1, 3)), np.eye(8)]
)
def test_equal_few_and_unrelated_rows_are_a_single_cluster(vectors):
    found = clusters(vectors)
    assert (found.count, found.labels.any(), math.isnan(found.silhouette)) == (1, False, True)


@pytest.mark.parametrize("shape", [(30, 20), (100, 50), (60, 384)])
@pytest.mark.parametrize("shift", [0, 3])
def test_one_broad_cloud_is_a_single_cluster(shape, shift):
    cloud = np.random.default_rng(0).normal(size=shape) + shift * np.eye(1, shape[1])
    assert clusters(cloud).count == 1


def test_texts_about_different_topics_an_outlier_and_empty_texts_are_clusters():
    draw = np.random.default_rng(1)
    known = [f"{one}{two}{three}" for one in "bdgkl" for two in "aeiou" for three in "mnrst"]
    for number in (1, 2, 3):
        texts = [" ".join(draw.choice(own, 40)) for own in np.array_split(known, number) for _ in range(90 // number)]
        assert clusters(HashedEmbedder().embed(texts)).count == number
    found = clusters(np.vstack([np.tile([1.0, 0, 0], (30, 1)), [[0, 1, 0]]]))
    assert found.labels.tolist() == [0] * 30 + [1]
    found = clusters(np.vstack([np.zeros((4, 5)), np.tile(np.eye(5)[0], (4, 1))]))
    assert (found.labels.tolist(), found.silhouette) == ([0] * 4 + [1] * 4, pytest.approx(1))


@settings(max_examples=8, deadline=None)
@given(VECTORS, st.integers(0, 3))
def test_clusters_are_numbered_in_order_and_determined_by_the_seed(vectors, seed):
    one, two = clusters(vectors, seed), clusters(vectors, seed)
    assert one.labels.tolist() == two.labels.tolist()
    assert list(dict.fromkeys(one.labels.tolist())) == list(range(one.count))
    assert math.isnan(one.silhouette) if one.count == 1 else one.silhouette > 0


def joined(same):
    return lambda new, firsts: next((c for c, first in enumerate(firsts) if same(first, new)), None)


@given(LABELS)
def test_an_output_joins_the_first_class_whose_first_member_it_is_equivalent_to(labels):
    found = partition(joined(lambda one, two: labels[one] == labels[two]), len(labels))
    assert list(dict.fromkeys(found)) == list(range(len(set(labels))))
    assert len(set(zip(found, labels, strict=True))) == len(set(labels))
    values, compared = [0, 3, 6, 4, 2, 9], []

    def near(one, two):
        compared.append((one, two))
        return abs(values[one] - values[two]) <= 3

    # 6 is near 3 but not near 0, the first of 3's class; 4 is near 6, and 2 near 0
    assert partition(joined(near), len(values)) == [0, 0, 1, 1, 0, 1]
    assert compared == [(0, 1), (0, 2), (0, 3), (2, 3), (0, 4), (0, 5), (2, 5)]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=10))
def test_utility_counts_the_first_output_of_a_class_and_discounts_later_ones(scores):
    assert utility([0] * 10, [10] * 10) == pytest.approx(2.2406, abs=5e-5)  # NoveltyBench
    assert utility([0, 0, 1], [2, 9, 5]) == pytest.approx((2 + 0.64 * 5) / (1 + 0.8 + 0.64))
    expected = float(np.average(scores, weights=0.8 ** np.arange(len(scores))))
    assert utility(list(range(len(scores))), scores) == pytest.approx(expected)
    assert utility([0] * len(scores), scores) <= expected + 1e-9


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-50, 0)), min_size=1, max_size=12), st.floats(-2000, 0))
def test_semantic_entropy_is_at_most_that_of_equal_classes_and_decreases_if_classes_merge(outputs, logprob):
    labels, logprobs = map(list, zip(*outputs, strict=True))
    found = semantic_entropy(labels, logprobs)
    assert -1e-12 <= found <= math.log(len(set(labels))) + 1e-9
    assert semantic_entropy([min(label, 3) for label in labels], logprobs) <= found + 1e-9
    expected = plug_in(np.bincount(labels))  # of equally likely outputs
    assert semantic_entropy(labels) == pytest.approx(expected)
    assert semantic_entropy(labels, [logprob] * len(labels)) == pytest.approx(expected, abs=1e-9)


def test_semantic_entropy_by_hand_and_what_has_no_value():
    assert semantic_entropy("aab", np.log([0.2, 0.1, 0.3])) == pytest.approx(math.log(2))  # .2 + .1 and .3
    p = 2 / 3  # .6 and .3, normalised
    assert semantic_entropy("ab", np.log([0.6, 0.3])) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
    one, none = np.ones((1, 3)), np.zeros((0, 3))
    assert np.isnan([semantic_entropy([]), semantic_entropy([], []), utility([], [])]).all()
    assert np.isnan([mean_pairwise_distance(one), mean_pairwise_distance(none), vendi(none)]).all()
    assert vendi(one) == pytest.approx(1)
