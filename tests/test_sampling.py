"""Drawing tokens: the distribution that is meant, and the same draw whatever stands beside it."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from alignbench.models.sampling import Drawn, Stream, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

VOCABULARY = 300  # no multiple of what is added up at once


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_logits(rows, seed=0, scale=2.0, vocabulary=VOCABULARY):
    return scale * torch.randn((rows, vocabulary), generator=torch.Generator().manual_seed(seed))


def drawn_often(logits, times, *, temperature=1.0, top_p=1.0, seed=0):
    """How often each token is drawn from one row of logits."""
    streams = [Stream(seed, "row", number) for number in range(times)]
    tokens = draw(logits, [0] * times, streams, temperature=temperature, top_p=top_p).tokens
    return np.bincount(tokens, minlength=logits.shape[-1])


def nucleus(probabilities, top_p):
    """By sorting: the most likely tokens whose mass reaches top_p (Holtzman et al., section 3.1)."""
    order = np.argsort(-probabilities, kind="stable")
    size = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1
    return order[:size]


def distribution(logits, temperature, top_p):
    probabilities = torch.softmax(logits[0].double() / temperature, -1).numpy()
    kept = np.zeros_like(probabilities)
    inside = nucleus(probabilities, top_p)
    kept[inside] = probabilities[inside]
    return kept / kept.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.9), (0.7, 1.0), (1.5, 0.5), (1.0, 0.1)])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature, top_p):
    logits, times = some_logits(1), 6_000
    counts = drawn_often(logits, times, temperature=temperature, top_p=top_p)
    expected = times * distribution(logits, temperature, top_p)
    assert not counts[expected == 0].any(), "a token outside the nucleus"
    common = expected >= 5
    observed, wanted = counts[common], expected[common]
    if (~common).any():  # the rare ones together
        observed, wanted = np.append(observed, counts[~common].sum()), np.append(wanted, expected[~common].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    if len(observed) > 1:
        assert chisquare(observed, wanted).pvalue > 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.999), st.floats(0.5, 6.0))
def test_nothing_is_drawn_outside_the_nucleus(seed, top_p, scale):
    logits = some_logits(1, seed, scale, vocabulary=50)
    probabilities = torch.softmax(logits[0].double(), -1).numpy()
    inside = set(nucleus(probabilities, top_p + 1e-6))
    assert set(np.flatnonzero(drawn_often(logits, 100, top_p=top_p, seed=seed))) <= inside


def test_equal_tokens_at_the_edge_of_the_nucleus_are_all_in_it():
    counts = drawn_often(torch.zeros((1, 8)), 2_000, top_p=0.5)
    assert chisquare(counts).pvalue > 1e-3


def test_a_nucleus_of_one_token_is_that_token():
    logits = some_logits(1)
    assert drawn_often(logits, 50, top_p=1e-9)[int(logits.argmax())] == 50


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((1, 200), -torch.inf)
    logits[0, [3, 150]] = 0.0
    counts = drawn_often(logits, 500)
    assert counts[3] + counts[150] == 500
    found = draw(logits, [0], [Stream(0, "a", 0)], temperature=1.0, top_p=1.0)
    assert found.entropies == pytest.approx([np.log(2)])
    assert found.logprobs == pytest.approx([-np.log(2)])


def test_the_last_number_below_one_draws_a_token_that_is_there():
    class Highest(Stream):
        def uniform(self):
            return 1 - 2.0**-53

    for vocabulary in (1, 127, 128, 129, 5_000):
        logits = torch.zeros((1, vocabulary))
        logits[0, vocabulary // 2 + 1 :] = -torch.inf
        found = draw(logits, [0], [Highest(0, "", 0)], temperature=1.0, top_p=1.0)
        assert found.tokens == [vocabulary // 2]


def test_greedy_takes_the_lowest_of_the_most_likely_tokens():
    logits = torch.zeros((2, VOCABULARY))
    logits[0, [17, 200]] = 5.0
    found = draw(logits, [0, 1], [Stream(0, "", 0)] * 2, temperature=0.0, top_p=0.3)
    assert found.tokens == [17, 0]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_log_probability_and_entropy_are_of_the_logits_as_they_are(temperature):
    logits = some_logits(9)
    streams = [Stream(1, "row", row) for row in range(9)]
    found = draw(logits, list(range(9)), streams, temperature=temperature, top_p=0.8)
    logprobs = torch.log_softmax(logits.double(), -1)
    expected = logprobs.gather(-1, torch.tensor(found.tokens)[:, None])[:, 0]
    assert found.logprobs == pytest.approx(expected.tolist(), abs=1e-6)
    assert found.entropies == pytest.approx((-(logprobs.exp() * logprobs).sum(-1)).tolist(), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_the_entropy_of_the_five_likeliest_is_of_the_logits_as_they_are(temperature):
    logits = torch.cat([some_logits(9), torch.full((1, VOCABULARY), -1.0), 1e4 * torch.eye(1, VOCABULARY)])
    streams = [Stream(1, "row", row) for row in range(11)]
    found = draw(logits, list(range(11)), streams, temperature=temperature, top_p=0.3, top=True)
    best = torch.log_softmax(logits.double().sort(-1, descending=True).values[:, :5], -1)
    assert found.top_entropies == pytest.approx((-(best.exp() * best).sum(-1)).tolist(), abs=1e-6)
    assert found.top_entropies[9:] == pytest.approx([np.log(5), 0.0])


@pytest.mark.parametrize("vocabulary", [1, 2, 4, 5, 6])
def test_of_a_vocabulary_of_fewer_than_five_tokens_it_is_that_of_all(vocabulary):
    logits = some_logits(6, vocabulary=vocabulary)
    found = draw(
        logits, list(range(6)), [Stream(0, "row", row) for row in range(6)], temperature=1.0, top_p=1.0, top=True
    )
    for whole, top in zip(found.entropies, found.top_entropies, strict=True):
        assert top == pytest.approx(whole, abs=1e-6) if vocabulary <= 5 else top < np.log(5)


def test_asking_for_it_changes_no_draw_and_without_it_nothing_is_computed(monkeypatch):
    logits = some_logits(5)

    def drawn(top):
        streams = [Stream(2, "row", row) for row in range(5)]
        return draw(logits, list(range(5)), streams, temperature=0.8, top_p=0.9, top=top)

    with_it = drawn(True)
    assert len(with_it.top_entropies) == 5
    monkeypatch.setattr("alignbench.models.sampling.top_entropies", None)  # calling it would raise
    assert drawn(False) == dataclasses.replace(with_it, top_entropies=[])


@pytest.mark.parametrize(("threads", "vocabulary"), [(1, 300), (1, 50_257), (2, 40_000)])
def test_a_draw_is_the_same_to_the_last_bit_whatever_rows_stand_beside_it(threads, vocabulary):
    torch.set_num_threads(threads)
    logits = some_logits(23, vocabulary=vocabulary)

    def drawn(rows):
        streams = [Stream(5, "row", row) for row in rows]
        return dataclasses.astuple(draw(logits, rows, streams, temperature=0.9, top_p=0.9, top=True))

    together = list(zip(*drawn(list(range(23))), strict=True))
    for rows in ([0], [22], [4, 3], [9, 8, 7, 6, 5], [*range(22, -1, -1)]):
        assert list(zip(*drawn(rows), strict=True)) == [together[row] for row in rows]
    torch.set_num_threads(1)


def test_logits_that_are_no_numbers_draw_nothing_and_leave_the_others_alone():
    logits = some_logits(3)
    alone = draw(logits, [2], [Stream(0, "row", 2)], temperature=1.0, top_p=0.9)
    logits[0, 5], logits[1, 6] = torch.nan, torch.inf
    found = draw(logits, [0, 1, 2], [Stream(0, "row", row) for row in range(3)], temperature=1.0, top_p=0.9)
    assert found.tokens[:2] == [-1, -1]
    assert Drawn(found.tokens[2:], found.logprobs[2:], found.entropies[2:]) == alone


def test_streams_differ_by_seed_key_and_sample_and_repeat_themselves():
    def numbers(*identity):
        stream = Stream(*identity)
        return tuple(stream.uniform() for _ in range(4))

    identities = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a\x001", 0), (-1, "a", 0)]
    assert len({numbers(*identity) for identity in identities}) == len(identities)
    assert numbers(0, "a", 0) == numbers(0, "a", 0)


def test_random_numbers_fill_the_unit_interval_evenly():
    numbers = np.array([Stream(0, "key", sample).uniform() for sample in range(2_000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert chisquare(np.histogram(numbers, bins=20, range=(0, 1))[0]).pvalue > 1e-3


def test_the_random_numbers_are_numpys_doubles_of_a_philox_keyed_by_a_hash():
    """Written down here a second time: results of earlier runs can be made again with a later version."""
    key = hashlib.sha256(b"7\x002\x00document-1").digest()[:16]
    numbers = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(5)
    stream = Stream(7, "document-1", 2)
    assert [stream.uniform() for _ in range(5)] == numbers.tolist()
