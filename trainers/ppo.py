"""PPO and PPO-ptx (InstructGPT, section 3.5 and App. C.3–C.4; Ziegler et al., arXiv 1909.08593).

`train` reads top to bottom: an iteration samples a batch of responses, scores them, works out advantages, and takes one
step a minibatch. Numbers in comments are those of protocols' list of details that decide whether PPO is right.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignbench.data.tables import fingerprint
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.types.engine import Sampling
from trainers import losses
from trainers.config import REQUIRED, StageConfig, check, setting
from trainers.data import chat_template, read_prompts
from trainers.models import ActorCritic, Policy, Scalar, Texts, add_lora, load, part, save_model
from trainers.optimisation import Ema, adam, adapted, gradient_norm, set_rate, warmup
from trainers.packing import Example, Packed, pack
from trainers.recipe import identify, write_recipe
from trainers.rewards import RewardModel, is_checkpoint, load_reward, score_all
from trainers.rollout import Rollout, Sampler, describe, explained_variance, joined, sample_row, spread
from trainers.run import make_accelerator, open_run
from trainers.sft import pretraining_examples
from trainers.steps import (
    NotFiniteError,
    accumulate,
    by_example,
    endless,
    finite,
    load_training,
    look,
    my_batches,
    save_training,
    shuffled,
    take_step,
    total,
)  # fmt: skip

if TYPE_CHECKING:
    from accelerate import Accelerator

Metrics = dict[str, float]


@dataclass(frozen=True)
class PPOConfig(StageConfig):
    """Settings of PPO. The defaults are the paper's where it gives a number."""

    model: str = setting(REQUIRED, "policy to start from, and the KL reference: local folder or hub id")
    reward: str = setting(
        REQUIRED,
        "reward model's checkpoint, or module:function of (prompts, responses); it is an error where a text, in the "
        "model's own tokens, is longer than its window",
    )
    prompts: str = setting(REQUIRED, "file of {prompt}, or hub data set")
    reference: str | None = setting(None, "whose KL is penalised; none: the model as it starts (paper)")
    value: str | None = setting(None, "checkpoint of the value's start; none: the reward model, or else the policy")
    pretraining: str | None = setting(None, "text for ptx > 0")
    episodes: int = setting(256_000, "responses sampled in all (paper: 256k)", low=1)
    batch: int = setting(512, "episodes of an iteration (paper: 512)", low=1)
    minibatch: int = setting(64, "episodes of a step (paper: 64)", low=1)
    inner_epochs: int = setting(1, "passes over a batch (paper: 1)", low=1)
    max_tokens: int = setting(1024, "longest response (paper: 1k)", low=1)
    temperature: float = setting(1.0, "of the sampling, and of all log-probabilities (paper: 1)", above=0)
    stop: tuple[str, ...] = setting((), "strings that end a response, besides the end-of-sequence token")
    beta: float = setting(0.02, "weight of the KL penalty in the reward (paper: .02)", low=0)
    target_kl: float | None = setting(
        None, "adapt beta to this KL per response, in nats; none: beta is fixed (paper)", above=0
    )
    horizon: int = setting(10_000, "episodes in which an adaptive beta reacts (Ziegler et al.: 10,000)", low=1)
    clip: float = setting(0.2, "of the policy's ratio (paper: .2)", above=0)
    value_clip: float = setting(0.2, "of the value's change (lm-human-preferences: .2)", above=0)
    discount: float = setting(1.0, "of later rewards (paper: 1)", low=0, high=1)
    lam: float = setting(0.95, "λ of generalised advantage estimation (lm-human-preferences: .95)", low=0, high=1)
    whiten_rewards: bool = setting(True, "bring token rewards to variance 1 keeping their mean (lm-human-preferences)")
    no_end_score: float | None = setting(-1.0, "fixed score of a response that did not end; none: its own")
    no_end_penalty: float = setting(0.0, "subtracted from the own score of a response that did not end", low=0)
    ptx: float = setting(0.0, "γ, weight of the pretraining gradient (paper: 27.8 for PPO-ptx)", low=0)
    ptx_examples: int = setting(8, "pretraining examples an episode (paper: 8)", low=1)
    ptx_tokens: int = setting(512, "length of a pretraining example", low=2)
    ptx_mean: str = setting(
        "token", "what γ multiplies: the mean log-likelihood of a token, or of an example", choices=("token", "example")
    )
    lr: float = setting(9e-6, "of the policy, after the warm-up (the default is ours)", low=0)
    value_lr: float = setting(9e-6, "of the value (paper: 9e-6)", low=0)
    warmup: int = setting(10, "iterations from a tenth of lr to lr (paper: 10)", low=0)
    ema: float = setting(
        0.992, "decay a step of the averaged weights, which are the result (paper: .992); 0: none", low=0, high=0.999999
    )
    lora: int = setting(
        0, "train adapters of this rank; the reference is then the policy without them; 0: all weights", low=0
    )
    stop_kl: float | None = setting(
        None, "end with the last good checkpoint when KL per response exceeds this", above=0
    )
    save_every: int = setting(10, "iterations between resumable states", free=True, low=1)
    checkpoint_every: int | None = setting(
        None, "iterations between checkpoints/iteration-N that are kept; none: the last alone", free=True, low=1
    )
    sample_rows: int = setting(4, "responses of each iteration that go to samples.jsonl", low=0)


