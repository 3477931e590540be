"""What the tests of the generation tasks do all the time: load a task's documents, score made-up outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignbench.tasks import find_task
from alignbench.types.task import Document, Options, Output, TaskData


def load(name: str, folder: Path, **options: Any) -> TaskData:
    return find_task(name).load(Options(data_dir=folder, **options))


def score(name: str, document: Document, *texts: str, **scores: Any) -> dict[str, float]:
    writing = find_task(name).generation
    assert writing is not None
    return writing.score(document, [Output(text, scores) for text in texts])
