"""PPO and PPO-ptx (InstructGPT, section 3.5, App. C.3–C.4; arXiv 1909.08593).

Read `optimise`, the loop, then its steps from top to bottom. Beside this file they need rollouts.py (a batch of
responses), losses.py (the mathematics), models.py and loop.py; record.py saves and logs. Small mistakes do not crash
PPO for language models, but change what is optimised. The details that decide are numbered 1 to 21 here;
docs/ppo_details.md has the test of each.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal

import numpy as np
import torch

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.types.engine import Sampling
from trainers import loop, losses
from trainers.config import check, setting
from trainers.data import load_policy, pretraining_examples
from trainers.loop import NotFiniteError
from trainers.models import BIAS, Policy, Scalar, add_lora, base_model, is_sharded, load, place
from trainers.packing import Example, Packed, pack
from trainers.record import Setup, report, resume, return_to_last_state, save_models, save_state, warn
from trainers.reward import RewardModel, load_reward, score_all
from trainers.rollouts import Prompt, Rollout, RolloutConfig, concat, describe, meets, penalised, split, split_prompts
from trainers.run import Callback, Metrics, Result, open_run
from trainers.sampler import Sampler, load_vllm


@dataclass(frozen=True)
class Config(RolloutConfig):
    """Settings of PPO. The defaults are the paper's where it gives a number."""

    value: str | None = setting(None, "initial value model; none: the reward model, or the policy with a new head")
    value_lr: float = setting(9e-6, "learning rate of the value (paper: 9e-6)", low=0)
    minibatch: int = setting(64, "episodes per optimizer step, at most a batch (paper: 64)", low=1)
    inner_epochs: int = setting(1, "passes over a batch (paper: 1)", low=1)
    clip: float = setting(0.2, "clip range of the policy's ratio (paper: .2)", above=0)
    value_clip: float = setting(0.2, "clip range of the value's change (lm-human-preferences: .2)", above=0)
    discount: float = setting(1.0, "discount of later rewards (paper: 1)", low=0, high=1)
    lam: float = setting(0.95, "λ of generalised advantage estimation (lm-human-preferences: .95)", low=0, high=1)
    whiten_rewards: bool = setting(False, "scale token rewards to variance 1 around their mean (lm-human-preferences)")
    pretraining: str | None = setting(None, "pretraining text, for ptx > 0")
    ptx: float = setting(0.0, "γ, coefficient of the pretraining gradient (paper: 27.8 for PPO-ptx)", low=0)
    ptx_examples: int = setting(8, "pretraining examples per episode (paper: 8)", low=1)
    ptx_tokens: int = setting(512, "length of a pretraining example", low=2)
    ptx_mean: str = setting("token", "what γ multiplies the mean log-likelihood of", choices=("token", "example"))


PRESETS: dict[str, dict[str, Any]] = {"instructgpt-1.3b": {"ptx": 27.8}, "instructgpt-1.3b-no-ptx": {}}

# of a micro-batch of rows, packed: columns (tokens,) of which the first is the loss
Columns = Callable[[Sequence[Any], Packed], tuple[torch.Tensor, ...]]


def train(config: Config, *, progress: Progress | None = None, callback: Callback | None = None) -> Result:
    """Train, resume an interrupted run, or extend a finished one to more episodes.

    callback: called with the metrics of each iteration; if it returns True, training stops and saves
    """
    return optimise(setup(config, progress), compute_advantages, update, callback)