PRESETS: dict[str, dict[str, Any]] = {"instructgpt-1.3b": {"ptx": 27.8}, "instructgpt-1.3b-no-ptx": {}}


@dataclass(frozen=True)
class Actor:
    """What is trained, and what trains it.

    model: policy and value; module: the same as the accelerator wraps it
    reference: None with LoRA, where it is the policy without its adapter
    """

    config: PPOConfig
    accelerator: Accelerator
    model: ActorCritic
    module: Any
    optimizer: Any
    reference: Policy | None
    ema: Ema | None


def train(config: PPOConfig, *, progress: Progress | None = None) -> tuple[Path, Metrics]:
    """Train, or go on where a stopped run stood: the final checkpoint's folder and the last iteration's metrics."""
    check(config)
    _check(config)
    progress = progress or Progress()
    accelerator = make_accelerator(config.mixed_precision, config.trackers, Path(config.out), config.cpu, progress.say)
    if config.minibatch < accelerator.num_processes:
        raise AlignbenchError(f"minibatch {config.minibatch}: fewer episodes than processes")
    if config.lora and accelerator.distributed_type == "FSDP":
        raise AlignbenchError("lora: adapters are not sharded; start with plain data parallelism (DDP)")
    model, tokenizer, checkpoint = load(config.model, "causal")
    texts = Texts(tokenizer, model)
    prompts = read_prompts(config.prompts, chat_template(tokenizer) if config.template else None)
    prompt_ids = texts.prompts(prompts)
    text = pretraining_examples(str(config.pretraining), texts, config.ptx_tokens) if config.ptx else []
    reward = load_reward(config.reward, accelerator, config.micro_tokens)
    value_model, value_window = _value_model(config, tokenizer)
    windows = {"policy": checkpoint.window, "value model": value_window}
    reference = None
    if config.reference or not config.lora:
        reference_model, windows["reference"] = _reference_model(config, tokenizer)
        reference = Policy(reference_model, config.temperature).eval().requires_grad_(False).to(accelerator.device)
    if isinstance(reward, RewardModel) and reward.texts.tokenizer.get_vocab() == tokenizer.get_vocab():
        windows["reward model"] = reward.window
    _check_windows(config, prompt_ids, windows)
    if config.lora:
        model, value_model = (add_lora(m, config.lora, config.seed) for m in (model, value_model))
    policy, value = Policy(model, config.temperature), Scalar(value_model)
    both = ActorCritic(policy, value).to(accelerator.device).eval()  # detail 6: no dropout in PPO
    sampler = Sampler(policy, tokenizer, checkpoint.window, accelerator)
    optimizer = adam([(policy.parameters(), config.lr), (value.parameters(), config.value_lr)])
    module, optimizer = accelerator.prepare(both, optimizer)
    ema = Ema(policy, config.ema) if config.ema else None
    actor = Actor(config, accelerator, both, module, optimizer, reference, ema)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, stop=config.stop)  # detail 4
    iterations = config.episodes // config.batch
    prints = [fingerprint(config.prompts, len(prompts)), *([fingerprint(str(config.pretraining))] if text else [])]
    models = {"reward": config.reward} if is_checkpoint(config.reward) else {}
    models |= {role: spec for role in ("reference", "value") if (spec := getattr(config, role))}
    identity = {"model": identify(config.model), **{role: identify(spec) for role, spec in models.items()}}

    def sample(iteration: int) -> list[Rollout]:
        """A batch of scored responses; prompts in a new order in every pass over them."""
        chosen = endless(len(prompts), iteration * config.batch, config.batch, "prompts", config.seed)
        keys = [f"{lap}:{i}" for lap, i in chosen]
        wrote = sampler.sample(keys, [prompts[i] for _, i in chosen], sampling, config.seed)
        rollouts = [  # details 10 and 19: the text is cut at its stop string, the ids are those sampled
            Rollout(prompts[i], prompt_ids[i], w.text, list(w.tokens), w.finish != "length")
            for (_, i), w in zip(chosen, wrote, strict=True)
        ]
        answers = [rollout.response for rollout in rollouts]
        scores = score_all(accelerator, reward, config.reward, [rollout.prompt for rollout in rollouts], answers)
        for rollout, score in zip(rollouts, scores, strict=True):
            rollout.score = score
            if not rollout.ended:  # detail 9
                rollout.score = (score if config.no_end_score is None else config.no_end_score) - config.no_end_penalty
        return rollouts

    def save(folder: Path, metrics: Metrics) -> None:
        """The averaged policy as the checkpoint, the last one's weights going on; the value beside it."""
        if ema:
            ema.swap(policy)
        whole = accelerator.get_state_dict(module)
        if accelerator.is_main_process:
            save_model(folder, policy.model, tokenizer, part(whole, "policy.model."))
            save_model(folder / "value", value.model, tokenizer, part(whole, "value.model."))
            write_recipe(
                folder, stage="ppo-ptx" if text else "ppo", parent=config.model, models=models, data=prints,
                config=config, metrics=metrics,
            )  # fmt: skip
        if ema:
            ema.swap(policy)

    with open_run(Path(config.out), config, {**identity, "data": prints}, accelerator) as run:
        if result := run.result():
            return result
        iteration, beta, last, stopped = 0, config.beta, Metrics(), ""

        def resume(state: Path) -> tuple[int, float, Metrics]:
            load_training(state, accelerator, ema)
            kept = run.state(state)
            return kept["step"], kept["beta"], kept["metrics"]

        if state := run.resume():
            iteration, beta, last = resume(state)
        progress.start("ppo", iterations, iteration, "iterations")
        while iteration < iterations:
            try:
                rollouts = sample(iteration)
                look_back(actor, rollouts)
                metrics = describe(rollouts)
                if config.stop_kl is not None and metrics["kl"] > config.stop_kl:
                    stopped = f"KL {metrics['kl']:.1f} exceeds {config.stop_kl}"
                    break
                if iteration % config.save_every == 0:  # weights whose samples were good: a stop goes back to them
                    kept = {"beta": beta, "metrics": last}
                    run.save_state(iteration, lambda folder: save_training(folder, accelerator, ema), kept)
                estimate_advantages(config, beta, rollouts)
                metrics |= {"beta": beta, "explained_variance": explained_variance(rollouts)}
                metrics["rlhf_reward"] = metrics["score"] - beta * metrics["kl"]
                metrics |= update(actor, iteration, rollouts, text)
            except NotFiniteError as error:
                stopped = str(error)
                break
            iteration, last = iteration + 1, metrics
            if config.target_kl is not None:
                beta = adapted(beta, metrics["kl"], config.target_kl, config.batch, config.horizon)
            run.log(iteration, metrics)
            run.sample(iteration, [sample_row(rollout) for rollout in rollouts[: config.sample_rows]])
            if config.checkpoint_every and iteration % config.checkpoint_every == 0 and iteration < iterations:
                told = metrics | {"iterations": iteration}
                run.save_checkpoint(f"checkpoints/iteration-{iteration}", partial(save, metrics=told))
            progress.advance()
        if stopped:
            stopped = f"iteration {iteration + 1}: {stopped}"
            if not (state := run.newest()):
                raise AlignbenchError(f"ppo: {stopped}; nothing good was saved before it")
            iteration, beta, last = resume(state)
            if accelerator.is_main_process:
                _remove_checkpoints(Path(config.out) / "checkpoints", after=iteration)
            accelerator.wait_for_everyone()
            progress.say(f"ppo: {stopped}; stopped, and went back to the weights after iteration {iteration}")
            run.event("stopped", reason=stopped, kept=iteration)
        metrics = last | {"iterations": iteration}
        return run.save_checkpoint("final", partial(save, metrics=metrics)), metrics


