"""The mathematics of the recipe against hand-computed cases, definitions and explicit loops."""

import math

import numpy as np
import pytest
import torch
from cases import cases
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn.functional import logsigmoid

from trainers import losses
from trainers.losses import gae, kl_k1, kl_k3, policy_loss, ranking_loss, token_logprobs, token_rewards, whiten

CASES = cases("losses")
NUMBERS, SHARE = st.floats(-5, 5, width=32), st.floats(0, 1)


def t(*numbers, **options):
    return torch.tensor(numbers, dtype=torch.float64, **options)


@given(st.lists(st.tuples(NUMBERS, st.integers(1, 4)), min_size=2, max_size=9))
def test_ranking_loss_is_the_mean_over_all_pairs_that_are_not_ties(rows):
    pairs = [a - b for a, rank in rows for b, other in rows if rank < other]
    expected = float(-logsigmoid(t(*pairs)).mean()) if pairs else math.nan
    scores, ranks = zip(*rows, strict=True)
    assert float(ranking_loss(t(*scores), torch.tensor(ranks))) == pytest.approx(expected, nan_ok=True)


# Log-probabilities and entropies, with float64 as the reference


@pytest.mark.parametrize(
    ("rows", "vocabulary", "dtype", "tolerance", "gradient_tolerance"),
    [
        (6, 11, torch.float32, 1e-6, (1e-5, 1e-6)),
        # computed in chunks of rows; an entropy is a sum of 2^18 rounded terms, of which float32 log_softmax loses 2e-4
        (5, 2**18, torch.float32, 2e-5, (2e-5, 1e-7)),
        # computed in float32; the gradient is rounded to bfloat16, half a unit in the last place
        (5, 300, torch.bfloat16, 1e-5, (2**-8, 1e-6)),
    ],
)
def test_token_logprobs_agree_with_float64(rows, vocabulary, dtype, tolerance, gradient_tolerance):
    torch.manual_seed(0)
    logits, weights = (3 * torch.randn(rows, vocabulary)).to(dtype), torch.randn(rows)
    targets = torch.tensor([0, vocabulary - 1, 3, 3, 7, 1][:rows])
    exact = logits.double().requires_grad_()
    table = torch.log_softmax(exact, -1)
    expected = table.gather(-1, targets[:, None])[:, 0]
    (expected * weights).sum().backward()
    leaf = logits.clone().requires_grad_()
    found, entropies = token_logprobs(leaf * 1, targets)
    (found * weights).sum().backward()
    assert found.dtype == entropies.dtype == torch.float32
    assert not entropies.requires_grad
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(entropies.double(), -(table.exp() * table).sum(-1), rtol=0, atol=tolerance)
    assert leaf.grad.dtype == dtype
    rtol, atol = gradient_tolerance
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=rtol, atol=atol)


def test_token_logprobs_are_finite_for_large_logits_and_without_a_masked_token():
    found, entropies = token_logprobs(torch.tensor([[1e4, 0.0, -1e4], [500.0, 500.0, 0.0]]), torch.tensor([1, 0]))
    assert found.tolist() == pytest.approx([-1e4, -math.log(2)], abs=1e-4)
    assert entropies.tolist() == pytest.approx([0.0, math.log(2)], abs=1e-3)
    leaf = torch.tensor([[0.0, 1.0, -math.inf]], requires_grad=True)
    found, entropies = token_logprobs(leaf * 1, torch.tensor([1]))
    found.sum().backward()
    p = 1 / (1 + math.e)
    assert found.item() == pytest.approx(math.log(1 - p), rel=1e-5)
    assert entropies.item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-5)
    assert leaf.grad[0].tolist() == pytest.approx([-p, p, 0], rel=1e-5)


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(-100, 100)), st.booleans())
def test_whitening_gives_variance_one_and_mean_zero_or_the_old_mean(values, keep_mean):
    found = whiten(values, keep_mean=keep_mean)
    assert found.mean() == pytest.approx(values.mean() if keep_mean else 0, abs=1e-6)
    if values.var() == 0:
        assert found == pytest.approx(values if keep_mean else 0 * values, abs=1e-6)
    if values.var() > 1e-3:
        assert found.var() == pytest.approx(1, rel=1e-4)
        assert (found - found.mean()) * values.std() == pytest.approx(values - values.mean(), rel=1e-4, abs=1e-6)


