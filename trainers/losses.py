"""The mathematics of the recipe as pure functions. "Detail N": see ppo.py.

Values of several responses are concatenated to (tokens,), without padding. Log-probabilities, KL and entropy: nats.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch.nn import functional

from alignbench.models.distributions import LOWEST, rows_at_once

Array = NDArray[np.float64]


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(logits)[target], with gradient, and the entropy of each row, without gradient: (tokens,) each, fp32.

    logits: (tokens, vocabulary), overwritten by the backward pass; targets: (tokens,)
    """
    logprobs, entropies = _TokenLogprobs.apply(logits, targets)  # type: ignore[no-untyped-call]
    return logprobs, entropies


class _TokenLogprobs(torch.autograd.Function):
    """Keeps only the logits, where log_softmax and gather keep three tensors of this size."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kind = logits.dtype if logits.dtype.itemsize >= 4 else torch.float32
        normaliser, entropies = logits.new_empty((2, len(logits)), dtype=kind).unbind()
        for rows in _row_chunks(logits):
            wide = logits[rows].to(kind)
            highest = wide.amax(-1, keepdim=True)
            below = (wide - highest).clamp_(min=LOWEST)
            weights = below.exp()
            mass = weights.sum(-1)
            normaliser[rows] = mass.log() + highest[:, 0]
            entropies[rows] = mass.log() - weights.mul_(below).sum(-1) / mass  # H = log Z − Σ p·x
        ctx.save_for_backward(logits, normaliser, targets)
        ctx.mark_non_differentiable(entropies)
        return logits.gather(-1, targets[:, None])[:, 0].to(kind) - normaliser, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, normaliser, targets = ctx.saved_tensors
        for rows in _row_chunks(logits):
            wide = logits[rows].to(normaliser.dtype)
            slope = gradient[rows, None]
            wide.sub_(normaliser[rows, None]).exp_().mul_(-slope).scatter_add_(-1, targets[rows, None], slope)
            logits[rows] = wide
        return logits, None


def _row_chunks(logits: torch.Tensor) -> list[slice]:
    at_once = rows_at_once(logits, 2**19)
    return [slice(start, start + at_once) for start in range(0, len(logits), at_once)]


def ranking_loss(scores: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """−1/P Σ log σ(r_w − r_l) over the P pairs of a prompt's K-choose-2 that are not ties (InstructGPT, eq. 1).

    scores: (K,) rewards; ranks: (K,), 1 is best, equal ranks are ties. NaN if all are ties (the data reader raises).
    """
    better = ranks[:, None] < ranks[None, :]
    return -functional.logsigmoid(scores[:, None] - scores[None, :])[better].mean()


def token_rewards(score: float, logprobs: Array, reference: Array, beta: float) -> Array:
    """−β (log π − log π_ref) at every token of a response, plus the score at the last one (detail 8): (tokens,)."""
    rewards: Array = -beta * kl_k1(logprobs, reference)
    rewards[-1] += score
    return rewards


def kl_k1(logprobs: Array, reference: Array) -> Array:
    """The unbiased estimator of KL(π ‖ π_ref) at each sampled token, which may be negative; used in the reward."""
    return logprobs - reference


def kl_k3(logprobs: Array, reference: Array) -> Array:
    """The estimator e^−k1 − 1 + k1 (Schulman, "Approximating KL divergence"), never negative; for logs (detail 16)."""
    k1 = logprobs - reference
    return np.asarray(np.expm1(-k1) + k1)


def whiten(values: Array, *, keep_mean: bool) -> Array:
    """(tokens,) scaled to variance 1, with mean 0 or, for rewards, the mean kept (lm-human-preferences, detail 11)."""
    mean = values.mean()
    whitened: Array = (values - mean) / np.sqrt(values.var() + 1e-8)
    return whitened + mean if keep_mean else whitened


def gae(rewards: Array, values: Array, *, discount: float, lam: float) -> Array:
    """Generalised advantage estimates of one response (arXiv 1506.02438), (tokens,); the value after its end is 0.

    A_t = δ_t + γλ A_{t+1} is a linear filter over the reversed δ_t = r_t + γ V_{t+1} − V_t (detail 12).
    """
    deltas = rewards + discount * np.append(values[1:], 0.0) - values
    advantages: Array = lfilter([1.0], [1.0, -discount * lam], deltas[::-1])[::-1]
    return advantages.copy()


def policy_loss(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PPO's clipped surrogate loss, the ratio π/π_old (detached), and whether it was clipped (arXiv 1707.06347, eq. 7).

    All (tokens,). The caller divides the sum by the tokens of the whole minibatch, not of a micro-batch (detail 15).
    """
    ratio = torch.exp(logprobs - old)
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(unclipped, clipped), ratio.detach(), clipped > unclipped


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """½ max of the squared errors of the value and of the value clipped to old ± `clip` (detail 13): (tokens,)."""
    clipped = torch.clamp(values, old - clip, old + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def explained_variance(values: Array, returns: Array) -> float:
    """1 − Var(returns − values) / Var(returns); NaN if the returns do not vary."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if variance > 0 else float("nan")


def cosine(step: int, steps: int, floor: float = 0.1) -> float:
    """Learning-rate factor at `step` of 0 … steps − 1: a cosine from 1 to `floor`, no warm-up (InstructGPT, C.1)."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps - 1)))


def warmup(step: int, steps: int = 10, start: float = 0.1) -> float:
    """Learning-rate factor at `step`: linear from `start` to 1 over `steps`, then constant (InstructGPT, C.4)."""
    return min(1.0, start + (1 - start) * step / steps) if steps else 1.0
