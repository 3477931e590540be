"""Two systems' answers to the same prompts before a judge: the verdicts are a task of their own in the first one's run.

The answers exist already (task `answers`, of a checkpoint or of a file), so another judge or another baseline needs no
generation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.pipeline import run_task
from alignbench.evaluation.sources import SavedOutputs
from alignbench.evaluation.thinking import find_thinking
from alignbench.progress import Progress
from alignbench.provenance import versions
from alignbench.runs.folder import RunFolder, digest, lock_run
from alignbench.runs.read import TaskRun, read_folder
from alignbench.scorers.choose import by_kind
from alignbench.shards import Shard
from alignbench.tasks import find_task
from alignbench.types.engine import THINKING, Thinking
from alignbench.types.record import Record
from alignbench.types.result import RunResult
from alignbench.types.scorer import Scorer, ScorerIdentity
from alignbench.types.settings import TaskSettings

ANSWERS, WIN_RATE = "answers", "win_rate"
MIN_CONSISTENCY = 0.5  # of the prompts; GPT-4 was consistent on 65 % of MT-bench's (Zheng et al. 2023, table 2)


@dataclass(frozen=True)
class Answers:
    """A system's finished answers: their run, its run.json, and the task."""

    name: str
    run: Path
    description: Mapping[str, Any]
    folder: TaskRun

    def records(self) -> dict[str, Record]:
        return {record.id: record for record in self.folder.records()}


def find_answers(run: str | Path, folder: str | None = None) -> Answers:
    """The finished answers in a run folder. folder: the task folder, if there are several

    Raises AlignbenchError if there is no such run, or not exactly one folder of answers.
    """
    path = Path(run)
    own = read_folder(path)
    found = [task for task in own.tasks if task.task == ANSWERS and folder in (None, task.path.name)]
    if not found:
        raise AlignbenchError(f"{path}: no finished answers; generate them with --tasks {ANSWERS}")
    if len(found) > 1:
        names = ", ".join(task.path.name for task in found)
        raise AlignbenchError(f"{path}: several sets of answers ({names}); name one as {path}/FOLDER")
    return Answers(own.description["model"]["name"], path, own.description, found[0])


def judge_all(
    shard: Shard, systems: Sequence[Answers], baseline: Answers, scorer: Scorer, progress: Progress
) -> list[TaskRun]:
    """`judge` for each system, by the first of several processes; the others wait for it and read the results."""
    found = [judge(own, baseline, scorer, progress=progress) for own in systems] if shard.is_main else []
    shard.wait_for_everyone()
    return found or [judge(own, baseline, scorer) for own in systems]  # finished: nothing is locked or computed


def judge(own: Answers, baseline: Answers, judge: Scorer, *, progress: Progress | None = None) -> TaskRun:
    """Judge `own` against `baseline`, prompt by prompt; a prompt that one of them did not answer is unscored.

    judge: a scorer of kind "preference". Raises AlignbenchError if they have no prompt in common, and if there is no
    verdict at all.
    """
    progress = progress or Progress()
    task = find_task(WIN_RATE)
    first, second = own.folder.identity, baseline.folder.identity
    mine, others = own.records(), baseline.records()
    common = [name for name in mine if name in others and mine[name].prompt == others[name].prompt]
    if not common:
        raise AlignbenchError(f"{own.name} and {baseline.name}: no prompt that both answered")
    if len(common) < max(len(mine), len(others)):
        progress.say(f"{own.name} against {baseline.name}: {len(common)} prompts that both answered")
    pairs = {name: battle(mine[name], others[name]) for name in common}
    documents = [record.document for record in pairs.values()]
    identity = {
        **first,
        "task": task.name,
        "version": task.version,
        "n": len(documents),
        "documents_sha256": digest({"documents": [(d.id, d.prompt, d.references) for d in documents]}),
        "answers_sha256": digest({"answers": [record.outputs[0].to_json() for record in pairs.values()]}),
        "baseline": {"name": baseline.name, "folder": baseline.folder.path.name, "template": second["template"]},
        "scorers": [asdict(ScorerIdentity.of(judge))],
        "judged_with": versions(),
    }
    folder = RunFolder(own.run).task_folder(task.name, identity)
    if (finished := TaskRun.of(folder)) is not None:
        progress.say(f"{own.name} against {baseline.name}: already finished in {folder.path}")
        found = finished
    else:
        label = f"{own.name} against {baseline.name}"
        source = SavedOutputs(label, pairs.__getitem__, baseline=baseline.name)
        with lock_run(own.run) as run:
            found = run_task(source, run, task, documents, [judge], identity, progress)
    if not found.result.n_scored:
        reason = next(iter(found.result.unscored))
        raise AlignbenchError(
            f"{own.name} against {baseline.name}: no verdict on any of {found.result.n} prompts ({reason}); "
            f"the records are in {found.path}"
        )
    for warning in warnings((own, baseline), judge, found):
        progress.say(f"warning: {warning}")
    return found


