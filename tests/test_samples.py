"""Several samples of a task that checks answers: pass@k, majority votes, and the measures of how answers differ."""

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.stats.samples import majority_at_k, pass_at_k, sizes
from alignbench.tasks.samples import measure, metrics_of

SAMPLES = st.lists(st.sampled_from([True, "a", "b", "c", None]), min_size=1, max_size=9)  # True: right; None: no answer


def by_enumeration(samples, k):
    """pass@k and majority@k over all subsets."""
    passed = majority = 0.0
    subsets = list(combinations(samples, k))
    for subset in subsets:
        votes = Counter(answer for answer in subset if answer is not None)
        most = [answer for answer, count in votes.items() if count == max(votes.values())]
        passed += True in subset
        majority += (True in most) / len(most) if most else 0.0
    return passed / len(subsets), majority / len(subsets)


def counted(samples):
    counts = Counter(samples)
    silent, right = counts.pop(None, 0), counts.pop(True, 0)
    return right, list(counts.values()), silent


@given(SAMPLES, st.data())
def test_both_equal_the_mean_over_all_subsets(samples, data):
    k = data.draw(st.integers(1, len(samples)))
    right, wrong, silent = counted(samples)
    passed, majority = by_enumeration(samples, k)
    assert pass_at_k(len(samples), right, k) == pytest.approx(passed)
    assert majority_at_k(right, wrong, k, silent) == pytest.approx(majority)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_is_monotone_in_k_and_equals_the_product_of_the_paper(both):
    n, right = both
    curve = [pass_at_k(n, right, k) for k in range(1, n + 1)]
    assert curve == sorted(curve)
    assert curve[0] == pytest.approx(right / n)
    assert curve[-1] == float(right > 0)
    k = max(1, n // 2)
    product = math.prod(1 - k / i for i in range(n - right + 1, n + 1)) if n - right >= k else 0.0
    assert pass_at_k(n, right, k) == pytest.approx(1 - product)


@given(st.integers(0, 30), st.lists(st.integers(1, 20), max_size=6), st.integers(0, 10))
def test_the_majority_of_one_and_of_two_answers_is_pass_at_one_and_of_all_the_vote(right, wrong, silent):
    n = right + sum(wrong) + silent
    if not n:
        return
    first = pass_at_k(n, right, 1)
    assert majority_at_k(right, wrong, 1, silent) == pytest.approx(first)
    if n > 1 and not silent:  # of two different answers one is drawn
        assert majority_at_k(right, wrong, 2) == pytest.approx(first)
    most = max([right, *wrong])
    vote = (right == most) / [right, *wrong].count(most) if most else 0.0
    assert majority_at_k(right, wrong, n, silent) == pytest.approx(vote)


def test_a_majority_of_many_samples_converges_to_the_most_frequent_answer():
    curve = [majority_at_k(40, [30, *[1] * 30], k) for k in (1, 4, 25, 100)]
    assert curve == sorted(curve)
    assert curve[0] == pytest.approx(0.4)
    assert curve[-1] == 1.0
    assert majority_at_k(30, [40, *[1] * 30], 100) == 0.0


@pytest.mark.parametrize(("n", "right", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_impossible_counts_are_refused(n, right, k):
    with pytest.raises(ValueError, match="expected 0 <= right <= n"):
        pass_at_k(n, right, k)


def test_sizes_are_the_powers_of_two():
    assert [sizes(n) for n in (1, 2, 7, 8)] == [[1], [1, 2], [1, 2, 4, 7], [1, 2, 4, 8]]


def test_the_measures_of_a_document():
    right, answers = [1.0, 0.0, 1.0, 0.0], ["18", "5", "18.0", None]  # right answers are one, however they are written
    found = measure(right, answers, ["so  18", "5", "so\n18", "?"])
    assert found == pytest.approx(
        {
            "pass_at_1": 1 / 2, "pass_at_2": 5 / 6, "pass_at_4": 1.0,
            # of the six pairs: right twice 1, right and 5 ½ each, right and none 1 each, 5 and none 0
            "maj_at_1": 1 / 2, "maj_at_2": (1 + 2 * 0.5 + 2) / 6, "maj_at_4": 1.0,
            "distinct_answers": 2.0, "answer_entropy": 1.5, "single_answer": 0.0, "distinct_solutions": 1.0,
        }
    )  # fmt: skip
    assert found.keys() == {metric.name for metric in metrics_of(4)}
    assert measure([0.0] * 3, ["7"] * 3, ["7"] * 3)["single_answer"] == 1
    nothing = measure([0.0] * 3, [None] * 3, [""] * 3)
    assert [nothing[name] for name in ("distinct_answers", "answer_entropy", "single_answer")] == [0, 0, 0]
    assert all(map(math.isnan, measure([math.nan, 1.0], ["a", "b"], ["a", "b"]).values()))


@given(SAMPLES)
def test_the_measures_are_within_the_ranges_of_their_metrics(samples):
    right, answers = [float(own is True) for own in samples], [own and str(own) for own in samples]
    found = measure(right, answers, ["x"] * len(samples))
    for metric in metrics_of(len(samples)):
        low, high = (0, 1) if metric.binary else metric.bounds
        assert low <= found[metric.name] <= high + 1e-12
