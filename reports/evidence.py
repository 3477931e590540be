"""The evidence of a report: run folders, training folders and tables of labels, read and ordered once."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from alignbench.audit.audit import Audit
from alignbench.audit.calibration import with_calibration
from alignbench.audit.compare import SYNTHETIC_DATA, compare_with
from alignbench.audit.references import task_of
from alignbench.errors import AlignbenchError, first_line
from alignbench.labels.table import Label, read_labels
from alignbench.parse import parse_json, read_bytes, read_yaml
from alignbench.progress import Progress
from alignbench.runs.folder import read_object
from alignbench.runs.read import Run, TaskRun, ancestor_key, named, read_runs, with_lineages
from alignbench.types.result import MetricResult
from alignbench.types.task import Task
from reports.style import Look, looks

INTERMEDIATE = re.compile(r"-(iteration|epoch)-\d+$")  # ends the names of checkpoints saved during training
TABLES = (".jsonl", ".csv", ".tsv", ".json", ".parquet", ".jsonl.gz", ".csv.gz", ".db")
MOST_REFERENCES = 8  # with more systems, a page with each of them as reference would be too large
SILENT = Progress()
T = TypeVar("T", bound=tuple[Any, ...])  # a system, a folder, and what else


@dataclass(frozen=True)
class System:
    """A checkpoint with or without its chat template, or the outputs of a file.

    name: unique in the report; if a checkpoint was evaluated both with and without its chat template, the system with
        the template is "NAME (chat)"
    tasks: its finished tasks
    """

    name: str
    run: Run
    tasks: tuple[TaskRun, ...]

    @property
    def stage(self) -> str | None:
        """Return what trained the checkpoint (base, sft, ppo, ppo-ptx, average), None if no recipe says."""
        return self.run.lineage[-1]["stage"] if self.run.lineage else None

    @property
    def chat(self) -> str:
        """Return " (chat)" if the checkpoint was evaluated without its chat template too, and this is with it."""
        return self.name.removeprefix(self.run.name)

    @property
    def parameters(self) -> int | None:
        found: int | None = self.run.description.get("parameters")
        return found

    @property
    def training(self) -> dict[str, Any]:
        """Return what run.json says of the last stage (kl, beta, gamma, episodes, rewards; run, run_id, step, start);
        {} without."""
        return dict(self.run.description.get("training") or {})


class Point(NamedTuple):
    """A metric of a task of a system, which has a value."""

    system: System
    task: TaskRun
    metric: MetricResult

    def row(self, **columns: Any) -> dict[str, Any]:
        """Return a row of a figure's table. columns: those of the figure, after the system's name."""
        own = self.metric
        return {
            "system": self.system.name, **columns, "task": self.task.task, "metric": own.metric, "value": own.value,
            "low": own.low, "high": own.high, "n": own.n, "unscored": own.n_unscored, "scorer": own.scorer or "",
        }  # fmt: skip


@dataclass(frozen=True)
class TrainingRun:
    """A folder of `alignbench train`. metrics: lines of its metrics.jsonl, each with `step`."""

    name: str
    path: Path
    stage: str
    metrics: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Evidence:
    """Everything that a report may show.

    systems: in the order of their lineage (base, SFT, PPO, …), otherwise as given
    intermediate: checkpoints saved during training, used only in the curves over training
    audits: reference -> the audit against it; "" is the audit with the references that lineages name; {} if nothing
        can be compared
    notes: what readers must know of the evidence as a whole
    """

    systems: tuple[System, ...]
    intermediate: tuple[System, ...] = ()
    trainings: tuple[TrainingRun, ...] = ()
    labels: tuple[Label, ...] = ()
    audits: dict[str, Audit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def audit(self) -> Audit | None:
        """Return the audit that figures show: with the lineages' references, or with --reference."""
        return next(iter(self.audits.values()), None)

    @property
    def synthetic(self) -> bool:
        """Return whether data of `alignbench demo` are among the evidence."""
        return any(own.synthetic for system in (*self.systems, *self.intermediate) for own in system.tasks)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the sorted names of all tasks of all systems."""
        return tuple(sorted({own.task for system in self.systems for own in system.tasks}))

    def looks(self, *more: str) -> dict[str, Look]:
        """Return the systems' looks, the same in every figure, and looks for further names."""
        return looks([*(system.name for system in self.systems), *more])

    def task(self, name: str) -> Task | None:
        """Return the task of this name, as its first folder declares it; None if this version has no such task."""
        return task_of(self.all_runs(name)[0][1])

    def all_runs(self, task: str) -> list[tuple[System, TaskRun]]:
        """Return the folders of a task, with every number of shots and every scorer."""
        return [(system, own) for system in self.systems for own in system.tasks if own.task == task]

    def runs(self, task: str) -> list[tuple[System, TaskRun]]:
        """Return a folder per system, all with the documents, shots and scorers that most systems share."""

        def scorers(run: tuple[System, TaskRun]) -> str:
            return ",".join(sorted(f"{e['name']}@{e['revision']}" for e in run[1].identity.get("scorers") or ()))

        return _comparable(self.all_runs(task), scorers)

    def points(self, task: str, metric: str, where: Callable[[TaskRun], bool] = lambda _: True) -> list[Point]:
        """Return a point per system, all with the documents, shots and scorer that most systems share.

        where: a condition on the folders. Systems without the task or without a value are left out.
        """
        points = [point_of(*run, metric) for run in self.all_runs(task) if where(run[1])]
        return _comparable([point for point in points if point is not None], lambda point: point.metric.scorer or "")

    def scorers(self, tasks: Iterable[str], metric: str) -> list[str]:
        """Return the scorers that computed a metric on these tasks, the one with the most systems first."""
        runs = [own for task in tasks for _, own in self.all_runs(task)]
        names = sorted({found.scorer or "" for own in runs if (found := own.result.overall.get(metric)) is not None})
        count = {name: sum(len(self.points(t, metric, scored_by(metric, name))) for t in tasks) for name in names}
        return sorted(names, key=lambda name: -count[name])


