"""PPO and PPO-ptx (InstructGPT, section 3.5, App. C.3–C.4; arXiv 1909.08593). Detail N: docs/ppo_details.md."""

import math
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.types.engine import Sampling
from trainers import loop, losses
from trainers.config import REQUIRED, StageConfig, check, setting
from trainers.data import find_render, fitting_prompts, pretraining_examples, read_prompts
from trainers.loop import NotFiniteError
from trainers.models import ActorCritic, Policy, Sampler, Scalar, Texts, add_lora, end_at_turns, load, save_model
from trainers.packing import Example, Packed, pack
from trainers.reward import RewardModel, as_read_by, load_reward, score_all
from trainers.rollouts import Rollout, concat, describe, penalised, split, warnings
from trainers.run import Metrics, Origin, open_run


@dataclass(frozen=True)
class PPOConfig(StageConfig):
    """Settings of PPO. The defaults are the paper's where it gives a number."""

    model: str = setting(REQUIRED, "initial policy and KL reference: local folder or hub id")
    reward: str = setting(REQUIRED, "reward model's checkpoint, or module:function of (prompts, responses)")
    prompts: str = setting(REQUIRED, "file of {prompt}, or hub data set")
    reference: str | None = setting(None, "KL reference; none: the initial policy (paper)")
    value: str | None = setting(None, "initial value model; none: the reward model, or the policy with a new head")
    pretraining: str | None = setting(None, "pretraining text, for ptx > 0")
    episodes: int = setting(256_000, "total number of sampled responses (paper: 256k)", low=1)
    batch: int = setting(512, "episodes per iteration (paper: 512)", low=1)
    minibatch: int = setting(64, "episodes per optimizer step (paper: 64)", low=1)
    inner_epochs: int = setting(1, "passes over a batch (paper: 1)", low=1)
    max_tokens: int = setting(1024, "maximum tokens of a response (paper: 1k)", low=1)
    temperature: float = setting(1.0, "of sampling, and of all log-probabilities (paper: 1)", above=0)
    stop: tuple[str, ...] = setting((), "strings that end a response, besides the end-of-sequence token")
    beta: float = setting(0.02, "KL penalty coefficient of the reward (paper: .02)", low=0)

    clip: float = setting(0.2, "clip range of the policy's ratio (paper: .2)", above=0)
    value_clip: float = setting(0.2, "clip range of the value's change (lm-human-preferences: .2)", above=0)
    discount: float = setting(1.0, "discount of later rewards (paper: 1)", low=0, high=1)
    lam: float = setting(0.95, "λ of generalised advantage estimation (lm-human-preferences: .95)", low=0, high=1)
    whiten_rewards: bool = setting(
        False, "scale token rewards to variance 1, keeping their mean (lm-human-preferences)"
    )
    no_end_score: float | None = setting(-1.0, "fixed score of a response that did not end; none: its own")
    no_end_penalty: float = setting(0.0, "subtracted from the score of a response that did not end", low=0)
    ptx: float = setting(0.0, "γ, coefficient of the pretraining gradient (paper: 27.8 for PPO-ptx)", low=0)
    ptx_examples: int = setting(8, "pretraining examples per episode (paper: 8)", low=1)
    ptx_tokens: int = setting(512, "length of a pretraining example", low=2)
    ptx_mean: str = setting("token", "γ multiplies the mean log-likelihood per", choices=("token", "example"))
    lr: float = setting(9e-6, "learning rate of the policy after the warm-up (our default)", low=0)
    value_lr: float = setting(9e-6, "learning rate of the value (paper: 9e-6)", low=0)
    warmup: int = setting(10, "iterations of linear warm-up from a tenth of the learning rate (paper: 10)", low=0)
    ema: float = setting(0.992, "decay of the averaged weights, warmed up (paper: .992); 0: none", low=0, high=0.999999)
    lora: int = setting(0, "rank of LoRA adapters; the reference is the policy without them; 0: all weights", low=0)
    stop_kl: float | None = setting(None, "stop at the last good state if KL in nats per response exceeds it", above=0)
    save_every: int = setting(10, "iterations between resumable states", free=True, low=1)
    checkpoint_every: int | None = setting(None, "iterations between kept checkpoints; none: last", free=True, low=1)
    sample_rows: int = setting(4, "responses per iteration to write to samples.jsonl", low=0)


