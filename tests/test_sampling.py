"""Sampling tokens: the intended distribution, and the same draw whatever the other rows are."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from alignbench.models.distributions import Stream, draw
from alignbench.types.engine import Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 300  # not a multiple of the tokens that are summed at once


def some_logits(rows, seed=0, scale=2.0, vocabulary=VOCABULARY):
    return scale * torch.randn((rows, vocabulary), generator=torch.Generator().manual_seed(seed))


def draw_rows(logits, rows=None, *, seed=0, **settings):
    """One token for each row, with a stream of its own."""
    rows = list(range(len(logits)) if rows is None else rows)
    return draw(logits, rows, [Stream(seed, "row", row) for row in rows], Sampling(1, **settings))


def drawn_often(logits, times, *, temperature=1.0, top_p=1.0, seed=0):
    """The number of times that each token is drawn from one row of logits."""
    streams = [Stream(seed, "row", number) for number in range(times)]
    found = draw(logits, [0] * times, streams, Sampling(1, temperature=temperature, top_p=top_p))
    return np.bincount([drawn.token for drawn in found], minlength=logits.shape[-1])


def nucleus(probabilities, top_p):
    """By sorting: the most likely tokens whose mass reaches top_p (Holtzman et al., section 3.1)."""
    order = np.argsort(-probabilities, kind="stable")
    return order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.9), (0.7, 1.0), (1.5, 0.5), (1.0, 0.1)])
def test_tokens_are_drawn_with_their_probability(temperature, top_p):
    logits, times = some_logits(1), 6_000
    counts = drawn_often(logits, times, temperature=temperature, top_p=top_p)
    probabilities = torch.softmax(logits[0].double() / temperature, -1).numpy()
    expected = np.zeros_like(probabilities)
    inside = nucleus(probabilities, top_p)
    expected[inside] = times * probabilities[inside] / probabilities[inside].sum()
    assert not counts[expected == 0].any(), "a token outside the nucleus"
    common = expected >= 5
    rare = expected[~common].sum()  # counted together
    observed = np.append(counts[common], counts[~common].sum())[: None if rare else -1]
    assert len(observed) == 1 or chisquare(observed, np.append(expected[common], rare)[: len(observed)]).pvalue > 1e-3


def test_the_nucleus_has_all_tokens_of_a_tie_and_at_least_one_token_and_none_of_probability_zero():
    assert chisquare(drawn_often(torch.zeros((1, 8)), 2_000, top_p=0.5)).pvalue > 1e-3
    logits = some_logits(1)
    assert drawn_often(logits, 50, top_p=1e-9)[int(logits.argmax())] == 50
    impossible = torch.full((1, 200), -torch.inf)
    impossible[0, [3, 150]] = 0.0
    assert drawn_often(impossible, 500)[[3, 150]].sum() == 500
    ((_, logprob, entropy, _),) = draw_rows(impossible, temperature=1.0)
    assert (entropy, logprob) == pytest.approx((np.log(2), -np.log(2)))


@pytest.mark.parametrize("vocabulary", [1, 127, 128, 129, 5_000])
def test_the_largest_random_number_draws_the_last_token_and_greedy_decoding_the_first(vocabulary):
    class Highest(Stream):
        def uniform(self):
            return 1 - 2.0**-53

    logits = torch.zeros((1, vocabulary))
    logits[0, vocabulary // 2 + 1 :] = -torch.inf
    (found,) = draw(logits, [0], [Highest(0, "", 0)], Sampling(1, temperature=1.0))
    assert found.token == vocabulary // 2
    assert draw_rows(logits)[0].token == 0  # greedy decoding takes the lowest of the most likely ones


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_log_probability_and_entropies_are_of_the_unmodified_logits(temperature):
    logits = torch.cat([some_logits(9), torch.full((1, VOCABULARY), -1.0), 1e4 * torch.eye(1, VOCABULARY)])
    options = {"temperature": temperature, "top_p": 0.8, "seed": 1}
    found = draw_rows(logits, top_entropies=True, **options)
    tokens, logprobs, entropies, top = zip(*found, strict=True)
    expected = torch.log_softmax(logits.double(), -1)
    best = torch.log_softmax(logits.double().sort(-1, descending=True).values[:, :5], -1)
    assert logprobs == pytest.approx(expected.gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist(), abs=1e-5)
    for values, reference in ((entropies, expected), (top, best)):
        assert values == pytest.approx((-(reference.exp() * reference).sum(-1)).tolist(), abs=1e-5)
    assert [drawn[:3] for drawn in draw_rows(logits, **options)] == [drawn[:3] for drawn in found]


@pytest.mark.parametrize(("threads", "vocabulary"), [(1, 300), (1, 50_257), (2, 40_000)])
def test_a_draw_is_bit_identical_whatever_the_other_rows_are(threads, vocabulary):
    torch.set_num_threads(threads)
    logits = some_logits(23, vocabulary=vocabulary)
    settings = {"temperature": 0.9, "top_p": 0.9, "top_entropies": True, "seed": 5}
    together = draw_rows(logits, **settings)
    for rows in ([0], [22], [4, 3], [9, 8, 7, 6, 5], [*range(22, -1, -1)]):
        assert draw_rows(logits, rows, **settings) == [together[row] for row in rows]
    # nor if some of them are not finite, which draw nothing
    logits[0, 5], logits[1, 6] = torch.nan, torch.inf
    found = draw_rows(logits, **settings)
    assert [drawn.token for drawn in found[:2]] == [-1, -1]
    assert found[2:] == together[2:]
    torch.set_num_threads(1)


def test_random_numbers_depend_on_seed_key_and_sample_and_are_numpys_doubles_of_a_philox_keyed_by_a_hash():
    """Written here a second time, so that results stay reproducible with later versions."""
    identities = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a\x001", 0), (-1, "a", 0)]
    assert len({Stream(*identity).uniform() for identity in identities}) == len(identities)
    key = hashlib.sha256(b"7\x002\x00document-1").digest()[:16]
    numbers = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(5)
    stream = Stream(7, "document-1", 2)
    assert [stream.uniform() for _ in range(5)] == numbers.tolist()