def optimise(
    s: Setup, compute_advantages: Callable[[Any, list[Rollout]], None],
    update: Callable[[Setup, int, list[Rollout]], Metrics], callback: Callback | None,
) -> Result:  # fmt: skip
    """The loop of PPO and RLOO, which differ in advantages and update."""
    config, stopped, final, iterations = s.config, "", Metrics(), s.config.episodes // s.config.batch
    with open_run(config, s.origin(), s.accelerator, s.progress) as run:
        if result := run.result():
            return result
        iteration = resume(s, run, iterations)
        while iteration < iterations:
            s.seconds.clear()
            try:
                rollouts = sample(s, training_prompts(s, iteration))
                score(s, rollouts)
                compute_logprobs(s, rollouts)
                metrics = describe(rollouts, config.beta)
                if config.stop_when and meets(config.stop_when, metrics):
                    stopped = config.stop_when
                    break
                if iteration % config.save_every == 0:  # weights with good samples: a stop returns to them
                    save_state(s, run, iteration)
                warn(s, run, iteration + 1, rollouts, metrics)
                if iteration == 0 and s.new_head:
                    set_value_bias(s, rollouts)
                compute_advantages(config, rollouts)
                metrics |= update(s, iteration, rollouts)
                iteration += 1
                report(s, run, iteration, rollouts, metrics)
                if callback and loop.total(bool(callback({"step": iteration, **metrics}))):
                    iterations = iteration
                kept = config.checkpoint_every and iteration % config.checkpoint_every == 0
                if kept or iteration == iterations:
                    final = measure(s, iteration)
            except NotFiniteError as error:
                stopped = str(error)
                break
            if kept and iteration < iterations:
                run.save_checkpoint(f"checkpoints/iteration-{iteration}", lambda folder: save_models(s, folder), final)
        if stopped:
            iteration = return_to_last_state(s, run, f"iteration {iteration + 1}: {stopped}")
        if stopped or not final:
            final = measure(s, iteration)
        save_state(s, run, iteration)  # more episodes extend the run from here
        return run.save_checkpoint("final", lambda folder: save_models(s, folder), final), final