def _remove_checkpoints(folder: Path, after: int) -> None:
    """Those of later iterations, which no longer belong to the run that went back."""
    for checkpoint in folder.glob("iteration-*"):
        number = checkpoint.name.removeprefix("iteration-")
        if number.isdecimal() and int(number) > after:
            shutil.rmtree(checkpoint)


def look_back(actor: Actor, rollouts: Sequence[Rollout]) -> None:
    """Log-probabilities and values before the update, by the very computation of the training step."""

    def compute(packed: Packed) -> list[losses.Array]:
        logprobs, entropies, values = actor.model(packed)
        policy, reference = actor.model.policy, actor.reference
        without_adapter: AbstractContextManager[None] = nullcontext() if reference else policy.as_reference()
        with without_adapter, actor.accelerator.autocast():
            ref, _ = (reference or policy)(packed)
        columns = torch.stack([logprobs, ref, values, entropies])
        return [part.cpu().double().numpy() for part in by_example(packed, packed.before, columns)]

    examples = [rollout.example for rollout in rollouts]
    for rollout, arrays in zip(
        rollouts, look(actor.accelerator, examples, actor.config.micro_tokens, compute), strict=True
    ):
        if not np.isfinite(arrays).all():
            raise NotFiniteError("log-probabilities or values are not finite")
        rollout.logprobs, rollout.reference, rollout.values, rollout.entropies = arrays


