"""Entropies before each token, in bits, as the figures of them need them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.runs.read import TaskRun
from reports.evidence import Evidence, System, documents

TASKS = {"token_entropy_on_policy": "the model's own text", "token_entropy": "shared text, read by all alike"}
KINDS = {"entropies": "entropy", "top_entropies": "top5_entropy"}  # column of the records -> metric


@dataclass(frozen=True)
class Entropies:
    """Of one system on one task.

    texts: column -> (group, bits of each token) of each text that has some; missing: texts without
    """

    system: System
    task: TaskRun
    texts: dict[str, list[tuple[str, NDArray[np.float64]]]]
    missing: int


def entropies(evidence: Evidence, task: str) -> list[Entropies]:
    """Each system that has finished the task and has any token's entropy."""
    found = [_read(system, folder) for system, folder in evidence.runs_of(task)]
    return [own for own in found if own.texts["entropies"]]


def _read(system: System, folder: TaskRun) -> Entropies:
    texts: dict[str, list[tuple[str, NDArray[np.float64]]]] = {column: [] for column in KINDS}
    missing = 0
    for record in documents(folder):
        for part in _parts(record):
            for column in KINDS:
                bits = np.array([_number(value) for value in part.get(column) or ()], np.float64) / math.log(2)
                if len(bits) and np.isfinite(bits).any():
                    texts[column].append((record.get("group") or record["id"], bits))
                elif column == "entropies":
                    missing += 1
    return Entropies(system, folder, texts, missing)


def _parts(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was written, or each choice that was read."""
    if "outputs" in record:
        yield from record["outputs"]
        return
    top = record.get("top_entropies") or []
    for number, own in enumerate(record.get("entropies") or [None]):
        yield {"entropies": own, "top_entropies": top[number] if number < len(top) else None}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
