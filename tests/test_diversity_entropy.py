"""Entropy and Hill numbers of counts: published values, exact cases, and properties."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from alignbench.diversity.entropy import chao_shen, coverage, hill, plug_in, rarefied_entropy, rarefied_richness

GOLDEN = (4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1)  # of the R package `entropy`
COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any)


def test_published_estimates_of_the_same_counts():
    assert [plug_in(GOLDEN), chao_shen(GOLDEN)] == pytest.approx([1.96838, 2.20114], abs=5e-6)
    assert [hill(GOLDEN, q) for q in (0, 1, 2)] == pytest.approx([8, 7.1591, 6.5636], abs=5e-5)
    assert coverage(GOLDEN) == pytest.approx(17 / 19)


def test_limits():
    for none in ([], [0, 0]):
        found = [plug_in(none), chao_shen(none), coverage(none), hill(none, 1), rarefied_entropy(none, 2)]
        assert np.isnan(found).all()
    for count in (1, 7, 10**9):  # a single value has no entropy
        assert [plug_in([count]), chao_shen([count]), math.copysign(1, plug_in([count]))] == [0, 0, 1]
    # the coverage of n values that occur once is 1 / n, each has p = 1 / n² and is seen with probability 1 − (1 − p)ⁿ
    n, p = 5, 1 / 25
    assert chao_shen([1] * n) == pytest.approx(-n * p * math.log(p) / (1 - (1 - p) ** n))
    assert (coverage([1] * 5), coverage([5])) == (0, 1)
    assert (rarefied_richness(GOLDEN, 1), rarefied_entropy(GOLDEN, 1)) == (pytest.approx(1), 0)
    assert np.isnan([rarefied_richness(GOLDEN, sum(GOLDEN) + 1), rarefied_entropy(GOLDEN, sum(GOLDEN) + 1)]).all()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 16))
def test_rarefaction_is_the_mean_over_all_subsamples(counts, size):
    draws = [value for value, count in enumerate(counts) for _ in range(count)]
    size = min(size, len(draws))
    subsamples = [np.bincount(own) for own in itertools.combinations(draws, size)]
    assert rarefied_richness(counts, size) == pytest.approx(np.mean([hill(own, 0) for own in subsamples]))
    expected = float(np.mean([plug_in(own) for own in subsamples]))
    assert rarefied_entropy(counts, size) == pytest.approx(expected, abs=1e-9)


def test_chao_shen_is_closer_to_the_truth_than_plug_in_if_there_are_many_values():
    draw, values = np.random.default_rng(0), 100
    counts = [np.bincount(draw.integers(0, values, 80), minlength=values) for _ in range(200)]
    errors = [abs(np.mean([estimate(c) for c in counts]) - math.log(values)) for estimate in (plug_in, chao_shen)]
    assert errors[1] < 0.1 < 0.3 < errors[0]


@given(COUNTS, st.lists(st.floats(0, 20), min_size=2, max_size=6), st.randoms())
def test_entropies_and_hill_numbers_of_any_counts(counts, orders, random):
    n, size = sum(counts), min(sum(counts), 40)
    hurlbert = sum(1 - math.comb(n - count, size) / math.comb(n, size) for count in counts)
    assert rarefied_richness(counts, size) == pytest.approx(hurlbert)
    assert plug_in(counts) == pytest.approx(float(scipy_stats.entropy(counts)), abs=1e-12)
    assert chao_shen(counts) >= plug_in(counts) - 1e-9
    found = [hill(counts, q) for q in (0, *sorted(orders))]
    assert all(more >= less * (1 - 1e-6) for more, less in itertools.pairwise(found))  # decreasing in the order
    assert found[0] == pytest.approx(hill([7] * sum(count > 0 for count in counts), orders[0]))  # of equal frequencies
    assert hill(counts, 1) == pytest.approx(math.exp(plug_in(counts)))
    shuffled = [*counts, 0, 0]
    random.shuffle(shuffled)
    for estimate in (plug_in, chao_shen, lambda c: hill(c, 2)):
        assert estimate(shuffled) == pytest.approx(estimate(counts))
