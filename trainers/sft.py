"""Supervised fine-tuning on demonstrations (InstructGPT, section 3.5 and App. C.1).

`train` reads top to bottom: read and tokenise, then epoch by epoch and step by step; each epoch's checkpoint is kept,
and the one whose samples a reward model likes best is the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignbench.data.tables import fingerprint
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.types.engine import Sampling
from trainers.config import REQUIRED, check, setting
from trainers.data import chat_template, read_demonstrations, read_texts
from trainers.models import Policy, Texts, load, part, residual_dropout, save_model
from trainers.optimisation import adam
from trainers.packing import Example, Packed, pack
from trainers.recipe import identify, write_recipe
from trainers.rewards import is_checkpoint, load_reward, score_all
from trainers.rollout import Sampler
from trainers.run import make_accelerator, open_run
from trainers.steps import by_example, check_lengths, endless, look
from trainers.supervised import EpochsConfig, Metrics, fit


@dataclass(frozen=True)
class SFTConfig(EpochsConfig):
    """Settings of supervised fine-tuning. The defaults are the paper's where it gives a number."""

    model: str = setting(REQUIRED, "checkpoint to start from: local folder or hub id")
    data: str = setting(REQUIRED, "demonstrations: file of {prompt, response} or {messages}, or hub data set")
    validation: str | None = setting(None, "held-out demonstrations: their loss, and the prompts of the selection")
    reward: str | None = setting(None, "reward model or module:function that selects the epoch; none: the last one")
    pretraining: str | None = setting(None, "text that is mixed in: the paper's initial model for PPO has it")
    pretraining_share: float = setting(
        0.1, "of all examples, with pretraining text (paper: .1, with epochs=2)", low=0, high=0.99
    )
    pretraining_tokens: int = setting(512, "length of one example of pretraining text", low=2)
    epochs: int = setting(16, "passes over the data (paper: 16; 2 for PPO's initial model)", low=1)
    batch: int = setting(32, "examples of a step (paper: 32 at 1.3B and 6B, 8 at 175B)", low=1)
    lr: float = setting(9.65e-6, "peak, falling along a cosine to a tenth (paper: 9.65e-6 at 1.3B and 6B)", low=0)
    dropout: float = setting(0.2, "residual dropout (paper: .2)", low=0, high=0.99)
    selection_prompts: int = setting(256, "validation prompts that are answered for the selection", low=1)
    selection_tokens: int = setting(128, "longest answer of the selection, sampled at temperature 1", low=1)


PRESETS: dict[str, dict[str, Any]] = {
    "instructgpt-1.3b": {},  # the defaults, and those of 6B
    "instructgpt-6b": {},
    "instructgpt-175b": {"batch": 8, "lr": 5.03e-6},
}


