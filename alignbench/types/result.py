"""Results: what `result.json` holds, and what an evaluation returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class MetricResult:
    """A metric over all scored documents of a task, or over those of one category.

    chance: what answering at random scores on the same documents, None where there is no such level
    scorer: the scorer that it was made with, as `name@revision`: part of what the number means
    n: documents with a value; n_unscored: documents that ought to have one: counted, and left out
    bounds: the lowest and the highest value that it can have, None where that is open
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

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> MetricResult:
        given = {"bounds": (None, None), **content}  # a result.json of before has none
        return cls(**{**given, "bounds": tuple(given["bounds"])})


@dataclass(frozen=True)
class TaskResult:
    """What `result.json` holds.

    template: where the model wrote, "chat" or "none"
    unscored: reason -> number of documents; of reasons that differ in numbers alone, the first
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

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TaskResult:
        return cls(**{**content, "metrics": tuple(map(MetricResult.from_json, content["metrics"]))})


@dataclass(frozen=True)
class RunResult:
    """One model's results, the run folder, and below it the name of each result's folder of records."""

    checkpoint: str
    folder: Path
    results: tuple[TaskResult, ...]
    folders: tuple[str, ...]

    def folder_of(self, task: str) -> str:
        return next(folder for result, folder in zip(self.results, self.folders, strict=True) if result.task == task)
