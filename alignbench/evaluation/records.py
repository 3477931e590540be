"""Records that are there: what of them a run still needs, and the result that is made when all are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from alignbench.evaluation.writing import unjudged
from alignbench.runs.folder import Place, RunFolder, TaskFolder, digest
from alignbench.runs.summary import kept, summarise
from alignbench.types.scorer import Embedder, ScorerIdentity
from alignbench.types.task import Document, Task


def finish(
    task: Task,
    folder: TaskFolder,
    order: Mapping[str, int],
    *,
    shots: int,
    limit: int | None,
    seed: int,
    scorers: Sequence[ScorerIdentity],
    template: str | None,
    embedder: Embedder | None,
) -> None:
    """Sum up the records, which are all there, and write the result."""
    records = sorted((kept(task, record) for record in folder.records()), key=lambda record: order[record["id"]])
    used = {scorer.kind: str(scorer) for scorer in scorers}
    result = summarise(
        task, records, shots=shots, limit=limit, seed=seed, scorers=used, template=template, embedder=embedder
    )
    folder.finish(order, asdict(result))


def there_already(
    mine: Sequence[Document], size: int, places: Mapping[str, Place], others: Mapping[str, Place]
) -> tuple[set[str], dict[str, Callable[[], dict[str, Any]]]]:
    """Which of this process's documents need nothing, and how the records of others are read that are there.

    others: records of another folder, whose scores are another scorer's
    A whole record whose chunk is not whole is read too: the chunk is judged together. If one of the chunk got lost on
    the way when the others were judged, they are judged anew.
    """
    done: set[str] = set()
    earlier: dict[str, Callable[[], dict[str, Any]]] = {}
    for begin in range(0, len(mine), size):
        chunk = [document.id for document in mine[begin : begin + size]]
        if all(name in places and places[name].whole for name in chunk):
            done.update(chunk)
            continue
        incomplete = any(name in places and places[name].transient for name in chunk)
        for name in chunk:
            if name in places and not places[name].transient:
                earlier[name] = partial(_unjudged, places[name]) if incomplete else places[name].read
            elif name in others:
                earlier[name] = partial(_unjudged, others[name])
    return done, earlier


def _unjudged(place: Place) -> dict[str, Any]:
    return unjudged(place.read())


def written_before(run: RunFolder, folder: TaskFolder, identity: Mapping[str, Any]) -> dict[str, Place]:
    """What the same model wrote for the same prompts, in a folder with other scorers."""
    found: dict[str, Place] = {}
    for other in run.tasks():
        if other.path != folder.path and same_outputs(other.identity(), identity):
            found |= {name: place for name, place in other.places().items() if not place.transient}
    return found


def same_outputs(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two task folders differ in how their outputs were judged alone."""
    ignored = {"scorers": None, "judged_with": None}
    return "scorers" in one and "scorers" in other and digest({**one, **ignored}) == digest({**other, **ignored})
