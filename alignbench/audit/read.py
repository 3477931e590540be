"""Which runs are meant, and which of them is whose reference."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import hash_files, weight_files
from alignbench.runs.folder import read_object
from alignbench.runs.summary import kept
from alignbench.tasks import find_task
from alignbench.tasks.outputs import OUTPUTS
from alignbench.types.result import TaskResult
from alignbench.types.scorer import Embedder
from alignbench.types.task import Task

ROLES = {"base": "pretrained", "sft": "SFT"}  # stages of a lineage that a tax is told against
HASHED = "hashed"
ANCESTOR = {"stage", "name", "weights_sha256"}  # what run.json tells of each checkpoint of a lineage


@dataclass(frozen=True)
class TaskRun:
    """A finished task of a run: `identity` is its task.json."""

    path: Path
    identity: dict[str, Any]
    result: TaskResult

    @property
    def task(self) -> str:
        return self.result.task


@dataclass(frozen=True)
class Run:
    """A run folder. name: as shown; unfinished: its tasks without a result."""

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


def find_runs(specs: Sequence[str], root: Path) -> list[Run]:
    """The runs that `specs` name: run folders, names of runs below `root` or beginnings of them, or checkpoints.

    Raises AlignbenchError where one is not found, not clear, or named twice, and where there are fewer than two.
    """
    if len(specs) < 2:
        raise AlignbenchError("compare needs two models or more: the reference first, then what was made from it")
    return read_runs(specs, root)


def read_runs(specs: Sequence[str], root: Path) -> list[Run]:
    """As `find_runs`, of any number; each with a name of its own, as `named` gives it."""
    paths = [_find(spec, root) for spec in specs]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise AlignbenchError(f"{specs[paths.index(path)]} and {specs[number]} are the same run: {path}")
    return named([_read(path) for path in paths])


def named(runs: Sequence[Run]) -> list[Run]:
    """Each with a name of its own: the model's; where several have that, the folder's, with as many of the folders
    above before it as tell them apart."""
    names = [str(run.description["model"]["name"]) for run in runs]
    for depth in range(1, max((len(run.path.parts) for run in runs), default=0) + 1):
        taken = Counter(names)
        names = [
            "/".join(run.path.parts[-depth:]) if taken[name] > 1 else name
            for run, name in zip(runs, names, strict=True)
        ]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def references(runs: Sequence[Run], chosen: str | None = None) -> list[tuple[Run, Run, str]]:
    """(reference, aligned, role) for every contrast to make, in the order of the aligned runs.

    A lineage picks the pretrained model and the last SFT model before a run, where they are among `runs`; a run
    without such ancestors has the first for its reference. chosen: one run for all, whatever the lineages say
    """
    if chosen is not None:
        reference = chosen_run(runs, chosen)
        return [(reference, run, "reference") for run in runs if run is not reference]
    found = {run.path: _ancestors(run, runs) for run in runs}
    named = {ancestor.path for own in found.values() for ancestor, _ in own}
    default = next((run for run in runs if not found[run.path]), runs[0])
    contrasts = []
    for run in runs:
        if found[run.path]:
            contrasts += [(ancestor, run, role) for ancestor, role in found[run.path]]
        elif run is not default and run.path not in named:
            contrasts.append((default, run, "reference"))
    return contrasts


@lru_cache(maxsize=16)  # one task of eight systems asked in two ways; texts may be among them
def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Document -> its record without the heavy columns, of a finished task folder."""
    file = path / "documents.jsonl"
    task = find(json.loads((path / "task.json").read_text())["task"])
    assert task is not None
    try:
        with file.open("rb") as stream:
            return {record["id"]: record for record in (kept(task, json.loads(line)) for line in stream)}
    except (OSError, ValueError, KeyError) as error:
        raise AlignbenchError(f"{file}: cannot be read ({error}); evaluate this task again") from error


def embedder_of(run: TaskRun) -> Embedder | None:
    """What made its vectors, where that can be had without a path: the hashed embedder, in the same version."""
    used = next((entry for entry in run.identity.get("scorers") or () if entry["kind"] == "embedding"), None)
    if used is None or used["name"] != HASHED:
        return None
    from alignbench.scorers.embeddings import HashedEmbedder

    embedder = HashedEmbedder()
    return embedder if embedder.revision == used["revision"] else None


