"""Supervised fine-tuning (InstructGPT, section 3.5, C.1). The result is the epoch with the highest mean reward."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.types.engine import Sampling
from trainers import loop
from trainers.config import REQUIRED, StageConfig, check, setting
from trainers.data import Ranking, load_policy, pretraining_examples, within_window
from trainers.models import Policy, residual_dropout, save_model
from trainers.packing import Example, Packed, pack
from trainers.reward import as_read_by, load_reward, score_all
from trainers.run import Callback, Metrics, Origin, Result, open_run
from trainers.sampler import Sampler


@dataclass(frozen=True)
class Config(StageConfig):
    """Settings of supervised fine-tuning. The defaults are the paper's where it gives a number."""

    model: str = setting(REQUIRED, "checkpoint to start from: local folder or hub id")
    data: str = setting(REQUIRED, "demonstrations: file of {prompt, response} or {messages}, or hub data set")
    validation: str | None = setting(None, "held-out demonstrations, for the validation loss and the selection")
    reward: str | None = setting(None, "reward model or module:function that selects the epoch; none: the last epoch")
    pretraining: str | None = setting(None, "pretraining text to mix in, as for the paper's initial model of PPO")
    pretraining_share: float = setting(0.1, "proportion of pretraining text (paper: .1, epochs=2)", low=0, high=0.99)
    pretraining_tokens: int = setting(512, "length of a pretraining example", low=2)
    epochs: int = setting(16, "passes over the data (paper: 16; 2 for the initial model of PPO)", low=1)
    batch: int = setting(32, "examples per step (paper: 32 at 1.3B and 6B, 8 at 175B)", low=1)
    lr: float = setting(9.65e-6, "peak learning rate, cosine decay to a tenth (paper: 9.65e-6 at 1.3B and 6B)", low=0)
    dropout: float = setting(0.2, "residual dropout (paper: .2)", low=0, high=0.99)
    selection_prompts: int = setting(256, "validation prompts to answer for the selection", low=1)
    selection_tokens: int = setting(128, "maximum tokens of these answers, sampled at temperature 1", low=1)


PRESETS: dict[str, dict[str, Any]] = {
    "instructgpt-1.3b": {},  # the defaults, also those of 6B
    "instructgpt-6b": {},
    "instructgpt-175b": {"batch": 8, "lr": 5.03e-6},
}


def train(config: Config, *, progress: Progress | None = None, callback: Callback | None = None) -> Result:
    """Fine-tune, or resume an interrupted run; the folder of the final checkpoint and its metrics.

    callback: see `loop.fit`
    """
    config = check(config)
    if config.reward and not config.validation:
        raise AlignbenchError("reward: the selection needs validation=FILE for its prompts")
    return fine_tune(config, config, "sft", progress or Progress(), callback)


def fine_tune(config: Config, recorded: Any, stage: str, progress: Progress, callback: Callback | None) -> Result:
    """The training of `train`, also for a stage that makes the demonstrations itself.

    recorded: all settings of the stage, with its reward; they identify the run and are part of the recipe
    """
    accelerator = loop.make_accelerator(config, progress.say)
    model, reader = load_policy(config, accelerator, progress.say)
    texts, window = reader.texts, reader.window
    training, held_out = (reader.encode(reader.read(s, "demonstrations"), s) for s in (config.data, config.validation))
    examples, validation = ([example for _, example in part] for part in (training, held_out))
    length = min(config.pretraining_tokens, window or config.pretraining_tokens)
    text = pretraining_examples(config.pretraining, texts, length) if config.pretraining else []
    mixed = round(len(examples) * config.pretraining_share / (1 - config.pretraining_share)) if text else 0
    questions, answers = list[Ranking](), [range(config.selection_tokens)]
    if config.reward:
        asked = [(row, Example(example.prompt, answers)) for row, example in held_out[: config.selection_prompts]]
        long = "error" if config.long == "error" else "drop"
        what, source = "prompt with selection_tokens", str(config.validation)
        questions = [row for row, _ in within_window(long, asked, window, what, source, progress.say)]
    prompts = [row.prompt for row in questions]
    residual_dropout(model, config.dropout)
    sampler = Sampler(Policy(model), texts.tokenizer, window, accelerator) if config.reward else None
    reward = load_reward(config.reward, accelerator, config.micro_tokens, config.offload) if config.reward else None
    shown = as_read_by(reward, questions, config.template) if reward else []
    policy, module, optimizer = loop.prepare(Policy(model), config, config.lr, accelerator)
    sources = ((config.data, len(examples)), (config.validation, len(validation)), (config.pretraining, len(text)))
    origin = Origin.find(stage, config.model, {"reward": recorded.reward}, sources)

    with open_run(recorded, origin, accelerator, progress) as run:
        if result := run.result():
            return result

        @lru_cache(maxsize=1)
        def rows_of(epoch: int) -> list[Example]:
            chosen = loop.infinite_shuffle(len(text), epoch * mixed, mixed, "text", config.seed)
            return examples + [text[i] for _, i in chosen]

        def loss_of(rows: Sequence[Example]) -> torch.Tensor:
            logprobs: torch.Tensor = module(pack(rows, accelerator.device))[0]
            return -logprobs.sum()

        def losses_of(packed: Packed) -> list[float]:
            return [-float(part.sum()) for part in loop.split_by_example(packed, packed.before, policy(packed)[0])]

        def after_epoch(epoch: int, step: int) -> Metrics:
            metrics = Metrics()
            policy.eval()
            if losses := loop.map_packed(accelerator, validation, config.micro_tokens, losses_of):
                metrics["validation_loss"] = sum(losses) / sum(len(example.responses[0]) for example in validation)
            if reward is not None and sampler is not None:
                keys = [str(i) for i in range(len(prompts))]
                sampling = Sampling(max_tokens=config.selection_tokens, temperature=1.0)
                responses = [completion.text for completion in sampler.sample(keys, prompts, sampling, config.seed)]
                scores = score_all(accelerator, reward, str(config.reward), shown, responses)
                rows = list(zip(prompts, responses, scores, strict=True))[:8]
                run.sample(step, [{"prompt": p, "response": r, "score": s} for p, r, s in rows])
                metrics["reward"] = sum(scores) / len(scores)
            run.save_checkpoint(f"checkpoints/epoch-{epoch}", save, {"epoch": epoch, **metrics})
            return metrics

        def save(folder: Path) -> None:
            save_model(folder, accelerator, policy, texts.tokenizer)

        def copy_best(folder: Path) -> None:
            if accelerator.is_main_process:
                shutil.copytree(run.out / f"checkpoints/epoch-{best['epoch']:.0f}", folder, dirs_exist_ok=True)

        epochs = loop.fit(
            config, run, module, optimizer, rows_of=rows_of, size=len,
            weight=lambda row: len(row.responses[0]), loss_of=loss_of, after_epoch=after_epoch, callback=callback,
        )  # fmt: skip
        best = max(epochs, key=lambda metrics: metrics["reward"]) if reward else epochs[-1]
        return run.save_checkpoint("final", copy_best, best), best
