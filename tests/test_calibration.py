"""Calibration errors of known confidences."""

import math

import numpy as np
import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st

from alignbench.stats.calibration import (
    BINS,
    brier_score,
    confidence,
    error_if_calibrated,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    resampled_error,
)


def test_confidence_is_the_largest_probability_of_the_softmax():
    assert confidence(np.log([0.2, 0.7, 0.1]) - 40) == pytest.approx(0.7)
    assert confidence([1.0, 1.0]) == 0.5


def test_the_error_of_bins_of_equal_size_by_hand():
    """Thirty documents in fifteen bins of two."""
    confidences = np.linspace(0.5, 0.99, 30)
    right = np.tile([1.0, 0.0], 15)
    expected = np.mean([abs(confidences[i : i + 2].mean() - 0.5) for i in range(0, 30, 2)])
    found = expected_calibration_error(confidences[::-1], right[::-1])
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_its_overconfidence():
    random = np.random.default_rng(0)
    confidences = random.uniform(0.5, 1, 20_000)
    right = (random.random(20_000) < confidences).astype(float)
    assert expected_calibration_error(confidences, right, intervals=False).value < 0.015
    wrong = (random.random(20_000) < confidences - 0.2).astype(float)
    assert expected_calibration_error(confidences, wrong, intervals=False).value == pytest.approx(0.2, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60))
def test_the_error_is_between_that_of_all_documents_together_and_of_each_alone(pairs):
    confidences, right = map(np.array, zip(*pairs, strict=True))
    found = expected_calibration_error(confidences, right, intervals=False).value
    assert abs((confidences - right).mean()) - 1e-9 <= found <= abs(confidences - right).mean() + 1e-9


@pytest.mark.parametrize(("groups", "expected"), cases("calibration")["bins"])
def test_constructed_cases_have_exactly_their_error(groups, expected):
    groups = [own for count, *own in groups for _ in range(count)]
    confidences = np.repeat([own for own, _ in groups], 10) + np.arange(10 * BINS) * 1e-12  # in this order
    right = np.concatenate([np.arange(10) < round(10 * accuracy) for _, accuracy in groups]).astype(float)
    assert expected_calibration_error(confidences, right, intervals=False).value == pytest.approx(expected, abs=1e-9)


def test_documents_of_equal_confidence_do_not_depend_on_the_order_of_the_file():
    right = np.repeat([1.0, 0.0], 600)  # sorted by the answer
    confidences = np.full(1200, 0.5)
    assert expected_calibration_error(confidences, right, intervals=False).value < 0.1  # not 0.5
    assert all(0.3 < own.value < 0.7 for _, own in reliability(confidences, right))


def test_with_fewer_documents_than_bins_each_is_a_bin():
    found = expected_calibration_error([0.9, 0.6, 0.7], [1, 0, 1], intervals=False)
    assert found.value == pytest.approx((0.1 + 0.6 + 0.3) / 3)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_expected_error_of_a_calibrated_model_is_that_of_binomial_bins(p, size):
    """Bins of `size` documents of confidence p: E |p - S / size|, S binomial."""
    exact = sum(math.comb(size, s) * p**s * (1 - p) ** (size - s) * abs(p - s / size) for s in range(size + 1))
    found = error_if_calibrated([p] * (BINS * size), draws=20_000)
    assert found == pytest.approx(exact, abs=0.003)
    assert found == error_if_calibrated([p] * (BINS * size), draws=20_000)


def test_certain_confidences_have_no_expected_error():
    assert error_if_calibrated([1.0] * 40) == 0
    assert error_if_calibrated(np.linspace(0.5, 1, 20_000)) < 0.012


def test_brier_score_and_likelihood_of_known_probabilities():
    scores = np.log([0.7, 0.2, 0.1]) - 400  # probabilities of whole texts underflow
    assert brier_score(scores, 0) == pytest.approx(0.09 + 0.04 + 0.01)
    assert brier_score(scores, 2) == pytest.approx(0.49 + 0.04 + 0.81)
    assert negative_log_likelihood(scores, 1) == pytest.approx(-math.log(0.2))
    for k in (2, 4):
        assert brier_score([0.0] * k, 1) == pytest.approx(1 - 1 / k)
        assert negative_log_likelihood([0.0] * k, 1) == pytest.approx(math.log(k))
    assert [brier_score([0.0, -1e4], right) for right in (0, 1)] == [0, 2]


pairs = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60)


@given(pairs)
def test_the_bins_of_the_diagram_add_up_to_the_error(pairs):
    confidences, right = map(np.array, zip(*pairs, strict=True))
    bins = reliability(confidences, right)
    assert sum(own.n for _, own in bins) == len(pairs)
    assert max(own.n for _, own in bins) - min(own.n for _, own in bins) <= 1
    assert [mean for mean, _ in bins] == sorted(mean for mean, _ in bins)
    total = sum(own.n * abs(mean - own.value) for mean, own in bins) / len(pairs)
    assert total == pytest.approx(expected_calibration_error(confidences, right, intervals=False).value, abs=1e-9)
    assert all(own.low <= own.value <= own.high for _, own in bins)


@given(pairs, st.data())
def test_the_error_of_a_resample_is_that_of_its_documents(pairs, data):
    confidences, right = map(np.array, zip(*pairs, strict=True))
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs))))
    counts[0] = max(counts[0], 1)
    rows = np.repeat(np.arange(len(pairs)), counts)
    (found,) = resampled_error(confidences, right)(counts[None, :].astype(float))
    expected = expected_calibration_error(confidences[rows], right[rows], intervals=False).value
    # documents of equal confidence may be in another bin
    if len(set(confidences)) == len(pairs):
        assert found == pytest.approx(expected, abs=1e-9)


def test_documents_of_one_group_are_resampled_together():
    random = np.random.default_rng(0)
    confidences = np.repeat(random.uniform(0.5, 1, 60), 5)
    right = np.repeat((random.random(60) < 0.6).astype(float), 5)  # five copies of each document
    alone = expected_calibration_error(confidences, right)
    together = expected_calibration_error(confidences, right, np.repeat(np.arange(60), 5).tolist())
    assert (together.value, together.clusters, alone.clusters) == (alone.value, 60, 300)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert together.standard_error > 1.5 * alone.standard_error
