"""The mathematics of the recipe against hand-worked cases, definitions and the explicit loops it replaces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import tiny_model, tiny_tokenizer
from torch import nn
from training_models import assert_same_gradients, gradients, score_alone, tiny_classifier

from trainers.losses import (
    explained_variance,
    gae,
    kl_k1,
    kl_k3,
    policy_loss,
    ranking_loss,
    token_logprobs,
    token_rewards,
    value_loss,
    whiten,
)
from trainers.models import Scalar
from trainers.optimisation import Ema, adam, adapted, cosine, gradient_norm, set_rate, warmup
from trainers.packing import Example, pack

NUMBERS = st.floats(-5, 5, width=32)


def t(*numbers, **options):
    return torch.tensor(numbers, dtype=torch.float64, **options)


# The reward model's loss


@given(NUMBERS, NUMBERS)
def test_two_responses_give_the_pairwise_loss(winner, loser):
    expected = -math.log(1 / (1 + math.exp(-(winner - loser))))
    assert float(ranking_loss(t(winner, loser), torch.tensor([1, 2]))) == pytest.approx(expected)
    assert float(ranking_loss(t(loser, winner), torch.tensor([2, 1]))) == pytest.approx(expected)


@given(st.lists(st.tuples(NUMBERS, st.integers(1, 4)), min_size=2, max_size=9), NUMBERS)
def test_the_ranking_loss_does_not_change_when_all_rewards_shift(rows, shift):
    scores, ranks = t(*(score for score, _ in rows)), torch.tensor([rank for _, rank in rows])
    loss, shifted = ranking_loss(scores, ranks), ranking_loss(scores + shift, ranks)
    if len(set(ranks.tolist())) == 1:
        assert loss.isnan()
        assert shifted.isnan()
    else:
        assert float(shifted) == pytest.approx(float(loss))


def test_ties_are_no_pairs():
    scores = t(0.3, -0.2, 1.0)
    pairs = [-math.log(1 / (1 + math.exp(-(0.3 - s)))) for s in (-0.2, 1.0)]
    assert float(ranking_loss(scores, torch.tensor([1, 2, 2]))) == pytest.approx(sum(pairs) / 2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("ranks", [[1, 2], [2, 1, 3], [1, 1, 2, 3], [2, 3, 1, 2, 4, 5, 5, 6, 1]])
def test_k_forwards_of_one_row_equal_the_explicit_pairs(architecture, ranks):
    """K − 1 forwards of each response, two in each pair, against one forward each and the prompt once for all."""
    model = tiny_classifier(architecture, tiny_tokenizer())
    generator = np.random.default_rng(len(ranks))
    prompt = generator.integers(3, 300, 7).tolist()
    responses = [generator.integers(3, 300, int(n)).tolist() for n in generator.integers(1, 9, len(ranks))]
    pairs = [(w, k) for w in range(len(ranks)) for k in range(len(ranks)) if ranks[w] < ranks[k]]

    def margin(w, k):
        return score_alone(model, prompt, responses[w]) - score_alone(model, prompt, responses[k])

    explicit = -torch.stack([nn.functional.logsigmoid(margin(w, k)) for w, k in pairs]).mean()
    expected = gradients(model, explicit)
    packed = pack([Example(prompt, responses)])
    loss = ranking_loss(Scalar(model)(packed, packed.last), torch.tensor(ranks))
    assert loss.item() == pytest.approx(explicit.item(), abs=1e-5)
    assert_same_gradients(gradients(model, loss), expected)


# Log-probabilities and entropies


def test_token_logprobs_and_their_gradient_are_those_of_log_softmax_and_gather():
    torch.manual_seed(0)
    logits, targets, weights = 3 * torch.randn(6, 11), torch.tensor([0, 10, 3, 3, 7, 1]), torch.randn(6)
    exact = logits.double().requires_grad_()
    expected = torch.log_softmax(exact, -1).gather(-1, targets[:, None])[:, 0]
    (expected * weights).sum().backward()
    leaf = logits.clone().requires_grad_()
    found, entropies = token_logprobs(leaf * 1, targets)
    (found * weights).sum().backward()
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert torch.allclose(leaf.grad.double(), exact.grad, atol=1e-6)
    probabilities = torch.softmax(exact, -1)
    assert torch.allclose(entropies.double(), -(probabilities * probabilities.log()).sum(-1), atol=1e-6)
    assert not entropies.requires_grad


def test_token_logprobs_of_bf16_logits_are_worked_out_in_fp32():
    torch.manual_seed(0)
    logits, targets = (4 * torch.randn(5, 300)).bfloat16(), torch.tensor([0, 299, 3, 3, 7])
    wide = logits.float().requires_grad_()
    expected = torch.log_softmax(wide, -1).gather(-1, targets[:, None])[:, 0]
    expected.sum().backward()
    leaf = logits.clone().requires_grad_()
    found, entropies = token_logprobs(leaf * 1, targets)
    found.sum().backward()
    assert found.dtype == entropies.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)
    assert leaf.grad.dtype == torch.bfloat16
    assert torch.allclose(leaf.grad.float(), wide.grad, rtol=2**-8, atol=1e-6)  # half a unit in the last place


def test_token_logprobs_stay_finite_for_large_logits():
    found, entropies = token_logprobs(torch.tensor([[1e4, 0.0, -1e4], [500.0, 500.0, 0.0]]), torch.tensor([1, 0]))
    assert found.tolist() == pytest.approx([-1e4, -math.log(2)], abs=1e-4)
    assert entropies.tolist() == pytest.approx([0.0, math.log(2)], abs=1e-3)


def test_logits_of_a_large_vocabulary_are_computed_in_row_chunks_with_the_same_results():
    """The reference is float64: over 2^18 tokens the entropy from float32 log_softmax is off by 2e-4 nats."""
    torch.manual_seed(0)
    logits, targets, weights = 3 * torch.randn(5, 2**18), torch.tensor([0, 2**18 - 1, 3, 3, 7]), torch.randn(5)
    exact = logits.double().requires_grad_()
    logprobs = torch.log_softmax(exact, -1)
    expected = logprobs.gather(-1, targets[:, None])[:, 0]
    (expected * weights).sum().backward()
    leaf = logits.clone().requires_grad_()
    found, entropies = token_logprobs(leaf * 1, targets)
    (found * weights).sum().backward()
    # a log-probability of -20 nats has a spacing of 2e-6 in float32; an entropy is a sum of 2^18 rounded terms
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-5)
    assert torch.allclose(entropies.double(), -(logprobs.exp() * logprobs).sum(-1), rtol=0, atol=2e-5)
    assert torch.allclose(leaf.grad.double(), exact.grad, rtol=2e-5, atol=1e-7)


def test_a_token_that_the_model_rules_out_has_no_part_in_entropy_or_gradient():
    leaf = torch.tensor([[0.0, 1.0, -math.inf]], requires_grad=True)
    found, entropies = token_logprobs(leaf * 1, torch.tensor([1]))
    found.sum().backward()
    p = 1 / (1 + math.e)
    assert found.item() == pytest.approx(math.log(1 - p))
    assert entropies.item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-5)
    assert leaf.grad[0].tolist() == pytest.approx([-p, p, 0])


def test_a_second_backward_pass_is_refused():
    leaf = torch.randn(2, 5, requires_grad=True)
    loss = token_logprobs(leaf * 1, torch.tensor([1, 2]))[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError):
        loss.backward()


# Rewards


@given(arrays(np.float64, st.integers(2, 40), elements=st.floats(-100, 100)), st.booleans())
def test_whitened_values_have_variance_one_and_the_mean_asked_for(values, keep_mean):
    found = whiten(values, keep_mean=keep_mean)
    assert found.mean() == pytest.approx(values.mean() if keep_mean else 0, abs=1e-6)
    if values.var() > 1e-3:
        assert found.var() == pytest.approx(1, rel=1e-4)
        assert (found - found.mean()) * values.std() == pytest.approx(values - values.mean(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("values", [np.full(5, 0.1), np.zeros(1), np.array([3.7])])
def test_whitening_what_does_not_vary_leaves_its_mean_alone(values):
    assert whiten(values, keep_mean=False) == pytest.approx(np.zeros(len(values)))
    assert whiten(values, keep_mean=True) == pytest.approx(values)


def test_the_score_comes_once_at_the_last_token_and_the_penalty_at_every_token():
    logprobs, reference = np.array([-1.0, -2.0, -0.5]), np.array([-1.5, -1.0, -0.5])
    # k1 = .5, −1, 0
    assert token_rewards(3.0, logprobs, reference, 0.2) == pytest.approx([-0.1, 0.2, 3.0])
    assert token_rewards(3.0, logprobs[:1], reference[:1], 0.2) == pytest.approx([2.9])


@given(st.floats(-3, 3), st.floats(0, 2), st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_rewards_of_a_response_sum_to_the_score_minus_its_kl_penalty(score, beta, seed, length):
    logprobs, reference = -np.random.default_rng(seed).exponential(size=(2, length))
    rewards = token_rewards(score, logprobs, reference, beta)
    assert rewards.sum() == pytest.approx(score - beta * kl_k1(logprobs, reference).sum(), abs=1e-9)


@given(arrays(np.float64, 5, elements=st.floats(0.01, 1)), arrays(np.float64, 5, elements=st.floats(0.01, 1)))
def test_both_estimators_of_kl_expect_it_exactly_and_k3_is_never_negative(p, q):
    p, q = p / p.sum(), q / q.sum()
    exact = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    k1, k3 = kl_k1(np.log(p), np.log(q)), kl_k3(np.log(p), np.log(q))
    assert (p * k1).sum() == pytest.approx(exact, abs=1e-9)
    assert (p * k3).sum() == pytest.approx(exact, abs=1e-9)
    assert (k3 >= -1e-15).all()


def test_k3_keeps_its_precision_where_policy_and_reference_hardly_differ():
    # k1 = 1e-8: k3 = k1²/2 to first order, which e^−k1 − 1 + k1 would lose to rounding
    assert kl_k3(np.array([1e-8]), np.array([0.0]))[0] == pytest.approx(5e-17, rel=1e-6, abs=0)


# Advantages


def test_gae_of_three_tokens_worked_by_hand():
    # γ = .9, λ = .5; the value after the end is 0:
    # δ₂ = 2 + 0 − .4 = 1.6;  δ₁ = 0 + .9·.4 − .3 = .06;  δ₀ = 1 + .9·.3 − .5 = .77
    # A₂ = 1.6;  A₁ = .06 + .45·1.6 = .78;  A₀ = .77 + .45·.78 = 1.121
    found = gae(np.array([1.0, 0.0, 2.0]), np.array([0.5, 0.3, 0.4]), discount=0.9, lam=0.5)
    assert found == pytest.approx([1.121, 0.78, 1.6])


EPISODES = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*(arrays(np.float64, n, elements=st.floats(-3, 3)) for _ in range(2)))
)


@given(EPISODES, st.floats(0, 1), st.floats(0, 1))
def test_the_scan_equals_the_loop_from_the_last_token_to_the_first(episode, discount, lam):
    rewards, values = episode
    expected, advantage, following = [], 0.0, 0.0
    for reward, value in zip(rewards[::-1], values[::-1], strict=True):
        advantage = reward + discount * following - value + discount * lam * advantage
        following = value
        expected.insert(0, advantage)
    assert gae(rewards, values, discount=discount, lam=lam) == pytest.approx(expected, abs=1e-9)


@given(EPISODES, st.floats(0, 1))
def test_lambda_one_gives_what_came_minus_the_value_and_zero_the_one_step_error(episode, discount):
    rewards, values = episode
    returns = [sum(discount**k * r for k, r in enumerate(rewards[at:])) for at in range(len(rewards))]
    assert gae(rewards, values, discount=discount, lam=1.0) == pytest.approx(returns - values, abs=1e-9)
    one_step = rewards + discount * np.append(values[1:], 0) - values
    assert gae(rewards, values, discount=discount, lam=0.0) == pytest.approx(one_step, abs=1e-12)


# PPO's losses


def test_at_ratio_one_the_policy_loss_is_minus_the_advantage_and_its_gradient_too():
    old, advantages = t(-1.0, -3.0, -0.2), t(2.0, -1.5, 0.0)
    new = old.clone().requires_grad_()
    losses, clipped = policy_loss(new, old, advantages, 0.2)
    losses.sum().backward()
    assert torch.equal(losses.detach(), -advantages)
    assert torch.equal(new.grad, -advantages)
    assert not clipped.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "took_hold"),
    [
        (1.5, 2.0, -2.4, True),  # better, and gone far enough: −1.2·2
        (1.1, 2.0, -2.2, False),
        (0.5, 2.0, -1.0, False),  # better, but made rarer: free to come back
        (0.5, -2.0, 1.6, True),  # worse, and rare enough: .8·2
        (0.9, -2.0, 1.8, False),
        (1.5, -2.0, 3.0, False),  # worse, but made likelier: free to come back
    ],
)
def test_the_clip_takes_hold_only_where_the_ratio_has_gone_far_the_right_way(ratio, advantage, loss, took_hold):
    old = t(-2.0)
    new = (old + math.log(ratio)).requires_grad_()
    losses, clipped = policy_loss(new, old, t(advantage), 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert clipped.tolist() == [took_hold]
    assert new.grad.item() == pytest.approx(0 if took_hold else -advantage * ratio)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        (1.1, 1.0, 2.0, 0.405, -0.9),  # within the clip: ½·.9²
        (1.5, 1.0, 2.0, 0.32, 0.0),  # nearer the return than the clip allows: ½·(1.2 − 2)², and no gradient
        (0.5, 1.0, 2.0, 1.125, -1.5),  # moved away: ½·1.5² > ½·(.8 − 2)²
        (2.9, 3.0, 2.0, 0.405, 0.9),
        (2.0, 3.0, 2.0, 0.32, 0.0),
    ],
)
def test_the_value_loss_is_half_the_larger_square(value, old, target, loss, slope):
    values = t(value, requires_grad=True)
    losses = value_loss(values, t(old), t(target), 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope, abs=1e-12)


def test_explained_variance():
    returns = np.array([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(returns + 7, returns) == 1  # the variance does not see a constant error
    assert explained_variance(np.zeros(4), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3)  # Var(2r) = 4 Var(r)
    assert math.isnan(explained_variance(returns, np.ones(4)))


# What moves the weights


def test_the_cosine_falls_from_one_to_a_tenth_without_warming_up():
    factors = [cosine(step, 101) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.55)
    assert factors[25] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert factors[100] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)
    assert cosine(0, 1) == 1


def test_the_warm_up_goes_from_a_tenth_to_one_in_ten_iterations_and_stays():
    assert [warmup(step) for step in (0, 1, 5, 10, 11, 1000)] == pytest.approx([0.1, 0.19, 0.55, 1, 1, 1])
    assert warmup(0, steps=0) == 1


@pytest.mark.parametrize(
    ("kl", "beta"),
    [
        (11.0, 0.02 * (1 + 0.1 * 0.0512)),  # a tenth above the target, 512 of 10,000 episodes
        (9.5, 0.02 * (1 - 0.05 * 0.0512)),
        (10.0, 0.02),
        (100.0, 0.02 * (1 + 0.2 * 0.0512)),  # clipped at ±.2
        (-50.0, 0.02 * (1 - 0.2 * 0.0512)),
    ],
)
def test_beta_follows_the_kl_as_in_ziegler_et_al(kl, beta):
    assert adapted(0.02, kl, target=10, episodes=512, horizon=10_000) == pytest.approx(beta, rel=1e-12)


def test_the_averages_follow_their_formula_and_change_places_with_the_weights():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    start = layer.weight.detach().clone()
    ema = Ema(layer, 0.9)
    for moved in (1.0, 2.0):
        with torch.no_grad():
            layer.weight.copy_(start + moved)
        ema.update(layer)
    # .9·(.9·0 + .1·1) + .1·2
    average, last = start + 0.29, start + 2.0
    assert torch.allclose(ema.weights["weight"], average, atol=1e-6)
    assert list(ema.weights) == ["weight"]  # what is not trained has no average
    kept = layer.weight.detach().clone()
    ema.swap(layer)
    assert torch.allclose(layer.weight, average, atol=1e-6)
    assert torch.equal(ema.weights["weight"], kept)
    ema.swap(layer)
    assert torch.equal(layer.weight, kept)
    assert torch.allclose(layer.weight, last)


def test_adam_has_the_papers_settings_and_leaves_frozen_weights_out():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimizer = adam([(layer.parameters(), 3e-4)])
    (group,) = optimizer.param_groups
    assert group["betas"] == (0.9, 0.95)
    assert group["eps"] == 1e-5
    assert group["weight_decay"] == 0
    assert [p.shape for p in group["params"]] == [(2, 3)]
    for _ in range(2):  # of the peak each time, not of the rate before
        set_rate(optimizer, 0.1)
        assert group["lr"] == pytest.approx(3e-5)


def test_the_gradient_norm_is_that_of_all_tensors_as_one_vector():
    gradients = [torch.tensor([3.0, 0.0]), None, torch.tensor([[4.0], [12.0]])]
    assert gradient_norm(gradients) == pytest.approx(13)
    assert gradient_norm([None]) == 0
    assert math.isnan(gradient_norm([torch.tensor([math.nan])]))
    model = tiny_model("llama", tiny_tokenizer())
    model(torch.arange(3, 20)[None]).logits.square().mean().backward()
    own = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert gradient_norm(p.grad for p in model.parameters()) == pytest.approx(float(own), rel=1e-5)
