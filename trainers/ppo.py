"""PPO and PPO-ptx (InstructGPT, section 3.5 and App. C.3–C.4; Ziegler et al., arXiv 1909.08593).

`train` reads top to bottom: an iteration samples a batch of responses, scores them, works out advantages, and takes one
step a minibatch. Numbers in comments are those of protocols' list of details that decide whether PPO is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignbench.errors import AlignbenchError
from alignbench.models.engine import Sampling
from alignbench.progress import Progress
from trainers import losses
from trainers.config import REQUIRED, setting
from trainers.data import chat_template, fingerprint, read_prompts
from trainers.models import ActorCritic, Policy, Scalar, Texts, add_lora, load, part, save_model
from trainers.optimisation import Ema, adam, adapted, gradient_norm, set_rate, warmup
from trainers.packing import Example, micro_batches, pack
from trainers.recipe import identify, write_recipe
from trainers.rewards import is_checkpoint, load_reward, score_all
from trainers.rollout import Rollout, Sampler
from trainers.run import make_accelerator, open_run
from trainers.sft import pretraining_examples
from trainers.steps import (
    NotFiniteError,
    accumulate,
    check_lengths,
    endless,
    load_training,
    my_batches,
    save_training,
    share,
    shuffled,
    take_step,
    total,
)  # fmt: skip

Metrics = dict[str, float]


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO. The defaults are the paper's where it gives a number."""

    model: str = setting(REQUIRED, "policy to start from, and the KL reference: local folder or hub id")
    reward: str = setting(REQUIRED, "reward model's checkpoint, or module:function of (prompts, responses)")
    prompts: str = setting(REQUIRED, "file of {prompt}, or hub data set")
    out: str = setting(REQUIRED, "folder of the run", free=True)
    reference: str | None = setting(None, "whose KL is penalised; none: the model as it starts (paper)")
    value: str | None = setting(None, "checkpoint of the value's start; none: the reward model, or else the policy")
    pretraining: str | None = setting(None, "text for ptx > 0")
    template: bool = setting(False, "put prompts into the model's chat template")
    episodes: int = setting(256_000, "responses sampled in all (paper: 256k)")
    batch: int = setting(512, "episodes of an iteration (paper: 512)")
    minibatch: int = setting(64, "episodes of a step (paper: 64)")
    inner_epochs: int = setting(1, "passes over a batch (paper: 1)")
    max_tokens: int = setting(1024, "longest response (paper: 1k)")
    temperature: float = setting(1.0, "of the sampling, and of all log-probabilities (paper: 1)")
    stop: tuple[str, ...] = setting((), "strings that end a response, besides the end-of-sequence token")
    beta: float = setting(0.02, "weight of the KL penalty in the reward (paper: .02)")
    target_kl: float | None = setting(None, "adapt beta to this KL per response, in nats; none: beta is fixed (paper)")
    horizon: int = setting(10_000, "episodes in which an adaptive beta reacts (Ziegler et al.: 10,000)")
    clip: float = setting(0.2, "of the policy's ratio (paper: .2)")
    value_clip: float = setting(0.2, "of the value's change (lm-human-preferences: .2)")
    discount: float = setting(1.0, "of later rewards (paper: 1)")
    lam: float = setting(0.95, "λ of generalised advantage estimation (lm-human-preferences: .95)")
    whiten_rewards: bool = setting(True, "bring token rewards to variance 1 keeping their mean (lm-human-preferences)")
    no_end_score: float | None = setting(-1.0, "fixed score of a response that did not end; none: its own")
    no_end_penalty: float = setting(0.0, "subtracted from the own score of a response that did not end")
    ptx: float = setting(0.0, "γ, weight of the pretraining gradient (paper: 27.8 for PPO-ptx)")
    ptx_examples: int = setting(8, "pretraining examples an episode (paper: 8)")
    ptx_tokens: int = setting(512, "length of a pretraining example")
    ptx_mean: str = setting("token", "what γ multiplies: the mean log-likelihood of a token, or of an example")
    lr: float = setting(9e-6, "of the policy, after the warm-up (the default is ours)")
    value_lr: float = setting(9e-6, "of the value (paper: 9e-6)")
    warmup: int = setting(10, "iterations from a tenth of lr to lr (paper: 10)")
    ema: float = setting(0.992, "decay a step of the averaged weights, which are the result (paper: .992); 0: none")
    max_gradient_norm: float | None = setting(None, "clip the gradient to this norm (not in the paper)")
    lora: int = setting(0, "train adapters of this rank; the reference is then the policy without them; 0: all weights")
    stop_kl: float | None = setting(None, "end with the last good checkpoint when KL per response exceeds this")
    mixed_precision: str = setting("no", "no, or bf16 (autocast, and sampling in bf16; the weights stay fp32)")
    micro_tokens: int = setting(4096, "tokens that go through the model at once")
    seed: int = setting(0, "of sampling, order of the data and new heads")
    save_every: int = setting(10, "iterations between resumable states", free=True)
    sample_rows: int = setting(4, "responses of each iteration that go to samples.jsonl")
    trackers: tuple[str, ...] | None = setting(None, "tensorboard, wandb; none: tensorboard if installed", free=True)
    cpu: bool = setting(False, "train on the CPU even where there is a GPU")