def find(name: str) -> Task | None:
    """The task of that name, None where this alignbench has none."""
    if name == OUTPUTS.name:
        return OUTPUTS
    try:
        return find_task(name)
    except AlignbenchError:
        return None


def _find(spec: str, root: Path) -> Path:
    path = Path(spec).expanduser()
    if (path / "run.json").is_file():
        return path.resolve()
    known = {file.parent: _describe(file) for file in sorted(root.glob("*/run.json"))}
    if not known:
        raise AlignbenchError(f"{spec}: no run folder, and there are none in {root}; see --runs, or evaluate it first")
    for found in _matches(spec, path, known):
        if len(found) == 1:
            return found[0].resolve()
        if found:
            raise AlignbenchError(f"{spec}: which one? {', '.join(folder.name for folder in found)} (in {root})")
    raise AlignbenchError(f"{spec}: no run of it in {root}; there are {', '.join(folder.name for folder in known)}")


def _matches(spec: str, path: Path, known: dict[Path, dict[str, Any]]) -> Iterator[list[Path]]:
    """Runs that `spec` may mean, from the surest reading to the loosest."""
    yield [folder for folder in known if folder.name == spec]
    if (path / "config.json").is_file():
        weights = hash_files(weight_files(path, spec))
        yield [folder for folder, run in known.items() if run["model"].get("weights_sha256") == weights]
        raise AlignbenchError(f"checkpoint {spec}: none of the runs is of these weights; evaluate it first")
    yield [
        folder
        for folder, run in known.items()
        if spec in (run["model"]["name"], re.sub(r"-[0-9a-f]{8}$", "", folder.name))
    ]
    yield [folder for folder in known if folder.name.startswith(spec)]


def _read(path: Path) -> Run:
    description = _describe(path / "run.json")
    tasks, unfinished = [], []
    for file in sorted(path.glob("*/task.json")):
        identity, result = read_object(file) or {}, read_object(file.parent / "result.json")
        if not isinstance(identity, dict) or not isinstance(identity.get("scorers") or [], list):
            raise AlignbenchError(f"{file}: not a task.json of this alignbench; evaluate this task again")
        if result is None:
            unfinished.append(str(identity.get("task", file.parent.name)))
            continue
        try:
            tasks.append(TaskRun(file.parent, identity, TaskResult.from_json(result)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AlignbenchError(
                f"{file.parent / 'result.json'}: not a result of this alignbench ({error}); evaluate this task again"
            ) from error
    return Run(path, "", description, tuple(tasks), tuple(unfinished))


def _describe(file: Path) -> dict[str, Any]:
    description = read_object(file) or {}
    if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
        raise AlignbenchError(f"{file}: it names no model; is this a run folder?")
    if "name" not in description["model"]:
        raise AlignbenchError(f"{file}: it names no model; is this a run folder?")
    lineage, training = description.get("lineage") or [], description.get("training") or {}
    whole = isinstance(lineage, list) and all(isinstance(own, dict) and own.keys() >= ANCESTOR for own in lineage)
    if not whole or not isinstance(training, dict):
        raise AlignbenchError(f"{file}: its lineage or training cannot be read; evaluate this checkpoint again")
    return description


def chosen_run(runs: Sequence[Run], name: str) -> Run:
    """The one that --reference NAME means: a name, a folder's name or its beginning, or a path."""
    found = [run for run in runs if name in (run.name, run.path.name)]
    found = found or [run for run in runs if run.path == Path(name).expanduser().resolve()]
    found = found or [run for run in runs if run.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(run.name for run in runs)
        raise AlignbenchError(f"--reference {name}: it must name one of the models compared: {names}")
    return found[0]


def _ancestors(run: Run, runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """The pretrained model and the last SFT model that this run's checkpoint came from, as far as they are here."""
    before = [entry for entry in run.lineage if entry["weights_sha256"] != run.weights]
    found: dict[str, Run] = {}
    for entry in before:
        role = ROLES.get(entry["stage"])
        alike = [other for other in runs if other is not run and other.weights == entry["weights_sha256"]]
        # the same weights may be there in two number formats: like goes with like
        alike.sort(key=lambda other: other.description.get("engine") != run.description.get("engine"))
        if role and alike:
            found[role] = alike[0]
    return [(other, role) for role, other in found.items()]