def update(actor: Actor, iteration: int, rollouts: Sequence[Rollout], text: Sequence[Example]) -> Metrics:
    """One step a minibatch; means over all of them.

    text: pretraining examples; none: plain PPO
    """
    config, found = actor.config, dict[str, list[float]]()
    set_rate(actor.optimizer, warmup(iteration, config.warmup))
    for inner in range(config.inner_epochs):
        order = shuffled(len(rollouts), "minibatches", config.seed, iteration, inner)  # detail 17
        for start in range(0, len(order), config.minibatch):
            episodes = [rollouts[i] for i in order[start : start + config.minibatch]]
            first = ((iteration * config.inner_epochs + inner) * len(order) + start) * config.ptx_examples
            count = config.minibatch * config.ptx_examples
            chosen = endless(len(text), first, count, "text", config.seed) if text else []
            for name, number in minibatch(actor, episodes, [text[i] for _, i in chosen]).items():
                found.setdefault(name, []).append(number)
    if not finite(actor.accelerator, [*actor.model.parameters(), *(actor.ema.weights.values() if actor.ema else ())]):
        raise NotFiniteError("the step left weights that are not finite")
    return {name: float(np.mean(numbers)) for name, numbers in found.items()}


def minibatch(actor: Actor, episodes: Sequence[Rollout], text: Sequence[Example]) -> Metrics:
    """One step on the summed loss of PPO, the value and, where there is text, pretraining."""
    config, accelerator, policy = actor.config, actor.accelerator, actor.model.policy
    metrics, pretraining_gradient = Metrics(), None
    if text:  # the same gradient, accumulated into the same step
        metrics["ptx_loss"], metrics["ptx_gradient_norm"] = pretrain(actor, text)
        pretraining_gradient = [None if p.grad is None else p.grad.clone() for p in policy.parameters()]
    tokens = sum(len(rollout.response_ids) for rollout in episodes)
    sums = np.zeros(5)

    def loss_of(batch: Sequence[Rollout]) -> torch.Tensor:
        """Policy and value loss, the token mean over the whole minibatch (detail 15)."""
        logprobs, _, values = actor.module(pack([rollout.example for rollout in batch], accelerator.device))
        old, advantages, before, returns = (
            torch.from_numpy(joined(batch, name)).float().to(logprobs.device)
            for name in ("logprobs", "advantages", "values", "returns")
        )
        policy_loss, clipped = losses.policy_loss(logprobs, old, advantages, config.clip)
        value_loss = losses.value_loss(values, before, returns, config.value_clip)
        ratio = torch.exp(logprobs.detach() - old)
        kept = (policy_loss, value_loss, clipped, ratio, ratio - 1 - ratio.log())
        sums[:] += [float(k.detach().sum()) for k in kept]
        loss: torch.Tensor = (policy_loss.sum() + value_loss.sum()) / tokens
        return loss

    batches = my_batches(accelerator, episodes, lambda rollout: len(rollout.example), config.micro_tokens)
    accumulate(accelerator, actor.module, batches, loss_of)
    names = ("policy_loss", "value_loss", "clip_fraction", "ratio", "approximate_kl")
    metrics |= {n: total(accelerator, s) / tokens for n, s in zip(names, sums.tolist(), strict=True)}
    pairs = zip([p.grad for p in policy.parameters()], pretraining_gradient or repeat(None), strict=False)
    metrics["ppo_gradient_norm"] = gradient_norm(g if g is None or b is None else g - b for g, b in pairs)
    metrics["gradient_norm"] = take_step(actor.model, actor.optimizer, config.max_gradient_norm)
    if actor.ema:
        actor.ema.update(policy)
    return metrics


