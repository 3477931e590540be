"""Episodes of PPO: sampled responses, their scores, and the metrics of a batch. Detail N: docs/ppo_details.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trainers import losses
from trainers.packing import Example


@dataclass(slots=True)
class Rollout:
    """One episode. Arrays are (tokens,) of the response; log-probabilities and entropies are in nats.

    prompt_ids, response_ids: the ids that were sampled, never text that was tokenised again (detail 19)
    ended: by an end-of-sequence token or a stop string, not by the length limit
    raw_score: the reward of the whole text; score: the same after penalties, before KL
    logprobs, reference: of the sampled tokens, under the policy before this update and under the reference
    values: before each token
    """

    prompt: str
    prompt_ids: list[int]
    response: str
    response_ids: list[int]
    ended: bool
    raw_score: float
    score: float
    logprobs: losses.Array = field(init=False)
    reference: losses.Array = field(init=False)
    values: losses.Array = field(init=False)
    entropies: losses.Array = field(init=False)
    rewards: losses.Array = field(init=False)
    advantages: losses.Array = field(init=False)
    returns: losses.Array = field(init=False)

    @property
    def example(self) -> Example:
        return Example(self.prompt_ids, [self.response_ids])

    @property
    def kl(self) -> float:
        """KL from the reference, summed over the tokens, in nats (k1, detail 16)."""
        return float(losses.kl_k1(self.logprobs, self.reference).sum())


def penalised(raw: Sequence[float], ended: Sequence[bool], fixed: float | None, penalty: float) -> list[float]:
    """Scores of which that of a response without an end is `fixed` (None: its own), at most the worst of the batch's
    responses that ended, minus the penalty (detail 9)."""
    ceiling = min((score for score, end in zip(raw, ended, strict=True) if end), default=math.inf)
    lowered = [min(score if fixed is None else fixed, ceiling) - penalty for score in raw]
    return [score if end else low for score, low, end in zip(raw, lowered, ended, strict=True)]


def warnings(rollouts: Sequence[Rollout], fixed: float | None, max_tokens: int) -> dict[str, str]:
    """What keeps a batch from teaching what it should, by kind."""
    ended, found = [r.raw_score for r in rollouts if r.ended], dict[str, str]()
    if not ended:
        found["end"] = f"no response ended within {max_tokens} tokens; raise max_tokens, or give stop"
    if len(rollouts) > 1 and len({r.score for r in rollouts}) == 1:
        all_equal = f"all scores are {rollouts[0].score:g}"
        found["scores"] = f"{all_equal}, so there is nothing to learn; check reward and prompts"
    if fixed is not None and ended and len(ended) < len(rollouts) and fixed > (worst := min(ended)):
        above = f"no_end_score {fixed:g} is above the worst of a response that ended"
        found["fixed"] = f"{above}, {worst:g}, and counts as that"
    return found


def describe(rollouts: Sequence[Rollout], beta: float) -> dict[str, float]:
    """Batch metrics: means over responses, or over tokens for the entropy. KL in nats per response (detail 16).
    rlhf_reward: the mean score minus `beta` times the mean KL"""
    metrics = {
        "raw_score": np.mean([rollout.raw_score for rollout in rollouts]),
        "score": np.mean([rollout.score for rollout in rollouts]),
        "score_std": np.std([rollout.score for rollout in rollouts]),
        "kl": np.mean([rollout.kl for rollout in rollouts]),
        "kl_k3": np.mean([losses.kl_k3(r.logprobs, r.reference).sum() for r in rollouts]),
        "entropy": concat(rollouts, "entropies").mean(),
        "response_tokens": np.mean([len(rollout.response_ids) for rollout in rollouts]),
        "ended": np.mean([rollout.ended for rollout in rollouts]),
    }
    metrics |= {"beta": beta, "rlhf_reward": metrics["score"] - beta * metrics["kl"]}
    return {name: float(value) for name, value in metrics.items()}


def concat(rollouts: Sequence[Rollout], name: str) -> losses.Array:
    """The arrays `name` of all rollouts, concatenated: (tokens,)."""
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def split(rollouts: Sequence[Rollout], name: str, values: losses.Array) -> None:
    """The inverse of `concat`: assign each rollout its part of (tokens,) as the array `name`."""
    sizes = np.cumsum([len(rollout.response_ids) for rollout in rollouts])[:-1]
    for rollout, part in zip(rollouts, np.split(values, sizes), strict=True):
        setattr(rollout, name, part)
