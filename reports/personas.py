"""The personas that models made up, field by field, as the figures of them need them."""

from __future__ import annotations

import string
from collections import Counter
from dataclasses import dataclass

from alignbench.runs.read import TaskRun
from reports.evidence import Evidence, System, documents

TASKS = ("personas", "personas_verbalised")
ASKED = {"personas": "one a sample", "personas_verbalised": "five a sample, asked for with their probabilities"}
FIELDS = {  # as the task's metrics call them
    "first_name": "first name",
    "gender": "gender",
    "age_decade": "age",
    "nationality": "nationality",
    "opinion": "opinion in the review",
}
OPINIONS = ("positive", "neutral", "negative")
_CAPITALS = {"us", "usa", "uk", "uae"}


@dataclass(frozen=True)
class People:
    """The personas of one system. values: field -> (document, value) of each persona of which it could be read."""

    system: System
    task: TaskRun
    values: dict[str, list[tuple[str, str]]]

    def counts(self, field: str) -> Counter[str]:
        return Counter(value for _, value in self.values[field])


def people(evidence: Evidence, task: str) -> list[People]:
    """The personas of each system that has finished the task; a field of which nothing was read has no values."""
    return [_read(system, folder) for system, folder in evidence.runs_of(task)]


def shown(field: str, value: str) -> str:
    """As it is written in a figure; records hold lower case."""
    if field == "nationality" and value in _CAPITALS:
        return value.upper()
    return value if field == "age_decade" else string.capwords(value)


def _read(system: System, folder: TaskRun) -> People:
    values: dict[str, list[tuple[str, str]]] = {field: [] for field in FIELDS}
    for record in documents(folder):
        for name in _column(record, "name"):
            values["first_name"].append((record["id"], name.split()[0]))
        for field in ("gender", "nationality"):
            values[field] += [(record["id"], value) for value in _column(record, field)]
        values["age_decade"] += [(record["id"], f"{int(age) // 10 * 10}s") for age in _column(record, "age")]
        if (sentiment := record.get("sentiment")) is not None:
            values["opinion"].append((record["id"], OPINIONS[1 - (sentiment > 0) + (sentiment < 0)]))
    return People(system, folder, values)


def _column(record: dict[str, object], field: str) -> list[str]:
    """A field of the record's personas, without those of which it could not be read."""
    column = record.get(field)
    return [str(value) for value in column if str(value or "").strip()] if isinstance(column, list) else []
