"""What models wrote for the same prompts, as vectors, as the figures of them need them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignbench.audit.references import HASHED, embedder_of
from alignbench.runs.read import TaskRun
from reports.drawing import NoDataError
from reports.evidence import Evidence, System, documents
from reports.style import plain

TASKS = ("recitations", "diversity_across", "answers", "diversity")  # the first that two models or one have
LEAST = 10  # outputs of a system


@dataclass(frozen=True)
class Outputs:
    """Of one system: ids, categories and vectors (n, d) of its first output a document, in the task's order."""

    system: System
    ids: tuple[str, ...]
    categories: tuple[str | None, ...]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Written:
    """notes: what a caption must tell of the embedder and of what was left out."""

    task: str
    systems: tuple[Outputs, ...]
    notes: str


def written(evidence: Evidence, *, each: int, most: int, category: str | None = None) -> Written:
    """The outputs of the first of TASKS that there are, as many of each system: at even distances, at most `each` and
    `most` in all; by the embedder that the audit uses, else by the hashed one.

    category: of recitations, those alone. Raises NoDataError where no system has LEAST outputs.
    """
    for task in TASKS:
        runs = [(system, folder, *_texts(folder, category)) for system, folder in evidence.runs_of(task)]
        enough = [run for run in runs if len(run[2]) >= LEAST]
        if not enough:
            continue
        each = min(each, max(1, most // len(enough)), *(len(records) for _, _, records, _ in enough))
        embedder, told = _embedder(enough[0][1])
        systems = []
        for system, _, records, _ in enough:
            chosen = [records[(2 * rank + 1) * len(records) // (2 * each)] for rank in range(each)]
            ids, categories, texts = zip(*chosen, strict=True)
            systems.append(Outputs(system, ids, categories, embedder.embed(list(texts))))
        notes = [f"{each} outputs of each model on {task}; vectors by {told}."]
        if absent := [plain(system.name) for system, _, records, _ in runs if len(records) < LEAST]:
            notes.append(f"Left out, with fewer than {LEAST} outputs: {', '.join(absent)}.")
        if unscored := [f"{plain(system.name)} {lost}" for system, _, _, lost in enough if lost]:
            notes.append(f"Not written, and left out: {', '.join(unscored)}.")
        return Written(task, tuple(systems), " ".join(notes))
    raise NoDataError(f"no run has {LEAST} outputs of {', '.join(TASKS[:-1])} or {TASKS[-1]}")


def _texts(folder: TaskRun, category: str | None) -> tuple[list[tuple[str, str | None, str]], int]:
    """(id, category, text) of each document's first output, and how many were not written."""
    found, lost = [], 0
    of_category = category if folder.task == "recitations" else None
    for record in documents(folder):
        if of_category is not None and record.get("category") != of_category:
            continue
        first = next(iter(record.get("outputs") or ()), None)
        if first is None or first.get("unscored"):
            lost += 1
        else:
            found.append((str(record["id"]), record.get("category"), str(first["text"])))
    return found, lost


def _embedder(folder: TaskRun):  # type: ignore[no-untyped-def]
    from alignbench.scorers.embeddings import HashedEmbedder

    used = next((entry for entry in folder.identity.get("scorers") or () if entry["kind"] == "embedding"), None)
    embedder = embedder_of(folder) or HashedEmbedder()
    told = f"{embedder.name}@{embedder.revision}, which compares wording, not meaning"
    if used is not None and used["name"] != HASHED:
        told += f" (the runs' own, {plain(str(used['name']), 40)}, is not at hand)"
    return embedder, told
