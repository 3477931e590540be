"""The reader of run folders: finished runs, their results and records."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.data.load import SYNTHETIC
from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import hash_files, naming, weight_files
from alignbench.models.lineage import read_lineages
from alignbench.parse import find_path, open_file, parse_line
from alignbench.runs.folder import AGAIN, RunFolder, TaskFolder
from alignbench.types.record import Record
from alignbench.types.result import RunResult, TaskResult

if TYPE_CHECKING:
    from pandas import DataFrame

REPEATED = "pass_at_1"  # a metric of all tasks with several samples for one (alignbench/tasks/samples.py)


@dataclass(frozen=True)
class TaskRun:
    """A finished task of a run: `identity` is its task.json."""

    path: Path
    identity: dict[str, Any]
    result: TaskResult

    @classmethod
    def of(cls, folder: TaskFolder) -> TaskRun | None:
        """The task in a folder; None if it is not finished."""
        result = folder.result()
        return None if result is None else cls(folder.path, folder.identity(), result)

    @property
    def task(self) -> str:
        return self.result.task

    @property
    def synthetic(self) -> bool:
        """True if the data are those of `alignbench demo`."""
        return any(str(part.get("source", "")).startswith(SYNTHETIC) for part in self.identity.get("data") or ())

    @property
    def repeated(self) -> str:
        """ "8 samples, temperature 1", if several outputs were sampled in a task that takes one; otherwise ""."""
        if REPEATED not in self.result.overall:
            return ""
        sampling = self.identity.get("sampling") or {}
        temperature = f", temperature {sampling['temperature']:g}" if "temperature" in sampling else ""
        return f"{sampling.get('samples')} samples{temperature}"

    def records(self, read: Callable[[Mapping[str, Any]], Record] = Record.from_json) -> Iterator[Record]:
        """The records, in the task's order. read: the JSON object of a line -> a record, such as `Record.slim`

        Raises AlignbenchError, which names file and line, for a line that is not a record; and at the end, if the file
        does not contain the records that result.json was computed from.
        """
        file, line_number, sha256 = self.path / "documents.jsonl", 0, hashlib.sha256()
        try:
            with open_file(file) as stream:
                for line in stream:
                    line_number += 1
                    sha256.update(line)
                    yield read(parse_line(line))
        except OSError as error:
            raise AlignbenchError(f"{file}: cannot be read ({error.strerror}); {AGAIN}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AlignbenchError(f"{file}:{line_number}: not a record ({first_line(error)}); {AGAIN}") from error
        if line_number != self.result.n:
            raise AlignbenchError(f"{file}: {line_number} records, but result.json counts {self.result.n}; {AGAIN}")
        if self.result.records_sha256 not in (None, sha256.hexdigest()):
            raise AlignbenchError(f"{file}: changed since result.json was computed from it; {AGAIN}")


def run_result(name: str, folder: Path, tasks: Sequence[TaskRun]) -> RunResult:
    """The results of a command for one model. name: the model's"""
    results, folders = tuple(task.result for task in tasks), tuple(task.path.name for task in tasks)
    return RunResult(name, folder, results, folders)


@dataclass(frozen=True)
class Run:
    """A run folder. name: as displayed; unfinished: its tasks without a result."""

    path: Path
    name: str
    description: dict[str, Any]
    tasks: tuple[TaskRun, ...]
    unfinished: tuple[str, ...]

    @property
    def weights(self) -> str | None:
        """sha256 of the checkpoint's weights; None for an endpoint, or for outputs of a file."""
        found: str | None = self.description["model"].get("weights_sha256")
        return found

    @property
    def lineage(self) -> list[dict[str, str]]:
        return list(self.description.get("lineage") or ())

    def is_ancestor(self, entry: Mapping[str, str]) -> bool:
        """True if an entry of a lineage means this model: by its weights, or by its name where they are not known."""
        if entry["weights_sha256"]:
            return entry["weights_sha256"] == self.weights
        names = {self.name, str(self.description["model"]["name"])}
        return entry["name"] in names or entry["name"].rpartition("/")[2] in names


