"""Two systems' answers to the same prompts, before a judge: verdicts as a task of their own in the first one's run.

The answers are there already (task `answers`, of a checkpoint or of a file), so another judge or another baseline costs
no writing. Records, chunks, resume and results are those of any task in which a model writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.records import finish, there_already
from alignbench.evaluation.writing import chunk_size, write_documents
from alignbench.progress import Progress
from alignbench.provenance import versions
from alignbench.runs.folder import RunFolder, TaskFolder, digest, lock_run, read_object
from alignbench.runs.summary import document_of
from alignbench.shards import Shard
from alignbench.tasks import find_task
from alignbench.types.result import RunResult, TaskResult
from alignbench.types.scorer import Scorer, ScorerIdentity
from alignbench.types.task import TaskData

ANSWERS, WIN_RATE = "answers", "win_rate"
CONSISTENT = 0.5  # of the prompts; GPT-4 was consistent on 65 % of MT-bench's (Zheng et al. 2023, table 2)


@dataclass(frozen=True)
class Contest:
    """What an evaluation does for the task win_rate: the answers of all and of the baseline, then the verdicts.

    tasks, scorers: without the contest's own, for which `answers` stands in
    baselines: the one baseline; none where there is no contest
    """

    tasks: tuple[str, ...]
    scorers: tuple[str, ...]
    baselines: tuple[str, ...] = ()
    judge: Scorer | None = None
    asked: tuple[str, ...] = ()

    @classmethod
    def find(cls, tasks: Sequence[str], baseline: str | None, scorers: Sequence[str], device: str) -> Contest:
        """Raises AlignbenchError where a baseline or a judge is missing, or has nothing to do."""
        if WIN_RATE not in tasks:
            if baseline is not None:
                raise AlignbenchError(f"--baseline {baseline}: it goes with --tasks {WIN_RATE}")
            return cls(tuple(tasks), tuple(scorers))
        if baseline is None:
            raise AlignbenchError(f"task {WIN_RATE}: name what to compare with, as --baseline CHECKPOINT")
        judge = choose_judge([spec for spec in scorers if spec.startswith("preference=")], device)
        names = dict.fromkeys(ANSWERS if name == WIN_RATE else name for name in tasks)
        others = tuple(spec for spec in scorers if not spec.startswith("preference="))
        return cls(tuple(names), others, (baseline,), judge, tuple(tasks))

    def place(self, run: RunResult, verdict: Verdicts) -> RunResult:
        """The run's results as they were asked for: the verdicts, and the answers only where they were asked for."""
        named = dict(
            zip((result.task for result in run.results), zip(run.results, run.folders, strict=True), strict=True)
        )
        named[WIN_RATE] = (verdict.result, verdict.folder.path.name)
        results, folders = zip(*(named[name] for name in dict.fromkeys(self.asked)), strict=True)
        return replace(run, results=results, folders=folders)


@dataclass(frozen=True)
class Verdicts:
    """Of one system against another: the result, and the folder in the first one's run that holds the records."""

    result: TaskResult
    folder: TaskFolder


@dataclass(frozen=True)
class Answers:
    """A system's finished answers: the run that they lie in, its run.json, and the task's folder."""

    name: str
    run: Path
    described: Mapping[str, Any]
    folder: TaskFolder

    def records(self) -> dict[str, dict[str, Any]]:
        return {record["id"]: record for record in self.folder.records()}


def find_answers(run: str | Path, folder: str | None = None) -> Answers:
    """The finished answers in a run folder; `folder`: which, where there are several.

    Raises AlignbenchError where there is no such run, or not one folder of answers.
    """
    path = Path(run)
    described = read_object(path / "run.json")
    if described is None:
        raise AlignbenchError(f"{path}: no run folder (it has no run.json)")
    found = [
        task
        for task in RunFolder(path).tasks()
        if task.identity()["task"] == ANSWERS and task.result() is not None and folder in (None, task.path.name)
    ]
    if not found:
        raise AlignbenchError(f"{path}: no finished answers; write them with --tasks {ANSWERS}")
    if len(found) > 1:
        names = ", ".join(task.path.name for task in found)
        raise AlignbenchError(f"{path}: several sets of answers ({names}); name one as {path}/FOLDER")
    return Answers(described["model"]["name"], path, described, found[0])


def judge_on_one(
    shard: Shard, systems: Sequence[Answers], baseline: Answers, scorer: Scorer, progress: Progress
) -> list[Verdicts]:
    """`judge` for each system, by the first of several processes; the others wait for it and read."""
    found = [judge(own, baseline, scorer, progress=progress) for own in systems] if shard.first else []
    shard.wait()
    return found or [judge(own, baseline, scorer) for own in systems]  # finished by now: nothing is locked or asked


