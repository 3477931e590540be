"""The calibration of finished tasks with choices, as tasks of their own, computed from their records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignbench.audit.references import task_of
from alignbench.runs.read import Run, TaskRun
from alignbench.runs.summary import summarise
from alignbench.tasks.calibration import CALIBRATES, SUFFIX, calibrated, calibration_task
from alignbench.types.record import Record


@dataclass(frozen=True)
class CalibrationRun(TaskRun):
    """The calibration of a task's answers. path: of a folder that does not exist; source: the task"""

    source: TaskRun
    decides: tuple[str, str]

    def records(self, read: Callable[[Mapping[str, Any]], Record] = Record.from_json) -> Iterator[Record]:
        return self.source.records(lambda content: read(calibrated(content, self.decides)))


def with_calibration(run: Run, tasks: Sequence[str] = ()) -> Run:
    """The run with a task NAME_calibration for each of its tasks in which one of several choices is right.

    tasks: only these of them. Raises AlignbenchError for records that cannot be read.
    """
    found = [calibration_of(own) for own in run.tasks if not tasks or own.task + SUFFIX in tasks]
    return replace(run, tasks=(*run.tasks, *(own for own in found if own is not None)))


def calibration_of(own: TaskRun) -> CalibrationRun | None:
    """The calibration of a finished task; None if it has no choices, or if their log-probabilities are not known."""
    base = task_of(own)
    task = base and calibration_task(base, bool(own.identity.get("declared")))
    if task is None or task.decides is None:
        return None
    first = next(own.records(), None)  # the others are like it: files without log-probabilities are not read
    if first is None or len(first.choices) < 2 or len(first.logprobs) != len(first.choices):
        return None
    identity = {**own.identity, "task": task.name, CALIBRATES: own.task}
    found = CalibrationRun(own.path.with_name(own.path.name + SUFFIX), identity, own.result, own, task.decides)
    records = list(found.records(Record.slim))
    settings = {name: getattr(own.result, name) for name in ("shots", "limit", "seed", "template")}
    return replace(found, result=summarise(task, records, **settings)) if any(own.values for own in records) else None