def scored_by(metric: str, scorer: str) -> Callable[[TaskRun], bool]:
    """Return the condition that `scorer` computed this metric of a folder."""
    return lambda own: metric in own.result.overall and (own.result.overall[metric].scorer or "") == scorer


def point_of(system: System, task: TaskRun, metric: str) -> Point | None:
    """Return a metric over all documents of a folder; None if it is missing or has no value."""
    found = task.result.overall.get(metric)
    return None if found is None or found.value is None else Point(system, task, found)


def scorer_of(task: TaskRun, kind: str) -> dict[str, Any] | None:
    """Return the entry of task.json for a kind of scorer."""
    return next((entry for entry in task.identity.get("scorers") or () if entry["kind"] == kind), None)


def _comparable(found: Sequence[T], scorer: Callable[[T], str]) -> list[T]:
    """Return a folder or point per system, all with the shots, repeated samples, scorer and documents that most systems
    share, as only these are comparable. Ties: fewer shots first, then more documents, then a single sample."""
    groups: dict[tuple[int, str, str, str], dict[int, T]] = {}
    for one in found:
        system, own = one[:2]
        key = own.result.shots, own.repeated, scorer(one), str(own.identity.get("documents_sha256"))
        groups.setdefault(key, {}).setdefault(id(system), one)
    order = {key: (-len(own), key[0], -next(iter(own.values()))[1].result.n, key) for key, own in groups.items()}
    return list(groups[min(order, key=order.__getitem__)].values()) if groups else []