def timed(step: Callable[..., Any]) -> Any:
    """Add the seconds of a step to `seconds` of its first argument."""

    @wraps(step)
    def run(s: Setup, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = step(s, *arguments)
        s.seconds[step.__name__] += time.perf_counter() - began
        return result

    return run


def training_prompts(s: Setup, iteration: int) -> list[tuple[str, Prompt]]:
    """The prompts of a batch and the keys of their random numbers; each pass over the prompts has a new order."""
    config, count = s.config, s.config.batch // s.config.samples
    chosen = loop.infinite_shuffle(len(s.prompts), iteration * count, count, "prompts", config.seed)
    suffixes = [f":{number}" for number in range(config.samples)] if config.samples > 1 else [""]
    return [(f"{lap}:{i}{suffix}", s.prompts[i]) for lap, i in chosen for suffix in suffixes]


@timed
def sample(s: Setup, prompts: Sequence[tuple[str, Prompt]]) -> list[Rollout]:
    """A response to each prompt, random by its key and the seed alone: equal on any number of processes (detail 17)."""
    config, keys, texts = s.config, [key for key, _ in prompts], [prompt.text for _, prompt in prompts]
    # top-k is off and top-p 1, or the log-probabilities would belong to another distribution (detail 4)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, stop=config.stop)
    completions = s.sampler.sample(keys, texts, sampling, config.seed)
    # The text is cut at its stop string before it is scored (detail 10). The ids are those sampled, with those of the
    # stop string: text that is decoded and tokenised again may have other ids (detail 19).
    logprobs = [np.array(c.logprobs) if config.rollouts == "vllm" else None for c in completions]
    found = zip(prompts, completions, logprobs, strict=True)
    return [Rollout(prompt, c.text, list(c.tokens), c.finish != "length", own) for (_, prompt), c, own in found]


@timed
def score(s: Setup, rollouts: Sequence[Rollout]) -> None:
    """The reward of each whole text: a model's, read at the last real token (detail 1), or a function's."""
    config, shown, responses = s.config, [r.prompt.shown for r in rollouts], [r.response for r in rollouts]
    raw = score_all(s.accelerator, s.reward, config.reward, shown, responses)
    # a response without an end must not score better than one with an end, or not ending would be rewarded (detail 9)
    scores = penalised(raw, [r.ended for r in rollouts], config.no_end_score, config.no_end_penalty)
    for rollout, own, penalised_score in zip(rollouts, raw, scores, strict=True):
        rollout.raw_score, rollout.score = own, penalised_score


@timed
def compute_logprobs(s: Setup, rollouts: Sequence[Rollout]) -> None:
    """Old and reference log-probabilities, entropies, and a value before each response token."""

    # By the code of the training step, not by the sampler, so that on the first minibatch the ratio is 1, and KL and
    # policy loss are 0 (detail 7). Packed rows have no padding, which would have to be masked, may equal the end token
    # (detail 2) and must stay out of statistics (detail 18). Each example's positions start at 0 (detail 3).
    def compute(packed: Packed) -> list[losses.Array]:
        policy = s.policy.model
        columns = list(policy(packed))
        with nullcontext() if s.reference else policy.model.disable_adapter():
            columns.insert(1, (s.reference or policy)(packed)[0])
        columns += [s.value.model(packed, packed.before)] if s.value else []
        parts = loop.split_by_example(packed, packed.before, torch.stack(columns))
        return [part.cpu().double().numpy() for part in parts]

    found = loop.map_packed(s.accelerator, [r.example for r in rollouts], s.config.micro_tokens, compute)
    for rollout, arrays in zip(rollouts, found, strict=True):
        if not np.isfinite(arrays).all():
            raise NotFiniteError("log-probabilities or values are not finite")
        rollout.logprobs, rollout.reference, rollout.entropies, *values = arrays
        if values:
            (rollout.values,) = values


def set_value_bias(s: Setup, rollouts: Sequence[Rollout]) -> None:
    """Let a new value head, which is 0, begin with the mean score. If it began with 0, a positive score would reward a
    response's last tokens above the others (λ < 1), and a negative one penalise them: also constant scores would change
    the length of responses."""
    bias = float(np.mean([rollout.score for rollout in rollouts]))
    setattr(base_model(s.value.model.model).config, BIAS, bias)
    for rollout in rollouts:
        rollout.values = rollout.values + bias


def compute_advantages(config: Config, rollouts: Sequence[Rollout]) -> None:
    """Rewards, advantages and returns of every token."""
    for rollout in rollouts:  # −β (log π − log π_ref) at each token (k1, detail 16), the score at the last (detail 8)
        rollout.rewards = losses.token_rewards(rollout.score, rollout.logprobs, rollout.reference, config.beta)
    # Whitened rewards keep their mean, advantages do not, over the tokens of the whole batch (detail 11). Rewards are
    # not whitened by default: a constant score would become a bonus or penalty for each token, and change the length.
    if config.whiten_rewards:
        split(rollouts, "rewards", losses.whiten(concat(rollouts, "rewards"), keep_mean=True))
    for rollout in rollouts:  # the value after the end is 0 (detail 12)
        rollout.advantages = losses.gae(rollout.rewards, rollout.values, discount=config.discount, lam=config.lam)
        rollout.returns = rollout.advantages + rollout.values
    split(rollouts, "advantages", losses.whiten(concat(rollouts, "advantages"), keep_mean=False))


@timed
def update(s: Setup, iteration: int, rollouts: Sequence[Rollout]) -> Metrics:
    """A step of policy and value per minibatch; the means of their metrics."""
    config, found = s.config, list[Metrics]()
    for inner in range(config.inner_epochs):  # each has a new permutation (detail 17)
        order = loop.shuffled(len(rollouts), "minibatches", config.seed, iteration, inner)
        for start in range(0, len(order), config.minibatch):
            episodes = [rollouts[i] for i in order[start : start + config.minibatch]]
            first = ((iteration * config.inner_epochs + inner) * len(order) + start) * config.ptx_examples
            count = config.minibatch * config.ptx_examples
            chosen = loop.infinite_shuffle(len(s.text), first, count, "text", config.seed) if s.text else []
            # The losses share no parameter, and their gradients are clipped apart, since they have no common scale. So
            # the policy's gradient is applied and freed before the value's is computed.
            metrics = step_policy(s, iteration, episodes, [s.text[i] for _, i in chosen])
            metrics |= step_value(s, iteration, episodes)
            norms = metrics["policy_gradient_norm"], metrics["value_gradient_norm"]
            found.append(metrics | {"gradient_norm": math.hypot(*norms)})
    variance = losses.explained_variance(concat(rollouts, "values"), concat(rollouts, "returns"))
    means = {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}
    return {"explained_variance": variance, **means}


def step_policy(s: Setup, iteration: int, episodes: Sequence[Rollout], text: Sequence[Example]) -> Metrics:
    """One step on the policy loss and, with text, γ times the pretraining loss: both gradients add up."""
    metrics = add_pretraining_gradient(s, text) if text else Metrics()

    def columns_of(batch: Sequence[Rollout], packed: Packed) -> tuple[torch.Tensor, ...]:
        logprobs, _ = s.policy.module(packed)
        old, advantages = (column(batch, name, logprobs) for name in ("logprobs", "advantages"))
        loss, ratio, clipped = losses.policy_loss(logprobs, old, advantages, s.config.clip)
        return loss, clipped, ratio, ratio - 1 - ratio.log()

    found = accumulate(s, s.policy, episodes, columns_of)
    metrics |= dict(zip(("policy_loss", "clip_fraction", "ratio", "approximate_kl"), found, strict=True))
    return metrics | {"policy_gradient_norm": take_step(s, s.policy, iteration)}


def step_value(s: Setup, iteration: int, episodes: Sequence[Rollout]) -> Metrics:
    """One step on the clipped value loss (detail 13)."""

    def columns_of(batch: Sequence[Rollout], packed: Packed) -> tuple[torch.Tensor, ...]:
        values = s.value.module(packed, packed.before)
        old, returns = (column(batch, name, values) for name in ("values", "returns"))
        return (losses.value_loss(values, old, returns, s.config.value_clip),)

    (loss,) = accumulate(s, s.value, episodes, columns_of)
    return {"value_loss": loss, "value_gradient_norm": take_step(s, s.value, iteration)}


def add_pretraining_gradient(s: Setup, text: Sequence[Example]) -> Metrics:
    """The loss in nats per token, and the norm of γ times its gradient. (PPO's part alone would need a copy.)"""
    tokens = sum(len(example.responses[0]) for example in text)
    scale = s.config.ptx * (1 if s.config.ptx_mean == "token" else tokens / len(text))
    s.policy.model.temperature = 1.0  # that of sampling is for responses
    (loss,) = accumulate(s, s.policy, text, lambda _, packed: (-scale * s.policy.module(packed)[0],))
    s.policy.model.temperature = s.config.temperature
    norm = loop.gradient_norm(p.grad for p in s.policy.model.parameters())
    return {"ptx_loss": loss / scale, "ptx_gradient_norm": norm}


def accumulate(
    s: Setup, trained: loop.Trained, rows: Sequence[Any], columns_of: Columns, divisor: int | None = None
) -> list[float]:
    """Add the gradient of the first column's sum over all rows, divided by `divisor`; all columns' sums, so divided.

    divisor: the tokens of all rows by default, not of a micro-batch or of a process (detail 15)
    """
    sums, examples = list[list[float]](), [row.example if isinstance(row, Rollout) else row for row in rows]
    count = divisor or sum(len(example.responses[0]) for example in examples)

    def loss_of(pairs: Sequence[tuple[Any, Example]]) -> torch.Tensor:
        columns = columns_of([row for row, _ in pairs], pack([example for _, example in pairs], s.accelerator.device))
        sums.append([float(column.detach().sum()) for column in columns])
        return columns[0].sum()

    pairs = list(zip(rows, examples, strict=True))
    batches = loop.local_batches(s.accelerator, pairs, lambda pair: len(pair[1]), s.config.micro_tokens)
    loop.accumulate(s.accelerator, trained.module, batches, loss_of, count)
    return [loop.total(sum(summed)) / count for summed in zip(*sums, strict=True)]


def take_step(s: Setup, trained: loop.Trained, iteration: int) -> float:
    """Update the weights and their average; the gradient's norm. NotFiniteError if weights are not finite then."""
    loop.set_learning_rate(trained.optimizer, losses.warmup(iteration, s.config.warmup))
    norm = loop.take_step(trained.model, trained.optimizer, s.config.max_gradient_norm)
    weights: list[torch.Tensor] = list(trained.model.parameters())
    if s.ema and trained is s.policy:
        s.ema.update(trained.model)
        weights += s.ema.weights.values()
    if not loop.all_finite(weights):
        raise NotFiniteError("the step left weights that are not finite")
    return norm


def column(batch: Sequence[Rollout], name: str, like: torch.Tensor) -> torch.Tensor:
    """An array of the rollouts as a tensor (tokens,)."""
    return torch.from_numpy(concat(batch, name)).float().to(like.device)


# The setup


def setup(config: RolloutConfig, progress: Progress | None = None) -> Setup:
    """Load models, prompts and reward. Raises AlignbenchError if settings, models or data do not fit together."""
    config = check(config)
    if isinstance(config, Config):
        config = replace(config, minibatch=min(config.minibatch, config.batch))
    progress = progress or Progress()
    accelerator = loop.make_accelerator(config, progress.say)
    ppo = config if isinstance(config, Config) else None
    step, one = (ppo.minibatch, "minibatch") if ppo else (config.batch, "batch")
    for wrong, message in (
        (ppo and ppo.ptx and not ppo.pretraining, "ptx: needs pretraining=FILE"),
        (config.batch % step, f"batch {config.batch} is not a multiple of minibatch {step}"),
        (config.batch % config.samples, f"batch {config.batch} is not a multiple of samples {config.samples}"),
        (config.episodes < config.batch, f"episodes {config.episodes} are less than one batch of {config.batch}"),
        ("" in config.stop, "stop: an empty string would end every response; leave it out"),
        (step < accelerator.num_processes, f"{one} {step}: fewer episodes than processes"),
        (config.lora and is_sharded(accelerator), "lora: adapters are not sharded; start with DDP"),
        (config.stop_when and meets(config.stop_when), ""),  # which raises for a wrong condition
    ):
        if wrong:
            raise AlignbenchError(message)
    model, reader = load_policy(config, accelerator, progress.say)
    texts, tokenizer, windows = reader.texts, reader.texts.tokenizer, {"policy": reader.window}
    if of_vllm := load_vllm(config, accelerator):  # before models are on the device, whose free memory it divides
        windows["vLLM"] = of_vllm.window
    # a model or any function (detail 21)
    reward = load_reward(config.reward, accelerator, config.micro_tokens, config.offload)

    def load_compatible(role: str, spec: str, kind: Literal["causal", "reward"], new_head: int | None = None) -> Any:
        found, own_tokenizer, identity = load(spec, kind, accelerator, new_head=new_head)
        if own_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise AlignbenchError(f"{role} {spec}: its tokenizer is not the policy's; choose another, or none")
        windows[role] = identity.window
        return found

    reference = value_model = None
    if config.reference or not config.lora:
        found = load_compatible("reference", config.reference or config.model, "causal")
        # the temperature divides the logits of the old, new and reference log-probabilities (detail 5)
        reference = place(Policy(found, config.temperature), accelerator, frozen=True, offload=config.offload)
    # A reward reads strings, so a reward model may have a tokenizer of its own (detail 20). If it has the policy's
    # tokens, the value starts from it (InstructGPT, C.4), else from the policy with a new head of zeros (as in
    # lm-human-preferences).
    shared = isinstance(reward, RewardModel) and reward.texts.tokenizer.get_vocab() == tokenizer.get_vocab()
    if isinstance(reward, RewardModel) and shared:
        windows["reward model"] = reward.window
    if ppo:
        spec = ppo.value or (str(config.reward) if shared else config.model)
        new_head = not (ppo.value or shared)
        value_model = load_compatible("value model", spec, "reward", config.seed if new_head else None)
        if new_head:
            torch.nn.init.zeros_(value_model.score.weight)
    # a reward model reads an end token after each response
    longest = {whose: config.max_tokens + (whose == "reward model") for whose in windows}
    # and may have a few tokens more, since it encodes the text of a response again
    rooms = (window - longest[whose] - 16 * (whose == "reward model") for whose, window in windows.items() if window)
    if left := config.episodes % config.batch:
        progress.say(f"episodes: {config.episodes - left} in whole batches of {config.batch}; {left} are left out")
    prompts, held_out = split_prompts(config, reader, reward, min(rooms, default=math.inf), progress.say)
    for whose, window in windows.items():
        sizes = ((prompt.where, len(prompt.ids) + longest[whose]) for prompt in (*prompts, *held_out))
        loop.check_lengths(sizes, window, "prompt with max_tokens", whose)
    if config.lora:
        model, value_model = (m and add_lora(m, config.lora, config.seed) for m in (model, value_model))
    actor = Policy(model, config.temperature)
    sampler = Sampler(actor, tokenizer, reader.window, accelerator, of_vllm)
    policy = loop.prepare(actor.eval(), config, config.lr, accelerator)  # no dropout (detail 6)
    ema = loop.Ema(actor, config.ema, offload=config.offload) if config.ema else None
    parts = (config, accelerator, progress, tokenizer, prompts, held_out, reward, policy, sampler, reference, ema)
    if not ppo:
        return Setup(*parts)
    text = pretraining_examples(str(ppo.pretraining), texts, ppo.ptx_tokens) if ppo.ptx else []
    return Setup(*parts, loop.prepare(Scalar(value_model).eval(), config, ppo.value_lr, accelerator), text, new_head)


def measure(s: Setup, iteration: int) -> Metrics:
    """Metrics of a checkpoint's weights on the held-out prompts; where there are none, on the next batch."""
    prompts = [(f"held-out:{i}", prompt) for i, prompt in enumerate(s.held_out)] or training_prompts(s, iteration)
    with s.averaged():
        rollouts = sample(s, prompts)
        score(s, rollouts)
        compute_logprobs(s, rollouts)
    return describe(rollouts, s.config.beta) | {"iterations": iteration, "held_out": len(s.held_out)}
