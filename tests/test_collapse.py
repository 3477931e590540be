"""Collapse of answers: classes of one prompt, branching factors, and homogeneity of one model and of two."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.audit.diversity import compare
from alignbench.audit.systems import System
from alignbench.diversity.entropy import hill
from alignbench.diversity.semantic import class_numbers, shared_class
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.scorers.equivalence import load_embedding
from alignbench.stats import estimates
from alignbench.tasks import diversity, find_task
from alignbench.tasks.token_entropy import branching_factors, resampled_branching_factors
from alignbench.types.record import Document, Output, Record

DOCUMENT = Document("a", "Name an animal.")
LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=12)


def test_exact_cases():
    # two classes of five: two effective answers, 20 of the 45 pairs are in one class
    assert class_numbers([0, 1] * 5) == pytest.approx(
        {"classes": 2, "effective_answers": 2, "single_cluster_rate": 0, "same_class": 20 / 45}
    )
    assert class_numbers([0] * 10) == {"classes": 1, "effective_answers": 1, "single_cluster_rate": 1, "same_class": 1}
    # proportions ½, ¼, ¼: 1.5 bits, 2^1.5 effective answers
    assert class_numbers("aabc")["effective_answers"] == pytest.approx(2**1.5)
    assert class_numbers("a") == {"classes": 1, "effective_answers": 1}
    assert class_numbers("") == {}
    assert shared_class("aab", "abcc") == pytest.approx((2 * 1 + 1 * 1) / 12)
    assert math.isnan(shared_class("", "a"))


@given(LABELS, LABELS)
def test_class_numbers_are_those_of_all_pairs_and_lie_between_their_bounds(one, other):
    found = class_numbers(one)
    pairs = [a == b for i, a in enumerate(one) for j, b in enumerate(one) if i != j]
    assert found["same_class"] == pytest.approx(np.mean(pairs))
    assert found["effective_answers"] * (1 + 1e-12) >= 1
    assert found["effective_answers"] <= found["classes"] * (1 + 1e-12) <= len(one) * (1 + 1e-12)
    assert (found["single_cluster_rate"] == 1) == (found["same_class"] == 1) == (found["classes"] == 1)
    assert found["effective_answers"] == pytest.approx(hill(np.unique(one, return_counts=True)[1], 1))
    assert shared_class(one, other) == pytest.approx(np.mean([a == b for a in one for b in other]))
    assert shared_class(one, other) == shared_class(other, one)


def classified(*labels):
    return [Output(f"answer {n}", scores={"equivalence": {"class": label}}) for n, label in enumerate(labels)]


def test_tasks_report_the_numbers_of_classes_and_nan_if_the_scorer_failed():
    names = {"semantic_entropy_discrete", "effective_answers", "single_cluster_rate"}
    for task, score in (("novelty_bench", diversity.score_novelty), ("diversity", diversity.score_per_input)):
        found = score(DOCUMENT, classified(0, 0, 1, 2))
        assert (found["single_cluster_rate"], found["effective_answers"]) == (0, pytest.approx(2**1.5))
        assert score(DOCUMENT, classified(0, 0, 0))["single_cluster_rate"] == 1
        assert "single_cluster_rate" not in score(DOCUMENT, classified(0))
        failed = score(DOCUMENT, [Output("a"), Output("b")])
        assert all(math.isnan(failed[name]) for name in names)
        metrics = {metric.name: metric for metric in find_task(task).metrics}
        assert names <= metrics.keys()
        assert (metrics["single_cluster_rate"].better, metrics["single_cluster_rate"].binary) == ("lower", True)


def entropies(*texts):
    return [Record(str(n), "", metrics={"entropy": sum(own) / len(own), "entropy_1": own[0]} |
                   ({"entropy_2_8": own[1]} if len(own) > 1 else {})) for n, own in enumerate(texts)]  # fmt: skip


def test_the_branching_factor_is_the_power_of_the_mean_entropy_also_when_resampled():
    records = entropies((3.0, 1.0), (1.0,), (2.0, 2.0))
    found = {metric.name: estimate for metric, estimate in branching_factors(records, True)}
    assert found.keys() == {"branching_factor", "branching_factor_1", "branching_factor_2_8"}
    assert found["branching_factor_1"].value == pytest.approx(4)  # a mean of 2 bits: exp(2 ln 2)
    assert found["branching_factor"].value == pytest.approx(2 ** (5 / 3))
    assert (found["branching_factor_2_8"].value, found["branching_factor_2_8"].n) == (pytest.approx(2**1.5), 2)
    # the ends of the interval are powers of those of the mean
    many = {m.name: e for m, e in branching_factors(entropies(*[(1.0,), (3.0,), (2.5,)] * 10), True)}
    mean = estimates.mean([1.0, 3.0, 2.5] * 10)
    own = many["branching_factor_1"]
    assert (own.low, own.high) == (pytest.approx(2**mean.low), pytest.approx(2**mean.high))
    assert own.standard_error == pytest.approx(math.log(2) * 2**mean.value * mean.standard_error)
    weights = np.array([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
    drawn = resampled_branching_factors(records)(weights)
    assert drawn["branching_factor_1"] == pytest.approx([4, 2 ** (8 / 3), 2])
    assert drawn["branching_factor_2_8"] == pytest.approx([2**1.5, 2 ** (4 / 3), math.nan], nan_ok=True)


def test_two_models_of_the_same_few_answers_are_homogeneous_and_two_of_their_own_are_not():
    def system(name, *answers):
        texts = [f"{answer} " * 12 for answer in answers]
        return System(name, {str(d): tuple(Output(f"{own} doc{d}") for own in texts) for d in range(8)})

    one, same, apart = system("one", "red", "blue"), system("same", "blue", "red"), system("apart", "green", "green")
    found = compare([one, same, apart], HashedEmbedder(), load_embedding())
    rows = {(row.scope, row.metric, row.reference, row.model): row for row in found.rows}

    def value(*key):
        return rows[key].estimate.value

    assert value("between models", "same_class", "one", "same") == 0.5
    assert value("between models", "same_class", "one", "apart") == 0
    assert value("within a model", "same_class", "one", "same") == 0
    assert value("within a model", "same_class", "one", "apart") == 1
    between = rows["between models", "cosine_similarity", "one", "same"].estimate
    assert between.value > value("between models", "cosine_similarity", "one", "apart") + 0.2
    collapsed = rows["per input", "single_cluster_rate", "one", "apart"]
    assert (collapsed.estimate.value, collapsed.of_reference.value, collapsed.difference.value) == (1, 0, 1)
    assert value("per input", "effective_answers", "one", "same") == pytest.approx(2)
    assert found.equivalence.startswith("embedding@0.6-hashed")
