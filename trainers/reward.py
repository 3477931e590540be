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

from alignbench import stats
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.runs import write_json
from trainers.config import REQUIRED, setting
from trainers.data import Ranking, chat_template, fingerprint, read_demonstrations, read_rankings
from trainers.losses import ranking_loss
from trainers.models import BIAS, Scalar, Texts, load, part, residual_dropout, save_model, scalar_padding
from trainers.optimisation import adam
from trainers.packing import Example, pack
from trainers.recipe import identify, write_recipe
from trainers.rewards import RewardModel
from trainers.run import make_accelerator, open_run
from trainers.steps import check_lengths, share, shuffled
from trainers.supervised import Metrics, fit


@dataclass(frozen=True)
class RewardConfig:
    """Settings of the reward model. The defaults are the paper's where it gives a number."""

    model: str = setting(REQUIRED, "checkpoint to start from, the SFT model: local folder or hub id")
    data: str = setting(REQUIRED, "rankings: {prompt, responses, ranks, labeler} or {prompt, chosen, rejected}")
    out: str = setting(REQUIRED, "folder of the run", free=True)
    validation: str | None = setting(None, "held-out rankings; none: a share of the data's prompts")
    validation_share: float = setting(0.1, "of the prompts, held out where no validation is given")
    demonstrations: str | None = setting(None, "whose mean reward a bias brings to 0 after training")
    template: bool = setting(False, "put prompts into the model's chat template")
    folds: int = setting(0, "train as often without a part of the labelers, to see how they are predicted (paper: 5)")
    fold: int | None = setting(None, "the part of the labelers that is left out: set by folds")
    epochs: int = setting(1, "passes over the data (paper: 1, since more overfit)")
    batch: int = setting(64, "prompts of a step, with all their pairs (paper: 64, K = 4 to 9)")
    lr: float = setting(9e-6, "peak, falling along a cosine to a tenth (paper: 9e-6)")
    max_gradient_norm: float | None = setting(None, "clip the gradient to this norm (not in the paper)")
    mixed_precision: str = setting("no", "no, or bf16 (autocast; the weights stay fp32)")
    micro_tokens: int = setting(4096, "tokens that go through the model at once")
    seed: int = setting(0, "of the new head, the held-out prompts and the order of the data")
    save_every: int = setting(100, "steps between resumable states", free=True)
    trackers: tuple[str, ...] | None = setting(None, "tensorboard, wandb; none: tensorboard if installed", free=True)
    cpu: bool = setting(False, "train on the CPU even where there is a GPU")


PRESETS: dict[str, dict[str, Any]] = {
    "instructgpt-6b": {"epochs": 1, "batch": 64, "lr": 9e-6, "folds": 5},  # the paper's only size of reward model
}


@dataclass(frozen=True, slots=True)
class Row:
    """A ranking as token ids."""

    ranking: Ranking
    example: Example
    ranks: torch.Tensor


