"""Helpers for tests of tasks: load documents, score outputs, compute corpus metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench.stats.estimates import Estimate
from alignbench.tasks import find_task
from alignbench.types.record import Document, Output, Record
from alignbench.types.task import Options, TaskData


def load(name: str, folder: Path | None = None, **options: Any) -> TaskData:
    return find_task(name).load(Options(data_dir=folder, **options))


def score(name: str, document: Document, *texts: str, **scores: Any) -> dict[str, float]:
    return find_task(name).generation.score(document, [Output(text, scores=scores) for text in texts])


def corpus(name: str, records: Sequence[Record]) -> dict[str, Estimate]:
    """Name of each corpus metric -> its estimate."""
    return {metric.name: estimate for metric, estimate in find_task(name).corpus.compute(records, True)}


def shown(name: str, folder: Path) -> str:
    """The text before the answer of the task's fourth document (or the last), with one example, and its answers."""
    data = load(name, folder, shots=1 if find_task(name).takes_shots else None)
    document = data.documents[:4][-1]
    answers = document.choices or document.references
    return "\n".join((f"{data.prefix}{document.prompt}", *(f"--- answer:{answer}" for answer in answers), ""))
