"""What training steps are made of. Randomness follows from the seed and the step, so none of it has to be kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from alignbench.errors import AlignbenchError
from trainers.optimisation import Ema, gradient_norm
from trainers.packing import Example, Packed, micro_batches, pack

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class NotFiniteError(AlignbenchError):
    """A gradient, a model's logits or its values are NaN or infinite; the weights are still those before the step."""


@lru_cache(maxsize=8)
def shuffled(count: int, purpose: str, *key: int) -> tuple[int, ...]:
    """A permutation of 0 … count − 1 that purpose and key alone decide; the key is seed, epoch, …"""
    return tuple(np.random.default_rng(_seed(purpose, *key)).permutation(count).tolist())


def endless(count: int, start: int, number: int, purpose: str, *key: int) -> list[tuple[int, int]]:
    """Places start … start + number − 1 of an endless sequence of passes over `count` things, each in a new order:
    (pass, thing)."""
    places = [divmod(place, count) for place in range(start, start + number)]
    return [(lap, shuffled(count, purpose, *key, lap)[at]) for lap, at in places]


def seed_dropout(accelerator: Accelerator, *key: int) -> None:
    """Random numbers of this step and process, whatever ran before."""
    torch.manual_seed(_seed("dropout", *key, accelerator.process_index))


def _seed(purpose: str, *key: int) -> int:
    """63 bits; hashed, since numpy takes (5,) and (5, 0) for one seed."""
    return int.from_bytes(hashlib.sha256(repr((purpose, *key)).encode()).digest()[:8]) >> 1


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
        raise NotFiniteError("the gradient is not finite")
    if largest_norm is not None and norm > largest_norm:
        for gradient in gradients:
            gradient.mul_(largest_norm / norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def share(accelerator: Accelerator, count: int, compute: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """compute(places) for this process's places of 0 … count − 1, and the results of all processes in order."""
    mine = list(range(accelerator.process_index, count, accelerator.num_processes))
    found = dict(gathered(lambda: list(zip(mine, compute(mine) if mine else [], strict=True))))
    return [found[i] for i in range(count)]


@torch.no_grad()
def look(
    accelerator: Accelerator, examples: Sequence[Example], budget: int, compute: Callable[[Packed], Sequence[Any]]
) -> list[Any]:
    """What `compute` finds of each example, on packed rows of about `budget` tokens, each process computing its share.

    All processes call `compute` equally often, since a model that is sharded waits for the others at every forward.
    compute: one result an example, in the order of the row; `by_example` cuts what a model gives into them
    """
    if not examples:
        return []
    # with fewer examples than processes, some are computed twice
    places = [i % len(examples) for i in range(max(len(examples), accelerator.num_processes))]
    rows = my_batches(accelerator, places, lambda i: len(examples[i]), budget)

    def mine() -> list[tuple[int, Any]]:
        packed = ((row, pack([examples[i] for i in row], accelerator.device)) for row in rows)
        return [pair for row, batch in packed for pair in zip(row, compute(batch), strict=True)]

    found = dict(gathered(mine))
    return [found[i] for i in range(len(examples))]


def by_example(packed: Packed, columns: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Values read at columns of the row (`before` or `last`), (…, columns), cut into one tensor an example."""
    (starts,) = torch.nonzero(packed.positions[0] == 0, as_tuple=True)
    counts = torch.bincount(torch.searchsorted(starts, columns, right=True) - 1, minlength=len(starts))
    return values.tensor_split(counts.cumsum(0)[:-1].cpu(), dim=-1)


def gathered(compute: Callable[[], list[T]]) -> list[T]:
    """The results of all processes. Where one raises AlignbenchError, all do: none waits for ever for another."""
    from accelerate.utils import gather_object

    results, failure = list[T](), None
    try:
        results = compute()
    except AlignbenchError as error:
        failure = str(error)
    everyone = gather_object([(results, failure)])
    for line in filter(None, (failure for _, failure in everyone)):
        raise AlignbenchError(line)
    return [result for found, _ in everyone for result in found]


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
        torch.save({name: _local(w) for name, w in ema.weights.items()}, folder / f"ema-{accelerator.process_index}.pt")


def load_training(folder: Path, accelerator: Accelerator, ema: Ema | None = None) -> None:
    accelerator.load_state(str(folder))
    if ema is not None:
        file = folder / f"ema-{accelerator.process_index}.pt"
        for name, weights in torch.load(file, weights_only=True, map_location="cpu").items():
            _local(ema.weights[name]).copy_(weights)


def finite(accelerator: Accelerator, weights: Iterable[torch.Tensor]) -> bool:
    """Whether all numbers of all processes' weights are finite."""
    return not total(accelerator, sum(not _local(w).isfinite().all() for w in weights))


def _local(weights: torch.Tensor) -> torch.Tensor:
    """This process's part of weights that may be sharded."""
    part: torch.Tensor = weights.to_local() if hasattr(weights, "to_local") else weights
    return part


def check_lengths(sizes: Sequence[int], window: int | None, what: str, source: str) -> None:
    """Raise AlignbenchError where a row has more tokens than the model's window."""
    for number, size in enumerate(sizes, 1):
        if window is not None and size > window:
            raise AlignbenchError(
                f"{source}: {what} {number} has {size} tokens, the model's window {window}; "
                "drop it, or cap lengths with `alignbench data prepare`"
            )
