"""Task folders shown side by side: the settings that they share, and how sets of folders differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from alignbench.audit.references import find
from alignbench.runs.read import TaskRun
from alignbench.types.result import MetricResult
from reports.evidence import Evidence, System

IMPLIED = ("folder", "documents", "revisions", "scorers")  # not named if the others distinguish the sets
Folders = list[tuple[System, TaskRun]]


@dataclass(frozen=True)
class TaskSet:
    """Task folders with the same settings, documents and scorers, one per system.

    number: 0 for the set with the most systems; note: how it differs from the other sets of its task, or ""
    """

    task: str
    number: int
    note: str
    folders: tuple[tuple[System, TaskRun], ...]

    @property
    def documents(self) -> int:
        return max(own.result.n for _, own in self.folders)

    @property
    def link(self) -> str:
        return task_link(self.task, self.number)

    @property
    def metrics(self) -> list[MetricResult]:
        """Return the metrics over all documents: the headline first, then those with a direction, then the others."""
        every = {m.metric: m for _, own in self.folders for m in own.result.metrics if m.category is None}
        task = find(self.task)
        headline = None if task is None else task.headline
        return sorted(every.values(), key=lambda m: (m.metric != headline, m.better == "–"))  # stable: the task's order

    def folder_of(self, system: System) -> TaskRun | None:
        return next((own for other, own in self.folders if other.name == system.name), None)


Sets = Mapping[str, Sequence[TaskSet]]  # task -> its sets


def task_link(task: str, number: int = 0) -> str:
    """Return the address of a task's samples in the page, at one of its sets."""
    return f"#task/{quote(task, safe='')}" + (f"/{number + 1}" if number else "")


def sets_of(evidence: Evidence, task: str) -> list[TaskSet]:
    """Return all folders of a task in sets. A second folder of a system with equal settings is in a set of its own."""
    groups: dict[tuple[tuple[str, str], ...], Folders] = {}
    for system, own in evidence.all_runs(task):
        settings, again = _settings(own), 0
        while any(system is other for other, _ in groups.get((*settings, ("folder", str(again))), ())):
            again += 1
        groups.setdefault((*settings, ("folder", str(again))), []).append((system, own))
    ordered = sorted(
        ((dict(key), folders) for key, folders in groups.items()),
        key=lambda one: (-len(one[1]), one[1][0][1].result.shots, -_largest(one[1]), *one[0].values()),
    )
    different = [name for name in ordered[0][0] if len({key[name] for key, _ in ordered}) > 1]
    for name in IMPLIED:
        fewer = [other for other in different if other != name]
        if len({tuple(key[other] for other in fewer) for key, _ in ordered}) == len(ordered):
            different = fewer
    found: list[TaskSet] = []
    for place, (key, folders) in enumerate(ordered):
        words = {name: f"{name} {key[name] or 'none'}" for name in different}
        if "documents" in words:
            words["documents"] = f"{'another ' if place else ''}{_largest(folders):,} documents"
        if "folder" in words:
            words["folder"] = "" if key["folder"] == "0" else f"again: {', '.join(own.path.name for _, own in folders)}"
        note = "; ".join(filter(None, words.values()))
        note += f" ({key['documents'][:8]})" if any(note == one.note for one in found) else ""
        found.append(TaskSet(task, place, note, tuple(folders)))
    return found


def _settings(own: TaskRun) -> tuple[tuple[str, str], ...]:
    scorers = own.identity.get("scorers") or ()
    return (
        ("version", str(own.result.version)),
        ("shots", str(own.result.shots)),
        ("limit", str(own.result.limit or "")),
        ("seed", str(own.result.seed)),
        ("against", str((own.identity.get("baseline") or {}).get("name") or "")),
        ("scorers", ", ".join(sorted(f"{entry['kind']}={entry['name']}" for entry in scorers))),
        ("revisions", ", ".join(sorted(str(entry["revision"])[:12] for entry in scorers))),
        ("documents", str(own.identity.get("documents_sha256") or "")),
    )


def _largest(folders: Folders) -> int:
    return max(own.result.n for _, own in folders)


def sets_by_folder(sets: Sets) -> dict[Path | None, TaskSet]:
    """Map each task folder to its set."""
    return {own.path: one for every in sets.values() for one in every for _, own in one.folders}
