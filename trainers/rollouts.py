"""Sampled responses, their scores, the settings of stages that sample, and what a batch of responses shows."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from alignbench.console import printable
from alignbench.errors import AlignbenchError
from trainers import loop, losses
from trainers.config import REQUIRED, StageConfig, setting
from trainers.data import Reader, Say
from trainers.packing import Example
from trainers.reward import Reward, as_read_by
from trainers.run import Metrics


@dataclass(frozen=True)
class SamplingConfig(StageConfig):
    """Settings of every stage that samples responses and scores them."""

    model: str = setting(REQUIRED, "initial policy: local folder or hub id")
    reward: str | Callable[..., Any] = setting(
        REQUIRED, "reward model's checkpoint, or module:function of (prompts, responses); in Python also a function"
    )
    prompts: str = setting(REQUIRED, "file of {prompt}, or hub data set")
    max_tokens: int = setting(1024, "maximum tokens of a response (paper: 1k)", low=1)
    temperature: float = setting(1.0, "of sampling, and of all log-probabilities (paper: 1)", above=0)
    rollouts: str = setting("local", "the engine that samples: local, or vllm (extra vllm)", choices=("local", "vllm"))
    vllm_memory: float = setting(0.3, "fraction of the device's memory for vLLM", free=True, above=0, high=1)


@dataclass(frozen=True)
class RolloutConfig(SamplingConfig):
    """Settings of PPO and RLOO. The defaults are the paper's where it has any."""

    validation: str | None = setting(None, "held-out prompts; none: a proportion of the prompts")
    validation_share: float = setting(0.05, "proportion of prompts to hold out, if ten or more", low=0, high=0.5)
    reference: str | None = setting(None, "KL reference; none: the initial policy (paper)")
    episodes: int = setting(256_000, "total number of sampled responses (paper: 256k)", ends=True, low=1)
    batch: int = setting(512, "episodes per iteration (paper: 512)", low=1)
    samples: int = setting(1, "responses to each prompt of a batch", low=1)
    stop: tuple[str, ...] = setting((), "strings that end a response, besides the end-of-sequence token")
    beta: float = setting(0.02, "KL penalty coefficient of the reward (paper: .02)", low=0)
    no_end_score: float | None = setting(-1.0, "score without an end, at most the worst with one; none: its own")
    no_end_penalty: float = setting(0.0, "subtracted from the score of a response that did not end", low=0)
    lr: float = setting(9e-6, "learning rate of the policy after the warm-up (our default)", low=0)
    warmup: int = setting(10, "iterations of linear warm-up from a tenth of the learning rate (paper: 10)", low=0)
    ema: float = setting(0.992, "decay of the averaged weights, warmed up (paper: .992); 0: none", low=0, high=0.999999)
    lora: int = setting(0, "rank of LoRA adapters; the reference is the policy without them; 0: all weights", low=0)
    stop_when: str | None = setting(None, "such as 'kl > 10': stop, and return to the last state before", ends=True)
    save_every: int = setting(10, "iterations between resumable states", free=True, low=1)
    checkpoint_every: int | None = setting(None, "iterations between kept checkpoints; none: last", free=True, low=1)
    sample_rows: int = setting(4, "responses per iteration to write to samples.jsonl", low=0)


class Prompt(NamedTuple):
    """A prompt as text and token ids, as the reward reads it (text or chat messages), and its file and row."""

    text: str
    ids: list[int]
    shown: Any
    where: str = ""