def pretrain(actor: Actor, text: Sequence[Example]) -> tuple[float, float]:
    """Add γ times the pretraining gradient; the loss in nats a token, and the norm of what was added."""
    config, accelerator = actor.config, actor.accelerator
    tokens = sum(len(example.responses[0]) for example in text)
    divisor = tokens if config.ptx_mean == "token" else len(text)

    def loss_of(examples: Sequence[Example]) -> torch.Tensor:
        logprobs: torch.Tensor = actor.module(pack(examples, accelerator.device), with_values=False)[0]
        return -config.ptx * logprobs.sum() / divisor

    batches = my_batches(accelerator, text, len, config.micro_tokens)
    summed = accumulate(accelerator, actor.module, batches, loss_of)
    loss = total(accelerator, summed) * divisor / config.ptx / tokens
    return loss, gradient_norm(p.grad for p in actor.model.policy.parameters())


def estimate_advantages(config: PPOConfig, beta: float, rollouts: Sequence[Rollout]) -> None:
    """Rewards, advantages and returns of every token, whitened over the batch's real tokens (details 8, 11, 12)."""
    for rollout in rollouts:
        rollout.rewards = losses.token_rewards(rollout.score, rollout.logprobs, rollout.reference, beta)
    if config.whiten_rewards:
        spread(rollouts, "rewards", losses.whiten(joined(rollouts, "rewards"), keep_mean=True))
    for rollout in rollouts:
        rollout.advantages = losses.gae(rollout.rewards, rollout.values, discount=config.discount, lam=config.lam)
        rollout.returns = rollout.advantages + rollout.values
    spread(rollouts, "advantages", losses.whiten(joined(rollouts, "advantages"), keep_mean=False))


def _value_model(config: PPOConfig, tokenizer: Any) -> tuple[Any, int | None]:
    """The value starts from the reward model, where that reads the policy's tokens (InstructGPT, C.4)."""
    spec = config.value or (config.reward if is_checkpoint(config.reward) else None)
    if spec is not None:
        found, its_tokenizer, checkpoint = load(spec, "reward")
        if its_tokenizer.get_vocab() == tokenizer.get_vocab():
            return found, checkpoint.window
        if config.value:
            raise AlignbenchError(f"value {config.value}: its tokenizer is not the policy's; choose another, or none")
    found, _, checkpoint = load(config.model, "reward", new_head=config.seed)
    return found, checkpoint.window


def _reference_model(config: PPOConfig, tokenizer: Any) -> tuple[Any, int | None]:
    found, its_tokenizer, checkpoint = load(config.reference or config.model, "causal")
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise AlignbenchError(f"reference {config.reference}: its vocabulary is not that of {config.model}")
    return found, checkpoint.window


def _check_windows(config: PPOConfig, prompts: Sequence[Sequence[int]], windows: dict[str, int | None]) -> None:
    """Raise AlignbenchError where a prompt and the longest response do not fit a model's window."""
    for whose, window in windows.items():
        longest = config.max_tokens + (whose == "reward model")  # which reads an end token after every response
        for number, ids in enumerate(prompts, 1):
            if window is not None and len(ids) + longest > window:
                raise AlignbenchError(
                    f"{config.prompts}: prompt {number} has {len(ids)} tokens, its response up to {longest}: more than "
                    f"the {whose}'s window {window}; drop it, or lower max_tokens"
                )


def _check(config: PPOConfig) -> None:
    """Raise AlignbenchError for settings that make no sense together."""
    if config.ptx and not config.pretraining:
        raise AlignbenchError("ptx: needs pretraining=FILE")
    if config.batch % config.minibatch:
        raise AlignbenchError(f"batch {config.batch} is no multiple of minibatch {config.minibatch}")
    if config.episodes < config.batch:
        raise AlignbenchError(f"episodes {config.episodes} are less than one batch of {config.batch}")
    if "" in config.stop:
        raise AlignbenchError("stop: an empty string would end every response; leave it out")


if __name__ == "__main__":
    from alignbench.cli.train import main

    main("ppo")
