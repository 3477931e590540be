"""Results: what result.json holds, and what an evaluation returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def known_fields(kind: type[DataclassInstance], content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version knows, of an object that a newer one may have written."""
    return {name: value for name, value in content.items() if name in kind.__dataclass_fields__}


@dataclass(frozen=True)
class MetricResult:
    """A metric over all scored documents of a task, or over those of one category.

    chance: expected value of random answers on the same documents, None if there is no such level
    scorer: the scorer that computed it, as `name@revision`: part of the metric's meaning
    n: documents with a value; n_unscored: documents that should have one, counted and left out
    bounds: the lowest and the highest possible value, None where open
    """

    metric: str
    category: str | None
    unit: str
    better: str
    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    n_clusters: int
    n_unscored: int
    chance: float | None
    scorer: str | None = None
    bounds: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class TaskResult:
    """What result.json holds.

    template: "chat" or "none" where the model generates text
    unscored: reason -> number of documents; reasons that differ only in numbers count as the first of them
    records_sha256: hash of documents.jsonl
    """

    task: str
    version: int
    n: int
    n_scored: int
    shots: int
    limit: int | None
    seed: int
    unscored: dict[str, int]
    metrics: tuple[MetricResult, ...]
    template: str | None = None
    records_sha256: str | None = None

    @property
    def overall(self) -> dict[str, MetricResult]:
        """Metric -> its result over all documents."""
        return {own.metric: own for own in self.metrics if own.category is None}


@dataclass(frozen=True)
class RunResult:
    """One model's results, its run folder, and the name of each result's task folder in it."""

    checkpoint: str
    folder: Path
    results: tuple[TaskResult, ...]
    folders: tuple[str, ...]

    def folder_of(self, task: str) -> str:
        return next(folder for result, folder in zip(self.results, self.folders, strict=True) if result.task == task)
