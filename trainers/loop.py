"""Parts of a training loop of one or several processes, and `fit`, the loop of SFT and the reward model."""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, gather_object, parse_flag_from_env
from torch import nn

from alignbench.errors import AlignbenchError
from trainers.config import StageConfig
from trainers.losses import cosine
from trainers.models import Policy, Scalar, is_sharded, place
from trainers.packing import Example, Packed, pack
from trainers.run import Callback, Metrics, Run, gather, in_json

T = TypeVar("T")
Loss = Callable[[Sequence[T]], torch.Tensor]  # the sum over rows
TRACKERS = {"tensorboard": "train", "wandb": "wandb"}  # tracker -> the extra that installs it


class NotFiniteError(AlignbenchError):
    """A gradient, logits or values are NaN or infinite; the weights are those before the step."""


def make_accelerator(config: StageConfig, notify: Callable[[str], None] = lambda line: None) -> Accelerator:
    """An accelerator of this process. Raises AlignbenchError for an unknown or missing tracker, DeepSpeed and FSDP1."""
    # shards are read by `place`; transformers would leave the weights of all processes but one empty
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    fsdp, offload = parse_flag_from_env("ACCELERATE_USE_FSDP"), parse_flag_from_env("FSDP_OFFLOAD_PARAMS")
    old, deepspeed = os.environ.get("FSDP_VERSION", "1") != "2", parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    for name, used in (("FSDP1", fsdp and old), ("FSDP_OFFLOAD_PARAMS", fsdp and offload), ("DeepSpeed", deepspeed)):
        if used:
            raise AlignbenchError(f"{name}: not supported; start with FSDP2 or DDP instead")
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
    # one process may score or save for hours while the others wait
    waiting = InitProcessGroupKwargs(timeout=timedelta(days=30))
    return Accelerator(
        mixed_precision=config.mixed_precision,
        cpu=config.cpu or not torch.accelerator.is_available(),
        log_with=list(trackers or ()) or None,
        project_config=ProjectConfiguration(project_dir=config.out, logging_dir=str(Path(config.out) / "tensorboard")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True), waiting],
    )


@lru_cache(maxsize=8)
def shuffled(count: int, purpose: str, *key: int) -> tuple[int, ...]:
    """A permutation of 0 … count − 1 determined by purpose and key (seed, epoch, …), also in a resumed run."""
    return tuple(np.random.default_rng(_seed(purpose, *key)).permutation(count).tolist())


def infinite_shuffle(count: int, start: int, number: int, purpose: str, *key: int) -> list[tuple[int, int]]:
    """(pass, item) at positions start … start + number − 1 of endless passes over `count` items, each shuffled."""
    positions = [divmod(position, count) for position in range(start, start + number)]
    return [(lap, shuffled(count, purpose, *key, lap)[at]) for lap, at in positions]


def _seed(purpose: str, *key: int) -> int:
    # hashed, because numpy treats (5,) and (5, 0) as the same seed
    return int.from_bytes(hashlib.sha256(repr((purpose, *key)).encode()).digest()[:8]) >> 1


class Trained(NamedTuple):
    """A model in training; `module` is `model` wrapped for several processes."""

    model: Any
    module: Any
    optimizer: Any


def prepare(model: Policy | Scalar, config: Any, lr: float, accelerator: Accelerator) -> Trained:
    """Place a model (`place`) to train it with the peak learning rate `lr`."""
    model = place(model, accelerator, recompute=config.gradient_checkpointing)
    return Trained(model, *accelerator.prepare(model, make_optimizer(model.parameters(), lr, config)))


def make_optimizer(parameters: Iterable[nn.Parameter], lr: float, config: Any) -> torch.optim.Optimizer:
    """Adam with β (.9, .95) (InstructGPT, App. C) and ε 1e-5 (detail 14).

    config.optimizer: "adam", or "adam-8bit", whose moments have a byte a parameter (arXiv 2110.02861)
    """
    trained = [{"params": [p for p in parameters if p.requires_grad], "lr": lr, "peak": lr}]
    if config.optimizer == "adam":
        return torch.optim.Adam(trained, betas=(0.9, 0.95), eps=1e-5, fused=True)
    try:
        from torchao.optim import Adam8bit
    except ImportError as error:
        raise AlignbenchError("optimizer adam-8bit: pip install 'alignbench[adam-8bit]'") from error
    optimizer: torch.optim.Optimizer = Adam8bit(trained, betas=(0.9, 0.95), eps=1e-5)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # of the 8-bit optimizer, whose step is compiled
            group["lr"].fill_(group["peak"] * factor)
        else:
            group["lr"] = group["peak"] * factor


