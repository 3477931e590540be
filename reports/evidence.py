"""What a report is made from: run folders, training folders and tables of labels, read and put in order once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from alignbench.audit.audit import Audit
from alignbench.audit.compare import compare_with
from alignbench.errors import AlignbenchError
from alignbench.labels.table import Label, read_labels
from alignbench.runs.folder import read_object
from alignbench.runs.read import Run, TaskRun, named, read_runs
from alignbench.types.result import MetricResult

ON_THE_WAY = re.compile(r"-(iteration|epoch)-\d+$")  # how a checkpoint of a training that went on may be called
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
    def audit(self) -> Audit | None:
        """The one that figures show: as lineages choose the references, or against the one that was asked for."""
        return next(iter(self.audits.values()), None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that any system has, sorted."""
        return tuple(sorted({own.task for system in self.systems for own in system.tasks}))

    def points(self, task: str, metric: str, category: str | None = None, *, way: bool = False) -> list[Point]:
        """One point a system: of the documents, the shots and the metric's scorer that most systems have in common.

        way: with the checkpoints on the way. Systems that lack the task, or have no value, are left out.
        """
        systems = (*self.systems, *self.on_the_way) if way else self.systems
        of_all = [(system, own) for system in systems for own in system.tasks if own.task == task]
        found = [point for system, own in of_all for point in [point_of(system, own, metric, category)] if point]
        return _of_most([(own.system, own, own.task, own.metric.scorer or "") for own in found])

    def runs_of(self, task: str, *, way: bool = False) -> list[tuple[System, TaskRun]]:
        """The task folder of each system that has it, of the documents, shots and scorers that most have in common."""
        systems = (*self.systems, *self.on_the_way) if way else self.systems
        of_all = [(system, own) for system in systems for own in system.tasks if own.task == task]
        return _of_most([(system, (system, own), own, _scorers(own)) for system, own in of_all])

    def every_run_of(self, task: str) -> list[tuple[System, TaskRun]]:
        """All task folders, with every number of shots and every scorer."""
        return [(system, own) for system in self.systems for own in system.tasks if own.task == task]


Shown = TypeVar("Shown")


def _of_most(found: Sequence[tuple[System, Shown, TaskRun, str]]) -> list[Shown]:
    """The first of each system with the shots, scorer and documents that most systems have, since only such numbers
    can stand in one figure; of as many, few shots, then many documents.

    found: the system, what is returned of it, the task folder, the scorer
    """
    keys = [(own.result.shots, scorer, str(own.identity.get("documents_sha256"))) for _, _, own, scorer in found]
    if not keys:
        return []
    shared = Counter(key for _, key in {(id(one[0]), key) for one, key in zip(found, keys, strict=True)})
    size = {key: own.result.n for (_, _, own, _), key in zip(found, keys, strict=True)}
    best = min(shared, key=lambda key: (-shared[key], key[0], -size[key], key))
    chosen: dict[int, Shown] = {}
    for (system, shown, _, _), key in zip(found, keys, strict=True):
        if key == best:
            chosen.setdefault(id(system), shown)
    return list(chosen.values())


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
                record = json.loads(line)
                outputs = record.get("outputs") or () if isinstance(record, dict) and "id" in record else [None]
                if not all(isinstance(output, dict) and "text" in output for output in outputs):
                    raise ValueError("a line is no record")
                yield record
    except (OSError, ValueError) as error:
        raise AlignbenchError(f"{file}: cannot be read ({error}); evaluate this task again") from error


def gather(paths: Sequence[Path], *, reference: str | None = None) -> Evidence:
    """Read what `paths` name: run folders, folders of run folders, training folders, tables of labels.

    reference: the system that all others are compared with, in place of what their lineages say

    Raises AlignbenchError where a path is none of these, or where there is no finished task at all.
    """
    runs: dict[Path, None] = {}
    trainings: dict[Path, None] = {}
    tables: dict[Path, None] = {}
    for path in paths:
        if path.is_file() and path.name.endswith(TABLES):
            tables[path.resolve()] = None
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
    # named apart from those without a result, and from those on the way, as the audit names them
    way = named([run for run in read if run.tasks and _on_the_way(run, read)])
    whole = named([run for run in read if run.tasks and not _on_the_way(run, read)])
    whole.sort(key=lambda run: len(run.lineage))  # stable: base, SFT, what was made from it
    labels = tuple(label for table in tables for label in read_labels(str(table)))
    if not way and not whole and not labels and not trainings:
        raise AlignbenchError(f"{', '.join(map(str, paths))}: no task is finished there; evaluate first")
    every = (*whole, *way, *(run for run in read if not run.tasks))
    notes = [f"{run.name}: not finished, and left out: {', '.join(run.unfinished)}" for run in every if run.unfinished]
    audits, why_not = _audits(whole, reference)
    systems = tuple(system for run in whole for system in _systems(run))
    if audits:
        why_not += _not_compared(systems, next(iter(audits.values())))
    return Evidence(
        systems,
        tuple(system for run in way for system in _systems(run)),
        tuple(found for folder in trainings for found in [_training(folder)] if found),
        labels,
        audits,
        (*notes, *why_not),
    )