def gather(
    paths: Sequence[Path], *, reference: str | None = None, lineage: Path | None = None, progress: Progress = SILENT
) -> Evidence:
    """Read run folders, folders of run folders, training folders and tables of labels.

    reference: the system that all others are compared with, instead of the references that their lineages name
    lineage: file that says which model was trained from which, where that is not recorded

    Raises AlignbenchError if a path is none of these, or if there is no finished task at all.
    """
    tables = dict.fromkeys(path.resolve() for path in paths if path.is_file() and path.name.endswith(TABLES))
    found: dict[str, list[Path]] = {"run.json": [], "metrics.jsonl": []}
    for path in paths:
        inside = {name: [file.parent for file in (path / name, *sorted(path.glob(f"*/{name}"))) if file.is_file()]
                  for name in found}  # fmt: skip
        if not any(inside.values()) and path.resolve() not in tables:
            raise AlignbenchError(f"{path}: not a run folder, training folder or table of labels; see docs/report.md")
        for name, folders in inside.items():
            found[name] += [folder.resolve() for folder in folders]
    specs = [str(folder) for folder in dict.fromkeys(found["run.json"])]
    runs = with_lineages(read_runs(specs, Path()), lineage)
    progress.start("reading", len(runs), unit="runs")
    read = []
    for run in runs:
        read.append(with_calibration(run))
        progress.advance()
    # named apart from unfinished and from intermediate checkpoints, as in the audit
    during = named([run for run in read if run.tasks and _is_intermediate(run, read)])
    final = named([run for run in read if run.tasks and not _is_intermediate(run, read)])
    final.sort(key=lambda run: len(run.lineage))  # stable: base, SFT, what was trained from it
    labels = tuple(chain.from_iterable(read_labels(str(table)) for table in tables))
    if not during and not final and not labels and not found["metrics.jsonl"]:
        raise AlignbenchError(f"{', '.join(map(str, paths))}: no finished task; evaluate first")
    every = (*final, *during, *(run for run in read if not run.tasks))
    notes = [f"{run.name}: unfinished tasks left out: {', '.join(run.unfinished)}" for run in every if run.unfinished]
    audits, reasons = _audits(final, reference, lineage, labels, progress)
    systems = tuple(chain.from_iterable(map(systems_of, final)))
    if audits:
        contrasts = next(iter(audits.values())).contrasts
        compared = {name for own in contrasts for row in own.rows if "chat" in row.variant
                    for name in (own.reference, own.aligned)}  # fmt: skip
        chat = [system for system in systems if system.name != system.run.name]
        reasons += [f"{own.name}: not in the audit" for own in chat if not {own.name, own.run.name} & compared]
    trainings = [_training(folder) for folder in dict.fromkeys(found["metrics.jsonl"])]
    if any(own.synthetic for system in systems for own in system.tasks):
        notes.insert(0, f"{SYNTHETIC_DATA[0].upper()}{SYNTHETIC_DATA[1:]}.")
    return Evidence(
        systems, tuple(chain.from_iterable(map(systems_of, during))), tuple(own for own in trainings if own.metrics),
        labels, audits, (*notes, *reasons, *chain.from_iterable(map(_warnings, trainings))),
    )  # fmt: skip


def training_of(run: Run) -> tuple[str, ...]:
    """Return what the checkpoints of one training, evaluated alike, share, its name first; () without a step."""
    own, engine = run.description.get("training") or {}, run.description.get("engine") or {}
    if not isinstance(own.get("step"), int):
        return ()
    return tuple(
        map(str, (own.get("run"), own.get("run_id"), engine.get("kind"), engine.get("dtype"), run.path.parent))
    )


def _is_intermediate(run: Run, runs: Sequence[Run]) -> bool:
    """Return whether a training saved the checkpoint before its end: a later one of the same training is also there, or
    PPO's final one, of the same parents."""
    shared, own, name = training_of(run), run.description.get("training") or {}, str(run.description["model"]["name"])
    alike = [other for other in runs if other.tasks and training_of(other) == shared] if shared else []
    if any(other.description["training"]["step"] > own["step"] for other in alike):
        return True
    final = INTERMEDIATE.sub("", name)
    return (
        name != final
        and own.get("episodes") is not None
        and any(other.description["model"]["name"] == final and parents(other) == parents(run) for other in runs)
    )