PRESETS: dict[str, dict[str, Any]] = {"instructgpt-1.3b": {"ptx": 27.8}, "instructgpt-1.3b-no-ptx": {}}


class Actor(NamedTuple):
    """The models in training: `module` is `model` wrapped; with LoRA the policy without adapter is the reference."""

    config: PPOConfig
    accelerator: Accelerator
    model: ActorCritic
    module: Any
    optimizer: Any
    reference: Policy | None
    ema: loop.Ema | None


def train(config: PPOConfig, *, progress: Progress | None = None) -> tuple[Path, Metrics]:
    """Train, or resume an interrupted run; the folder of the final checkpoint and the metrics of the last iteration."""
    check(config)
    progress = progress or Progress()
    accelerator = loop.make_accelerator(config, progress.say)
    fsdp, processes = accelerator.distributed_type == "FSDP", accelerator.num_processes
    for wrong, message in (
        (config.ptx and not config.pretraining, "ptx: needs pretraining=FILE"),
        (config.batch % config.minibatch, f"batch {config.batch} is not a multiple of minibatch {config.minibatch}"),
        (config.episodes < config.batch, f"episodes {config.episodes} are less than one batch of {config.batch}"),
        ("" in config.stop, "stop: an empty string would end every response; leave it out"),
        (config.minibatch < processes, f"minibatch {config.minibatch}: fewer episodes than processes"),
        (config.lora and fsdp, "lora: adapters are not sharded; start with plain data parallelism (DDP)"),
    ):
        if wrong:
            raise AlignbenchError(message)
    model, tokenizer, checkpoint = load(config.model, "causal")
    render, texts = find_render(config, tokenizer), Texts(tokenizer, model)
    if config.template:
        end_at_turns(model, tokenizer)
    rows = read_prompts(config.prompts, render, progress.say)
    text = pretraining_examples(str(config.pretraining), texts, config.ptx_tokens) if config.ptx else []
    reward = load_reward(config.reward, accelerator, config.micro_tokens)
    windows, reference = {"policy": checkpoint.window}, None

    def load_compatible(role: str, spec: str, kind: Literal["causal", "reward"], new_head: int | None = None) -> Any:
        found, own_tokenizer, identity = load(spec, kind, new_head=new_head)
        if own_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise AlignbenchError(f"{role} {spec}: its tokenizer is not the policy's; choose another, or none")
        windows[role] = identity.window
        return found

    if config.reference or not config.lora:
        found = load_compatible("reference", config.reference or config.model, "causal")
        reference = Policy(found, config.temperature).eval().requires_grad_(False).to(accelerator.device)
    value_spec, new_head = config.value or config.model, None if config.value else config.seed
    if isinstance(reward, RewardModel) and reward.texts.tokenizer.get_vocab() == tokenizer.get_vocab():
        windows["reward model"] = reward.window
        if not config.value:  # the value starts from a reward model with the policy's tokens (InstructGPT, C.4)
            value_spec, new_head = config.reward, None
    value_model = load_compatible("value model", value_spec, "reward", new_head)
    # a reward model reads an end token after each response
    longest = {whose: config.max_tokens + (whose == "reward model") for whose in windows}
    # and may have a few tokens more, since it encodes the text of a response again
    rooms = (window - longest[whose] - 16 * (whose == "reward model") for whose, window in windows.items() if window)
    room = min(rooms, default=math.inf)
    rows = fitting_prompts(config, rows, texts, room, config.prompts, render, progress.say)
    prompts, shown = [row.prompt for row in rows], as_read_by(reward, rows, config.template)
    prompt_ids = texts.prompts(prompts)
    for whose, window in windows.items():
        sizes = (len(ids) + longest[whose] for ids in prompt_ids)
        loop.check_lengths(sizes, window, "prompt + max_tokens of row", config.prompts, whose=whose)
    if config.lora:
        model, value_model = (add_lora(m, config.lora, config.seed) for m in (model, value_model))
    policy, value = Policy(model, config.temperature), Scalar(value_model)
    both = ActorCritic(policy, value).to(accelerator.device).eval()  # no dropout in PPO (detail 6)
    sampler = Sampler(policy, tokenizer, checkpoint.window, accelerator)
    optimizer = loop.adam([(policy.parameters(), config.lr), (value.parameters(), config.value_lr)])
    module, optimizer = accelerator.prepare(both, optimizer)
    ema = loop.Ema(policy, config.ema) if config.ema else None
    actor = Actor(config, accelerator, both, module, optimizer, reference, ema)
    models = {role: getattr(config, role) for role in ("reward", "reference", "value")}
    data = [(config.prompts, len(prompts)), (config.pretraining if text else None, len(text))]
    origin = Origin.find("ppo-ptx" if text else "ppo", config.model, models, data)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, stop=config.stop)  # detail 4
    iterations, warned = config.episodes // config.batch, set[str]()

    def sample(iteration: int) -> list[Rollout]:
        """A batch of scored responses; each pass over the prompts has a new order."""
        chosen = loop.infinite_shuffle(len(prompts), iteration * config.batch, config.batch, "prompts", config.seed)
        keys, rows = [f"{lap}:{i}" for lap, i in chosen], [i for _, i in chosen]
        completions = sampler.sample(keys, [prompts[i] for i in rows], sampling, config.seed)
        responses = [completion.text for completion in completions]
        raw = score_all(accelerator, reward, config.reward, [shown[i] for i in rows], responses)
        ended = [c.finish != "length" for c in completions]
        scores = penalised(raw, ended, config.no_end_score, config.no_end_penalty)
        # the text is cut at its stop string, the ids are those sampled (details 10, 19)
        return [
            Rollout(prompts[i], prompt_ids[i], c.text, list(c.tokens), end, own, score)
            for i, c, end, own, score in zip(rows, completions, ended, raw, scores, strict=True)
        ]

    def warn(iteration: int, rollouts: Sequence[Rollout]) -> None:
        """Each warning in the log, and the first of its kind on the screen."""
        for kind, text in warnings(rollouts, config.no_end_score, config.max_tokens).items():
            run.event("warning", iteration=iteration + 1, reason=text)
            if kind not in warned:
                progress.say(f"warning: ppo iteration {iteration + 1}: {text}")
            warned.add(kind)

    def measure(iteration: int) -> Metrics:
        """Of the weights that a checkpoint after this iteration has, on the next batch of prompts."""
        with ema.applied(policy) if ema else nullcontext():
            rollouts = sample(iteration)
            compute_old_logprobs(actor, rollouts)
        return describe(rollouts, config.beta) | {"iterations": iteration}

    def save(folder: Path) -> None:
        """The averaged policy as the checkpoint, and the value in its subfolder."""
        with ema.applied(policy) if ema else nullcontext():
            weights = accelerator.get_state_dict(module)
            if accelerator.is_main_process:
                save_model(folder, policy.model, tokenizer, weights, "policy.model.")
                save_model(folder / "value", value.model, tokenizer, weights, "value.model.")

    with open_run(config, origin, accelerator, progress) as run:
        if result := run.result():
            return result
        iteration, stopped = 0, ""
        if state := run.resume():
            loop.load_training(state.folder, accelerator, ema)
            iteration = state.values["step"]
        progress.start("ppo", iterations, iteration, "iterations")
        while iteration < iterations:
            try:
                rollouts = sample(iteration)
                compute_old_logprobs(actor, rollouts)
                metrics = describe(rollouts, config.beta)
                if config.stop_kl is not None and metrics["kl"] > config.stop_kl:
                    stopped = f"KL {metrics['kl']:.1f} exceeds {config.stop_kl}"
                    break
                if iteration % config.save_every == 0:  # weights with good samples: a stop returns to them
                    run.save_state(iteration, lambda at: loop.save_training(at, accelerator, ema), {})
                warn(iteration, rollouts)
                compute_advantages(config, rollouts)
                variance = losses.explained_variance(concat(rollouts, "values"), concat(rollouts, "returns"))
                metrics |= {"explained_variance": variance, **update(actor, iteration, rollouts, text)}
                iteration += 1
                kept = config.checkpoint_every and iteration % config.checkpoint_every == 0
                final = measure(iteration) if kept or iteration == iterations else Metrics()
            except NotFiniteError as error:
                stopped = str(error)
                break
            run.log(iteration, metrics)
            fields = ("prompt", "response", "raw_score", "score", "kl")
            run.sample(iteration, [{name: getattr(r, name) for name in fields} for r in rollouts[: config.sample_rows]])
            if kept and iteration < iterations:
                run.save_checkpoint(f"checkpoints/iteration-{iteration}", save, final)
            progress.advance()
        if stopped:
            stopped = f"iteration {iteration + 1}: {stopped}"
            if not (state := run.newest()):
                raise AlignbenchError(f"ppo: {stopped}; no good state was saved before it")
            loop.load_training(state.folder, accelerator, ema)
            iteration = state.values["step"]
            later = (run.out / f"checkpoints/iteration-{number}" for number in range(iteration + 1, iterations))
            for folder in later if accelerator.is_main_process else ():
                shutil.rmtree(folder, ignore_errors=True)
            accelerator.wait_for_everyone()
            progress.say(f"ppo: stopped at {stopped}; the result has the weights after iteration {iteration}")
            run.event("stopped", reason=stopped, kept=iteration)
            final = measure(iteration)
        return run.save_checkpoint("final", save, final), final