class Ema:
    """The exponential moving average of a model's trained weights (InstructGPT, C.4: decay .992).

    The decay of update t = 0, 1, … is min(decay, (1 + t) / (10 + t)), or a short run would return its initial model.
    Each process averages its shards. offload: the averages are in CPU memory
    """

    def __init__(self, model: nn.Module, decay: float, *, offload: bool = False) -> None:
        self.decay, self.updates = decay, 0
        trained = {name: _local(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: w.to("cpu" if offload else w.device, copy=True) for name, w in trained.items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, average in self.weights.items():
            average.lerp_(_local(model.get_parameter(name)).to(average.device), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the `with` block."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, average in self.weights.items():
            weights = _local(model.get_parameter(name))
            current = weights.to(average.device, copy=True)
            weights.copy_(average)
            average.copy_(current)


def save_training(folder: Path, accelerator: Accelerator, ema: Ema | None = None) -> None:
    """Save trained weights and optimizer of all prepared objects, and the averages; called on every process."""
    for optimizer in accelerator._optimizers if is_sharded(accelerator) else []:
        # before the first step torch would create Adam's state by a step with zero gradients, which Adam would count
        for p in [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state]:
            averages = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.tensor(0.0), **averages}
    hook = accelerator.register_save_state_pre_hook(_leave_out_frozen)
    accelerator.save_state(str(folder))
    hook.remove()
    if ema is not None:
        saved = {"updates": ema.updates, "weights": ema.weights}
        torch.save(saved, folder / f"ema-{accelerator.process_index}.pt")


def _leave_out_frozen(models: Sequence[nn.Module], states: Sequence[dict[str, Any]], folder: str) -> None:
    for model, weights in zip(models, states, strict=False):  # no states under FSDP2
        for name in [name for name, p in model.named_parameters() if not p.requires_grad]:
            weights.pop(name, None)


def load_training(folder: Path, accelerator: Accelerator, ema: Ema | None = None) -> None:
    """Load what `save_training` saved."""
    # FSDP2 has no frozen weights, and no such option
    accelerator.load_state(str(folder), **({} if is_sharded(accelerator) else {"strict": False}))
    if ema is not None:
        saved = torch.load(folder / f"ema-{accelerator.process_index}.pt", weights_only=True, map_location="cpu")
        ema.updates = saved["updates"]
        for name, weights in saved["weights"].items():
            ema.weights[name].copy_(weights)


def all_finite(weights: Iterable[torch.Tensor]) -> bool:
    """True if the weights of all processes are finite."""
    return not total(sum(not _local(w).isfinite().all() for w in weights))


def _local(weights: Any) -> Any:
    return weights.to_local() if hasattr(weights, "to_local") else weights  # this process's shard


def gradient_norm(gradients: Iterable[torch.Tensor | None]) -> float:
    """The Euclidean norm over all tensors, including the shards of other processes."""
    norm = nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def accumulate(
    accelerator: Accelerator, module: nn.Module, batches: Sequence[Sequence[T]], loss_of: Loss[T], divisor: float
) -> float:
    """Add the gradient of the losses divided by `divisor` to the parameters' gradients; this process's loss.

    divisor: of the whole batch, so that micro-batches add up to it exactly (detail 15)
    """
    summed = 0.0
    for number, batch in enumerate(batches, 1):
        with nullcontext() if number == len(batches) else accelerator.no_sync(module):
            with accelerator.autocast():  # which FSDP2 lacks
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
    """Results for examples, in order, of packed rows of about `budget` tokens; each process computes a part.

    All processes call `compute`, which returns one result per example of the row, equally often: a sharded model waits
    for the others at every forward pass.
    """
    if not examples:
        return []
    # with fewer examples than processes, some are computed twice
    indices = [i % len(examples) for i in range(max(len(examples), accelerator.num_processes))]
    rows = local_batches(accelerator, indices, lambda i: len(examples[i]), budget)
    device = accelerator.device
    parts = ((row, pack([examples[i] for i in row], device)) for row in rows)
    with accelerator.autocast():
        found = dict(gather(lambda: [pair for row, packed in parts for pair in zip(row, compute(packed), strict=True)]))
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

    A micro-batch has about `budget` tokens, or one longer example. Neighbours have similar lengths. All processes get
    equally many, because each backward pass may wait for those of the others.
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


def check_lengths(rows: Iterable[tuple[str, int]], window: int | None, what: str, whose: str = "model") -> None:
    """Raise AlignbenchError for a row with more tokens than the model's window. rows: (file and row, tokens)"""
    for where, size in rows:
        if window is not None and size > window:
            problem = f"the {what} has {size} tokens, the {whose}'s window {window}"
            raise AlignbenchError(f"{where}: {problem}; set long=drop or long=truncate")


def fit(
    config: Any, run: Run, module: nn.Module, optimizer: Any, *, rows_of: Callable[[int], Sequence[T]],
    size: Callable[[T], int], weight: Callable[[T], int], loss_of: Loss[T],
    after_epoch: Callable[[int, int], Metrics], callback: Callback | None,
) -> list[Metrics]:  # fmt: skip
    """Train for `epochs` passes over shuffled batches, one Adam step per batch; the metrics after each epoch.

    config: settings of a stage with epochs, batch and lr
    rows_of: the rows of an epoch, equally many in each; size: tokens of a row
    weight: a row's part (its tokens, or 1) of the divisor of a batch's loss; after_epoch: metrics after (epochs, steps)
    callback: called with each line of metrics.jsonl; if it returns True, this is the last step, also within an epoch
    """
    accelerator, count = run.accelerator, len(rows_of(0))
    per_epoch = math.ceil(count / config.batch)
    if (last := count - (per_epoch - 1) * config.batch) < accelerator.num_processes:
        reason = f"the last batch of an epoch has {last} rows, fewer than processes"
        raise AlignbenchError(f"batch {config.batch}: {reason}; change batch")
    steps, step, epochs = per_epoch * config.epochs, 0, list[Metrics]()
    if state := run.resume():
        load_training(state.folder, accelerator)
        step, steps = state.values["step"], state.values["steps"]
        epochs = [{name: float(x) for name, x in metrics.items()} for metrics in state.values["epochs"]]

    def log(metrics: Metrics) -> bool:
        run.log(step, metrics)
        return bool(callback and total(bool(callback({"step": step, **metrics}))))

    run.progress.start(run.origin.stage, steps, step, "steps")
    while True:
        if step % config.save_every == 0 or step % per_epoch == 0 or step == steps:
            values = {"steps": steps, "epochs": [in_json(metrics) for metrics in epochs]}
            run.save_state(step, lambda folder: save_training(folder, accelerator), values)
        if step == steps:
            return epochs
        epoch, index = divmod(step, per_epoch)
        rows, order = rows_of(epoch), shuffled(count, "epoch", config.seed, epoch)
        batch = [rows[i] for i in order[index * config.batch :][: config.batch]]
        factor = cosine(step, steps)
        set_learning_rate(optimizer, factor)
        torch.manual_seed(_seed("dropout", config.seed, step, accelerator.process_index))
        module.train()
        micro = local_batches(accelerator, batch, size, config.micro_tokens)
        loss = accumulate(accelerator, module, micro, loss_of, sum(map(weight, batch)))
        try:
            norm = take_step(module, optimizer, config.max_gradient_norm)
        except NotFiniteError as error:
            raise AlignbenchError(f"step {step + 1}: {error}; the state before it is in {run.out / 'state'}") from None
        step += 1
        if log({"loss": total(loss), "gradient_norm": norm, "lr": config.lr * factor}):
            steps = step
        run.progress.advance()
        if step % per_epoch == 0 or step == steps:
            epochs.append({"epoch": epoch + 1, **after_epoch(epoch + 1, step)})
            if log(epochs[-1]):
                steps = step