def test_the_score_is_added_once_at_the_last_token_and_the_penalty_at_every_token():
    logprobs, reference = np.array([-1.0, -2.0, -0.5]), np.array([-1.5, -1.0, -0.5])
    # k1 = .5, −1, 0
    assert token_rewards(3.0, logprobs, reference, 0.2) == pytest.approx([-0.1, 0.2, 3.0])
    assert token_rewards(3.0, logprobs[:1], reference[:1], 0.2) == pytest.approx([2.9])


@given(arrays(np.float64, 5, elements=st.floats(0.01, 1)), arrays(np.float64, 5, elements=st.floats(0.01, 1)))
def test_both_kl_estimators_are_unbiased_and_k3_is_never_negative(p, q):
    p, q = p / p.sum(), q / q.sum()
    k1, k3 = kl_k1(np.log(p), np.log(q)), kl_k3(np.log(p), np.log(q))
    assert [(p * k1).sum(), (p * k3).sum()] == pytest.approx([(p * np.log(p / q)).sum()] * 2, abs=1e-9)
    assert (k3 >= -1e-15).all()
    # k1 = 1e-8: k3 = k1²/2 to first order, which e^−k1 − 1 + k1 would lose to rounding
    assert kl_k3(np.array([1e-8]), np.array([0.0]))[0] == pytest.approx(5e-17, rel=1e-6, abs=0)


@given(arrays(np.float64, st.tuples(st.just(2), st.integers(1, 30)), elements=st.floats(-3, 3)), SHARE, SHARE)
def test_gae_equals_the_loop_from_the_last_token_to_the_first(episode, discount, lam):
    rewards, values = episode
    expected, advantage, following = [], 0.0, 0.0
    for reward, value in zip(rewards[::-1], values[::-1], strict=True):
        advantage = reward + discount * following - value + discount * lam * advantage
        following = value
        expected.insert(0, advantage)
    assert gae(rewards, values, discount=discount, lam=lam) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "is_clipped"), CASES["policy"])
def test_the_policy_loss_is_clipped_only_for_an_improvement_beyond_the_range(ratio, advantage, loss, is_clipped):
    old = t(-2.0)
    new = (old + math.log(ratio)).requires_grad_()
    found, found_ratio, clipped = policy_loss(new, old, t(advantage), 0.2)
    found.sum().backward()
    assert (found.item(), found_ratio.item()) == pytest.approx((loss, ratio))
    assert clipped.tolist() == [is_clipped]
    assert new.grad.item() == pytest.approx(0 if is_clipped else -advantage * ratio)


@pytest.mark.parametrize(("value", "old", "target", "loss", "slope"), CASES["value"])
def test_the_value_loss_is_half_the_larger_squared_error(value, old, target, loss, slope):
    values = t(value, requires_grad=True)
    found = losses.value_loss(values, t(old), t(target), 0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope, abs=1e-12)


def test_explained_variance():
    returns = np.array([1.0, 2.0, 3.0, 4.0])
    # a constant error has no variance; Var(2r) = 4 Var(r)
    for values, expected in ((returns, 1), (returns + 7, 1), (np.zeros(4), 0), (-returns, -3)):
        assert losses.explained_variance(values, returns) == pytest.approx(expected)
    assert math.isnan(losses.explained_variance(returns, np.ones(4)))


def test_the_cosine_falls_from_one_to_a_tenth_and_the_warm_up_rises_from_a_tenth_to_one_in_ten_iterations():
    factors = [losses.cosine(step, 101) for step in range(101)]
    assert [factors[i] for i in (0, 25, 50, 100)] == pytest.approx([1, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1])
    assert factors == sorted(factors, reverse=True)
    assert [losses.warmup(step) for step in (0, 1, 5, 10, 11, 1000)] == pytest.approx([0.1, 0.19, 0.55, 1, 1, 1])
    assert (losses.cosine(0, 1), losses.warmup(0, steps=0)) == (1, 1)