def compute_old_logprobs(actor: Actor, rollouts: Sequence[Rollout]) -> None:
    """Old and reference log-probabilities, values and entropies, by the code of the training step (detail 7)."""

    def compute(packed: Packed) -> list[losses.Array]:
        logprobs, entropies, values = actor.model(packed)
        policy, reference = actor.model.policy, actor.reference
        with nullcontext() if reference else policy.model.disable_adapter(), actor.accelerator.autocast():
            reference_logprobs, _ = (reference or policy)(packed)
        columns = torch.stack([logprobs, reference_logprobs, values, entropies])
        return [part.cpu().double().numpy() for part in loop.split_by_example(packed, packed.before, columns)]

    examples = [rollout.example for rollout in rollouts]
    found = loop.map_packed(actor.accelerator, examples, actor.config.micro_tokens, compute)
    for rollout, arrays in zip(rollouts, found, strict=True):
        if not np.isfinite(arrays).all():
            raise NotFiniteError("log-probabilities or values are not finite")
        rollout.logprobs, rollout.reference, rollout.values, rollout.entropies = arrays


def compute_advantages(config: PPOConfig, rollouts: Sequence[Rollout]) -> None:
    """Rewards, advantages and returns of every token, whitened over the tokens of the batch (details 8, 11, 12)."""
    for rollout in rollouts:
        rollout.rewards = losses.token_rewards(rollout.score, rollout.logprobs, rollout.reference, config.beta)
    if config.whiten_rewards:
        split(rollouts, "rewards", losses.whiten(concat(rollouts, "rewards"), keep_mean=True))
    for rollout in rollouts:
        rollout.advantages = losses.gae(rollout.rewards, rollout.values, discount=config.discount, lam=config.lam)
        rollout.returns = rollout.advantages + rollout.values
    split(rollouts, "advantages", losses.whiten(concat(rollouts, "advantages"), keep_mean=False))


