"""`alignbench rescore`: apply another scorer to the outputs of a run, without the model.

Another scorer creates another task folder next to the old one, since its metrics are different metrics. The same
scorer completes the documents on which it failed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.pipeline import outputs_key, run_task
from alignbench.evaluation.sources import SavedOutputs
from alignbench.evaluation.win_rate import trained_against
from alignbench.parse import find_path
from alignbench.progress import Progress
from alignbench.provenance import versions
from alignbench.runs.folder import AGAIN, RecordOffset, RunFolder, TaskFolder, lock_run
from alignbench.runs.read import TaskRun, run_result
from alignbench.scorers.choose import TASK_AGNOSTIC, by_kind, embedder_of
from alignbench.shards import require_single_process
from alignbench.tasks import find_task
from alignbench.tasks.declared import declared_task
from alignbench.tasks.samples import with_samples
from alignbench.types.result import RunResult
from alignbench.types.scorer import Embedder, Scorer, ScorerIdentity
from alignbench.types.task import Task

DEFAULT_EMBEDDER = "hashed"


def rescore(
    folder: str | Path,
    scorers: Sequence[str],
    tasks: Sequence[str] = (),
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> RunResult:
    """Score the outputs in a run folder with `scorers` (`kind=name[:path]`), each in the tasks that take its kind.

    tasks: only these (default: all that take one of the scorers)
    Raises AlignbenchError if there is no such run, nothing to score, or outputs are missing.
    """
    from alignbench.scorers import find_scorer

    path, progress = find_path(folder), progress or Progress()
    require_single_process("rescore")
    description = RunFolder(path).description()
    if not scorers:
        raise AlignbenchError("no scorer given: use --scorer kind=name, such as toxicity=alt-profanity-check")
    requested = by_kind(scorers)
    present = {folder.identity().get("task") for folder in RunFolder(path).tasks()}
    for name in set(tasks) - present:
        find_task(name)
    with lock_run(path) as run:
        folders = _folders(run, requested, tasks)
        if not folders:
            raise AlignbenchError(
                f"{path}: none of its tasks with generated outputs takes a scorer of kind {', '.join(requested)}"
            )
        loaded = {kind: find_scorer(spec, device=device) for kind, spec in requested.items()}
        for scorer in loaded.values():
            if scorer.kind == "preference" and trained_against(description, scorer):
                progress.say(
                    f"warning: {path.name} was trained against this judge, {scorer.name}: its win rate is too high"
                )
        done = [_rescore_task(run, task, folder, loaded, progress) for task, folder in folders]
    return run_result(str(description["model"]["name"]), path, done)


def _task(identity: Mapping[str, Any]) -> Task:
    """The task of a task.json; an unknown one raises AlignbenchError."""
    name = str(identity["task"])
    task = declared_task(name, identity.get("declared")) or find_task(name)
    samples = (identity.get("sampling") or {}).get("samples")
    return with_samples(task, int(samples)) if samples and task.generation is not None else task


def _folders(run: RunFolder, requested: Mapping[str, str], names: Sequence[str]) -> list[tuple[Task, TaskFolder]]:
    """For each set of outputs that one of the kinds applies to, the finished folder with the most other scorers."""
    found: dict[str, list[TaskFolder]] = {}
    for folder in run.tasks():
        identity = folder.identity()
        wanted = "scorers" in identity and (not names or identity["task"] in names)
        if wanted and set(requested) & set(_kinds(_task(identity), requested)):
            found.setdefault(outputs_key(identity), []).append(folder)
    chosen = []
    for own in found.values():
        finished = [folder for folder in own if folder.result() is not None]
        if not finished:
            raise AlignbenchError(f"{own[0].path}: not finished; run the command that began it again")
        best = max(finished, key=lambda own: len({e["kind"] for e in own.identity()["scorers"]} - set(requested)))
        chosen.append((_task(best.identity()), best))
    return chosen


def _kinds(task: Task, used: Collection[str]) -> list[str]:
    """The kinds of scorer that a task takes, with the used ones that suit any task."""
    own = task.scorer_kinds
    return [*own, *(kind for kind in TASK_AGNOSTIC if kind in used and kind not in own)]


def _rescore_task(
    run: RunFolder, task: Task, source: TaskFolder, scorers: Mapping[str, Scorer], progress: Progress
) -> TaskRun:
    identity = source.identity()
    if identity["version"] != task.version:
        raise AlignbenchError(
            f"{source.path}: generated for version {identity['version']} of {task.name}, this is version "
            f"{task.version}; evaluate the model again"
        )
    # a kind that is not requested keeps its scorer, whose numbers are in the records
    used = {entry["kind"]: ScorerIdentity(**entry) for entry in identity["scorers"]}
    own = [kind for kind in _kinds(task, scorers) if kind in scorers]
    used |= {kind: ScorerIdentity.of(scorers[kind]) for kind in own}
    entries = [asdict(used[kind]) for kind in _kinds(task, used) if kind in used]
    documents = [record.document for record in source.records()]  # in the task's order, since the source is finished
    if len(documents) != (n := identity["n"]):
        raise AlignbenchError(f"{source.path}: {len(documents)} records, but task.json counts {n}; {AGAIN}")
    target = {**identity, "scorers": entries, "judged_with": versions()}
    return run_task(
        Rescored(run.path.name, source, own),
        run,
        task,
        documents,
        [scorers[kind] for kind in own],
        target,
        progress,
        embedder=_embedder(used.get("embedding"), scorers),
    )


class Rescored(SavedOutputs):
    """The outputs in a task folder, without the numbers of these kinds of scorers."""

    def __init__(self, name: str, source: TaskFolder, kinds: Sequence[str]) -> None:
        offsets = cache(source.offsets)  # read when needed: the target may be the same folder, reopened
        super().__init__(name, lambda identifier: offsets()[identifier].read().unjudged(kinds))
        self.kinds = kinds

    def usable(self, offset: RecordOffset) -> bool:
        if offset.pending:
            return False
        generated = [output for output in offset.read().outputs if not output.unscored]
        return all(kind in output.scores for output in generated for kind in self.kinds)


def _embedder(used: ScorerIdentity | None, scorers: Mapping[str, Scorer]) -> Embedder | None:
    """What computes the vectors of a task with embeddings: the requested scorer, or the one that was used."""
    if used is None:
        return None
    if "embedding" in scorers:
        return embedder_of([scorers["embedding"]])
    if used.name != DEFAULT_EMBEDDER:
        raise AlignbenchError(f"its vectors were computed with {used}: name that too, as --scorer embedding=…")
    from alignbench.scorers import find_scorer

    return embedder_of([find_scorer(f"embedding={DEFAULT_EMBEDDER}")])
