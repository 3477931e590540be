"""The types of what readers use of run.json, task.json and result.json, which a user may have edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import Ancestor
from alignbench.types.record import Provenance
from alignbench.types.scorer import ScorerIdentity

T = TypeVar("T")
Object = dict[str, Any]


class _Model(BaseModel):
    name: str
    weights_sha256: str | None = None
    outputs: str | None = None


class _Training(BaseModel):
    rewards: list[str] | None = None
    kl: float | None = None
    kl_bound: float | None = None
    beta: float | None = None
    gamma: float | None = None
    episodes: float | None = None
    run: str | None = None
    run_id: str | None = None
    step: int | None = None
    start: str | None = None


class RunFile(BaseModel):
    model: _Model
    engine: Object = {}
    lineage: list[Ancestor] | None = None
    training: _Training | None = None
    environment: Object = {}
    parameters: int | None = None
    read: Object | None = None


class TaskFile(BaseModel):
    task: str
    version: int
    shots: int | None
    limit: int | None
    seed: int
    data: list[Provenance]
    prefix: str | None = ""
    n: int = 0
    documents_sha256: str | None = None
    template: str | None = None
    template_kwargs: Object | None = None
    sampling: Object | None = None
    thinking: Object | None = None
    scorers: list[ScorerIdentity] | None = None
    judged_with: dict[str, str | None] | None = None
    baseline: dict[str, str | None] | None = None
    declared: Object | None = None


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check(content: Mapping[str, Any], kind: type[T], file: Path, advice: str) -> T:
    """The content as an object of this kind. Raises AlignbenchError for a field that is missing or of a wrong type."""
    try:
        found: T = _adapter(cast(Any, kind)).validate_json(json.dumps(content), strict=True)
        return found
    except ValidationError as error:
        wrong = error.errors()[0]
        reason = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        raise AlignbenchError(f"{file}: not of this version of alignbench ({reason}); {advice}") from None