def read_run(folder: str | Path) -> DataFrame:
    """The records of a run folder as a table, one row per document of each finished task.

    Columns: task, folder (the task's), template, id, group, category, prompt, outputs (list of texts), unscored,
    and one per metric (NaN where it does not apply or could not be computed).
    Raises AlignbenchError if `folder` is not a run folder.
    """
    import pandas

    rows = [
        {"task": task.task, "folder": task.path.name, "template": task.result.template}
        | {name: getattr(record, name) for name in ("id", "group", "category", "prompt")}
        | {"outputs": [output.text for output in record.outputs], "unscored": record.unscored, **record.metrics}
        for task in read_folder(find_path(folder)).tasks
        for record in task.records()
    ]
    return pandas.DataFrame(rows)


def read_runs(specs: Sequence[str], root: Path) -> list[Run]:
    """The runs that `specs` name: run folders, names of runs in `root` or their beginnings, or checkpoints. Each gets a
    unique name, see `named`.

    Raises AlignbenchError if one is not found, ambiguous, or named twice.
    """
    paths = [_find(spec, root) for spec in specs]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise AlignbenchError(f"{specs[paths.index(path)]} and {specs[number]} are the same run: {path}")
    return named([read_folder(path) for path in paths])


def ancestor_key(entry: Mapping[str, str]) -> str:
    """What identifies an ancestor: its weights, or its name where they are not known."""
    return entry["weights_sha256"] or entry["name"]


def with_lineages(runs: Sequence[Run], file: str | Path | None) -> list[Run]:
    """The runs with the lineages that a file gives (see `read_lineages`); those that it does not name are unchanged.

    Raises AlignbenchError for a file that names none of the runs.
    """
    if file is None:
        return list(runs)
    given = {name: [vars(own) for own in lineage] for name, lineage in read_lineages(file).items()}
    of_run = [given.get(run.name) or given.get(str(run.description["model"]["name"])) for run in runs]
    if not any(of_run):
        raise AlignbenchError(f"{file}: it names none of the models: {', '.join(run.name for run in runs)}")
    return [
        replace(run, description={**run.description, "lineage": own or run.lineage})
        for run, own in zip(runs, of_run, strict=True)
    ]


def named(runs: Sequence[Run]) -> list[Run]:
    """The runs with unique names: the model's, or if several have that, the folder's with as many parent folders as
    needed."""
    names = [str(run.description["model"]["name"]) for run in runs]
    for depth in range(1, max((len(run.path.parts) for run in runs), default=0) + 1):
        taken = Counter(names)
        names = [
            "/".join(run.path.parts[-depth:]) if taken[name] > 1 else name
            for run, name in zip(runs, names, strict=True)
        ]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _find(spec: str, root: Path) -> Path:
    path = find_path(spec)
    if (path / "run.json").is_file():
        return path.resolve()
    known = {file.parent: RunFolder(file.parent).description() for file in sorted(root.glob("*/run.json"))}
    if not known:
        raise AlignbenchError(f"{spec}: no run folder, and there are none in {root}; see --runs, or evaluate it first")
    for found in _matches(spec, path, known):
        if len(found) == 1:
            return found[0].resolve()
        if found:
            raise AlignbenchError(
                f"{spec}: ambiguous; name one of {', '.join(folder.name for folder in found)} (in {root})"
            )
    raise AlignbenchError(f"{spec}: no such run in {root}; there are {', '.join(folder.name for folder in known)}")


def _matches(spec: str, path: Path, known: dict[Path, dict[str, Any]]) -> Iterator[list[Path]]:
    """Runs that `spec` may mean, from the strictest interpretation to the loosest."""
    yield [folder for folder in known if folder.name == spec]
    if (path / "config.json").is_file():
        with naming(spec):
            weights = hash_files(weight_files(path))
        yield [folder for folder, run in known.items() if run["model"].get("weights_sha256") == weights]
        raise AlignbenchError(f"checkpoint {spec}: no run has these weights; evaluate it first")
    yield [
        folder
        for folder, run in known.items()
        if spec in (run["model"]["name"], re.sub(r"-[0-9a-f]{8}$", "", folder.name))
    ]
    yield [folder for folder in known if folder.name.startswith(spec)]


def read_folder(path: Path) -> Run:
    """The run in a folder, without a name. Raises AlignbenchError if there is none."""
    run = RunFolder(path)
    description, tasks, unfinished = run.description(), [], []
    for folder in run.tasks():
        if (task := TaskRun.of(folder)) is None:
            unfinished.append(folder.identity()["task"])
        else:
            tasks.append(task)
    return Run(path, "", description, tuple(tasks), tuple(unfinished))
