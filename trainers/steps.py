"""What training steps are made of. Randomness follows from the seed and the step, so none of it has to be kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from alignbench.errors import AlignbenchError
from trainers.optimisation import Ema, gradient_norm
from trainers.packing import micro_batches

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class NotFiniteError(Exception):
    """A gradient is NaN or infinite; the weights are still those before the step."""


@lru_cache(maxsize=8)
def shuffled(count: int, *key: int) -> tuple[int, ...]:
    """A permutation of 0 … count − 1 that the key alone decides: seed, epoch, …"""
    return tuple(np.random.default_rng(key).permutation(count).tolist())


def endless(count: int, start: int, number: int, *key: int) -> list[tuple[int, int]]:
    """Places start … start + number − 1 of an endless sequence of passes over `count` things, each in a new order:
    (pass, thing)."""
    places = [divmod(place, count) for place in range(start, start + number)]
    return [(lap, shuffled(count, *key, lap)[at]) for lap, at in places]


def seed_dropout(accelerator: Accelerator, *key: int) -> None:
    """Random numbers of this step and process, whatever ran before."""
    torch.manual_seed(int(np.random.SeedSequence((*key, accelerator.process_index)).generate_state(1)[0]))


def my_batches(accelerator: Accelerator, rows: Sequence[T], size: Callable[[T], int], budget: int) -> list[list[T]]:
    """This process's micro-batches of a batch that all processes know."""
    shares = micro_batches([size(row) for row in rows], accelerator.num_processes, budget)
    return [[rows[i] for i in places] for places in shares[accelerator.process_index]]


def accumulate(
    accelerator: Accelerator, module: nn.Module, batches: Sequence[T], loss_of: Callable[[T], torch.Tensor]
) -> float:
    """Add the gradient of the summed losses to the parameters' gradients; this process's sum of the losses.

    Losses are sums divided by a count of the whole batch, so micro-batches add up to it exactly; the average that is
    taken over the processes is undone by their number.
    """
    summed = 0.0
    for number, batch in enumerate(batches):
        last = number == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(module):
            loss = loss_of(batch)
            accelerator.backward(loss * accelerator.num_processes)
        summed += float(loss.detach())
    return summed


def take_step(module: nn.Module, optimizer: Any, largest_norm: float | None) -> float:
    """Clip if asked for, move the weights, clear the gradients; the norm before clipping.

    Raises NotFiniteError, leaving the weights as they are, where the gradient is not finite.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = gradient_norm(gradients)
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise NotFiniteError
    if largest_norm is not None and norm > largest_norm:
        for gradient in gradients:
            gradient.mul_(largest_norm / norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def share(accelerator: Accelerator, count: int, compute: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """compute(places) for this process's places of 0 … count − 1, and the results of all processes in order."""
    from accelerate.utils import gather_object

    mine = list(range(accelerator.process_index, count, accelerator.num_processes))
    found: list[tuple[int, T]] = gather_object(list(zip(mine, compute(mine) if mine else [], strict=True)))
    return [result for _, result in sorted(found, key=lambda pair: pair[0])]


def total(accelerator: Accelerator, value: float) -> float:
    """The sum of a number over the processes."""
    from accelerate.utils import gather_object

    return math.fsum(gather_object([value]))


def save_training(folder: Path, accelerator: Accelerator, ema: Ema | None = None) -> None:
    """Weights and optimizer of all that was prepared, and the averages; on every process."""
    for optimizer in accelerator._optimizers if accelerator.distributed_type == "FSDP" else []:
        # before the first step torch would fill Adam's state with a step of zero gradients, which Adam would count
        for p in [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state]:
            zeros = (torch.zeros_like(p) for _ in range(2))
            optimizer.state[p] = dict(zip(("step", "exp_avg", "exp_avg_sq"), (torch.tensor(0.0), *zeros), strict=True))
    accelerator.save_state(str(folder))
    if ema is not None:
        local = {n: w.to_local() if hasattr(w, "to_local") else w for n, w in ema.weights.items()}
        torch.save(local, folder / f"ema-{accelerator.process_index}.pt")


def load_training(folder: Path, accelerator: Accelerator, ema: Ema | None = None) -> None:
    accelerator.load_state(str(folder))
    if ema is not None:
        file = folder / f"ema-{accelerator.process_index}.pt"
        for name, weights in torch.load(file, weights_only=True, map_location="cpu").items():
            kept = ema.weights[name]
            (kept.to_local() if hasattr(kept, "to_local") else kept).copy_(weights)


def check_lengths(sizes: Sequence[int], window: int | None, what: str, source: str) -> None:
    """Raise AlignbenchError where a row has more tokens than the model's window."""
    for number, size in enumerate(sizes, 1):
        if window is not None and size > window:
            raise AlignbenchError(
                f"{source}: {what} {number} has {size} tokens, the model's window {window}; "
                "drop it, or cap lengths with `alignbench data prepare`"
            )
