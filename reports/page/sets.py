"""Task folders that stand side by side: of which settings they are, and which of them a row of the audit is of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from alignbench.audit.audit import Contrast, Row
from alignbench.runs.read import TaskRun
from alignbench.types.result import MetricResult
from reports.evidence import Evidence, System

# settings that are not told where others tell the sets apart: the first of them goes first
UNSAID = ("folder", "documents", "revisions", "scorers")


@dataclass(frozen=True)
class TaskSet:
    """Task folders with all in common that their numbers depend on besides the system: one a system.

    number: 0 for what most systems have; note: what tells it from the other sets of its task, else empty
    """

    task: str
    number: int
    note: str
    folders: tuple[tuple[System, TaskRun], ...]

    @property
    def documents(self) -> int:
        return max(own.result.n for _, own in self.folders)


Sets = Mapping[str, Sequence[TaskSet]]  # task -> its sets


def all_sets(evidence: Evidence) -> dict[str, list[TaskSet]]:
    return {task: sets_of(evidence, task) for task in evidence.tasks}


def sets_of(evidence: Evidence, task: str) -> list[TaskSet]:
    """All folders of a task. Where settings are the same, a second folder of one system is in a further set."""
    groups: dict[tuple[str, ...], list[tuple[System, TaskRun]]] = {}
    for system, own in evidence.every_run_of(task):
        settings, lap = _settings(own), 0
        while any(system is other for other, _ in groups.get((*settings.values(), str(lap)), ())):
            lap += 1
        groups.setdefault((*settings.values(), str(lap)), []).append((system, own))
    ordered = sorted(
        groups.items(), key=lambda item: (-len(item[1]), item[1][0][1].result.shots, -_most(item[1]), item[0])
    )
    notes = _notes([(dict(zip(NAMES, key, strict=True)), folders) for key, folders in ordered])
    return [
        TaskSet(task, place, note, tuple(folders))
        for place, ((_, folders), note) in enumerate(zip(ordered, notes, strict=True))
    ]


NAMES = ("version", "shots", "limit", "seed", "against", "scorers", "revisions", "documents", "folder")


def _settings(own: TaskRun) -> dict[str, str]:
    """All of `NAMES` but the last."""
    scorers = own.identity.get("scorers") or ()
    return {
        "version": str(own.result.version),
        "shots": str(own.result.shots),
        "limit": str(own.result.limit or ""),
        "seed": str(own.result.seed),
        "against": str((own.identity.get("baseline") or {}).get("name") or ""),
        "scorers": ", ".join(sorted(f"{entry['kind']}={entry['name']}" for entry in scorers)),
        "revisions": ", ".join(sorted(str(entry["revision"])[:12] for entry in scorers)),
        "documents": str(own.identity.get("documents_sha256") or ""),
    }


def _most(folders: Sequence[tuple[System, TaskRun]]) -> int:
    return max(own.result.n for _, own in folders)


def _notes(sets: Sequence[tuple[Mapping[str, str], Sequence[tuple[System, TaskRun]]]]) -> list[str]:
    """What tells each set from the others, in as few settings as do."""
    unlike = [name for name in NAMES if len({key[name] for key, _ in sets}) > 1]
    for unsaid in UNSAID:
        fewer = [name for name in unlike if name != unsaid]
        if len({tuple(key[name] for name in fewer) for key, _ in sets}) == len(sets):
            unlike = fewer
    notes: list[str] = []
    for place, (key, folders) in enumerate(sets):
        parts = [_told(name, key[name]) for name in unlike if name not in ("documents", "folder")]
        if "documents" in unlike:
            parts.append(f"{'another ' if place else ''}{_most(folders):,} documents")
        if "folder" in unlike and key["folder"] != "0":
            parts.append(f"again: {', '.join(own.path.name for _, own in folders)}")
        note = "; ".join(parts)
        notes.append(f"{note} ({key['documents'][:8]})" if note in notes else note)
    return notes


def _told(name: str, value: str) -> str:
    return f"{name} {value}" if value else {"against": "no baseline"}.get(name, f"no {name}")


def set_of(row: Row, contrast: Contrast, sets: Sequence[TaskSet]) -> TaskSet | None:
    """The set of its task that a row is of; None where no set has both systems."""
    return next(iter(fitting(row, contrast, sets)), None)


def fitting(row: Row, contrast: Contrast, sets: Sequence[TaskSet]) -> list[TaskSet]:
    """The sets of its task that a row may be of: several where it would be the same in each.

    A row does not name its folders: it is of the set whose settings are those of its variant, and, where these leave
    a choice, whose values are the nearest to its own.
    """
    found: list[tuple[TaskSet, TaskRun, TaskRun]] = []
    for one in sets:
        before = _folder(one, contrast.reference, row, last=False)
        after = _folder(one, contrast.aligned, row, last=True)
        if before is not None and after is not None:
            found.append((one, before, after))
    if len(found) < 2:
        return [one for one, _, _ in found]
    parts = [part for part in row.variant.split(", ") if part]

    def unlike(chosen: tuple[TaskSet, TaskRun, TaskRun]) -> tuple[int, float]:
        _, before, after = chosen
        missing = sum(not _has(part, after) for part in parts)
        return missing, abs(_value(before, row) - row.reference) + abs(_value(after, row) - row.aligned)

    least = min(map(unlike, found))
    return [chosen[0] for chosen in found if unlike(chosen) == least]


def _folder(one: TaskSet, name: str, row: Row, *, last: bool) -> TaskRun | None:
    """Where the run of that name has the row's metric in a set: of two templates, that of the row ("none -> chat")."""
    own = [folder for system, folder in one.folders if name in (system.run.name, system.name)]
    template = row.variant.split(", ")[0].split(" -> ")[-1 if last else 0]
    measured = [folder for folder in own if math.isfinite(_value(folder, row))]
    asked = [folder for folder in measured if folder.result.template == template]
    return next(iter(asked or measured), None)


def _has(part: str, own: TaskRun) -> bool:
    """Whether a part of a row's variant is true of a folder; of scorers, it names those of its metric alone."""
    result = own.result
    scorers = {f"{entry['kind']}={entry['name']}" for entry in own.identity.get("scorers") or ()}
    return scorers.issuperset(part.split(" ")) or part in (
        f"against {(own.identity.get('baseline') or {}).get('name')}",
        f"shots {result.shots}",
        "no limit" if result.limit is None else f"limit {result.limit}",
        f"seed {result.seed}",
    )


def _value(own: TaskRun, row: Row) -> float:
    metric = metric_of(own, row.metric)
    return math.inf if metric is None or metric.value is None else metric.value


def metric_of(own: TaskRun, name: str) -> MetricResult | None:
    """A metric over all documents of a folder."""
    return next((m for m in own.result.metrics if (m.metric, m.category) == (name, None)), None)


def link_to(task: str, chosen: TaskSet | None = None) -> str:
    """Of a task's page, at a set of its folders."""
    return f"#task/{quote(task, safe='')}" + (f"/{chosen.number + 1}" if chosen is not None and chosen.number else "")
