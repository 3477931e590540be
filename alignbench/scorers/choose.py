"""Which scorers a run uses: what the user asked for, and the default of every other kind that its tasks need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from alignbench.errors import AlignbenchError
from alignbench.types.scorer import Embedder, Scorer
from alignbench.types.task import Task

# kinds that suit whatever was written; where a task has no metric for one, its numbers are reported as they are
ANYWHERE = ("sentiment", "evaluate")


def choose_scorers(
    tasks: Sequence[Task], specs: Sequence[str], *, device: str = "cpu"
) -> dict[str, tuple[Scorer, ...]]:
    """Task name -> its scorers, loaded once for all tasks.

    specs: `kind=name[:path]`; one a kind. Raises AlignbenchError for a kind that no task takes, or two of a kind.
    """
    asked = by_kind(specs)
    writing = {task.name: task.generation for task in tasks if task.generation}
    takes = {name: writing.scorers + writing.optional_scorers for name, writing in writing.items()}
    known = {kind for kinds in takes.values() for kind in kinds}
    for kind, spec in asked.items():
        if not writing or (kind not in known and kind not in ANYWHERE):
            kinds = ", ".join(sorted(known | set(ANYWHERE) if writing else ())) or "none"
            raise AlignbenchError(f"scorer {spec!r}: no task here takes a scorer of kind {kind!r} (they take: {kinds})")
    needed = {kind for own in writing.values() for kind in own.scorers}
    if not needed and not asked:
        return {task.name: () for task in tasks}
    from alignbench.scorers import DEFAULTS, find_scorer

    loaded = {
        kind: find_scorer(asked.get(kind) or DEFAULTS[kind], device=device) for kind in sorted(needed | set(asked))
    }
    extra = tuple(kind for kind in ANYWHERE if kind in asked)
    return {
        task.name: tuple(loaded[kind] for kind in dict.fromkeys(takes[task.name] + extra) if kind in loaded)
        if task.generation
        else ()
        for task in tasks
    }


def embedder_of(scorers: Sequence[Scorer]) -> Embedder | None:
    """The one that makes vectors, if there is one."""
    found = [scorer for scorer in scorers if scorer.kind == "embedding"]
    return cast(Embedder, found[0]) if found else None


def by_kind(specs: Sequence[str]) -> dict[str, str]:
    """kind -> spec. Raises AlignbenchError for a spec without a kind, or two of one kind."""
    found: dict[str, str] = {}
    for spec in specs:
        kind, equals, name = spec.partition("=")
        if not equals or not kind or not name:
            raise AlignbenchError(f"scorer {spec!r}: write it as kind=name, such as toxicity=alt-profanity-check")
        if kind in found:
            raise AlignbenchError(
                f"scorers {found[kind]!r} and {spec!r}: one of each kind, or the table would mix them"
            )
        found[kind] = spec
    return found
