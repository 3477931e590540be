"""Diversity of texts as vectors: published values, exact cases, and the quadratic definitions."""

from __future__ import annotations

import math

import diversity_plain
import numpy as np
import pytest
from alignbench.diversity.vectors import (
    BLOCK,
    SAMPLE,
    clusters,
    distances_to_others,
    mean_pairwise_distance,
    unit,
    vendi,
    vendi_of_kernel,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from alignbench.scorers.embeddings import HashedEmbedder

# whole numbers: rows of zeros and equal rows come often, and no length underflows
VECTORS = st.tuples(st.integers(2, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-3, 3).map(float))
)


def blobs(centres: int, each: int, spread: float, dimensions: int = 20, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    points = np.eye(dimensions)[:centres].repeat(each, axis=0)
    return (points + spread * draw.normal(size=points.shape)).astype(np.float32)


# Vendi


def test_vendi_of_three_pairs_of_points():
    points = np.array([0, 0, 10, 10, 20, 20])
    assert vendi_of_kernel(np.exp(-abs(points[:, None] - points))) == pytest.approx(2.9999, abs=1.1e-4)


def test_vendi_of_two_near_ones_and_another():
    kernel = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])
    assert vendi_of_kernel(kernel) == pytest.approx(2.1573, abs=5e-5)


@pytest.mark.parametrize("kernel", [[[1, 0.5]], [[1, 0.9], [0.1, 1]], [1, 1]])
def test_what_is_no_kernel_is_refused(kernel):
    with pytest.raises(ValueError, match="square symmetric"):
        vendi_of_kernel(kernel)


@settings(deadline=None)
@given(VECTORS)
def test_vendi_by_the_smaller_side_is_vendi_of_the_kernel(vectors):
    assert vendi(vectors) == pytest.approx(vendi_of_kernel(diversity_plain.cosines(vectors)), rel=1e-6)


@settings(deadline=None)
@given(VECTORS)
def test_vendi_is_between_one_and_the_number_of_texts(vectors):
    assert 1 - 1e-9 <= vendi(vectors) <= len(vectors) + 1e-9


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5))
def test_vendi_counts_orthogonal_texts_and_no_copies(texts, copies):
    assert vendi(np.eye(texts).repeat(copies, axis=0)) == pytest.approx(texts)


def test_vendi_in_blocks_equals_vendi_at_once():
    vectors = np.random.default_rng(0).normal(size=(BLOCK + 300, 12)).astype(np.float32)
    assert vendi(vectors) == pytest.approx(vendi_of_kernel(diversity_plain.unit_kernel(vectors)), rel=1e-6)


# Distances


@settings(deadline=None)
@given(VECTORS)
def test_the_linear_mean_distance_is_the_mean_over_all_pairs(vectors):
    assert mean_pairwise_distance(vectors) == pytest.approx(diversity_plain.cosine_distance(vectors), abs=1e-9)


@settings(deadline=None)
@given(VECTORS)
def test_the_mean_distance_is_the_mean_of_each_texts_distance_to_the_others(vectors):
    kernel = diversity_plain.cosines(vectors)
    expected = [1 - np.mean(np.delete(row, i)) for i, row in enumerate(kernel)]
    assert distances_to_others(vectors) == pytest.approx(np.maximum(expected, 0), abs=1e-9)


def test_a_row_of_zeros_is_like_other_such_rows_alone():
    vectors = np.array([[0, 0], [0, 0], [3, 4]], np.float32)
    assert mean_pairwise_distance(vectors) == pytest.approx(2 / 3)
    assert vendi(vectors) == pytest.approx(vendi([[1, 0], [1, 0], [0, 1]]))
    assert mean_pairwise_distance(np.zeros((4, 3))) == 0


def test_too_few_rows_have_no_distance():
    assert math.isnan(mean_pairwise_distance(np.ones((1, 3))))
    assert math.isnan(mean_pairwise_distance(np.zeros((0, 3))))
    assert math.isnan(vendi(np.zeros((0, 3))))
    assert vendi(np.ones((1, 3))) == pytest.approx(1)
    with pytest.raises(ValueError, match="rows of a matrix"):
        unit([1, 2])