_PAPER: dict[str, Any] = {"episodes": 256_000, "batch": 512, "minibatch": 64, "beta": 0.02, "clip": 0.2, "ema": 0.992}
PRESETS: dict[str, dict[str, Any]] = {
    "instructgpt-1.3b": _PAPER | {"value_lr": 9e-6, "ptx": 27.8, "ptx_examples": 8},
    "instructgpt-1.3b-no-ptx": _PAPER | {"value_lr": 9e-6},
}


def train(config: PPOConfig, *, progress: Progress | None = None) -> tuple[Path, Metrics]:
    """Train, or go on where a stopped run stood: the final checkpoint's folder and the last iteration's metrics."""
    progress = progress or Progress()
    _check(config)
    accelerator = make_accelerator(config.mixed_precision, config.trackers, Path(config.out), config.cpu, progress.say)
    if config.minibatch < accelerator.num_processes:
        raise AlignbenchError(f"minibatch {config.minibatch}: fewer episodes than processes")
    if config.lora and accelerator.distributed_type in ("FSDP", "DEEPSPEED"):
        raise AlignbenchError("lora: adapters are not sharded; start with plain data parallelism (DDP)")
    model, tokenizer, checkpoint = load(config.model, "causal")
    texts = Texts(tokenizer)
    prompts = read_prompts(config.prompts, chat_template(tokenizer) if config.template else None)
    prompt_ids = texts.prompts(prompts)
    check_lengths([len(ids) + config.max_tokens for ids in prompt_ids], checkpoint.window, "prompt", config.prompts)
    text = pretraining_examples(str(config.pretraining), texts, config.ptx_tokens) if config.ptx else []
    reward = load_reward(config.reward, accelerator, config.micro_tokens)

    value_model = _value_model(config, tokenizer)
    reference = None
    if config.reference or not config.lora:
        reference = Policy(_reference_model(config, tokenizer), config.temperature).eval()
    if config.lora:
        model, value_model = (add_lora(m, config.lora, config.seed) for m in (model, value_model))
    policy, value = Policy(model, config.temperature), Scalar(value_model)
    actor = ActorCritic(policy, value).to(accelerator.device).eval()  # detail 6: no dropout in PPO
    sampler = Sampler(policy, tokenizer, checkpoint.window, accelerator)
    if reference is not None:
        reference.requires_grad_(False).to(accelerator.device)
    optimizer = adam([(policy.parameters(), config.lr), (value.parameters(), config.value_lr)])
    module, optimizer = accelerator.prepare(actor, optimizer)
    ema = Ema(policy, config.ema) if config.ema else None
    batches = partial(my_batches, accelerator, budget=config.micro_tokens)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, stop=config.stop)  # detail 4
    iterations = config.episodes // config.batch
    prints = [fingerprint(source) for source in filter(None, (config.prompts, config.pretraining if text else None))]
    models = {"reward": config.reward} if is_checkpoint(config.reward) else {}
    models |= {role: spec for role in ("reference", "value") if (spec := getattr(config, role))}
    identity = {"model": identify(config.model), **{role: identify(spec) for role, spec in models.items()}}

    def sample(iteration: int) -> list[Rollout]:
        """A batch of scored responses; prompts in a new order in every pass over them."""
        chosen = endless(len(prompts), iteration * config.batch, config.batch, config.seed)
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

    @torch.no_grad()
    def look_back(rollouts: Sequence[Rollout]) -> None:
        """Log-probabilities and values before the update, by the very computation of the training step."""

        def compute(places: list[int]) -> list[tuple[losses.Array, ...]]:
            found: dict[int, tuple[losses.Array, ...]] = {}
            lengths = [len(rollouts[i].example) for i in places]
            for part_ in micro_batches(lengths, 1, config.micro_tokens)[0]:
                batch = [rollouts[places[i]] for i in part_]
                packed = pack([rollout.example for rollout in batch], accelerator.device)
                logprobs, entropies, values = actor(packed)
                without_adapter: AbstractContextManager[None] = nullcontext() if reference else policy.as_reference()
                with without_adapter, accelerator.autocast():
                    ref, _ = (reference or policy)(packed)
                columns = torch.stack([logprobs, ref, values, entropies]).cpu().double().numpy()
                sizes = np.cumsum([len(rollout.response_ids) for rollout in batch])[:-1]
                found |= {i: tuple(a) for i, a in zip(part_, np.split(columns, sizes, axis=1), strict=True)}
            return [found[i] for i in range(len(places))]

        for rollout, arrays in zip(rollouts, share(accelerator, len(rollouts), compute), strict=True):
            rollout.logprobs, rollout.reference, rollout.values, rollout.entropies = arrays

    def update(iteration: int, rollouts: list[Rollout]) -> Metrics:
        """One step a minibatch; means over all of them."""
        set_rate(optimizer, warmup(iteration, config.warmup))
        found: dict[str, list[float]] = {}
        for inner in range(config.inner_epochs):
            order = shuffled(len(rollouts), config.seed, iteration, inner)  # detail 17
            for start in range(0, len(order), config.minibatch):
                first = (iteration * config.inner_epochs + inner) * len(order) + start
                episodes = [rollouts[i] for i in order[start : start + config.minibatch]]
                for name, number in minibatch(first, episodes).items():
                    found.setdefault(name, []).append(number)
        return {name: float(np.mean(numbers)) for name, numbers in found.items()}

    def minibatch(first: int, episodes: Sequence[Rollout]) -> Metrics:
        metrics, pretraining_gradient = {}, None
        if text:  # the same gradient, accumulated into the same step
            metrics["ptx_loss"], metrics["ptx_gradient_norm"] = pretrain(first)
            pretraining_gradient = [None if p.grad is None else p.grad.clone() for p in policy.parameters()]
        tokens = sum(len(rollout.response_ids) for rollout in episodes)
        sums = np.zeros(5)

        def loss_of(batch: Sequence[Rollout]) -> torch.Tensor:
            """Policy and value loss, the token mean over the whole minibatch (detail 15)."""
            logprobs, _, values = module(pack([rollout.example for rollout in batch], accelerator.device))
            old, advantages, before, returns = (
                torch.from_numpy(np.concatenate([getattr(r, name) for r in batch])).float().to(logprobs.device)
                for name in ("logprobs", "advantages", "values", "returns")
            )
            policy_loss, clipped = losses.policy_loss(logprobs, old, advantages, config.clip)
            value_loss = losses.value_loss(values, before, returns, config.value_clip)
            ratio = torch.exp(logprobs.detach() - old)
            kept = (policy_loss, value_loss, clipped, ratio, ratio - 1 - ratio.log())
            sums[:] += [float(k.detach().double().sum()) for k in kept]
            loss: torch.Tensor = (policy_loss.sum() + value_loss.sum()) / tokens
            return loss

        accumulate(accelerator, module, batches(episodes, size=lambda rollout: len(rollout.example)), loss_of)
        names = ("policy_loss", "value_loss", "clip_fraction", "ratio", "approximate_kl")
        metrics |= {n: total(accelerator, s) / tokens for n, s in zip(names, sums.tolist(), strict=True)}
        pairs = zip([p.grad for p in policy.parameters()], pretraining_gradient or repeat(None), strict=False)
        metrics["ppo_gradient_norm"] = gradient_norm(g if g is None or b is None else g - b for g, b in pairs)
        metrics["gradient_norm"] = take_step(actor, optimizer, config.max_gradient_norm)
        if ema:
            ema.update(policy)
        return metrics

    def pretrain(episode: int) -> tuple[float, float]:
        """Add γ times the pretraining gradient; the loss in nats a token, and the norm of what was added."""
        count = config.ptx_examples * config.minibatch
        batch = [text[i] for _, i in endless(len(text), episode * config.ptx_examples, count, config.seed, 1)]
        tokens = sum(len(example.responses[0]) for example in batch)
        divisor = tokens if config.ptx_mean == "token" else len(batch)

        def loss_of(examples: Sequence[Example]) -> torch.Tensor:
            logprobs: torch.Tensor = module(pack(examples, accelerator.device), with_values=False)[0]
            return -config.ptx * logprobs.sum() / divisor

        summed = accumulate(accelerator, module, batches(batch, size=len), loss_of)
        loss = total(accelerator, summed) * divisor / config.ptx / tokens
        return loss, gradient_norm(p.grad for p in policy.parameters())

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
        iteration, beta, last = 0, config.beta, Metrics()

        def resume(state: Path) -> tuple[int, float, Metrics]:
            load_training(state, accelerator, ema)
            kept = run.state(state)
            return kept["step"], kept["beta"], kept["metrics"]

        if state := run.resume():
            iteration, beta, last = resume(state)
        progress.start("ppo", iterations, iteration, "iterations")
        stopped = None
        while iteration < iterations and not run.finished:
            rollouts = sample(iteration)
            look_back(rollouts)
            metrics = describe(rollouts)
            if config.stop_kl is not None and metrics["kl"] > config.stop_kl:
                stopped = f"KL {metrics['kl']:.1f} of iteration {iteration + 1} exceeds {config.stop_kl}"
                break
            if iteration % config.save_every == 0:  # weights whose samples were good: a stop goes back to them
                kept = {"beta": beta, "metrics": last}
                run.save_state(iteration, lambda folder: save_training(folder, accelerator, ema), kept)
            estimate_advantages(config, beta, rollouts)
            metrics |= {"beta": beta, "explained_variance": explained_variance(rollouts)}
            metrics["rlhf_reward"] = metrics["score"] - beta * metrics["kl"]
            try:
                metrics |= update(iteration, rollouts)
            except NotFiniteError:
                stopped = f"the gradient of iteration {iteration + 1} is not finite"
                break
            iteration, last = iteration + 1, metrics
            if config.target_kl is not None:
                beta = adapted(beta, metrics["kl"], config.target_kl, config.batch, config.horizon)
            run.log(iteration, metrics)
            run.sample(iteration, [_sample_row(rollout) for rollout in rollouts[: config.sample_rows]])
            progress.advance()
        if stopped and (state := run.newest()):
            iteration, beta, last = resume(state)
            progress.say(f"ppo: {stopped}; stopped, and went back to the weights after iteration {iteration}")
            run.event("stopped", reason=stopped, kept=iteration)
        elif stopped:
            raise AlignbenchError(f"ppo: {stopped}; nothing good was saved before it")
        if not run.finished:
            run.save_checkpoint("final", lambda folder: save(folder, last | {"iterations": iteration}))
        return run.out / "final", last