def parents(run: Run) -> tuple[str, ...]:
    """Return the weights that a checkpoint was trained from, the base first; () if no recipe says."""
    return tuple(map(ancestor_key, run.lineage[:-1]))


def _audits(
    runs: Sequence[Run], reference: str | None, lineage: Path | None, labels: Sequence[Label], progress: Progress
) -> tuple[dict[str, Audit], list[str]]:
    paths = {run.name: str(run.path) for run in runs}
    if reference is not None and reference not in paths:
        raise AlignbenchError(f"--reference {reference}: it must be one of the models: {', '.join(paths)}")
    if not runs or (len(runs) == 1 and len(systems_of(runs[0])) == 1):
        return {}, ["only one model: nothing to compare it with"]
    chosen: list[str | None] = [reference]
    if not reference and 1 < len(runs) <= MOST_REFERENCES:
        chosen += paths
    names = [name and paths[name] for name in chosen]
    try:
        audits = compare_with(
            list(paths.values()), names, lineage=lineage, across_templates=True, labels=labels, progress=progress
        )
    except AlignbenchError as error:
        return {}, [str(error)]
    found = {name or "": audits.get(name and paths[name]) for name in chosen}
    return {name: audit for name, audit in found.items() if audit}, []


def systems_of(run: Run) -> list[System]:
    """Return a run as one system, or as two if it was evaluated both with and without its chat template."""
    chat = tuple(own for own in run.tasks if own.result.template == "chat")
    rest = tuple(own for own in run.tasks if own.result.template != "chat")
    if chat and any(own.result.template == "none" for own in rest):
        return [System(run.name, run, rest), System(f"{run.name} (chat)", run, chat)]
    return [System(run.name, run, run.tasks)]


def _warnings(training: TrainingRun) -> list[str]:
    """The warnings of a training's log, one sentence per kind."""
    try:
        lines = read_bytes(training.path / "log.jsonl").decode(errors="replace").splitlines()
    except (OSError, ValueError):  # a training of another tool, or without a log
        return []
    found: dict[str, dict[object, str]] = {}  # kind -> iteration -> reason; a resumed run repeats iterations
    for line in lines:
        with suppress(ValueError, AttributeError):
            if (entry := parse_json(line)).get("event") == "warning":
                own = found.setdefault(str(entry.get("kind")), {})
                own[entry.get("iteration")] = str(entry.get("reason"))
    return [
        f"Training {training.name}: warning in {len(own)} iteration{'s' * (len(own) > 1)}, first in iteration "
        f"{next(iter(own))}: {next(iter(own.values()))}."
        for own in found.values()
    ]


def _training(folder: Path) -> TrainingRun:
    metrics, file = [], folder / "metrics.jsonl"
    try:
        lines = read_bytes(file).decode(errors="replace").split("\n")[:-1]  # a running training may leave part of one
        settings = read_yaml(folder / "config.yaml")
    except (OSError, ValueError) as error:
        raise AlignbenchError(f"{folder}: not a readable training folder ({first_line(error)})") from error
    for number, line in enumerate(lines, 1):
        try:
            metrics.append(parse_json(line))
        except ValueError:
            raise AlignbenchError(f"{file}:{number}: not JSON; remove the line") from None
        if not isinstance(metrics[-1], dict) or not isinstance(metrics[-1].get("step"), int | float):
            raise AlignbenchError(f"{file}:{number}: not a line of metrics (an object with a step); remove it")
    recipe = read_object(folder / "final" / "recipe.json") or {}
    stage = recipe.get("stage") or ("ppo" if "episodes" in settings else "sft" if "micro_tokens" in settings else "?")
    return TrainingRun(folder.name, folder, str(stage), tuple(metrics))
