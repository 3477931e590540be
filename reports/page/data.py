"""The data of the page: sets of task folders that are shown side by side, findings of the audit by verdict, and the
table of the audit."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from alignbench.audit.audit import Audit, Contrast, Row
from alignbench.audit.comparable import baseline_of
from alignbench.audit.references import task_of
from alignbench.audit.render import INTERNAL
from alignbench.runs.read import TaskRun
from alignbench.stats.significance import LEVEL, minimum_detectable_effect
from alignbench.types.result import MetricResult
from reports.evidence import Evidence, System

IMPLIED = ("folder", "documents", "revisions", "scorers")  # not named if the others distinguish the sets

Folders = list[tuple[System, TaskRun]]
VERDICTS = ("gain", "loss", "retained", "inconclusive", "–")
COLUMNS = [own.name for own in fields(Row) if own.name not in ("tax_error", *INTERNAL)]


@dataclass(frozen=True)
class TaskSet:
    """Task folders with the same settings, documents and scorers, one per system.

    number: 0 for the set with the most systems; note: how it differs from the other sets of its task, or ""
    link: address of its samples in the page
    """

    task: str
    number: int
    note: str
    link: str
    documents: int
    folders: tuple[tuple[System, TaskRun], ...]

    @property
    def metrics(self) -> list[MetricResult]:
        """Return the metrics over all documents: the headline first, then those with a direction, then the others."""
        every = {name: m for _, own in self.folders for name, m in own.result.overall.items()}
        task = task_of(self.folders[0][1])
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
        scorers, again = own.identity.get("scorers") or (), 0
        settings = (
            ("version", str(own.result.version)), ("shots", str(own.result.shots)),
            ("limit", str(own.result.limit or "")), ("seed", str(own.result.seed)),
            ("sampling", own.repeated or "one sample"), ("against", baseline_of(own.identity) or ""),
            ("scorers", ", ".join(sorted(f"{entry['kind']}={entry['name']}" for entry in scorers))),
            ("revisions", ", ".join(sorted(str(entry["revision"])[:12] for entry in scorers))),
            ("documents", str(own.identity.get("documents_sha256") or "")),
        )  # fmt: skip
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
        if "sampling" in words:
            words["sampling"] = key["sampling"]
        if "documents" in words:
            words["documents"] = f"{'another ' if place else ''}{_largest(folders):,} documents"
        if "folder" in words:
            words["folder"] = "" if key["folder"] == "0" else f"again: {', '.join(own.path.name for _, own in folders)}"
        note = "; ".join(filter(None, words.values()))
        note += f" ({key['documents'][:8]})" if any(note == one.note for one in found) else ""
        found.append(TaskSet(task, place, note, task_link(task, place), _largest(folders), tuple(folders)))
    return found


def _largest(folders: Folders) -> int:
    return max(own.result.n for _, own in folders)


def sets_by_folder(sets: Sets) -> dict[Path | None, TaskSet]:
    """Map each task folder to its set."""
    return {own.path: one for every in sets.values() for one in every for _, own in one.folders}


def findings(audit: Audit, sets: Sets) -> list[tuple[Contrast, dict[str, list[dict[str, Any]]]]]:
    """Return the contrasts, each with its headline metrics by verdict.

    row: of the contrast; samples: its set of task folders; link: to the samples, "" without
    beside: all metrics of these folders
    """
    of_folder = sets_by_folder(sets)
    found = []
    for contrast in audit.contrasts:
        beside: dict[Any, dict[str, Any]] = defaultdict(dict)
        for row in contrast.rows:
            beside[row.reference_folder, row.aligned_folder][row.metric] = row
        by_verdict: dict[str, list[dict[str, Any]]] = {verdict: [] for verdict in VERDICTS}
        for row in contrast.rows:
            if row.headline:
                samples = of_folder.get(row.aligned_folder)
                link = samples.link if samples else "" if row.aligned_folder is None else task_link(row.task)
                same = beside[row.reference_folder, row.aligned_folder]
                by_verdict[row.verdict].append({"row": row, "samples": samples, "link": link, "beside": same})
        found.append((contrast, by_verdict))
    return found


def win_rates(sets: Sets) -> dict[str, list[dict[str, Any]]]:
    """Return the win rates of all systems against their baselines by verdict.

    metrics: over all prompts, those with a value; side, equal: 1 if the whole interval of the rate, and of that at
    equal lengths, is above ½, -1 if it is below, otherwise 0, None without the rate.
    Inconclusive: ½ is in the interval, or the rate at equal lengths is not on the same side (AlpacaEval 2, arXiv
    2404.04475).
    """
    found: dict[str, list[dict[str, Any]]] = {verdict: [] for verdict in ("gain", "loss", "inconclusive")}
    for one in sets.get("win_rate", ()):
        for system, own in one.folders:
            metrics = {name: m for name, m in own.result.overall.items() if m.value is not None}
            side, equal = (_side(metrics.get(name)) for name in ("win_rate", "win_rate_length_controlled"))
            if side is not None:
                verdict = "inconclusive" if not side or equal not in (None, side) else "gain" if side > 0 else "loss"
                baseline = baseline_of(own.identity) or "its baseline"
                facts = {"system": system.name, "baseline": baseline, "samples": one, "metrics": metrics}
                found[verdict].append({**facts, "side": side, "equal": equal})
    return found


def preferences(
    wins: Mapping[str, Sequence[dict[str, Any]]], systems: Sequence[System], contrast: Contrast | None
) -> list[tuple[str, dict[str, Any]]]:
    """Return (verdict, win rate) of all systems, or of a contrast's aligned model against its reference: with its own
    chat template, if the contrast is so and the model has one."""
    aligned = contrast.aligned if contrast else ""
    if contrast and contrast.templates == "own" and f"{aligned} (chat)" in {own.name for own in systems}:
        aligned = f"{aligned} (chat)"
    return [
        (verdict, one)
        for verdict, own in wins.items()
        for one in own
        if contrast is None or (one["system"], one["baseline"]) == (aligned, contrast.reference)
    ]


def _side(rate: MetricResult | None) -> int | None:
    if rate is None or rate.low is None or rate.high is None:
        return None if rate is None else 0
    return int(rate.low > 0.5) - int(rate.high < 0.5)


def audit_data(evidence: Evidence, sets: Sets) -> dict[str, Any]:
    """Return the data of the table: columns; contrasts, each once; audits: reference -> places of its contrasts.

    sets, ranks: of a contrast: for each row the number of its set of task folders, and its place in the order in which
        the tested row of a family is chosen
    factors: the minimum detectable effect in standard errors, for 1, 2, … tests
    """
    numbers = {folder: one.number for folder, one in sets_by_folder(sets).items()}
    places: dict[tuple[object, ...], int] = {}
    contrasts: list[dict[str, Any]] = []
    audits: dict[str, list[int]] = {reference: [] for reference in evidence.audits}
    for reference, audit in evidence.audits.items():
        for own in audit.contrasts:
            place = places.setdefault((own.reference, own.aligned, own.templates, own.rows), len(contrasts))
            audits[reference].append(place)
            if place == len(contrasts):
                contrasts.append(
                    {"reference": own.reference, "aligned": own.aligned, "templates": own.templates}
                    | {"rows": [[getattr(row, column) for column in COLUMNS] for row in own.rows]}
                    | {"sets": [numbers.get(row.aligned_folder, 0) for row in own.rows]}
                    | {"ranks": np.argsort(sorted(range(len(own.rows)), key=lambda n: own.rows[n].order)).tolist()}
                    | {"notes": [*(f"not compared: {line}" for line in own.left_out), *own.notes]}
                )
    most = max((len(one["rows"]) for one in contrasts), default=0)
    factors = [minimum_detectable_effect(1.0, LEVEL / tests) for tests in range(1, most + 1)]
    margin = evidence.audit.margin if evidence.audit else None
    return {"columns": COLUMNS, "contrasts": contrasts, "audits": audits, "margin": margin, "factors": factors}
