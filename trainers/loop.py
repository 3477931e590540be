"""Parts of a training loop, and `fit`, the loop of SFT and the reward model.

Random numbers are a function of the seed and the step, so a resumed run repeats steps bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from alignbench.errors import AlignbenchError
from trainers.config import StageConfig
from trainers.distributed import load_training, local_batches, save_training, total
from trainers.losses import cosine
from trainers.run import Metrics, Run

T = TypeVar("T")


class NotFiniteError(AlignbenchError):
    """A gradient, logits or values are NaN or infinite; the weights are those before the step."""


@lru_cache(maxsize=8)
def shuffled(count: int, purpose: str, *key: int) -> tuple[int, ...]:
    """A permutation of 0 … count − 1 determined by purpose and key (seed, epoch, …)."""
    return tuple(np.random.default_rng(_seed(purpose, *key)).permutation(count).tolist())


def infinite_shuffle(count: int, start: int, number: int, purpose: str, *key: int) -> list[tuple[int, int]]:
    """(pass, item) at positions start … start + number − 1 of endless passes over `count` items, each shuffled."""
    positions = [divmod(position, count) for position in range(start, start + number)]
    return [(lap, shuffled(count, purpose, *key, lap)[at]) for lap, at in positions]


def _seed(purpose: str, *key: int) -> int:
    """63 bits; hashed, because numpy treats (5,) and (5, 0) as the same seed."""
    return int.from_bytes(hashlib.sha256(repr((purpose, *key)).encode()).digest()[:8]) >> 1


def adam(groups: Iterable[tuple[Iterable[nn.Parameter], float]]) -> torch.optim.Adam:
    """Adam with β (.9, .95) (InstructGPT, App. C) and ε 1e-5 (detail 14), from (parameters, learning rate) groups."""
    return torch.optim.Adam(
        [{"params": [p for p in parameters if p.requires_grad], "lr": lr, "peak": lr} for parameters, lr in groups],
        betas=(0.9, 0.95),
        eps=1e-5,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class Ema:
    """The exponential moving average of a model's trained weights (InstructGPT, C.4: decay .992)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange averaged and current weights; a second call restores them."""
        for name, parameter in model.named_parameters():
            if name in self.weights:
                current = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(current)


def gradient_norm(gradients: Iterable[torch.Tensor | None]) -> float:
    """The Euclidean norm over all tensors, including the shards of other processes."""
    norm = nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def accumulate(
    accelerator: Accelerator,
    module: nn.Module,
    batches: Sequence[Sequence[T]],
    loss_of: Callable[[Sequence[T]], torch.Tensor],
    divisor: float,
) -> float:
    """Add the gradient of the losses divided by `divisor` to the parameters' gradients; this process's loss.

    loss_of: a sum over rows; divisor: of the whole batch, so that micro-batches add up to it exactly (detail 15)
    """
    summed = 0.0
    for number, batch in enumerate(batches, 1):
        with nullcontext() if number == len(batches) else accelerator.no_sync(module):
            loss = loss_of(batch) / divisor
            accelerator.backward(loss * accelerator.num_processes)  # DDP averages over processes
        summed += float(loss.detach())
    return summed


def take_step(module: nn.Module, optimizer: Any, max_norm: float | None) -> float:
    """Clip the gradient to `max_norm` (None: no clipping), update the weights, clear the gradient; its unclipped norm.

    Raises NotFiniteError, without an update, if the gradient is not finite.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = gradient_norm(gradients)
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise NotFiniteError("the gradient is not finite")
    if max_norm is not None and norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def check_lengths(sizes: Iterable[int], window: int | None, what: str, source: str) -> None:
    """Raise AlignbenchError for a row with more tokens than the model's window."""
    for number, size in enumerate(sizes, 1):
        if window is not None and size > window:
            raise AlignbenchError(
                f"{source}: {what} {number} has {size} tokens, the model's window {window}; "
                "drop it, or limit lengths with `alignbench data prepare`"
            )


@dataclass(frozen=True, kw_only=True)
class EpochsConfig(StageConfig):
    """Settings that SFT and the reward model share; each sets its own defaults."""

    epochs: int
    batch: int
    lr: float


def fit(
    config: EpochsConfig,
    run: Run,
    module: nn.Module,
    optimizer: Any,
    *,
    rows_of: Callable[[int], Sequence[T]],
    size: Callable[[T], int],
    weight: Callable[[T], int],
    loss_of: Callable[[Sequence[T]], torch.Tensor],
    after_epoch: Callable[[int, int], Metrics],
) -> list[Metrics]:
    """Train for `epochs` passes over shuffled batches, one Adam step per batch; the metrics after each epoch.

    rows_of: the rows of an epoch, equally many in each; size: tokens of a row
    loss_of: the summed loss of rows; weight: a row's part (its tokens, or 1) of the divisor of a batch's loss
    after_epoch: metrics after (epochs, steps)
    """
    accelerator = run.accelerator
    count = len(rows_of(0))
    per_epoch = math.ceil(count / config.batch)
    if (last := count - (per_epoch - 1) * config.batch) < accelerator.num_processes:
        raise AlignbenchError(
            f"batch {config.batch}: the last batch of an epoch has {last} rows, fewer than processes; change batch"
        )
    steps, step, epochs = per_epoch * config.epochs, 0, list[Metrics]()
    if state := run.resume():
        load_training(state.folder, accelerator)
        step, epochs = state.values["step"], state.values["epochs"]
    run.progress.start(run.origin.stage, steps, step, "steps")
    while True:
        if step % config.save_every == 0 or step % per_epoch == 0:
            run.save_state(step, lambda folder: save_training(folder, accelerator), {"epochs": epochs})
        if step == steps:
            return epochs
        epoch, index = divmod(step, per_epoch)
        rows, order = rows_of(epoch), shuffled(count, "epoch", config.seed, epoch)
        batch = [rows[i] for i in order[index * config.batch :][: config.batch]]
        divisor = sum(weight(row) for row in batch)
        factor = cosine(step, steps)
        set_learning_rate(optimizer, factor)
        torch.manual_seed(_seed("dropout", config.seed, step, accelerator.process_index))
        module.train()
        micro = local_batches(accelerator, batch, size, config.micro_tokens)
        loss = accumulate(accelerator, module, micro, loss_of, divisor)
        try:
            norm = take_step(module, optimizer, config.max_gradient_norm)
        except NotFiniteError:
            raise AlignbenchError(
                f"step {step + 1}: the gradient is not finite; the state before it is kept in {run.out / 'state'}"
            ) from None
        step += 1
        run.log(step, {"loss": total(loss), "gradient_norm": norm, "lr": config.lr * factor})
        run.progress.advance()
        if step % per_epoch == 0:
            epochs.append({"epoch": step // per_epoch, **after_epoch(step // per_epoch, step)})
            run.log(step, epochs[-1])