def estimate_advantages(config: PPOConfig, beta: float, rollouts: Sequence[Rollout]) -> None:
    """Rewards, advantages and returns of every token, whitened over the batch's real tokens (details 8, 11, 12)."""
    for rollout in rollouts:
        rollout.rewards = losses.token_rewards(rollout.score, rollout.logprobs, rollout.reference, beta)
    if config.whiten_rewards:
        _spread(rollouts, "rewards", losses.whiten(_joined(rollouts, "rewards"), keep_mean=True))
    for rollout in rollouts:
        rollout.advantages = losses.gae(rollout.rewards, rollout.values, discount=config.discount, lam=config.lam)
        rollout.returns = rollout.advantages + rollout.values
    _spread(rollouts, "advantages", losses.whiten(_joined(rollouts, "advantages"), keep_mean=False))


def describe(rollouts: Sequence[Rollout]) -> Metrics:
    """What the batch is like: means over responses, or over tokens for entropy. KL in nats a response (detail 16)."""
    kl, k3 = (
        [float(estimate(r.logprobs, r.reference).sum()) for r in rollouts] for estimate in (losses.kl_k1, losses.kl_k3)
    )
    scores = [rollout.score for rollout in rollouts]
    return {
        "score": float(np.mean(scores)),
        "score_std": float(np.std(scores)),
        "kl": float(np.mean(kl)),
        "kl_k3": float(np.mean(k3)),
        "entropy": float(_joined(rollouts, "entropies").mean()),
        "response_tokens": float(np.mean([len(rollout.response_ids) for rollout in rollouts])),
        "ended": float(np.mean([rollout.ended for rollout in rollouts])),
    }