def update(actor: Actor, iteration: int, rollouts: Sequence[Rollout], text: Sequence[Example]) -> Metrics:
    """One optimizer step per minibatch; the means of their metrics. Without text (pretraining examples): plain PPO."""
    config, found = actor.config, dict[str, list[float]]()
    loop.set_learning_rate(actor.optimizer, losses.warmup(iteration, config.warmup))
    for inner in range(config.inner_epochs):
        order = loop.shuffled(len(rollouts), "minibatches", config.seed, iteration, inner)  # detail 17
        for start in range(0, len(order), config.minibatch):
            episodes = [rollouts[i] for i in order[start : start + config.minibatch]]
            first = ((iteration * config.inner_epochs + inner) * len(order) + start) * config.ptx_examples
            count = config.minibatch * config.ptx_examples
            chosen = loop.infinite_shuffle(len(text), first, count, "text", config.seed) if text else []
            for name, number in step_minibatch(actor, episodes, [text[i] for _, i in chosen]).items():
                found.setdefault(name, []).append(number)
    if not loop.all_finite([*actor.model.parameters(), *(actor.ema.weights.values() if actor.ema else ())]):
        raise NotFiniteError("the step left weights that are not finite")
    return {name: float(np.mean(numbers)) for name, numbers in found.items()}