def train(config: RewardConfig, *, progress: Progress | None = None) -> tuple[Path, Metrics]:
    """Train, or go on where a stopped run stood: the final checkpoint's folder and its metrics."""
    progress = progress or Progress()
    accelerator = make_accelerator(config.mixed_precision, config.trackers, Path(config.out), config.cpu, progress.say)
    model, tokenizer, checkpoint = load(config.model, "reward", new_head=config.seed)
    render = chat_template(tokenizer) if config.template else None
    texts = Texts(tokenizer)
    sources = [config.data, *filter(None, (config.validation, config.demonstrations))]
    rankings, held_out, other_labelers = _split(config, read_rankings(config.data, render), render)
    rows, validation, foreign = ([_row(r, texts) for r in part] for part in (rankings, held_out, other_labelers))
    demonstrations = read_demonstrations(config.demonstrations, render) if config.demonstrations else []
    for some, source in ((rows, config.data), (validation, config.validation or config.data), (foreign, config.data)):
        longest = [len(row.example.prompt) + max(map(len, row.example.responses)) for row in some]
        check_lengths(longest, checkpoint.window, "ranking", source)
    if not rows:
        raise AlignbenchError(f"{config.data}: no ranking is left to train on")
    longer = longer_wins(rows)
    held_out_folds = _train_folds(config, progress) if config.folds and config.fold is None else {}

    residual_dropout(model, 0.0)
    scalar = Scalar(model.to(accelerator.device))
    reader = RewardModel(scalar, tokenizer, checkpoint.window, config.micro_tokens)
    module, optimizer = accelerator.prepare(scalar, adam([(scalar.parameters(), config.lr)]))
    prints = [fingerprint(source) for source in sources]
    with open_run(Path(config.out), config, {"model": identify(config.model), "data": prints}, accelerator) as run:

        def loss_of(rows: Sequence[Row]) -> torch.Tensor:
            packed = pack([row.example for row in rows], accelerator.device)
            scores = module(packed, packed.last).split([len(row.ranks) for row in rows])
            return torch.stack(
                [ranking_loss(s, row.ranks.to(s.device)) for s, row in zip(scores, rows, strict=True)]
            ).sum()

        def scores_of(rows: Sequence[Row]) -> list[list[float]]:
            module.eval()
            return share(accelerator, len(rows), lambda places: reader.scores([rows[i].example for i in places]))

        def after_epoch(epoch: int, step: int) -> Metrics:
            found = agreement(validation, scores_of(validation), longer_is_better=longer).metrics
            if foreign:
                other = agreement(foreign, scores_of(foreign), longer_is_better=longer).metrics
                found |= {f"held_out_labelers_{name}": value for name, value in other.items()}
            return found

        def save(folder: Path) -> None:
            whole = accelerator.get_state_dict(module)
            if accelerator.is_main_process:
                model.config.pad_token_id = scalar_padding(tokenizer)
                if model.config.pad_token_id is not None:
                    tokenizer.pad_token_id = model.config.pad_token_id
                save_model(folder, model, tokenizer, part(whole, "model."))
                write_json(folder / "calibration.json", {"bins": found.bins})
                write_recipe(
                    folder, stage="reward", parent=config.model, models={}, data=prints, config=config, metrics=metrics
                )

        epochs = fit(
            config, run, accelerator, module, optimizer, name="reward model", rows_of=lambda epoch: rows,
            size=lambda row: len(row.example), weight=lambda row: 1, loss_of=loss_of, after_epoch=after_epoch,
            progress=progress,
        )  # fmt: skip
        metrics = epochs[-1] | held_out_folds
        if not run.finished:
            found = agreement(validation, scores_of(validation), longer_is_better=longer)
            if demonstrations:
                setattr(model.config, BIAS, 0.0)
                prompts, responses = [d.prompt for d in demonstrations], [d.response for d in demonstrations]
                scores = share(
                    accelerator,
                    len(prompts),
                    lambda places: reader([prompts[i] for i in places], [responses[i] for i in places]),
                )
                metrics["bias"] = -sum(scores) / len(scores)
                setattr(model.config, BIAS, metrics["bias"])
            run.save_checkpoint("final", save)
        return run.out / "final", metrics


@dataclass(frozen=True)
class Agreement:
    """How a reward model agrees with the rankings.

    bins: calibration, by predicted probability of the preferred response: from, to, pairs, mean prediction, share
    """

    metrics: Metrics
    bins: list[dict[str, float]]


