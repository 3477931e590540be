"""Choose the scorers of a run: those that the user names, and the default of every other kind that its tasks need."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from alignbench import scorers as registered
from alignbench.errors import AlignbenchError
from alignbench.types.scorer import Embedder, Scorer
from alignbench.types.task import Task

# kinds that apply to the output of any task; a task without a metric for one reports the scorer's own numbers
TASK_AGNOSTIC = ("sentiment", "refusal", "reward", "evaluate")


def choose_scorers(
    tasks: Sequence[Task], specs: Sequence[str], find: Callable[[str], Scorer] | None = None, device: str = "cpu"
) -> dict[str, tuple[Scorer, ...]]:
    """Return task name -> its scorers, loaded once for all tasks.

    find: loads the scorer of a spec (default: `find_scorer` for `device`)
    specs: `kind=name[:path]`, at most one per kind. Raises AlignbenchError for a kind that no task takes.
    """
    named = by_kind(specs)
    agnostic = tuple(kind for kind in TASK_AGNOSTIC if kind in named)
    takes = {task.name: dict.fromkeys((*task.scorer_kinds, *agnostic)) for task in tasks if task.generation}
    allowed = {kind for kinds in takes.values() for kind in (*kinds, *TASK_AGNOSTIC)}
    for kind, spec in named.items():
        if kind not in allowed:
            kinds = ", ".join(sorted(allowed)) or "none"
            raise AlignbenchError(f"scorer {spec!r}: no task here takes a scorer of kind {kind!r} (they take: {kinds})")
    needed = {kind for task in tasks if task.generation for kind in task.generation.scorers} | set(named)
    specs_of = registered.DEFAULTS | named
    find = find or partial(registered.find_scorer, device=device)
    loaded = {kind: find(specs_of[kind]) for kind in sorted(needed)}
    return {task.name: tuple(loaded[kind] for kind in takes.get(task.name, ()) if kind in loaded) for task in tasks}


def embedder_of(scorers: Sequence[Scorer]) -> Embedder | None:
    """Return the scorer of kind "embedding", if there is one."""
    return next((cast(Embedder, scorer) for scorer in scorers if scorer.kind == "embedding"), None)


def by_kind(specs: Sequence[str]) -> dict[str, str]:
    """Return kind -> spec. Raises AlignbenchError for a spec without a kind, and for two of one kind."""
    found: dict[str, str] = {}
    for spec in specs:
        kind, _, name = spec.partition("=")
        if not kind or not name:
            raise AlignbenchError(f"scorer {spec!r}: write it as kind=name, such as toxicity=alt-profanity-check")
        if kind in found:
            raise AlignbenchError(f"scorers {found[kind]!r} and {spec!r}: only one scorer of each kind is allowed")
        found[kind] = spec
    return found