MOST_REFERENCES = 8  # beyond so many systems, a page with every one as reference is too large


def _on_the_way(run: Run, runs: Sequence[Run]) -> bool:
    """Whether a checkpoint is one that PPO kept before its end: the end is there, too, and was made from the same."""
    name = str(run.description["model"]["name"])
    if not ON_THE_WAY.search(name) or (run.description.get("training") or {}).get("episodes") is None:
        return False
    return any(
        other.description["model"]["name"] == ON_THE_WAY.sub("", name) and parents(other) == parents(run)
        for other in runs
    )


def parents(run: Run) -> tuple[str, ...]:
    """The weights that a checkpoint's was made from, the base first; () where no recipe says."""
    return tuple(entry["weights_sha256"] for entry in run.lineage[:-1])


def _audits(runs: Sequence[Run], reference: str | None) -> tuple[dict[str, Audit], list[str]]:
    """The audit as lineages tell it first, then one for each run as the reference of all others."""
    names = {run.name: str(run.path) for run in runs}
    if reference is not None and reference not in names:
        raise AlignbenchError(f"--reference {reference}: it must name one of the models: {', '.join(names)}")
    if not runs or (len(runs) == 1 and len(_systems(runs[0])) == 1):
        return {}, ["one model alone: nothing to compare it with"]
    chosen: list[str | None] = [reference] if reference else [None]
    if not reference and 1 < len(runs) <= MOST_REFERENCES:
        chosen += names
    try:
        audits = compare_with(
            list(names.values()), [name and names[name] for name in chosen], across_templates=True
        )  # fmt: skip
    except AlignbenchError as error:
        return {}, [str(error)]
    found = {name or "": audits.get(name and names[name]) for name in chosen}
    return {name: audit for name, audit in found.items() if audit}, []


def _not_compared(systems: Sequence[System], audit: Audit) -> list[str]:
    """A line for each model asked through its template of which no answer is in the audit."""
    rows = [(name, row.variant) for own in audit.contrasts for row in own.rows for name in (own.reference, own.aligned)]
    compared = {name for name, variant in rows if "chat" in variant}
    chat = [system for system in systems if system.name != system.run.name]
    return [f"{own.name}: not in the audit" for own in chat if not {own.name, own.run.name} & compared]


def _systems(run: Run) -> list[System]:
    """A run's tasks, those that a chat template was used for apart from those that it was not used for."""
    chat = tuple(own for own in run.tasks if own.result.template == "chat")
    plain = tuple(own for own in run.tasks if own not in chat)
    both = any(own.result.template == "none" for own in plain) and chat
    if both:
        return [System(run.name, run, plain), System(f"{run.name} (chat)", run, chat)]
    return [System(run.name, run, run.tasks)] if run.tasks else []


def _scorers(own: TaskRun) -> str:
    scorers = [f"{entry['name']}@{entry['revision']}" for entry in own.identity.get("scorers") or ()]
    return ",".join(sorted(scorers))


def _training(folder: Path) -> TrainingRun | None:
    """None where it has no line of metrics yet."""
    import yaml

    try:
        metrics = tuple(_metrics(folder / "metrics.jsonl"))
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AlignbenchError(
            f"{folder}: not a training folder that can be read ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(settings, dict):
        raise AlignbenchError(f"{folder / 'config.yaml'}: it holds no settings; is this a training folder?")
    recipe = read_object(folder / "final" / "recipe.json")
    told = recipe.get("stage") if isinstance(recipe, dict) else None
    stage = told or ("ppo" if "episodes" in settings else "sft" if "micro_tokens" in settings else "?")
    return TrainingRun(folder.name, folder, str(stage), metrics, settings) if metrics else None


def _metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The lines; without the last one where that is half written, as it is while the training runs."""
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError:
            if not line.endswith("\n"):
                return
            raise AlignbenchError(f"{file}:{number}: not JSON; remove the line") from None
        if not isinstance(found, dict) or not isinstance(found.get("step"), int | float):
            raise AlignbenchError(f"{file}:{number}: not a line of metrics (an object with a step); remove it")
        yield found
