"""The reward model: a scalar head on the SFT model, trained on all pairs of each ranking (InstructGPT, C.2, eq. 1).

`train` reads top to bottom. A prompt is computed once for its K responses, and each response once for its K − 1 pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignbench.data.tables import fingerprint
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.runs.folder import write_json
from trainers.agreement import agreement, longer_wins
from trainers.config import REQUIRED, check, setting
from trainers.data import Ranking, chat_template, read_demonstrations, read_rankings
from trainers.losses import ranking_loss
from trainers.models import BIAS, Scalar, Texts, load, part, residual_dropout, save_model, scalar_padding
from trainers.optimisation import adam
from trainers.packing import Example, Packed, pack
from trainers.recipe import identify, write_recipe
from trainers.run import make_accelerator, open_run
from trainers.steps import by_example, check_lengths, look, shuffled
from trainers.supervised import EpochsConfig, Metrics, fit


@dataclass(frozen=True)
class RewardConfig(EpochsConfig):
    """Settings of the reward model. The defaults are the paper's where it gives a number."""

    model: str = setting(REQUIRED, "checkpoint to start from, the SFT model: local folder or hub id")
    data: str = setting(REQUIRED, "rankings: {prompt, responses, ranks, labeler} or {prompt, chosen, rejected}")
    validation: str | None = setting(None, "held-out rankings; none: a share of the data's prompts")
    validation_share: float = setting(0.1, "of the prompts, held out where no validation is given", above=0, high=0.99)
    demonstrations: str | None = setting(None, "whose mean reward a bias brings to 0 after training")
    folds: int = setting(0, "train as often without a part of the labelers, to see how they are predicted", low=0)
    fold: int | None = setting(None, "the part of the labelers that is left out: set by folds", low=0)
    epochs: int = setting(1, "passes over the data (paper: 1, since more overfit)", low=1)
    batch: int = setting(64, "prompts of a step, with all their pairs (paper: 64, K = 4 to 9)", low=1)
    lr: float = setting(9e-6, "peak, falling along a cosine to a tenth (paper: 9e-6)", low=0)


PRESETS: dict[str, dict[str, Any]] = {"instructgpt-6b": {"folds": 5}}  # the paper's only size of reward model


@dataclass(frozen=True, slots=True)
class Row:
    """A ranking, and as token ids."""

    ranking: Ranking
    example: Example


def train(config: RewardConfig, *, progress: Progress | None = None) -> tuple[Path, Metrics]:
    """Train, or go on where a stopped run stood: the final checkpoint's folder and its metrics."""
    check(config)
    progress = progress or Progress()
    held_out_folds = _train_folds(config, progress) if config.folds and config.fold is None else {}
    accelerator = make_accelerator(config.mixed_precision, config.trackers, Path(config.out), config.cpu, progress.say)
    model, tokenizer, checkpoint = load(config.model, "reward", new_head=config.seed)
    setattr(model.config, BIAS, 0.0)  # a parent's is not this model's
    render = chat_template(tokenizer) if config.template else None
    texts = Texts(tokenizer, model)
    rankings = read_rankings(config.data, render)
    given = read_rankings(config.validation, render) if config.validation else None
    training, held_out, other_labelers = _split(config, rankings, given)
    rows = [Row(ranking, texts.example(ranking.prompt, ranking.responses)) for ranking in training]
    validation, foreign = ([texts.example(r.prompt, r.responses) for r in some] for some in (held_out, other_labelers))
    shown = read_demonstrations(config.demonstrations, render) if config.demonstrations else []
    demonstrations = [texts.example(row.prompt, [row.response]) for row in shown]
    for examples, what, source in (
        ([row.example for row in rows], "ranking", config.data),
        (validation, "ranking", config.validation or config.data),
        (foreign, "ranking", config.data),
        (demonstrations, "demonstration", config.demonstrations),
    ):
        longest = [len(example.prompt) + max(map(len, example.responses)) for example in examples]
        check_lengths(longest, checkpoint.window, what, str(source))
    longer = longer_wins(training)

    residual_dropout(model, 0.0)
    scalar = Scalar(model.to(accelerator.device))
    module, optimizer = accelerator.prepare(scalar, adam([(scalar.parameters(), config.lr)]))
    prints = [fingerprint(config.data, len(rankings))]
    prints += [fingerprint(config.validation, len(given))] if config.validation and given else []
    prints += [fingerprint(config.demonstrations, len(shown))] if config.demonstrations else []
    with open_run(Path(config.out), config, {"model": identify(config.model), "data": prints}, accelerator) as run:
        if done := run.result():
            return done

        def loss_of(rows: Sequence[Row]) -> torch.Tensor:
            packed = pack([row.example for row in rows], accelerator.device)
            scores = module(packed, packed.last).split([len(row.ranking.ranks) for row in rows])
            ranks = [torch.tensor(row.ranking.ranks, device=accelerator.device) for row in rows]
            return torch.stack([ranking_loss(s, r) for s, r in zip(scores, ranks, strict=True)]).sum()

        def scores_of(examples: Sequence[Example]) -> list[list[float]]:
            def compute(packed: Packed) -> list[list[float]]:
                with accelerator.autocast():
                    scores = scalar(packed, packed.last)
                return [some.tolist() for some in by_example(packed, packed.last, scores)]

            scalar.eval()
            return look(accelerator, examples, config.micro_tokens, compute)

        def after_epoch(epoch: int, step: int) -> Metrics:
            found = agreement(held_out, scores_of(validation), longer_is_better=longer).metrics
            if foreign:
                other = agreement(other_labelers, scores_of(foreign), longer_is_better=longer).metrics
                found |= {f"held_out_labelers_{name}": value for name, value in other.items()}
            return found

        def save(folder: Path) -> None:
            whole = accelerator.get_state_dict(module)
            if accelerator.is_main_process:
                model.config.pad_token_id = scalar_padding(tokenizer)
                if model.config.pad_token_id is not None:
                    tokenizer.pad_token_id = model.config.pad_token_id
                save_model(folder, model, tokenizer, part(whole, "model."))
                write_json(folder / "calibration.json", {"bins": bins})
                write_recipe(
                    folder, stage="reward", parent=config.model, models={}, data=prints, config=config, metrics=metrics
                )

        epochs = fit(
            config, run, accelerator, module, optimizer, name="reward model", rows_of=lambda epoch: rows,
            size=lambda row: len(row.example), weight=lambda row: 1, loss_of=loss_of, after_epoch=after_epoch,
            progress=progress,
        )  # fmt: skip
        metrics = epochs[-1] | held_out_folds
        bins = agreement(held_out, scores_of(validation)).bins
        if demonstrations:
            metrics["bias"] = -float(np.mean(scores_of(demonstrations)))
            setattr(model.config, BIAS, metrics["bias"])
        return run.save_checkpoint("final", save), metrics