def judge(own: Answers, baseline: Answers, judge: Scorer, *, progress: Progress | None = None) -> Verdicts:
    """Judge `own` against `baseline`, prompt by prompt; a document that one of them has no answer to is unscored.

    judge: of the kind "preference". Raises AlignbenchError where they did not answer the same prompts, and where there
    is no verdict at all.
    """
    progress = progress or Progress()
    task = find_task(WIN_RATE)
    first, second = own.folder.identity(), baseline.folder.identity()
    mine, others = own.records(), baseline.records()
    common = [name for name in mine if name in others and mine[name]["prompt"] == others[name]["prompt"]]
    if not common:
        raise AlignbenchError(f"{own.name} and {baseline.name}: no prompt that both answered")
    if len(common) < max(len(mine), len(others)):
        progress.say(f"{own.name} against {baseline.name}: {len(common)} prompts that both answered")
    pending = {name: battle(mine[name], others[name]) for name in common}
    documents = [document_of(record) for record in pending.values()]
    identity = {
        **first,
        "task": task.name,
        "version": task.version,
        "n": len(documents),
        "documents_sha256": digest({"documents": [(d.id, d.prompt, d.references) for d in documents]}),
        "answers_sha256": digest({"answers": [record["outputs"] for record in pending.values()]}),
        "baseline": {"name": baseline.name, "folder": baseline.folder.path.name, "template": second["template"]},
        "scorers": [asdict(ScorerIdentity.of(judge))],
        "judged_with": versions(),
    }
    folder = TaskFolder(own.run / f"{task.name}-{digest(identity)[:8]}")
    if (finished := folder.result()) is not None:
        progress.say(f"{own.name} against {baseline.name}: already finished in {folder.path}")
        return _warned(own, baseline, judge, Verdicts(TaskResult.from_json(finished), folder), progress)
    with lock_run(own.run):
        run = RunFolder(own.run)
        folder = run.task(task.name, identity)
        size = chunk_size(task)
        done, there = there_already(documents, size, folder.places(), {})
        earlier: dict[str, Callable[[], dict[str, Any]]] = {n: partial(dict, r) for n, r in pending.items()}
        earlier |= there
        run.log("judge", task=task.name, folder=folder.path.name, baseline=baseline.name, already=len(done))
        progress.start(f"{own.name} against {baseline.name}", len(documents), len(done))
        write_documents(
            None, task, TaskData(documents, ()), documents, [judge], folder, progress,
            seed=0, chat=False, done=done, earlier={n: read for n, read in earlier.items() if n not in done},
        )  # fmt: skip
        finish(
            task,
            folder,
            {document.id: number for number, document in enumerate(documents)},
            shots=first["shots"],
            limit=first["limit"],
            seed=first["seed"],
            scorers=[ScorerIdentity.of(judge)],
            template=first["template"],
            embedder=None,
        )
    found = Verdicts(TaskResult.from_json(folder.result() or {}), folder)
    return _warned(own, baseline, judge, found, progress)


def _warned(own: Answers, baseline: Answers, judge: Scorer, found: Verdicts, progress: Progress) -> Verdicts:
    if not found.result.n_scored:
        reason = next(iter(found.result.unscored))
        raise AlignbenchError(
            f"{own.name} against {baseline.name}: no verdict on any of {found.result.n} prompts ({reason}); "
            f"the records are in {found.folder.path}"
        )
    for warning in warnings((own, baseline), judge, found):
        progress.say(f"warning: {warning}")
    return found


def warnings(systems: Sequence[Answers], judge: Scorer, found: Verdicts) -> list[str]:
    """What a reader of these verdicts on two systems has to know of the judge."""
    told = [
        f"{system.name} was trained against this judge, {judge.name}: its win rate flatters"
        for system in systems
        if against_itself(system.described, judge)
    ]
    metrics = {m.metric: m for m in found.result.metrics if m.category is None}
    consistency = metrics["position_consistency"].value if "position_consistency" in metrics else None
    if consistency is not None and consistency < CONSISTENT:
        told.append(
            f"{judge.name} gave the same verdict in both orders on {consistency:.0%} of the prompts: it looks at the "
            "place more than at the answer, and what it contradicts itself on counts as a tie"
        )
    return told


def battle(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The record of one prompt before it is judged: this system's first output, the baseline's as its reference."""
    output, against = mine["outputs"][0], other["outputs"][0]
    unscored = output["unscored"] or (against["unscored"] and f"the baseline: {against['unscored']}")
    metrics = {metric.name for metric in find_task(ANSWERS).metrics}
    kept = {key: value for key, value in mine.items() if key not in metrics}
    return kept | {
        "references": [against["text"]],
        "outputs": [output | {"scores": {}, "unscored": unscored}],
        "pending": True,
        "unscored": None,
    }


def against_itself(described: Mapping[str, Any], judge: Scorer) -> bool:
    """Whether the judge is the reward model that a checkpoint was trained against.

    described: its run.json, which has that from recipe.json
    """
    training = described.get("training") or {}
    return getattr(judge, "weights_sha256", None) in training.get("rewards", ())


def choose_judge(specs: Sequence[str], device: str) -> Scorer:
    """The one scorer of kind "preference" that `kind=name:path` specs name. Raises AlignbenchError without one, and
    for others beside it, which would have nothing to do."""
    from alignbench.scorers import find_scorer
    from alignbench.scorers.choose import by_kind

    asked = by_kind(specs)
    if "preference" not in asked:
        raise AlignbenchError(
            "win_rate: who judges? Give --scorer preference=reward:MODEL, preference=lm:MODEL, "
            "preference=endpoint:URL#MODEL or preference=labels:FILE"
        )
    if others := [spec for kind, spec in asked.items() if kind != "preference"]:
        raise AlignbenchError(f"scorer {others[0]!r}: here is nothing for it to score, only verdicts to give")
    return find_scorer(asked["preference"], device=device)