def train(config: SFTConfig, *, progress: Progress | None = None) -> tuple[Path, dict[str, float]]:
    """Fine-tune, or go on where a stopped run stood: the final checkpoint's folder and its metrics."""
    check(config)
    progress = progress or Progress()
    if config.reward and not config.validation:
        raise AlignbenchError("reward: the selection needs validation=FILE for its prompts")
    accelerator = make_accelerator(config.mixed_precision, config.trackers, Path(config.out), config.cpu, progress.say)
    model, tokenizer, checkpoint = load(config.model, "causal")
    render = chat_template(tokenizer) if config.template else None
    texts = Texts(tokenizer, model)
    rows = read_demonstrations(config.data, render)
    held_out = read_demonstrations(config.validation, render) if config.validation else []
    examples, validation = ([texts.example(row.prompt, [row.response]) for row in some] for some in (rows, held_out))
    extra = pretraining_examples(config.pretraining, texts, config.pretraining_tokens) if config.pretraining else []
    answered = held_out[: config.selection_prompts] if config.reward else []
    longest = [len(example.prompt) + config.selection_tokens for example in validation[: len(answered)]]
    for sizes, what, source in (
        (map(len, examples), "demonstration", config.data),
        (map(len, validation), "demonstration", config.validation),
        (longest, "prompt + selection_tokens of row", config.validation),
        (map(len, extra), "piece of pretraining text (see pretraining_tokens)", config.pretraining),
    ):
        check_lengths(list(sizes), checkpoint.window, what, str(source))
    residual_dropout(model, config.dropout)
    policy = Policy(model.to(accelerator.device))
    sampler = Sampler(policy, tokenizer, checkpoint.window, accelerator) if config.reward else None
    reward = load_reward(config.reward, accelerator, config.micro_tokens) if config.reward else None
    models = {"reward": config.reward} if config.reward and is_checkpoint(config.reward) else {}
    module, optimizer = accelerator.prepare(policy, adam([(policy.parameters(), config.lr)]))
    prints = [fingerprint(config.data, len(rows))]
    prints += [fingerprint(config.validation, len(held_out))] if config.validation else []
    prints += [fingerprint(config.pretraining)] if config.pretraining else []
    identity = {"model": identify(config.model), **{role: identify(spec) for role, spec in models.items()}}
    mixed = round(len(examples) * config.pretraining_share / (1 - config.pretraining_share)) if extra else 0

    with open_run(Path(config.out), config, {**identity, "data": prints}, accelerator) as run:
        if done := run.result():
            return done

        def rows_of(epoch: int) -> list[Example]:
            return examples + [extra[i] for _, i in endless(len(extra), epoch * mixed, mixed, "text", config.seed)]

        def loss_of(rows: Sequence[Example]) -> torch.Tensor:
            logprobs: torch.Tensor = module(pack(rows, accelerator.device))[0]
            return -logprobs.sum()

        def after_epoch(epoch: int, step: int) -> Metrics:
            metrics = validation_loss()
            if reward and sampler:
                metrics |= selection_reward(step)
            run.save_checkpoint(f"checkpoints/epoch-{epoch}", lambda folder: save(folder, {"epoch": epoch, **metrics}))
            return metrics

        def validation_loss() -> Metrics:
            def summed(packed: Packed) -> list[float]:
                with accelerator.autocast():
                    logprobs = policy(packed)[0]
                return [-float(some.sum()) for some in by_example(packed, packed.before, logprobs)]

            policy.eval()
            losses = look(accelerator, validation, config.micro_tokens, summed)
            tokens = sum(len(example.responses[0]) for example in validation)
            return {"validation_loss": sum(losses) / tokens} if losses else {}

        def selection_reward(step: int) -> Metrics:
            assert reward
            assert sampler
            prompts = [row.prompt for row in answered]
            keys = [str(place) for place in range(len(prompts))]
            sampling = Sampling(max_tokens=config.selection_tokens, temperature=1.0)
            wrote = [found.text for found in sampler.sample(keys, prompts, sampling, config.seed)]
            scores = score_all(accelerator, reward, str(config.reward), prompts, wrote)
            rows = zip(prompts, wrote, scores, strict=True)
            run.sample(step, [{"prompt": p, "response": r, "score": s} for p, r, s in rows][:8])
            return {"reward": sum(scores) / len(scores)}

        def save(folder: Path, metrics: Metrics) -> None:
            whole = accelerator.get_state_dict(module)
            if accelerator.is_main_process:
                save_model(folder, policy.model, tokenizer, part(whole, "model."))
                write_recipe(
                    folder, stage="sft", parent=config.model, models=models, data=prints, config=config, metrics=metrics
                )

        epochs = fit(
            config, run, accelerator, module, optimizer, name="sft", rows_of=rows_of, size=len,
            weight=lambda row: len(row.responses[0]), loss_of=loss_of, after_epoch=after_epoch, progress=progress,
        )  # fmt: skip
        best = max(epochs, key=lambda found: found["reward"]) if reward else epochs[-1]
        chosen = run.out / f"checkpoints/epoch-{best['epoch']:.0f}"

        def copy(folder: Path) -> None:
            if accelerator.is_main_process:
                shutil.copytree(chosen, folder, dirs_exist_ok=True)

        return run.save_checkpoint("final", copy), best


def pretraining_examples(source: str, texts: Texts, length: int) -> list[Example]:
    """Pretraining text, cut to pieces of `length` tokens; a piece's first token is given, the others are learnt."""
    pieces = []
    for ids in texts.prompts([text for text in read_texts(source) if text]):
        pieces += [ids[at : at + length] for at in range(0, len(ids), length)]
    found = [Example(piece[:1], [piece[1:]]) for piece in pieces if len(piece) > 1]
    if not found:
        raise AlignbenchError(f"{source}: no pretraining text of two tokens or more")
    return found


if __name__ == "__main__":
    from alignbench.cli.train import main

    main("sft")
