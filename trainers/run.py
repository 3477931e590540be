"""The folder of a training run: locked, with a record of what its results depend on, and resumable after any kill.
The processes of a run on several machines share it.

out/
  config.yaml             the settings
  identity.json           settings, checkpoints and data: a resumed run must agree with them
  metrics.jsonl           one line per step, without times: a resumed run's file equals an uninterrupted one's
  samples.jsonl           model outputs, one line per sample
  log.jsonl               starts, resumes, ends, times
  tensorboard/            the metrics for TensorBoard
  state/step-00000040/    what a resume needs
  checkpoints/epoch-1/    intermediate checkpoints
  final/                  the resulting checkpoint
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator

import alignbench
from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import Ancestor, Checkpoint, find_checkpoint
from alignbench.progress import Progress
from alignbench.provenance import environment, versions
from alignbench.runs.folder import RunFolder, lock_run, read_object, write_json
from trainers.config import StageConfig, to_yaml
from trainers.distributed import gather

T = TypeVar("T")
Metrics = dict[str, float]
LINES = ("metrics.jsonl", "samples.jsonl")
PACKAGES = ("torch", "transformers", "accelerate", "peft")


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is made from.

    stage: base, sft, reward, ppo, ppo-ptx or average
    parent: the checkpoint that training starts from; None for a blank model
    models: role -> the `identity` of another checkpoint that takes part (the reward model of PPO)
    data: the fingerprint of each data file
    """

    stage: str
    parent: Checkpoint | None
    models: Mapping[str, Mapping[str, str]]
    data: Sequence[Mapping[str, Any]]

    @classmethod
    def find(cls, stage: str, parent: str, models: Mapping[str, str], data: Sequence[Mapping[str, Any]]) -> Origin:
        """Identify checkpoints by folder or hub id. Raises AlignbenchError as find_checkpoint does."""
        others = {role: identity(find_checkpoint(spec)) for role, spec in models.items()}
        return cls(stage, find_checkpoint(parent), others, data)

    def write_recipe(self, folder: Path, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write recipe.json, the lineage of a checkpoint, into its folder."""
        parent, lineage = self.parent, tuple[Ancestor, ...]()
        if parent is not None:
            lineage = parent.lineage or (Ancestor("base", parent.name, parent.weights_sha256),)
        recipe = {
            "stage": self.stage,
            "parent": None if parent is None else identity(parent),
            "models": dict(self.models),
            "data": list(self.data),
            "config": dict(config),
            "versions": {"alignbench": alignbench.__version__, **versions(PACKAGES)},
            "metrics": in_json(metrics),
            "lineage": [asdict(ancestor) for ancestor in lineage],
        }
        write_json(folder / "recipe.json", recipe)


def identity(checkpoint: Checkpoint) -> dict[str, str]:
    """The name, path and weights_sha256 of a checkpoint."""
    path = str(checkpoint.path.resolve())
    return {"name": checkpoint.name, "path": path, "weights_sha256": checkpoint.weights_sha256}


def in_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Numbers as JSON can hold them: those that are not finite as text ("nan", "inf", "-inf")."""
    return {name: x if abs(x) < float("inf") else str(float(x)) for name, x in metrics.items()}


@dataclass(frozen=True)
class State:
    """A saved state: its folder, and the values given to `save_state` with the step."""

    folder: Path
    values: dict[str, Any]


@contextmanager
def open_run(
    config: StageConfig, origin: Origin, accelerator: Accelerator, progress: Progress | None = None
) -> Iterator[Run]:
    """Create or reopen the run's folder, and lock it. All processes call it; only the main one writes files.

    Raises AlignbenchError if the folder is in use, cannot be written, or belongs to a run with other settings,
    checkpoints or data.
    """
    out = Path(config.out)
    free = {f.name for f in fields(config) if f.metadata["free"]}
    settings = {name: value for name, value in asdict(config).items() if name not in free}
    whole: dict[str, Any] = {"config": settings, "processes": accelerator.num_processes}
    whole |= {} if origin.parent is None else {"model": identity(origin.parent)}
    whole |= {**origin.models, "data": list(origin.data)}
    run = Run(out, config, origin, accelerator, progress or Progress())
    with ExitStack() as stack:

        def enter() -> None:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_run(out))
            before = read_object(out / "identity.json")
            if before is None:
                write_json(out / "identity.json", whole)
            elif difference := _difference(before, json.loads(json.dumps(whole))):
                raise AlignbenchError(f"{out}: {difference}; resume with the same settings, or choose another out")
            (out / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
            software = environment() | versions(PACKAGES)
            run.event("start" if before is None else "resume", processes=accelerator.num_processes, **software)

        run.together(enter, main_only=True)
        if run.result() is None:
            newest = run.newest()
            next_step = 0 if newest is None else newest.values["step"] + 1
            accelerator.init_trackers(
                "alignbench",
                {name: str(value) for name, value in settings.items()},
                # TensorBoard drops its points of steps that will be repeated
                {"tensorboard": {"purge_step": next_step}, "wandb": {"name": out.name}},
            )
        try:
            yield run
        except BaseException as error:
            with suppress(AlignbenchError):  # the disk itself may have failed
                run.event("stop", reason=first_line(error))
            raise
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
            accelerator.trackers = []
        run.event("end")


@dataclass(frozen=True)
class Run:
    """An open run, created by `open_run`, which holds its lock."""

    out: Path
    config: StageConfig
    origin: Origin
    accelerator: Accelerator
    progress: Progress

    def result(self) -> tuple[Path, Metrics] | None:
        """The folder final/ of a finished run and the metrics of its recipe, else None."""
        final = self.out / "final"

        def read() -> Metrics | None:
            recipe = (read_object(final / "recipe.json") or {}) if final.is_dir() else None
            return None if recipe is None else {name: float(x) for name, x in recipe.get("metrics", {}).items()}

        metrics = self.together(read, main_only=True)
        return None if metrics is None else (final, metrics)

    def newest(self) -> State | None:
        """The newest complete state. A folder is renamed when it is complete, and names sort as steps do."""

        def find() -> State | None:
            folder = max((path for path in (self.out / "state").glob("step-*") if not path.suffix), default=None)
            return None if folder is None else State(folder, read_object(folder / "state.json") or {})

        return self.together(find, main_only=True)

    def resume(self) -> State | None:
        """The state to resume from, None for the beginning. Lines written after it are removed."""
        newest = self.newest()
        lengths = dict.fromkeys(LINES, 0) if newest is None else newest.values["bytes"]

        def cut() -> None:
            for leftover in [*self.out.glob("*.tmp"), *self.out.glob("*/*.tmp")]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            for file, length in ((self.out / name, length) for name, length in lengths.items()):
                if file.is_file() and file.stat().st_size > length:
                    os.truncate(file, length)

        self.together(cut, main_only=True)
        return newest

    def save_state(self, step: int, write: Callable[[Path], None], values: Mapping[str, Any]) -> None:
        """Save what a resume after `step` needs, and remove older states. Called by every process, after `log`.

        write: called with the folder on every process. If the disk is full, the older state is kept.
        """
        path = self.out / "state" / f"step-{step:08d}"

        def write_all(folder: Path) -> None:
            write(folder)
            if self.accelerator.is_main_process:
                for name in LINES:
                    (self.out / name).touch()
                    _sync(self.out / name)
                lengths = {name: (self.out / name).stat().st_size for name in LINES}
                (folder / "state.json").write_text(json.dumps({**values, "step": step, "bytes": lengths}))

        def remove_older() -> None:
            for older in path.parent.iterdir():
                if older != path:
                    shutil.rmtree(older)

        if not path.is_dir():  # else the run was resumed from this step
            self.save_folder(path, write_all)
            self.together(remove_older, main_only=True)

    def save_checkpoint(self, name: str, write: Callable[[Path], None], metrics: Mapping[str, float]) -> Path:
        """Write the checkpoint "final" or "checkpoints/…" with its recipe, whole or not at all; its folder.

        Called by every process. write: called with the folder on every process
        """

        def write_all(folder: Path) -> None:
            write(folder)
            if self.accelerator.is_main_process:
                self.origin.write_recipe(folder, asdict(self.config), metrics)

        self.save_folder(self.out / name, write_all)
        return self.out / name

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl, and send the metrics to the trackers."""
        self._append("metrics.jsonl", [{"step": step, **in_json(metrics)}])
        self.accelerator.log(dict(metrics), step=step)

    def sample(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append lines to samples.jsonl."""
        self._append("samples.jsonl", [{"step": step, **row} for row in rows])

    def event(self, name: str, **details: Any) -> None:
        """Append a line with the time to log.jsonl."""
        if self.accelerator.is_main_process:
            RunFolder(self.out).log(name, **details)

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.accelerator.is_main_process:
            lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            with _writing(self.out), (self.out / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(lines)

    def together(self, work: Callable[[], T], *, main_only: bool = False) -> T:
        """Run `work` on all processes, or on the main one, and wait for all; the main process's result.

        If it raises AlignbenchError on one process, all raise it.
        """

        def mine() -> list[T]:
            if main_only and not self.accelerator.is_main_process:
                return []
            with _writing(self.out):
                return [work()]

        return gather(mine)[0]

    def save_folder(self, path: Path, write: Callable[[Path], None]) -> None:
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
            self.together(begin, main_only=True)
            self.together(lambda: write(temporary))
            self.together(end, main_only=True)
        except AlignbenchError:
            if self.accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)  # it may have filled the disk
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
            f"{out}: cannot be written ({getattr(error, 'strerror', None) or first_line(error)}); saved results are "
            "kept: fix it and run the same command again"
        ) from error


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _difference(before: Any, now: Any, name: str = "") -> str | None:
    """The first difference between two JSON values, such as `config.lr was 1, now 2`."""
    one, other = (dict(enumerate(v)) if isinstance(v, list) else v for v in (before, now))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None if one == other else f"{name} was {before}, now {now}"
    for key in dict.fromkeys([*one, *other]):
        if found := _difference(one.get(key), other.get(key), f"{name}.{key}".lstrip(".")):
            return found
    return None