def agreement(rows: Sequence[Row], scores: Sequence[Sequence[float]], *, longer_is_better: bool = True) -> Agreement:
    """Accuracy on all pairs that are no ties, with intervals clustered by prompt, beside a preference for length alone.

    longer_is_better: what that preference is, found on other rows (see `longer_wins`)
    Each pair is read once, in the order of the row: p = σ(r_i − r_j) predicts that i was preferred to j.
    """
    right, by_length, prompts, predicted, happened = [], [], [], [], []
    for row, found in zip(rows, scores, strict=True):
        for i, j, better in _pairs(row):
            margin, longer = found[i] - found[j], _longer(row, i, j)
            right.append(0.5 if margin == 0 else float((margin > 0) == better))
            by_length.append(0.5 if longer == 0 else float((longer > 0) == (better == longer_is_better)))
            predicted.append(1 / (1 + np.exp(-margin)))
            happened.append(float(better))
            prompts.append(row.ranking.prompt)
    if not right:
        raise AlignbenchError("no pair to validate on: give more rankings, or validation=FILE")
    p, y = np.array(predicted), np.array(happened)
    edges = np.linspace(0, 1, 11)
    place = np.clip(np.digitize(p, edges) - 1, 0, 9)
    inside = [(b, place == b) for b in range(10) if (place == b).any()]
    bins = [
        {"from": edges[b], "to": edges[b + 1], "pairs": int(m.sum()), "predicted": p[m].mean(), "share": y[m].mean()}
        for b, m in inside
    ]
    metrics: Metrics = {"pairs": len(right)}
    for name, estimate in (
        ("accuracy", stats.share(right, prompts)),
        ("length_accuracy", stats.share(by_length, prompts)),
        ("over_length", stats.mean(np.subtract(right, by_length), prompts)),
    ):
        values = (estimate.value, estimate.low, estimate.high)
        for suffix, value in zip(("", "_low", "_high"), values, strict=True):
            metrics[name + suffix] = float("nan") if value is None else value
    metrics["log_loss"] = float(-np.log(np.where(y == 1, p, 1 - p) + 1e-12).mean())
    metrics["calibration_error"] = float(sum(b["pairs"] * abs(b["predicted"] - b["share"]) for b in bins) / len(p))
    return Agreement(metrics, bins)


def longer_wins(rows: Sequence[Row]) -> bool:
    """Whether the longer response is preferred more often than not."""
    votes = [np.sign(_longer(row, i, j)) * (1 if better else -1) for row in rows for i, j, better in _pairs(row)]
    return bool(sum(votes) >= 0)


def _pairs(row: Row) -> list[tuple[int, int, bool]]:
    """(i, j, whether i was preferred) for each pair of a ranking that is no tie."""
    ranks = row.ranks.tolist()
    pairs = [(i, j) for i in range(len(ranks)) for j in range(i + 1, len(ranks))]
    return [(i, j, ranks[i] < ranks[j]) for i, j in pairs if ranks[i] != ranks[j]]


def _longer(row: Row, i: int, j: int) -> int:
    return len(row.ranking.responses[i]) - len(row.ranking.responses[j])


def _split(config: RewardConfig, rankings: list[Ranking], render: Any) -> tuple[list[Ranking], ...]:
    """For training, for validation, and of the labelers that this fold leaves out."""
    if config.validation:
        training, held_out = rankings, read_rankings(config.validation, render)
    else:
        prompts = sorted({ranking.prompt for ranking in rankings})
        count = max(1, round(len(prompts) * config.validation_share))
        chosen = {prompts[i] for i in shuffled(len(prompts), config.seed)[:count]}
        training = [ranking for ranking in rankings if ranking.prompt not in chosen]
        held_out = [ranking for ranking in rankings if ranking.prompt in chosen]
    if config.fold is None:
        return training, held_out, []
    out = set(_labelers(config, rankings)[config.fold :: config.folds])
    return (
        [r for r in training if r.labeler not in out],
        [r for r in held_out if r.labeler not in out],
        [r for r in rankings if r.labeler in out],
    )


def _labelers(config: RewardConfig, rankings: Sequence[Ranking]) -> list[str]:
    names = sorted({ranking.labeler for ranking in rankings if ranking.labeler is not None})
    if len(names) < config.folds:
        raise AlignbenchError(f"{config.data}: {len(names)} labelers for {config.folds} folds; give rows a labeler")
    return [names[i] for i in shuffled(len(names), config.seed)]


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


def _row(ranking: Ranking, texts: Texts) -> Row:
    (ids,) = texts.prompts([ranking.prompt])
    responses = [texts.response(ranking.prompt, ids, response) for response in ranking.responses]
    return Row(ranking, Example(ids, responses), torch.tensor(ranking.ranks))


if __name__ == "__main__":
    from trainers.cli import main

    main("reward")
