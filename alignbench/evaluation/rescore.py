"""`alignbench rescore`: another scorer for what a run's model has written, without the model.

Another scorer makes another task folder beside the old one, since its metrics are other metrics. The same scorer
completes the documents that it failed on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.records import finish, same_outputs
from alignbench.evaluation.win_rate import against_itself
from alignbench.evaluation.writing import unjudged, write_documents
from alignbench.progress import Progress
from alignbench.provenance import versions
from alignbench.runs.folder import Place, RunFolder, TaskFolder, lock_run, read_object
from alignbench.runs.summary import document_of
from alignbench.scorers.choose import TASK_AGNOSTIC, by_kind, embedder_of
from alignbench.shards import refuse_several_processes
from alignbench.tasks import find_task
from alignbench.tasks.outputs import OUTPUTS
from alignbench.types.result import RunResult, TaskResult
from alignbench.types.scorer import Embedder, Scorer, ScorerIdentity
from alignbench.types.task import Task, TaskData

DEFAULT_EMBEDDER = "hashed"


def rescore(
    run: str | Path,
    scorers: Sequence[str],
    tasks: Sequence[str] = (),
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> RunResult:
    """Judge the outputs in a run folder with `scorers` (`kind=name[:path]`), each in the tasks that take its kind.

    tasks: of these alone (default: all that take one of the scorers)
    Raises AlignbenchError where there is no such run, nothing to judge, or outputs are missing.
    """
    from alignbench.scorers import find_scorer

    path, progress = Path(run), progress or Progress()
    refuse_several_processes("rescore")
    description = read_object(path / "run.json")
    if description is None:
        raise AlignbenchError(f"{path}: no run folder (it has no run.json)")
    if not scorers:
        raise AlignbenchError("no scorer named: give --scorer kind=name, such as toxicity=alt-profanity-check")
    asked = by_kind(scorers)
    for name in tasks:
        _task(name)
    with lock_run(path):
        folders = _folders(RunFolder(path), asked, tasks)
        if not folders:
            raise AlignbenchError(
                f"{path}: none of its tasks with written outputs takes a scorer of kind {', '.join(asked)}"
            )
        loaded = {kind: find_scorer(spec, device=device) for kind, spec in asked.items()}
        results = [_rescore_task(RunFolder(path), task, folder, loaded, progress) for task, folder in folders]
    names = tuple(folder for _, folder in results)
    return RunResult(str(description["model"]["name"]), path, tuple(result for result, _ in results), names)


def _task(name: str) -> Task:
    return OUTPUTS if name == OUTPUTS.name else find_task(name)


def _folders(run: RunFolder, asked: Mapping[str, str], names: Sequence[str]) -> list[tuple[Task, TaskFolder]]:
    """Of each set of outputs that one of the asked kinds applies to, the finished folder with most other scorers."""
    found: list[list[TaskFolder]] = []
    for folder in run.tasks():
        identity = folder.identity()
        if "scorers" not in identity or (names and identity["task"] not in names):
            continue
        if not any(kind in _kinds(_task(identity["task"]), asked) for kind in asked):
            continue
        alike = next((own for own in found if same_outputs(own[0].identity(), identity)), None)
        if alike is None:
            found.append([folder])
        else:
            alike.append(folder)
    chosen = []
    for own in found:
        finished = [folder for folder in own if folder.result() is not None]
        if not finished:
            raise AlignbenchError(f"{own[0].path}: not finished; finish it with the command that began it")
        best = max(
            finished, key=lambda folder: len({entry["kind"] for entry in folder.identity()["scorers"]} - set(asked))
        )
        chosen.append((_task(best.identity()["task"]), best))
    return chosen


def _kinds(task: Task, used: Collection[str]) -> list[str]:
    """The kinds of scorer that a task takes, with those of the used ones that suit any."""
    assert task.writing is not None
    own = task.writing.scorers + task.writing.optional_scorers
    return [*own, *(kind for kind in TASK_AGNOSTIC if kind in used and kind not in own)]


def _rescore_task(
    run: RunFolder, task: Task, source: TaskFolder, asked: Mapping[str, Scorer], progress: Progress
) -> tuple[TaskResult, str]:
    identity = source.identity()
    if identity["version"] != task.version:
        raise AlignbenchError(
            f"{source.path}: written for version {identity['version']} of {task.name}, this is version {task.version}; "
            "evaluate the model again"
        )
    # a kind that is not asked for keeps the scorer that it had, whose numbers are in the records
    used = {entry["kind"]: ScorerIdentity(**entry) for entry in identity["scorers"]}
    own = [kind for kind in _kinds(task, asked) if kind in asked]
    used |= {kind: ScorerIdentity.of(asked[kind]) for kind in own}
    scorers = [used[kind] for kind in _kinds(task, used) if kind in used]
    target = run.task(
        task.name, {**identity, "scorers": [asdict(entry) for entry in scorers], "judged_with": versions()}
    )
    records = source.places()  # in the task's order, since the source is finished
    there = target.places()
    earlier = {name: partial(_read, there.get(name), place, own) for name, place in records.items()}
    todo = [name for name, read in earlier.items() if read().get("pending")]
    if not todo and (finished := target.result()) is not None:
        progress.say(f"{task.name}: every document has its scores in {target.path}")
        return TaskResult.from_json(finished), target.path.name
    documents = [document_of(place.read()) for place in records.values()]
    run.log("rescore", task=task.name, folder=target.path.name, scorers=[str(entry) for entry in scorers])
    target.reopen()
    if target.path == source.path:
        earlier = {name: partial(_read, place, place, own) for name, place in target.places().items()}
    for scorer in asked.values():
        if scorer.kind == "preference" and against_itself(read_object(run.path / "run.json") or {}, scorer):
            progress.say(
                f"warning: {run.path.name} was trained against this judge, {scorer.name}: its win rate flatters"
            )
    progress.start(f"{run.path.name} {task.name}", len(documents), len(documents) - len(todo))
    write_documents(
        None, task, TaskData(documents, ()), documents, [asked[kind] for kind in own], target, progress,
        seed=0, chat=False, done=(), earlier=earlier,
    )  # fmt: skip
    finish(
        task,
        target,
        {name: number for number, name in enumerate(records)},
        shots=identity["shots"],
        limit=identity["limit"],
        seed=identity["seed"],
        scorers=scorers,
        template=identity["template"],
        embedder=_embedder(used.get("embedding"), asked),
    )
    return TaskResult.from_json(target.result() or {}), target.path.name


def _embedder(used: ScorerIdentity | None, asked: Mapping[str, Scorer]) -> Embedder | None:
    """What makes the vectors of a task that was embedded: as asked for, or the one that it had."""
    if used is None:
        return None
    if "embedding" in asked:
        return embedder_of([asked["embedding"]])
    if used.name != DEFAULT_EMBEDDER:
        raise AlignbenchError(f"its vectors were made with {used}: name that too, as --scorer embedding=…")
    from alignbench.scorers import find_scorer

    return embedder_of([find_scorer(f"embedding={DEFAULT_EMBEDDER}")])


def _read(there: Place | None, source: Place, kinds: Sequence[str]) -> dict[str, Any]:
    """The record of the target where it has these scorers' numbers, or else the source's without them, pending."""
    if there is not None and not there.pending:
        record = there.read()
        written = [output for output in record["outputs"] if not output["unscored"]]
        if all(kind in output["scores"] for output in written for kind in kinds):
            return record
    return unjudged(source.read(), kinds)