def split_prompts(
    config: RolloutConfig, reader: Reader, reward: Reward, room: float, say: Say
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on, and held-out ones: those of `validation`, or a random proportion if it has ten or more.

    room: the most tokens of a prompt"""

    def read(source: str) -> list[Prompt]:
        rows = reader.prompts(source, room)
        found, shown = [row.prompt for row in rows], as_read_by(reward, rows, config.template)
        ids, places = reader.texts.prompts(found), [row.where for row in rows]
        return [Prompt(*own) for own in zip(found, ids, shown, places, strict=True)]

    prompts, held_out = read(config.prompts), read(config.validation) if config.validation else []
    if not config.validation:
        distinct = list({prompt.text: prompt for prompt in prompts}.values())  # a file may repeat its prompts
        count = min(int(len(distinct) * config.validation_share), 256)
        chosen = loop.shuffled(len(distinct), "held-out", config.seed)[: count if count >= 10 else 0]
        held_out = [distinct[i] for i in sorted(chosen)]
        kept = {prompt.text for prompt in distinct} - {prompt.text for prompt in held_out}
        prompts = [prompt for prompt in prompts if prompt.text in kept]
    instead = "" if held_out else "; metrics of checkpoints are on the next batch of prompts"
    say(f"prompts: {len(prompts)} to train on, {len(held_out)} held out{instead}")
    return prompts, held_out


@dataclass(slots=True)
class Rollout:
    """One episode. Arrays are (tokens,) of the response; log-probabilities and entropies are in nats.

    response_ids: the ids that were sampled; response: their text, cut at its stop string
    ended: by an end-of-sequence token or a stop string, not by the length limit
    raw_score: the reward of the whole text; score: the same after penalties, before KL
    sampled: log-probabilities of these ids as vLLM sampled them, after temperature; None with the local engine
    logprobs, reference: of the sampled tokens, under the policy before this update and under the reference
    values: before each token
    """

    prompt: Prompt
    response: str
    response_ids: list[int]
    ended: bool
    sampled: losses.Array | None = None
    raw_score: float = field(init=False)
    score: float = field(init=False)
    logprobs: losses.Array = field(init=False)
    reference: losses.Array = field(init=False)
    entropies: losses.Array = field(init=False)
    values: losses.Array = field(init=False)
    rewards: losses.Array = field(init=False)
    advantages: losses.Array = field(init=False)
    returns: losses.Array = field(init=False)

    def __len__(self) -> int:
        return len(self.example)

    @property
    def example(self) -> Example:
        return Example(self.prompt.ids, [self.response_ids])

    @property
    def kl(self) -> float:
        """KL from the reference, the sum of k1 over the tokens, in nats."""
        return float(losses.kl_k1(self.logprobs, self.reference).sum())


def penalised(raw: Sequence[float], ended: Sequence[bool], fixed: float | None, penalty: float) -> list[float]:
    """Scores of which that of a response without an end is `fixed` (None: its own), at most the worst of the batch's
    responses that ended, minus the penalty."""
    ceiling = min((score for score, end in zip(raw, ended, strict=True) if end), default=math.inf)
    lowered = [min(score if fixed is None else fixed, ceiling) - penalty for score in raw]
    return [score if end else low for score, low, end in zip(raw, lowered, ended, strict=True)]


MEANS: dict[str, Callable[[Rollout], float]] = {  # over responses; KL in nats per response
    "raw_score": lambda r: r.raw_score,
    "score": lambda r: r.score,
    "kl": lambda r: r.kl,
    "kl_k3": lambda r: losses.kl_k3(r.logprobs, r.reference).sum(),
    "response_tokens": lambda r: len(r.response_ids),
    "ended": lambda r: r.ended,
}
DESCRIBED = (*MEANS, "score_std", "entropy", "rlhf_reward")


def describe(rollouts: Sequence[Rollout], beta: float) -> Metrics:
    """Metrics of a batch. entropy: nats per token; rlhf_reward: the mean score minus `beta` times the mean KL

    sampler_kl: with vLLM, of the policy from the distribution that was sampled from, k3, in nats per token"""
    metrics: dict[str, Any] = {name: np.mean([of(rollout) for rollout in rollouts]) for name, of in MEANS.items()}
    metrics["score_std"] = np.std([rollout.score for rollout in rollouts])
    metrics["entropy"] = concat(rollouts, "entropies").mean()
    metrics |= {"beta": beta, "rlhf_reward": metrics["score"] - beta * metrics["kl"]}
    if rollouts[0].sampled is not None:
        metrics["sampler_kl"] = losses.kl_k3(concat(rollouts, "sampled"), concat(rollouts, "logprobs")).mean()
    return {name: float(value) for name, value in metrics.items()}


def meets(condition: str, metrics: Metrics | None = None) -> bool:
    """True if the metrics of a batch meet 'NAME > NUMBER' or 'NAME < NUMBER'. AlignbenchError if it is neither."""
    found = re.fullmatch(r"\s*(\w+)\s*([<>])\s*([-+.\deE]+)\s*", condition)
    try:
        name, sign, limit = found[1], found[2], float(found[3])  # type: ignore[index]
        if name not in DESCRIBED:
            raise ValueError(name)
    except (TypeError, ValueError):
        form = f"'NAME > NUMBER' or 'NAME < NUMBER' with one of {', '.join(DESCRIBED)}"
        raise AlignbenchError(f"stop_when: {condition!r} is not {form}") from None
    return metrics is not None and (metrics[name] > limit if sign == ">" else metrics[name] < limit)


def warnings(config: RolloutConfig, rollouts: Sequence[Rollout], history: Sequence[Metrics]) -> dict[str, str]:
    """What keeps training from teaching what it should, by kind. history: metrics of all iterations, this one last"""
    now, found, window = history[-1], dict[str, str](), 10
    ended = [r.raw_score for r in rollouts if r.ended]
    if len(ended) <= len(rollouts) // 10:
        count = f"{len(ended) or 'no'} response{'s' * (len(ended) > 1)} of {len(rollouts)}"
        advice = "raise max_tokens, give stop, or train the initial model to end its responses"
        found["end"] = f"{count} ended within {config.max_tokens} tokens; {advice}"
    if len(rollouts) > 1 and len({r.raw_score for r in rollouts}) == 1:
        equal = f"the reward of every response is {rollouts[0].raw_score:g}"
        found["scores"] = f"{equal}, so there is nothing to learn from it; check reward and prompts"
    fixed = config.no_end_score
    if fixed is not None and ended and len(ended) < len(rollouts) and fixed > (worst := min(ended)):
        above = f"no_end_score {fixed:g} is above the worst of a response that ended"
        found["fixed"] = f"{above}, {worst:g}, and counts as that"
    if now["kl"] > 10 and now["kl"] > now["response_tokens"] / 2:
        found["kl"] = f"KL is {now['kl']:.3g} nats per response, over .5 per token; lower lr, or raise beta"
    if now.get("sampler_kl", 0) > 0.1:
        off = f"vLLM sampled from a distribution {now['sampler_kl']:.3g} nats per token off the policy's"
        found["sampler"] = f"{off}; set mixed_precision=no, or rollouts=local"
    if now["entropy"] < 0.1 * history[0]["entropy"]:
        collapse = f"entropy fell from {history[0]['entropy']:.3g} to {now['entropy']:.3g} nats per token"
        found["entropy"] = f"{collapse}: responses become equal; lower lr, or raise beta"
    if len(history) % (2 * window) == 0:  # three standard errors of a difference of means over `window` batches
        first, last = (np.mean([line["score"] for line in part]) for part in (history[:window], history[-window:]))
        if last - first < 3 * history[0]["score_std"] * math.sqrt(2 / (window * config.batch)):
            found["learning"] = f"no higher score after {len(history)} iterations: {first:.3g}, now {last:.3g}"
    return found


def table(rollouts: Sequence[Rollout]) -> list[str]:
    """Lines for the screen: score, end of the prompt, and beginning of the response."""
    rows = ((r.score, printable(r.prompt.text[-40:]), printable(r.response[:70])) for r in rollouts)
    return [f"{score:9.3g}  {prompt:>40} | {response}" for score, prompt, response in rows]


def concat(rollouts: Sequence[Rollout], name: str) -> losses.Array:
    """The arrays `name` of all rollouts, concatenated: (tokens,)."""
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def split(rollouts: Sequence[Rollout], name: str, values: losses.Array) -> None:
    """The inverse of `concat`: assign each rollout its part of (tokens,) as the array `name`."""
    sizes = np.cumsum([len(rollout.response_ids) for rollout in rollouts])[:-1]
    for rollout, part in zip(rollouts, np.split(values, sizes), strict=True):
        setattr(rollout, name, part)
