"""Which of several runs is the reference of which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import AlignbenchError
from alignbench.runs.read import Run, TaskRun, read_runs
from alignbench.tasks import find_task
from alignbench.tasks.outputs import OUTPUTS
from alignbench.types.scorer import Embedder
from alignbench.types.task import Task

ROLES = {"base": "pretrained", "sft": "SFT"}  # stages of a lineage that a tax is measured against
HASHED = "hashed"


def find_runs(specs: Sequence[str], root: Path) -> list[Run]:
    """The runs that `specs` name: run folders, names of runs below `root` or beginnings of them, or checkpoints.

    Raises AlignbenchError where one is not found, not clear, or named twice, and where there are fewer than two.
    """
    if len(specs) < 2:
        raise AlignbenchError("compare needs two models or more: the reference first, then what was made from it")
    return read_runs(specs, root)


def references(runs: Sequence[Run], chosen: str | None = None) -> list[tuple[Run, Run, str]]:
    """(reference, aligned, role) for every contrast to make, in the order of the aligned runs.

    A lineage picks the pretrained model and the last SFT model before a run, where they are among `runs`; a run
    without such ancestors has the first for its reference. chosen: one run for all, whatever the lineages say
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


def embedder_of(run: TaskRun) -> Embedder | None:
    """What made its vectors, where that can be had without a path: the hashed embedder, in the same version."""
    used = next((entry for entry in run.identity.get("scorers") or () if entry["kind"] == "embedding"), None)
    if used is None or used["name"] != HASHED:
        return None
    from alignbench.scorers.embeddings import HashedEmbedder

    embedder = HashedEmbedder()
    return embedder if embedder.revision == used["revision"] else None


def find(name: str) -> Task | None:
    """The task of that name, None where this alignbench has none."""
    if name == OUTPUTS.name:
        return OUTPUTS
    try:
        return find_task(name)
    except AlignbenchError:
        return None


def chosen_run(runs: Sequence[Run], name: str) -> Run:
    """The one that --reference NAME means: a name, a folder's name or its beginning, or a path."""
    found = [run for run in runs if name in (run.name, run.path.name)]
    found = found or [run for run in runs if run.path == Path(name).expanduser().resolve()]
    found = found or [run for run in runs if run.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(run.name for run in runs)
        raise AlignbenchError(f"--reference {name}: it must name one of the models compared: {names}")
    return found[0]


def _ancestors(run: Run, runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """The pretrained model and the last SFT model that this run's checkpoint came from, as far as they are here."""
    before = [entry for entry in run.lineage if entry["weights_sha256"] != run.weights]
    found: dict[str, Run] = {}
    for entry in before:
        role = ROLES.get(entry["stage"])
        alike = [other for other in runs if other is not run and other.weights == entry["weights_sha256"]]
        # the same weights may be there in two number formats: like goes with like
        alike.sort(key=lambda other: other.description.get("engine") != run.description.get("engine"))
        if role and alike:
            found[role] = alike[0]
    return [(other, role) for role, other in found.items()]
