"""Work of one or several processes: the accelerator, micro-batches, results gathered in order, resumable state."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, gather_object, parse_flag_from_env

from alignbench.errors import AlignbenchError
from trainers.config import StageConfig
from trainers.packing import Example, Packed, pack

if TYPE_CHECKING:
    from trainers.loop import Ema

T = TypeVar("T")
TRACKERS = {"tensorboard": "train", "wandb": "wandb"}  # tracker -> the extra that installs it


def make_accelerator(config: StageConfig, notify: Callable[[str], None] = lambda line: None) -> Accelerator:
    """An accelerator on this process's device, or on the CPU if there is no other or `config.cpu` is set.

    Raises AlignbenchError for an unknown or missing tracker, DeepSpeed (a step at every backward pass) and FSDP1.
    """
    fsdp1 = parse_flag_from_env("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2"
    if fsdp1 or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise AlignbenchError(f"{'FSDP1' if fsdp1 else 'DeepSpeed'}: not supported; start with FSDP2 or DDP instead")
    for tracker in config.trackers or ():
        if tracker not in TRACKERS:
            raise AlignbenchError(f"tracker {tracker!r}: choose among {', '.join(TRACKERS)}, or trackers=[]")
        if find_spec(tracker) is None:
            raise AlignbenchError(f"tracker {tracker}: not installed; pip install 'alignbench[{TRACKERS[tracker]}]'")
    trackers = config.trackers
    if trackers is None and not (trackers := ("tensorboard",) if find_spec("tensorboard") else ()):
        notify("TensorBoard is not installed (pip install 'alignbench[train]'); metrics go to metrics.jsonl only")
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns of tied weights at every state
    AcceleratorState._reset_state()  # else it keeps the precision of an earlier stage in this process
    return Accelerator(
        mixed_precision=config.mixed_precision,
        cpu=config.cpu or not torch.accelerator.is_available(),
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(project_dir=config.out, logging_dir=str(Path(config.out) / "tensorboard")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # one process may score or save for hours while the others wait
            InitProcessGroupKwargs(timeout=timedelta(days=30)),
        ],
    )


def gather(compute: Callable[[], list[T]]) -> list[T]:
    """The concatenated results of all processes. If one raises AlignbenchError, all raise it, so that none waits."""
    try:
        mine: list[T] | AlignbenchError = compute()
    except AlignbenchError as error:
        mine = AlignbenchError(str(error))
    everyone = gather_object([mine])
    for failure in (found for found in everyone if isinstance(found, AlignbenchError)):
        raise failure
    return [result for found in everyone for result in found]


def total(value: float) -> float:
    """The sum of a number over all processes."""
    return math.fsum(gather_object([value]))


def map_split(accelerator: Accelerator, count: int, compute: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """Results for items 0 … count − 1, in order; each process calls `compute` with the indices of its part, if any."""
    mine = list(range(accelerator.process_index, count, accelerator.num_processes))
    found = dict(gather(lambda: list(zip(mine, compute(mine) if mine else [], strict=True))))
    return [found[i] for i in range(count)]


@torch.no_grad()
def map_packed(
    accelerator: Accelerator, examples: Sequence[Example], budget: int, compute: Callable[[Packed], Sequence[Any]]
) -> list[Any]:
    """Results for examples, in order, computed on packed rows of about `budget` tokens; each process computes a part.

    All processes call `compute` equally often, because a sharded model waits for the others at every forward pass.
    compute: returns one result per example, in the order of the row (see `split_by_example`)
    """
    if not examples:
        return []
    # with fewer examples than processes, some are computed twice
    indices = [i % len(examples) for i in range(max(len(examples), accelerator.num_processes))]
    rows = local_batches(accelerator, indices, lambda i: len(examples[i]), budget)

    def results(row: list[int]) -> Iterable[tuple[int, Any]]:
        return zip(row, compute(pack([examples[i] for i in row], accelerator.device)), strict=True)

    found = dict(gather(lambda: [pair for row in rows for pair in results(row)]))
    return [found[i] for i in range(len(examples))]


def split_by_example(packed: Packed, columns: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split values (…, columns), read at these columns of the row (`before` or `last`), into one tensor per example."""
    (starts,) = torch.nonzero(packed.positions[0] == 0, as_tuple=True)
    counts = torch.bincount(torch.searchsorted(starts, columns, right=True) - 1, minlength=len(starts))
    return values.tensor_split(counts.cumsum(0)[:-1].cpu(), dim=-1)


def local_batches(accelerator: Accelerator, rows: Sequence[T], size: Callable[[T], int], budget: int) -> list[list[T]]:
    """This process's micro-batches of a batch that all processes have; `size` gives the tokens of a row."""
    parts = micro_batches([size(row) for row in rows], accelerator.num_processes, budget)
    return [[rows[i] for i in indices] for indices in parts[accelerator.process_index]]


def micro_batches(sizes: Sequence[int], world: int, budget: int) -> list[list[list[int]]]:
    """Split a batch over `world` processes and into micro-batches: [process][micro-batch] -> indices into the batch.

    A micro-batch has about `budget` tokens, or one longer example. All processes get the same number of micro-batches,
    because each backward pass may wait for those of the others. Neighbours have similar lengths.
    """
    parts = [sorted(range(rank, len(sizes), world), key=lambda i: -sizes[i]) for rank in range(world)]
    needed = max(1, *(math.ceil(sum(sizes[i] for i in part) / budget) for part in parts))
    count = min(needed, *map(len, parts))
    return [_split(part, sizes, count) for part in parts]


def _split(left: list[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Split indices, sorted by decreasing size, into `count` parts of about equal sums."""
    parts: list[list[int]] = []
    for remaining in range(count, 0, -1):
        part: list[int] = []
        goal, size = sum(sizes[i] for i in left) / remaining, 0
        while left and (not part or size + sizes[left[0]] / 2 <= goal) and len(left) >= remaining:
            size += sizes[left[0]]
            part.append(left.pop(0))
        parts.append(part)
    parts[-1] += left
    return parts


def save_training(folder: Path, accelerator: Accelerator, ema: Ema | None = None) -> None:
    """Save weights and optimizer of all prepared objects, and the averaged weights; called on every process."""
    for optimizer in accelerator._optimizers if accelerator.distributed_type == "FSDP" else []:
        # before the first step torch would create Adam's state by a step with zero gradients, which Adam would count
        for p in [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state]:
            averages = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.tensor(0.0), **averages}
    accelerator.save_state(str(folder))
    if ema is not None:
        torch.save({name: _local(w) for name, w in ema.weights.items()}, folder / f"ema-{accelerator.process_index}.pt")


def load_training(folder: Path, accelerator: Accelerator, ema: Ema | None = None) -> None:
    """Load what `save_training` saved."""
    accelerator.load_state(str(folder))
    if ema is not None:
        saved = torch.load(folder / f"ema-{accelerator.process_index}.pt", weights_only=True, map_location="cpu")
        for name, weights in saved.items():
            _local(ema.weights[name]).copy_(weights)


def all_finite(weights: Iterable[torch.Tensor]) -> bool:
    """True if the weights of all processes are finite."""
    return not total(sum(not _local(w).isfinite().all() for w in weights))


def _local(weights: torch.Tensor) -> torch.Tensor:
    """This process's shard of the weights."""
    part: torch.Tensor = weights.to_local() if hasattr(weights, "to_local") else weights
    return part