def explained_variance(rollouts: Sequence[Rollout]) -> float:
    return losses.explained_variance(_joined(rollouts, "values"), _joined(rollouts, "returns"))


def _joined(rollouts: Sequence[Rollout], name: str) -> losses.Array:
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def _spread(rollouts: Sequence[Rollout], name: str, values: losses.Array) -> None:
    sizes = np.cumsum([len(rollout.response_ids) for rollout in rollouts])[:-1]
    for rollout, mine in zip(rollouts, np.split(values, sizes), strict=True):
        setattr(rollout, name, mine)


def _sample_row(rollout: Rollout) -> dict[str, Any]:
    kl = float(losses.kl_k1(rollout.logprobs, rollout.reference).sum())
    return {"prompt": rollout.prompt, "response": rollout.response, "score": rollout.score, "kl": kl}


def _value_model(config: PPOConfig, tokenizer: Any) -> Any:
    """The value starts from the reward model, where that reads the policy's tokens (InstructGPT, C.4)."""
    spec = config.value or (config.reward if is_checkpoint(config.reward) else None)
    if spec is not None:
        found, its_tokenizer, _ = load(spec, "reward")
        if its_tokenizer.get_vocab() == tokenizer.get_vocab():
            return found
        if config.value:
            raise AlignbenchError(f"value {config.value}: its tokenizer is not the policy's; choose another, or none")
    return load(config.model, "reward", new_head=config.seed)[0]


def _reference_model(config: PPOConfig, tokenizer: Any) -> Any:
    found, its_tokenizer, _ = load(config.reference or config.model, "causal")
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise AlignbenchError(f"reference {config.reference}: its vocabulary is not that of {config.model}")
    return found


def _check(config: PPOConfig) -> None:
    """Raise AlignbenchError for settings that make no sense together."""
    if config.ptx and not config.pretraining:
        raise AlignbenchError("ptx: needs pretraining=FILE")
    if config.ptx_mean not in ("token", "example"):
        raise AlignbenchError(f"ptx_mean {config.ptx_mean!r}: choose token or example")
    if config.batch < 1 or config.batch % config.minibatch:
        raise AlignbenchError(f"batch {config.batch} is no multiple of minibatch {config.minibatch}")
    if config.episodes < config.batch:
        raise AlignbenchError(f"episodes {config.episodes} are less than one batch of {config.batch}")
    if config.temperature <= 0 or not math.isfinite(config.temperature):
        raise AlignbenchError(f"temperature {config.temperature}: PPO samples, so it is above 0")


if __name__ == "__main__":
    from trainers.cli import main

    main("ppo")
