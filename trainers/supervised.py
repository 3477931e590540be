"""The loop that SFT and the reward model share: epochs of shuffled batches, one Adam step a batch, a cosine schedule.

`fit` reads top to bottom. A killed run goes on from its last state and repeats the steps after it bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from trainers.config import StageConfig
from trainers.optimisation import cosine, set_rate
from trainers.run import Run
from trainers.steps import (
    NotFiniteError,
    accumulate,
    load_training,
    my_batches,
    save_training,
    seed_dropout,
    shuffled,
    take_step,
    total,
)  # fmt: skip

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EpochsConfig(StageConfig):
    """Settings that both stages have; each has defaults of its own."""

    epochs: int
    batch: int
    lr: float


def fit(
    config: EpochsConfig,
    run: Run,
    accelerator: Accelerator,
    module: nn.Module,
    optimizer: Any,
    *,
    name: str,
    rows_of: Callable[[int], Sequence[T]],
    size: Callable[[T], int],
    weight: Callable[[T], int],
    loss_of: Callable[[Sequence[T]], torch.Tensor],
    after_epoch: Callable[[int, int], Metrics],
    progress: Progress,
) -> list[Metrics]:
    """Train, and return what `after_epoch` found after each epoch.

    rows_of: the rows of an epoch, as many in each
    size: tokens of a row; weight: what its loss sums over (its tokens, or 1), the divisor of a batch's loss
    loss_of: the summed loss of some rows
    after_epoch: (epochs, steps) so far
    """
    a_epoch = math.ceil(len(rows_of(0)) / config.batch)
    if (last := len(rows_of(0)) - (a_epoch - 1) * config.batch) < accelerator.num_processes:
        raise AlignbenchError(
            f"batch {config.batch}: an epoch's last has {last} rows, fewer than processes; change batch"
        )
    steps, step, epochs = a_epoch * config.epochs, 0, list[Metrics]()
    if state := run.resume():
        load_training(state, accelerator)
        step, epochs = run.state(state)["step"], run.state(state)["epochs"]
    progress.start(name, steps, step, "steps")
    while step < steps:
        if step % config.save_every == 0:
            run.save_state(step, lambda folder: save_training(folder, accelerator), {"epochs": epochs})
        epoch, place = divmod(step, a_epoch)
        rows = rows_of(epoch)
        order = shuffled(len(rows), "epoch", config.seed, epoch)
        batch = [rows[i] for i in order[place * config.batch :][: config.batch]]
        mine = my_batches(accelerator, batch, size, config.micro_tokens)
        divisor = sum(weight(row) for row in batch)
        rate = cosine(step, steps)
        set_rate(optimizer, rate)
        seed_dropout(accelerator, config.seed, step)
        module.train()
        summed = accumulate(accelerator, module, mine, partial(_divided, loss_of, divisor))
        try:
            norm = take_step(module, optimizer, config.max_gradient_norm)
        except NotFiniteError:
            raise AlignbenchError(
                f"step {step + 1}: the gradient is not finite; the state before it is kept in {run.out / 'state'}"
            ) from None
        step += 1
        run.log(step, {"loss": total(accelerator, summed), "gradient_norm": norm, "lr": config.lr * rate})
        progress.advance()
        if step % a_epoch == 0:
            epochs.append({"epoch": step // a_epoch, **after_epoch(step // a_epoch, step)})
            run.log(step, epochs[-1])
            run.save_state(step, lambda folder: save_training(folder, accelerator), {"epochs": epochs})
    return epochs


def _divided(loss_of: Callable[[Sequence[T]], torch.Tensor], divisor: int, rows: Sequence[T]) -> torch.Tensor:
    return loss_of(rows) / divisor
