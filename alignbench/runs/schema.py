"""The types of what readers use of run.json, task.json and result.json, which a user may have edited."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from alignbench.errors import AlignbenchError
from alignbench.types.result import TaskResult

Object = dict[str, Any]


class _File(BaseModel):
    model_config = ConfigDict(strict=True)


class _Model(_File):
    name: str
    weights_sha256: str | None = None
    outputs: str | None = None


class _Ancestor(_File):
    stage: str
    name: str
    weights_sha256: str


class _Training(_File):
    rewards: list[str] | None = None
    kl: float | None = None
    beta: float | None = None
    gamma: float | None = None
    episodes: float | None = None


class RunFile(_File):
    model: _Model
    engine: Object = {}
    lineage: list[_Ancestor] | None = None
    training: _Training | None = None
    environment: Object = {}
    parameters: int | None = None
    read: Object | None = None


class _Scorer(_File):
    model_config = ConfigDict(strict=True, extra="forbid")
    kind: str
    name: str
    revision: str


class _Source(_File):
    card: str
    split: str
    source: str
    revision: str | None


class _Baseline(_File):
    name: str | None = None


class TaskFile(_File):
    task: str
    version: int
    shots: int | None
    limit: int | None
    seed: int
    data: list[_Source]
    prefix: str | None = ""
    n: int = 0
    documents_sha256: str | None = None
    template: str | None = None
    template_kwargs: Object | None = None
    sampling: Object | None = None
    thinking: Object | None = None
    scorers: list[_Scorer] | None = None
    judged_with: dict[str, str | None] | None = None
    baseline: _Baseline | None = None


class _Metric(_File):
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


class _ResultFile(_File):
    task: str
    version: int
    n: int
    n_scored: int
    shots: int
    limit: int | None
    seed: int
    unscored: dict[str, int]
    metrics: list[_Metric]
    template: str | None = None
    records_sha256: str | None = None


def check(content: Mapping[str, Any], kind: type[BaseModel], file: Path, advice: str) -> dict[str, Any]:
    """The content, unchanged. Raises AlignbenchError for a field that is missing or of a wrong type."""
    try:
        kind.model_validate(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        reason = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        raise AlignbenchError(f"{file}: not of this version of alignbench ({reason}); {advice}") from None
    return dict(content)


def read_result(content: dict[str, Any], file: Path, advice: str) -> TaskResult:
    """The result in result.json. Raises AlignbenchError as `check` does."""
    check(content, _ResultFile, file, advice)
    try:
        return TaskResult.from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise AlignbenchError(f"{file}: not of this version of alignbench ({error}); {advice}") from None