def step_minibatch(actor: Actor, episodes: Sequence[Rollout], text: Sequence[Example]) -> Metrics:
    """One optimizer step on the sum of policy loss, value loss and, with text, the pretraining loss."""
    config, accelerator, policy = actor.config, actor.accelerator, actor.model.policy
    metrics, pretraining_gradient = Metrics(), None
    if text:  # accumulates into the same gradient, for the same step
        metrics |= accumulate_pretraining(actor, text)
        pretraining_gradient = [None if p.grad is None else p.grad.clone() for p in policy.parameters()]
    tokens, sums = sum(len(rollout.response_ids) for rollout in episodes), np.zeros(5)

    def loss_of(batch: Sequence[Rollout]) -> torch.Tensor:
        logprobs, _, values = actor.module(pack([rollout.example for rollout in batch], accelerator.device))
        old, advantages, old_values, returns = (
            torch.from_numpy(concat(batch, name)).float().to(logprobs.device)
            for name in ("logprobs", "advantages", "values", "returns")
        )
        policy_loss, ratio, clipped = losses.policy_loss(logprobs, old, advantages, config.clip)
        value_loss = losses.value_loss(values, old_values, returns, config.value_clip)
        columns = (policy_loss, value_loss, clipped, ratio, ratio - 1 - ratio.log())
        sums[:] += [float(column.detach().sum()) for column in columns]
        loss: torch.Tensor = policy_loss.sum() + value_loss.sum()
        return loss

    batches = loop.local_batches(accelerator, episodes, lambda rollout: len(rollout.example), config.micro_tokens)
    loop.accumulate(accelerator, actor.module, batches, loss_of, tokens)  # tokens of the whole minibatch (detail 15)
    names = ("policy_loss", "value_loss", "clip_fraction", "ratio", "approximate_kl")
    metrics |= {name: loop.total(summed) / tokens for name, summed in zip(names, sums.tolist(), strict=True)}
    pairs = zip([p.grad for p in policy.parameters()], pretraining_gradient or repeat(None), strict=False)
    metrics["ppo_gradient_norm"] = loop.gradient_norm(g if g is None or b is None else g - b for g, b in pairs)
    metrics["value_gradient_norm"] = loop.gradient_norm(p.grad for p in actor.model.value.parameters())
    parts = (policy, actor.model.value)  # clipped apart: their losses have no common scale
    metrics["gradient_norm"] = loop.take_step(actor.model, actor.optimizer, config.max_gradient_norm, parts)
    if actor.ema:
        actor.ema.update(policy)
    return metrics


def accumulate_pretraining(actor: Actor, text: Sequence[Example]) -> Metrics:
    """Add γ times the pretraining gradient; the loss in nats per token, and the norm of the added gradient."""
    config, accelerator = actor.config, actor.accelerator
    tokens = sum(len(example.responses[0]) for example in text)
    divisor = tokens if config.ptx_mean == "token" else len(text)

    def loss_of(examples: Sequence[Example]) -> torch.Tensor:
        logprobs: torch.Tensor = actor.module(pack(examples, accelerator.device), with_values=False)[0]
        return -config.ptx * logprobs.sum()

    batches = loop.local_batches(accelerator, text, len, config.micro_tokens)
    summed = loop.total(loop.accumulate(accelerator, actor.module, batches, loss_of, divisor))
    norm = loop.gradient_norm(p.grad for p in actor.model.policy.parameters())
    return {"ptx_loss": summed * divisor / config.ptx / tokens, "ptx_gradient_norm": norm}
