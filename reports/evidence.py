"""What a report is made from: run folders, training folders and tables of labels, read and put in order once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignbench.audit.audit import Audit
from alignbench.audit.compare import compare_with
from alignbench.audit.read import Run, TaskRun, read_runs
from alignbench.errors import AlignbenchError
from alignbench.labels.table import Label, read_labels
from alignbench.results import MetricResult
from alignbench.runs import read_object

ON_THE_WAY = re.compile(r"-(iteration|epoch)-\d+$")  # how a checkpoint of a training that went on is called
TABLES = (".jsonl", ".csv", ".tsv", ".json", ".parquet", ".jsonl.gz", ".csv.gz")


@dataclass(frozen=True)
class System:
    """What is shown as one: a checkpoint asked in one way, or the outputs of a file.

    name: unique in the report; one checkpoint asked both plainly and through its chat template is two systems, the
        second of which has " (chat)" behind its name
    tasks: its finished tasks
    """

    name: str
    run: Run
    tasks: tuple[TaskRun, ...]

    @property
    def stage(self) -> str | None:
        """What made the checkpoint: base, sft, ppo, ppo-ptx, average; None where no recipe says."""
        return self.run.lineage[-1]["stage"] if self.run.lineage else None

    @property
    def parameters(self) -> int | None:
        found: int | None = self.run.description.get("parameters")
        return found

    @property
    def training(self) -> dict[str, Any]:
        """What run.json tells of the last stage: kl, beta, gamma, episodes, rewards; {} without a recipe."""
        return dict(self.run.description.get("training") or {})


@dataclass(frozen=True)
class Point:
    """A metric of a task of a system; metric.value is never None here."""

    system: System
    task: TaskRun
    metric: MetricResult

    @property
    def value(self) -> float:
        assert self.metric.value is not None
        return self.metric.value

    @property
    def error(self) -> tuple[float, float]:
        """How far the 95 % interval reaches below and above the value; zeros where there is none."""
        low = self.value if self.metric.low is None else self.metric.low
        high = self.value if self.metric.high is None else self.metric.high
        return max(self.value - low, 0.0), max(high - self.value, 0.0)


@dataclass(frozen=True)
class TrainingRun:
    """A folder of `alignbench train`. metrics: its metrics.jsonl, `step` among them; settings: config.yaml's."""

    name: str
    path: Path
    stage: str
    metrics: tuple[dict[str, Any], ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """Everything that a report may show.

    systems: in the order of their lineage (base, SFT, PPO, …), else as they were given
    on_the_way: checkpoints of trainings that went on: for the curves over training alone
    audits: reference -> the audit against it; "" is the one in which lineages choose the references; {} where nothing
        can be compared
    notes: what a reader must know of the evidence as a whole
    """

    systems: tuple[System, ...]
    on_the_way: tuple[System, ...] = ()
    trainings: tuple[TrainingRun, ...] = ()
    labels: tuple[Label, ...] = ()
    audits: dict[str, Audit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that any system has, sorted."""
        return tuple(sorted({own.task for system in self.systems for own in system.tasks}))

    def points(self, task: str, metric: str, category: str | None = None, *, way: bool = False) -> list[Point]:
        """One point a system: of the documents, shots and scorers that most systems have in common.

        way: with the checkpoints on the way. Systems that lack the task, or have no value, are left out.
        """
        runs = self.runs_of(task, way=way)
        return [point for system, own in runs for point in [point_of(system, own, metric, category)] if point]

    def runs_of(self, task: str, *, way: bool = False) -> list[tuple[System, TaskRun]]:
        """The task folder of each system that has it, of the settings that most have in common."""
        systems = (*self.systems, *self.on_the_way) if way else self.systems
        of_all = [(system, own) for system in systems for own in system.tasks if own.task == task]
        if not of_all:
            return []
        shared = Counter(key for _, key in {(system.name, _settings(own)) for system, own in of_all})
        size = {_settings(own): own.result.n for _, own in of_all}
        best = min(shared, key=lambda key: (-shared[key], key[0], -size[key], key))
        chosen: dict[str, tuple[System, TaskRun]] = {}
        for system, own in of_all:
            if _settings(own) == best:
                chosen.setdefault(system.name, (system, own))
        return list(chosen.values())

    def every_run_of(self, task: str) -> list[tuple[System, TaskRun]]:
        """All task folders, with every number of shots and every scorer."""
        return [(system, own) for system in self.systems for own in system.tasks if own.task == task]


def point_of(system: System, task: TaskRun, metric: str, category: str | None = None) -> Point | None:
    """That metric of a task folder; None where it is not there or has no value."""
    for own in task.result.metrics:
        if (own.metric, own.category) == (metric, category) and own.value is not None:
            return Point(system, task, own)
    return None


def documents(task: TaskRun) -> Iterator[dict[str, Any]]:
    """The records of a task folder, whole, in the task's order."""
    file = task.path / "documents.jsonl"
    try:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise AlignbenchError(f"{file}: cannot be read ({error}); evaluate this task again") from error


def gather(paths: Sequence[Path], *, reference: str | None = None) -> Evidence:
    """Read what `paths` name: run folders, folders of run folders, training folders, tables of labels.

    reference: the system that all others are compared with, in place of what their lineages say

    Raises AlignbenchError where a path is none of these, or where there is no finished task at all.
    """
    runs: dict[Path, None] = {}
    trainings: dict[Path, None] = {}
    tables: list[Path] = []
    for path in paths:
        if path.is_file() and path.name.endswith(TABLES):
            tables.append(path)
            continue
        found = [
            file.parent.resolve() for file in [path / "run.json", *sorted(path.glob("*/run.json"))] if file.is_file()
        ]
        taught = [
            file.parent for file in [path / "metrics.jsonl", *sorted(path.glob("*/metrics.jsonl"))] if file.is_file()
        ]
        if not found and not taught:
            raise AlignbenchError(f"{path}: no run folder, training folder or table of labels; see docs/report.md")
        runs |= dict.fromkeys(found)
        trainings |= dict.fromkeys(folder.resolve() for folder in taught)
    read = read_runs([str(folder) for folder in runs], Path())
    systems = [system for run in read for system in _systems(run)]
    whole = [system for system in systems if not ON_THE_WAY.search(system.run.description["model"]["name"])]
    labels = tuple(label for table in tables for label in read_labels(str(table)))
    if not systems and not labels and not trainings:
        raise AlignbenchError(f"{', '.join(map(str, paths))}: no task is finished there; evaluate first")
    notes = [f"{run.name}: not finished, and left out: {', '.join(run.unfinished)}" for run in read if run.unfinished]
    whole.sort(key=lambda system: len(system.run.lineage))  # stable: base, SFT, what was made from it
    audits, why_not = _audits(whole, reference)
    return Evidence(
        tuple(whole),
        tuple(system for system in systems if system not in whole),
        tuple(found for folder in trainings for found in [_training(folder)] if found),
        labels,
        audits,
        (*notes, *why_not),
    )


MOST_REFERENCES = 8  # beyond so many systems, a page with every one as reference is too large


def _audits(systems: Sequence[System], reference: str | None) -> tuple[dict[str, Audit], list[str]]:
    """The audit as lineages tell it first, then one for each system as the reference of all others."""
    runs = {system.run.path: system.run for system in systems}
    if len(runs) < 2:
        return {}, ["one model alone: nothing to compare it with"]
    names = [run.name for run in runs.values()]
    if reference is not None and reference not in names:
        raise AlignbenchError(f"--reference {reference}: it must name one of the models: {', '.join(names)}")
    chosen = [reference] if reference else [None, *(names if len(names) <= MOST_REFERENCES else [])]
    try:
        audits = compare_with([str(path) for path in runs], chosen)
    except AlignbenchError as error:
        return {}, [str(error)]
    return {name or "": audit for name, audit in audits.items()}, []


def _systems(run: Run) -> list[System]:
    """A run's tasks, those that a chat template was used for apart from those that it was not used for."""
    chat = tuple(own for own in run.tasks if own.result.template == "chat")
    plain = tuple(own for own in run.tasks if own not in chat)
    both = any(own.result.template == "none" for own in plain) and chat
    if both:
        return [System(run.name, run, plain), System(f"{run.name} (chat)", run, chat)]
    return [System(run.name, run, run.tasks)] if run.tasks else []


def _settings(own: TaskRun) -> tuple[int, str, str]:
    """What two task folders must have in common for their numbers to stand in one figure."""
    scorers = [f"{entry['name']}@{entry['revision']}" for entry in own.identity.get("scorers") or ()]
    return own.result.shots, ",".join(sorted(scorers)), str(own.identity.get("documents_sha256"))


def _training(folder: Path) -> TrainingRun | None:
    """None where it has no line of metrics yet."""
    import yaml

    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics = tuple(json.loads(line) for line in lines if line.strip())
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AlignbenchError(f"{folder}: not a training folder that can be read ({error})") from error
    recipe = read_object(folder / "final" / "recipe.json") or {}
    stage = recipe.get("stage") or ("ppo" if "episodes" in settings else "sft" if "micro_tokens" in settings else "?")
    return TrainingRun(folder.name, folder, str(stage), metrics, settings) if metrics else None