@settings(deadline=None)
@given(VECTORS, st.randoms(), st.integers(1, 1000))
def test_neither_order_nor_length_of_vectors_matters(vectors, random, scale):
    order = list(range(len(vectors)))
    random.shuffle(order)
    turned = vectors[order] * scale
    assert vendi(turned) == pytest.approx(vendi(vectors))
    assert mean_pairwise_distance(turned) == pytest.approx(mean_pairwise_distance(vectors), abs=1e-9)


# Clusters


@pytest.mark.parametrize("centres", [2, 3, 7])
def test_clusters_that_stand_apart_are_counted_and_told(centres):
    found = clusters(blobs(centres, 15, 0.03))
    assert found.count == centres
    assert found.labels.tolist() == np.repeat(range(centres), 15).tolist()
    assert found.silhouette > 0.9


def test_the_silhouette_is_scikit_learns_by_cosine():
    from sklearn.metrics import silhouette_score

    vectors = blobs(3, 15, 0.3)
    found = clusters(vectors)
    expected = silhouette_score(vectors, found.labels, metric="cosine")
    assert found.silhouette == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "vectors",
    [np.ones((20, 4)), blobs(1, 30, 0.02), np.zeros((5, 4)), np.eye(2), np.ones((1, 3))],
    ids=["equal", "nearly equal", "nothing", "two", "one"],
)
def test_what_is_nearly_alike_or_too_little_is_one_cluster(vectors):
    found = clusters(vectors)
    assert found.count == 1
    assert not found.labels.any()
    assert math.isnan(found.silhouette)


@pytest.mark.parametrize("shape", [(30, 20), (100, 8), (100, 50), (60, 384), (400, 30)])
@pytest.mark.parametrize("shift", [0, 3])
def test_one_broad_cloud_is_not_cut_into_clusters(shape, shift):
    cloud = np.random.default_rng(0).normal(size=shape)
    cloud[:, 0] += shift
    assert clusters(cloud).count == 1


@pytest.mark.parametrize("vocabularies", [1, 2, 3])
def test_texts_on_one_thing_are_one_cluster_and_on_several_several(vocabularies):
    draw = np.random.default_rng(1)
    known = [f"{one}{two}{three}" for one in "bdgkl" for two in "aeiou" for three in "mnrst"]
    topics = np.array_split(known, vocabularies)
    texts = [" ".join(draw.choice(topic, 40)) for topic in topics for _ in range(90 // vocabularies)]
    assert clusters(HashedEmbedder().embed(texts)).count == vocabularies


def test_texts_that_have_nothing_in_common_are_no_clusters():
    assert clusters(np.eye(8)).count == 1


def test_no_texts_are_no_cluster():
    assert clusters(np.zeros((0, 3))).count == 0


def test_one_that_differs_from_many_that_are_alike_is_a_cluster():
    found = clusters(np.vstack([np.tile([1.0, 0, 0], (30, 1)), [[0, 1, 0]]]))
    assert found.labels.tolist() == [0] * 30 + [1]


def test_empty_texts_are_a_cluster_of_their_own():
    found = clusters(np.vstack([np.zeros((4, 5)), np.tile(np.eye(5)[0], (4, 1))]))
    assert found.labels.tolist() == [0] * 4 + [1] * 4
    assert found.silhouette == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(VECTORS, st.integers(0, 3))
def test_clusters_are_numbered_in_order_and_the_same_at_the_same_seed(vectors, seed):
    one, two = clusters(vectors, seed), clusters(vectors, seed)
    assert one.labels.tolist() == two.labels.tolist()
    assert len(one.labels) == len(vectors)
    assert list(dict.fromkeys(one.labels.tolist())) == list(range(one.count))
    assert math.isnan(one.silhouette) if one.count == 1 else one.silhouette > 0


def test_of_many_texts_a_sample_finds_the_clusters_of_all():
    each = SAMPLE // 3 + 100
    found = clusters(blobs(3, each, 0.05))
    assert found.labels.tolist() == np.repeat(range(3), each).tolist()
