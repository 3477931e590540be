"""Calibration errors of known confidences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.stats.calibration import confidence, expected_calibration_error


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
