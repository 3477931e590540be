"""Which of several runs is the reference of which."""

from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import AlignbenchError
from alignbench.runs.read import Run, TaskRun
from alignbench.tasks.declared import declared_task
from alignbench.tasks.lm_eval import recorded_task
from alignbench.types.scorer import Embedder
from alignbench.types.task import Task

REFERENCES = {"base", "sft"}  # stages of a lineage that are references; another one where neither of these is there
ROLES = {"base": "pretrained", "sft": "SFT", "dpo": "DPO", "grpo": "GRPO", "rlvr": "RLVR", "ppo": "PPO"}
HASHED = "hashed"


def references(runs: Sequence[Run], chosen: str | None = None) -> list[tuple[Run, Run, str]]:
    """(reference, aligned, role) of every contrast, in the order of the aligned runs.

    The references of a run are the pretrained model and the last SFT model in its lineage, if they are among `runs`;
    otherwise the first run. chosen: one reference for all runs
    """
    if chosen is not None:
        reference = chosen_run(runs, chosen)
        return [(reference, run, "reference") for run in runs if run is not reference]
    found = {run.path: _ancestors(run, runs) for run in runs}
    named = {ancestor.path for own in found.values() for ancestor, _ in own}
    default = next((run for run in runs if not found[run.path]), runs[0])
    contrasts = []
    for run in runs:
        if found[run.path]:
            contrasts += [(ancestor, run, role) for ancestor, role in found[run.path]]
        elif run is not default and run.path not in named:
            contrasts.append((default, run, "reference"))
    return contrasts


def chosen_run(runs: Sequence[Run], name: str) -> Run:
    """The run of --reference NAME: a name, a folder's name or its beginning, or a path."""
    found = [run for run in runs if name in (run.name, run.path.name)]
    found = found or [run for run in runs if run.path == Path(name).expanduser().resolve()]
    found = found or [run for run in runs if run.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(run.name for run in runs)
        raise AlignbenchError(f"--reference {name}: name one of the compared models: {names}")
    return found[0]


def _ancestors(run: Run, runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """The pretrained model and the last SFT model of this run's lineage, if they are among `runs`; else the last of its
    other ancestors there."""
    found: list[tuple[str, Run]] = []
    for entry in [entry for entry in run.lineage if not run.is_ancestor(entry)]:
        same = [other for other in runs if other is not run and other.is_ancestor(entry)]
        # the same weights may occur in two number formats: the same engine is preferred
        same.sort(key=lambda other: other.description.get("engine") != run.description.get("engine"))
        if same:
            found.append((entry["stage"], same[0]))
    named = {stage: other for stage, other in found if stage in REFERENCES} or dict(found[-1:])
    return [(other, ROLES.get(stage, stage)) for stage, other in named.items()]


def task_of(own: TaskRun) -> Task | None:
    """The task of a folder, with what its task.json declares; None if this version has no such task."""
    declared = own.identity.get("declared") or {}
    try:
        return (recorded_task if "lm_eval" in declared else declared_task)(own.task, declared)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def embedder_of(run: TaskRun) -> Embedder | None:
    """The hashed embedder, if this version of it computed the vectors of the run; other embedders need a path."""
    used = next((entry for entry in run.identity.get("scorers") or () if entry["kind"] == "embedding"), None)
    if used is None or used["name"] != HASHED:
        return None
    from alignbench.scorers.embeddings import HashedEmbedder

    embedder = HashedEmbedder()
    return embedder if embedder.revision == used["revision"] else None