def _split(
    config: RewardConfig, rankings: list[Ranking], given: list[Ranking] | None
) -> tuple[list[Ranking], list[Ranking], list[Ranking]]:
    """For training, for validation, and of the labelers that this fold leaves out. Raises AlignbenchError where nothing
    is left for one of the first two, in this fold or another: before any of them is trained."""
    training, held_out = rankings, given
    if held_out is None:
        prompts = sorted({ranking.prompt for ranking in rankings})
        count = max(1, round(len(prompts) * config.validation_share))
        chosen = {prompts[i] for i in shuffled(len(prompts), "validation", config.seed)[:count]}
        training = [ranking for ranking in rankings if ranking.prompt not in chosen]
        held_out = [ranking for ranking in rankings if ranking.prompt in chosen]
    labelers = _labelers(config, rankings) if config.folds or config.fold is not None else []
    outs = [set(labelers[fold :: config.folds]) for fold in range(config.folds)] or [set[str]()]
    for out in outs:
        if not any(r.labeler not in out for r in training):
            raise AlignbenchError(f"{config.data}: no ranking is left to train on")
        if not any(r.labeler not in out for r in held_out):
            source = config.validation or config.data
            raise AlignbenchError(f"{source}: no ranking is left to validate on; give more in validation=FILE")
    left_out = set() if config.fold is None else outs[config.fold]
    return (
        [r for r in training if r.labeler not in left_out],
        [r for r in held_out if r.labeler not in left_out],
        [r for r in rankings if r.labeler in left_out],
    )


def _labelers(config: RewardConfig, rankings: Sequence[Ranking]) -> list[str]:
    names = sorted({ranking.labeler for ranking in rankings if ranking.labeler is not None})
    if not max(2, (config.fold or 0) + 1) <= config.folds <= len(names):
        raise AlignbenchError(
            f"{config.data}: {len(names)} labelers for {config.folds} folds; give rows a labeler, and two folds or more"
        )
    return [names[i] for i in shuffled(len(names), "labelers", config.seed)]


def _train_folds(config: RewardConfig, progress: Progress) -> Metrics:
    """Train without each part of the labelers: mean and standard error over folds (paper: 72.4 % on the labelers
    trained on, 69.6 % on others)."""
    found: dict[str, list[float]] = {}
    for fold in range(config.folds):
        progress.say(f"fold {fold + 1} of {config.folds}")
        _, metrics = train(replace(config, fold=fold, out=str(Path(config.out) / f"fold-{fold}")), progress=progress)
        for name in ("accuracy", "held_out_labelers_accuracy"):
            found.setdefault(name, []).append(metrics[name])
    result: Metrics = {}
    for name, values in found.items():
        result[f"folds_{name}"] = float(np.mean(values))
        result[f"folds_{name}_se"] = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return result


if __name__ == "__main__":
    from alignbench.cli.train import main

    main("reward")
