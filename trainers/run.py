"""The folder of a training run (docs/training.md): locked, and resumable after any kill. metrics.jsonl has no times, so
a resumed run's file equals an uninterrupted one's. The processes of a run on several machines share the folder."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from accelerate import Accelerator
from accelerate.utils import gather_object

import alignbench
from alignbench.data.tables import fingerprint
from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import Ancestor, Checkpoint, find_checkpoint
from alignbench.models.template import find_template
from alignbench.parse import parse_json
from alignbench.progress import Progress
from alignbench.provenance import environment, function_identity, versions
from alignbench.runs.folder import RunFolder, append_lines, difference, lock_run, read_object, sync, write_json, writing
from trainers.config import StageConfig, to_json, to_yaml

T = TypeVar("T")
Metrics = dict[str, float]
Result = tuple[Path, Metrics]  # the folder of the final checkpoint, and its metrics
Write = Callable[[Path], None]  # writes into a folder; called on every process
Callback = Callable[[Metrics], bool | None]  # called with the metrics of a step; True: stop, and save
LINES = ("metrics.jsonl", "samples.jsonl")
PACKAGES = ("torch", "transformers", "accelerate", "peft", "vllm")


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is made from: the parent, other models by role (PPO's reward), and fingerprints of the data.

    stage: base (no parent), sft, reward, dpo, rejection, ppo, ppo-ptx, rloo or average; `sampling` in the folder in
        which rejection sampling samples, which has no checkpoint
    models: role -> `identity`, or `function_identity` for the role reward_function
    """

    stage: str
    parent: Checkpoint | None
    models: Mapping[str, Mapping[str, str]]
    data: Sequence[Mapping[str, Any]]

    @classmethod
    def find(
        cls, stage: str, parent: str, models: Mapping[str, Any], data: Sequence[tuple[str | None, int | None]]
    ) -> Origin:
        """Identify checkpoints by folder or hub id, functions by source code, data by source and number of rows."""
        found = dict[str, dict[str, str]]()
        for role, spec in models.items():
            if isinstance(spec, str) and is_checkpoint(spec):
                found[role] = identity(find_checkpoint(spec))
            elif spec is not None:
                function = load_function(role, spec) if isinstance(spec, str) else spec
                found[f"{role}_function"] = function_identity(function)
        return cls(stage, find_checkpoint(parent), found, [fingerprint(s, rows) for s, rows in data if s])

    def recipe(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
        """The content of recipe.json, the lineage of a checkpoint in its folder."""
        parent, lineage = self.parent, tuple[Ancestor, ...]()
        if parent is not None:
            lineage = parent.lineage or (Ancestor("base", parent.name, parent.weights_sha256),)
        return {
            "stage": self.stage,
            "parent": None if parent is None else identity(parent),
            "models": dict(self.models),
            "data": list(self.data),
            "config": dict(config),
            "versions": {"alignbench": alignbench.__version__, **versions(PACKAGES)},
            "metrics": in_json(metrics),
            "lineage": [asdict(ancestor) for ancestor in lineage],
        }


def is_checkpoint(spec: str) -> bool:
    """True if a model is given as a checkpoint, not as module:function."""
    return ":" not in spec or Path(spec).exists()


def load_function(role: str, spec: str) -> Callable[..., Any]:
    """The function that module:function names, also of this folder. Raises AlignbenchError if there is none."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = pkgutil.resolve_name(spec)
    except Exception as error:  # the user's module may raise any exception
        raise AlignbenchError(f"{role} {spec}: no such function ({first_line(error)})") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise AlignbenchError(f"{role} {spec}: not a function of (prompts, responses)")
    return cast(Callable[..., Any], found)


def identity(checkpoint: Checkpoint) -> dict[str, str]:
    """The name and path of a checkpoint, and the hashes of its weights and of all that its numbers depend on."""
    path, whole = str(checkpoint.path.resolve()), checkpoint.sha256
    return {"name": checkpoint.name, "path": path, "weights_sha256": checkpoint.weights_sha256, "sha256": whole}


def in_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Numbers as JSON can hold them: those that are not finite as text ("nan", "inf", "-inf")."""
    return {name: x if abs(x) < float("inf") else str(float(x)) for name, x in metrics.items()}


class State(NamedTuple):
    """A saved state, and the values given to `save_state` with the step."""

    folder: Path
    values: dict[str, Any]


@contextmanager
def open_run(
    config: StageConfig, origin: Origin, accelerator: Accelerator, progress: Progress | None = None
) -> Iterator[Run]:
    """Create or reopen the run's folder, and lock it. All processes call it; only the main one writes files.

    Raises AlignbenchError if it is in use, cannot be written, or is of a run with other settings, checkpoints or data.
    """
    run = Run(Path(config.out), config, origin, accelerator, progress or Progress())
    values = to_json(config)
    settings = {f.name: values[f.name] for f in fields(config) if not f.metadata["free"]}
    if config.chat_template is not None:  # a file may change
        settings["chat_template"] = find_template(config.chat_template)
    parent = {} if origin.parent is None else {"model": identity(origin.parent)}
    processes = {"processes": accelerator.num_processes}
    whole = {"config": settings, **processes, **parent, **origin.models, "data": origin.data}

    def begin() -> None:
        run.out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_run(run.out))
        before = read_object(run.out / "identity.json")
        if before is None:
            write_json(run.out / "identity.json", whole)
        elif changed := difference(before, parse_json(json.dumps(whole))):
            raise AlignbenchError(f"{run.out}: {changed}; resume with the same settings, or choose another out")
        (run.out / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        run.event("start" if before is None else "resume", **processes, **environment() | versions(PACKAGES))

    with ExitStack() as stack:
        run.together(begin, main_only=True)
        if run.result() is None:
            newest = run.newest()
            # TensorBoard drops its points of steps that will be repeated
            options = {"purge_step": 0 if newest is None else newest.values["step"] + 1}
            named = {name: str(value) for name, value in settings.items()}
            accelerator.init_trackers("alignbench", named, {"tensorboard": options, "wandb": {"name": run.out.name}})
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

    def result(self) -> Result | None:
        """The folder final/ of a finished run and the metrics of its recipe, else None, also for a run to extend."""
        final, ends = self.out / "final", [f.name for f in fields(self.config) if f.metadata["ends"]]
        recipe = self.together(lambda: read_object(final / "recipe.json"), main_only=True)
        if recipe is None or any(recipe["config"].get(name) != getattr(self.config, name) for name in ends):
            return None
        return final, {name: float(x) for name, x in recipe["metrics"].items()}

    def metrics(self) -> list[Metrics]:
        """The lines of metrics.jsonl."""
        file = self.out / LINES[0]
        lines = self.together(lambda: file.read_text("utf-8").splitlines() if file.is_file() else [], main_only=True)
        return [{name: float(x) for name, x in parse_json(line).items()} for line in lines]

    def newest(self) -> State | None:
        """The newest complete state. A folder is renamed when it is complete, and names sort as steps do."""

        def find() -> State | None:
            folders = (file.parent for file in (self.out / "state").glob("step-*/state.json"))
            folder = max((path for path in folders if not path.suffix), default=None)
            return None if folder is None else State(folder, read_object(folder / "state.json") or {})

        return self.together(find, main_only=True)

    def resume(self) -> State | None:
        """The state to resume from, None for the beginning. Lines written after it are removed."""
        newest = self.newest()
        sizes = {} if newest is None else newest.values["bytes"]

        def cut() -> None:
            for leftover in [*self.out.glob("*.tmp"), *self.out.glob("*/*.tmp")]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            for file in (self.out / name for name in LINES if (self.out / name).is_file()):
                os.truncate(file, min(file.stat().st_size, sizes.get(file.name, 0)))

        self.together(cut, main_only=True)
        return newest

    def save_state(self, step: int, write: Write, values: Mapping[str, Any]) -> None:
        """Save what a resume after `step` needs, then remove older states. Called by every process, after `log`."""
        path = self.out / "state" / f"step-{step:08d}"

        def finish(folder: Path) -> None:
            lengths = {}
            for file in (self.out / name for name in LINES):
                file.touch()
                sync(file)
                lengths[file.name] = file.stat().st_size
            (folder / "state.json").write_text(json.dumps({**values, "step": step, "bytes": lengths}))

        if not path.is_dir():  # else the run was resumed from this step
            self._save_folder(path, write, finish, older=[*path.parent.glob("step-*")])

    def save_checkpoint(self, name: str, write: Write, metrics: Mapping[str, float]) -> Path:
        """Write the checkpoint "final" or "checkpoints/…" with its recipe, whole or not at all; its folder."""
        recipe = self.origin.recipe(to_json(self.config), metrics)
        self._save_folder(self.out / name, write, lambda folder: write_json(folder / "recipe.json", recipe))
        return self.out / name

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl, and send the metrics to the trackers."""
        self._append(LINES[0], [{"step": step, **in_json(metrics)}])
        self.accelerator.log(dict(metrics), step=step)

    def sample(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to samples.jsonl."""
        self._append(LINES[1], [{"step": step, **row} for row in rows])

    def event(self, name: str, **details: Any) -> None:
        """Append a line with the time to log.jsonl."""
        if self.accelerator.is_main_process:
            RunFolder(self.out).log(name, **details)

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.accelerator.is_main_process:
            append_lines(self.out / name, rows)

    def together(self, work: Callable[[], T], *, main_only: bool = False) -> T:
        """Run `work` on all processes, or on the main one; its result there. If one raises AlignbenchError, all do."""

        def mine() -> list[T]:
            with writing(self.out):
                return [] if main_only and not self.accelerator.is_main_process else [work()]

        return gather(mine)[0]

    def _save_folder(self, path: Path, write: Write, finish: Write, older: Sequence[Path] = ()) -> None:
        """Write a folder whole or not at all: all processes write, the main one finishes it and removes older ones."""
        temporary = path.with_name(path.name + ".tmp")

        def begin() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

        def end() -> None:
            finish(temporary)
            for file in (*temporary.rglob("*"), temporary):
                sync(file)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
            sync(path.parent)
            for folder in older:
                shutil.rmtree(folder, ignore_errors=True)

        try:
            self.together(begin, main_only=True)
            self.together(lambda: write(temporary))
            self.together(end, main_only=True)
        except AlignbenchError:
            if self.accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)  # it may have filled the disk
            raise


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