def warnings(systems: Sequence[Answers], judge: Scorer, found: TaskRun) -> list[str]:
    """What a reader of these verdicts on two systems has to know about the judge."""
    lines = [
        f"{system.name} was trained against this judge, {judge.name}: its win rate is too high"
        for system in systems
        if trained_against(system.description, judge)
    ]
    metrics = found.result.overall
    consistency = metrics["position_consistency"].value if "position_consistency" in metrics else None
    if consistency is not None and consistency < MIN_CONSISTENCY:
        lines.append(
            f"{judge.name} gave the same verdict in both orders on {consistency:.0%} of the prompts: its verdicts "
            "depend on the position more than on the answer; inconsistent verdicts count as ties"
        )
    return lines


def with_verdicts(run: RunResult, verdicts: TaskRun, tasks: Sequence[str]) -> RunResult:
    """The run's results for these tasks, with the verdicts as the task win_rate."""
    found = {result.task: (result, folder) for result, folder in zip(run.results, run.folders, strict=True)}
    found[WIN_RATE] = verdicts.result, verdicts.path.name
    results, folders = zip(*(found[name] for name in dict.fromkeys(tasks)), strict=True)
    return replace(run, results=results, folders=folders)


def battle(mine: Record, other: Record) -> Record:
    """The pending record of one prompt: this system's first output, with the baseline's as its reference."""
    output, against = mine.outputs[0], other.outputs[0]
    unscored = output.unscored or (against.unscored and f"the baseline: {against.unscored}")
    return replace(
        mine,
        references=(against.text,),
        outputs=(replace(output, scores={}, reasons={}, unscored=unscored),),
        metrics={},
        pending=True,
        unscored=None,
    )


def trained_against(description: Mapping[str, Any], judge: Scorer) -> bool:
    """True if the judge is the reward model that a checkpoint was trained against.

    description: its run.json, which contains that from recipe.json
    """
    training = description.get("training") or {}
    asked = [judge, *getattr(judge, "members", ())]  # of a panel
    return any(getattr(own, "weights_sha256", None) in training.get("rewards", ()) for own in asked)


def find_judge(own: TaskSettings | None, device: str) -> Scorer | None:
    """The judge of an evaluation with the task win_rate; None without that task. Raises AlignbenchError if a judge is
    missing or has no use.

    own: the settings of the task
    """
    if own is None:
        return None
    thinking = find_thinking(own.thinking, own.thinking_tags, own.thinking_tokens)
    return choose_judge([spec for spec in own.scorers if spec.startswith("preference=")], device, thinking)


def choose_judge(specs: Sequence[str], device: str, thinking: Thinking | None = THINKING) -> Scorer:
    """The scorer of kind "preference" that one of the `kind=name:path` specs names. Raises AlignbenchError if there is
    none, and for scorers of other kinds, which would not be used."""
    from alignbench.scorers import find_scorer

    named = by_kind(specs)
    if "preference" not in named:
        raise AlignbenchError(
            "win_rate: no judge given; use --scorer preference=reward:MODEL, preference=lm:MODEL, "
            "preference=endpoint:URL#MODEL, preference=labels:FILE, … (docs/win_rate.md)"
        )
    if others := [spec for kind, spec in named.items() if kind != "preference"]:
        raise AlignbenchError(f"scorer {others[0]!r}: a win rate uses only a scorer of kind preference")
    return find_scorer(named["preference"], device=device, thinking=thinking)
