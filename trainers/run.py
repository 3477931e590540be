"""The folder of one training run: it is locked, says what it depends on, and can be resumed after a kill at any moment.
Where the processes of a run are on several machines, they share the folder.

out/
  config.yaml             the settings
  identity.json           settings, checkpoints and data: what a resumed run must agree with
  metrics.jsonl           one line a step, without times: a resumed run's equals an uninterrupted one's
  samples.jsonl           what the model wrote, one line a sample
  log.jsonl               starts, resumes, ends, times
  tensorboard/            the same numbers for TensorBoard
  state/step-00000040/    what a resume needs
  checkpoints/epoch-1/    checkpoints on the way
  final/                  the checkpoint that the run is for
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alignbench.errors import AlignbenchError, first_line
from alignbench.provenance import environment, versions
from alignbench.runs.folder import RunFolder, lock_run, read_object, write_json
from trainers.recipe import PACKAGES, in_json
from trainers.steps import gathered

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from accelerate import Accelerator

T = TypeVar("T")
LINES = ("metrics.jsonl", "samples.jsonl")
TRACKERS = {"tensorboard": "train", "wandb": "wandb"}  # and the extra that installs each


def make_accelerator(
    mixed_precision: str,
    trackers: Sequence[str] | None,
    out: Path,
    cpu: bool = False,
    notify: Callable[[str], None] = lambda line: None,
) -> Accelerator:
    """Accelerate on this process's device, or on the CPU where there is no other or `cpu` is set.

    trackers: names among tensorboard and wandb; None: tensorboard where it is installed
    Raises AlignbenchError under DeepSpeed, whose engine steps at every backward, and FSDP1, which flattens weights.
    """
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration, parse_flag_from_env

    fsdp1 = parse_flag_from_env("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2"
    if fsdp1 or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise AlignbenchError(f"{'FSDP1' if fsdp1 else 'DeepSpeed'}: not supported; start with FSDP2 or DDP instead")
    for tracker in trackers or ():
        if tracker not in TRACKERS:
            raise AlignbenchError(f"tracker {tracker!r}: choose among {', '.join(TRACKERS)}, or trackers=[]")
        if find_spec(tracker) is None:
            raise AlignbenchError(
                f"tracker {tracker}: it is not installed; pip install 'alignbench[{TRACKERS[tracker]}]'"
            )
    if trackers is None:
        trackers = ["tensorboard"] if find_spec("tensorboard") else []
        if not trackers:
            notify("without TensorBoard (pip install 'alignbench[train]'), the numbers go to metrics.jsonl alone")
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it says at every state that tied weights are saved once
    AcceleratorState._reset_state()  # it would keep the precision of a stage that this process has trained before
    return Accelerator(
        mixed_precision=mixed_precision,
        cpu=cpu or not torch.accelerator.is_available(),
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "tensorboard")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # one process may score or save for hours while the others wait
            InitProcessGroupKwargs(timeout=timedelta(days=30)),
        ],
    )


@contextmanager
def open_run(
    out: Path, config: DataclassInstance, identity: Mapping[str, Any], accelerator: Accelerator
) -> Iterator[Run]:
    """Lock the run's folder, or make it. All processes call it; the main one alone touches files.

    identity: what the results depend on besides the settings: checkpoints and data
    Raises AlignbenchError where the folder is in use, cannot be written, or began with another identity.
    """
    from trainers.config import to_yaml

    free = {f.name for f in fields(config) if f.metadata.get("free")} | {"out"}
    settings = {name: value for name, value in asdict(config).items() if name not in free}
    whole = json.loads(json.dumps({"config": settings, "processes": accelerator.num_processes, **identity}))
    run = Run(out, accelerator)
    with ExitStack() as stack:

        def enter() -> None:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_run(out))
            before = read_object(out / "identity.json")
            if before is None:
                write_json(out / "identity.json", whole)
            elif difference := _difference(before, whole):
                raise AlignbenchError(f"{out}: {difference}; resume with the same settings, or choose another out")
            (out / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
            software = environment() | versions(PACKAGES)
            run.event("start" if before is None else "resume", processes=accelerator.num_processes, **software)

        run._together(enter, main_only=True)
        if run.result() is None:
            newest = run.newest()
            next_step = 0 if newest is None else run.state(newest)["step"] + 1
            accelerator.init_trackers(
                "alignbench",
                {name: str(value) for name, value in settings.items()},
                # what TensorBoard has of steps that will be done again is forgotten
                {"tensorboard": {"purge_step": next_step}, "wandb": {"name": out.name}},
            )
        try:
            yield run
        except BaseException as error:
            with suppress(AlignbenchError):  # what stopped it may be the disk
                run.event("stop", reason=first_line(error))
            raise
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
            accelerator.trackers = []
        run.event("end")


class Run:
    """An open run. Made by `open_run`, which holds its lock."""

    def __init__(self, out: Path, accelerator: Accelerator) -> None:
        self.out = out
        self._accelerator = accelerator
        self._main: bool = accelerator.is_main_process

    def result(self) -> tuple[Path, dict[str, float]] | None:
        """The folder final/ of a finished run and the metrics of its recipe; as the main process finds them."""
        final = self.out / "final"

        def read() -> dict[str, float] | None:
            recipe = (read_object(final / "recipe.json") or {}) if final.is_dir() else None
            return None if recipe is None else {name: float(x) for name, x in recipe.get("metrics", {}).items()}

        metrics = self._together(read, main_only=True)
        return None if metrics is None else (final, metrics)

    def newest(self) -> Path | None:
        """The newest complete state, as the main process finds it: a folder gets its name when it is complete, and
        names sort as steps do."""
        states = self.out / "state"
        return self._together(
            lambda: max((path for path in states.glob("step-*") if not path.suffix), default=None), main_only=True
        )

    def resume(self) -> Path | None:
        """The state to go on from, None for the beginning; what was written after it is cut off."""
        newest = self.newest()
        lengths = dict.fromkeys(LINES, 0) if newest is None else self.state(newest)["bytes"]

        def cut() -> None:
            for leftover in [*self.out.glob("*.tmp"), *self.out.glob("*/*.tmp")]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            for file, length in ((self.out / name, length) for name, length in lengths.items()):
                if file.is_file() and file.stat().st_size > length:
                    os.truncate(file, length)

        self._together(cut, main_only=True)
        return newest

    def state(self, path: Path) -> dict[str, Any]:
        """What `save_state` was given as `extra`, and the step."""
        return read_object(path / "state.json") or {}

    def save_state(self, step: int, write: Callable[[Path], None], extra: Mapping[str, Any]) -> None:
        """Keep what a resume needs after `step`, in place of older states. Every process calls it after `log`, and
        calls `write` with the folder; where the disk is full, the older state stays."""
        path = self.out / "state" / f"step-{step:08d}"

        def write_all(folder: Path) -> None:
            write(folder)
            if self._main:
                for name in LINES:
                    (self.out / name).touch()
                    _sync(self.out / name)
                lengths = {name: (self.out / name).stat().st_size for name in LINES}
                (folder / "state.json").write_text(json.dumps({**extra, "step": step, "bytes": lengths}))

        def remove_older() -> None:
            for older in path.parent.iterdir():
                if older != path:
                    shutil.rmtree(older)

        if not path.is_dir():  # it is, where the run was resumed from this very step
            self._write_folder(path, write_all)
            self._together(remove_older, main_only=True)

    def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> Path:
        """Keep a checkpoint as "final" or "checkpoints/…"; called as `save_state` is. Returns its folder."""
        self._write_folder(self.out / name, write)
        return self.out / name

    def log(self, step: int, metrics: Mapping[str, float], times: Mapping[str, float] | None = None) -> None:
        """A line of metrics.jsonl; what depends on the machine (`times`) goes to the trackers alone."""
        self._append("metrics.jsonl", [{"step": step, **in_json(metrics)}])
        self._accelerator.log({**metrics, **(times or {})}, step=step)

    def sample(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Lines of samples.jsonl."""
        self._append("samples.jsonl", [{"step": step, **row} for row in rows])

    def event(self, name: str, **details: Any) -> None:
        """A line of log.jsonl, with the time."""
        if self._main:
            RunFolder(self.out).log(name, **details)

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._main:
            lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            with _writing(self.out), (self.out / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(lines)

    def _together(self, work: Callable[[], T], *, main_only: bool = False) -> T:
        """Do `work` and wait for all processes; the main one's result. Where one fails, all raise its AlignbenchError:
        none waits for ever for another."""

        def mine() -> list[T]:
            if main_only and not self._main:
                return []
            with _writing(self.out):
                return [work()]

        return gathered(mine)[0]

    def _write_folder(self, path: Path, write: Callable[[Path], None]) -> None:
        """Write a folder whole or not at all."""
        temporary = path.with_name(path.name + ".tmp")

        def begin() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

        def end() -> None:
            for file in (*temporary.rglob("*"), temporary):
                _sync(file)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
            _sync(path.parent)

        try:
            self._together(begin, main_only=True)
            self._together(lambda: write(temporary))
            self._together(end, main_only=True)
        except AlignbenchError:
            if self._main:
                shutil.rmtree(temporary, ignore_errors=True)  # it may be what filled the disk
            raise


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # safetensors ("I/O error") and torch.save ("inline_container") have their own errors for a full disk
        if not isinstance(error, OSError) and not any(t in str(error) for t in ("I/O error", "inline_container")):
            raise
        raise AlignbenchError(
            f"{out}: cannot be written ({getattr(error, 'strerror', None) or first_line(error)}); what was saved "
            "before is kept: mend it and run the same command again"
        ) from error


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _difference(before: Mapping[Any, Any], now: Mapping[Any, Any], prefix: str = "") -> str | None:
    """What differs first between two JSON objects, as `config.lr was 1, now 2`."""
    for name in (*before, *(name for name in now if name not in before)):
        one, other = (dict(enumerate(v)) if isinstance(v, list) else v for v in (before.get(name), now.get(name)))
        if isinstance(one, dict) and isinstance(other, dict):
            if found := _difference(one, other, f"{prefix}{name}."):
                return found
        elif one != other:
            return f"{prefix}{name} was {one}, now {other}"
    return None
