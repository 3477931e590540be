"""`alignbench judges validate`: the verdicts of judges on what people have labelled, from a model, a file or a run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.evaluation.pipeline import Job
from alignbench.evaluation.score_file import UNKNOWN, Found, write_runs
from alignbench.evaluation.win_rate import WIN_RATE
from alignbench.labels.judges import PAIRS, JudgeFinding, Unit, read_comparisons, units_of, validate
from alignbench.parse import find_path
from alignbench.progress import Progress
from alignbench.runs.folder import TaskFolder, digest
from alignbench.runs.read import TaskRun
from alignbench.scorers import find_scorer
from alignbench.scorers.preference import win
from alignbench.stats.bootstrap import RESAMPLES
from alignbench.tasks import find_task
from alignbench.types.record import Document, Output, Record
from alignbench.types.scorer import Scorer, ScorerIdentity
from alignbench.types.task import TaskData


def validate_judges(
    labels: Sequence[str],
    judges: Sequence[str],
    out: str | Path = "runs",
    *,
    question: str = PAIRS,
    limit: int | None = None,
    seeds: int = 0,
    temperature: float = 1.0,
    width: float = 0.1,
    seed: int = 0,
    resamples: int = RESAMPLES,
    device: str = "cpu",
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> tuple[list[JudgeFinding], list[str]]:
    """Return findings on each judge, and lines on what was left out or cannot be.

    labels: tables of labels, or files of ranked conversations
    judges: as after `preference=`; their verdicts are kept in a run folder in `out`. Or saved verdicts: labeler:NAME of
        the tables, or run:FOLDER, a finished task win_rate
    question: "ranking" or a flag; limit: at most so many units with labels, sampled with seed 0
    seeds: how often a judge that generates text is asked again, with samples at this temperature: 0, or 2 or more
    Raises AlignbenchError if there is nothing to judge, and for unknown judges.
    """
    progress, source = progress or Progress(), ", ".join(labels)
    if seeds == 1:
        raise AlignbenchError("--seeds 1: repeatability compares samples; give 2 or more")
    units = units_of([label for file in labels for label in read_comparisons(file, question)], question)
    specs = [spec.removeprefix("preference=") for spec in judges]
    saved = {spec.partition(":")[2] for spec in specs if spec.startswith("labeler:")}
    names = sorted({name for unit in units for name in unit.votes})
    if not names:
        what = "no two outputs of a prompt are compared" if question == PAIRS else f"no label answers {question!r}"
        raise AlignbenchError(f"{source}: {what}")
    if unknown := saved - {*names}:
        raise AlignbenchError(f"{source}: no labeler {min(unknown)!r} (there are: {', '.join(names[:10])})")
    by_people = [
        replace(unit, votes={name: own for name, own in unit.votes.items() if name not in saved}) for unit in units
    ]
    if not any(unit.votes for unit in by_people):
        raise AlignbenchError(f"{source}: nobody else labelled anything, so that there is nothing to compare with")
    findings, notes = list[JudgeFinding](), list[str]()
    for spec in specs:
        kind, _, rest = spec.partition(":")
        if kind == "labeler":
            won = [unit.votes.get(rest) for unit in units]
            saw = [None if own is None else {"win": win(own, 0.5)} for own in won]
            name, found = spec, [replace(own, verdict=verdict) for own, verdict in zip(by_people, saw, strict=True)]
        elif question != PAIRS:
            raise AlignbenchError(f"--judge {spec}: for a flag name verdicts in the labels, as labeler:NAME")
        elif kind == "run":
            name, found, unmatched = from_run(by_people, rest)
            notes += [f"{name}: {unmatched} labelled pairs are not in the run; they are left out"] * bool(unmatched)
        else:
            judge = find_scorer(f"preference={spec}", device=device, trust_remote_code=trust_remote_code)
            if any(unit.prompt is None for unit in units):
                raise AlignbenchError(f"{source}: no text of a prompt, which a judge needs; add a column prompt")
            name, asked = str(ScorerIdentity.of(judge)), sample(by_people, limit)
            runs, again = [judge], getattr(judge, "again", None)  # of a judge that generates text
            if seeds and (again is None or again(1, temperature).revision == judge.revision):  # a panel without one
                notes.append(f"{name}: it does not sample; its verdicts are the same with every seed")
            elif again is not None:
                runs += [again(number, temperature) for number in range(1, seeds + 1)]
            first, *repeated = (ask(own, asked, out, f"labels-{Path(labels[0]).name}", progress) for own in runs)
            found = [
                replace(unit, verdict=first[at], repeated=tuple(own["win"] for one in repeated if (own := one[at])))
                for at, unit in enumerate(asked)
            ]
            failed = sum(own is None for one in repeated for own in one)
            notes += [f"{name}: no verdict in {failed} of {seeds * len(asked)} repetitions"] * bool(failed)
        without = sum(unit.verdict is None for unit in found if unit.votes)
        if without == sum(bool(unit.votes) for unit in found):
            raise AlignbenchError(f"{name}: no verdict on anything that people labelled")
        notes += [f"{name}: no verdict on {without} units with labels, which are left out"] * bool(without)
        results = validate(name, found, width=width, seed=seed, resamples=resamples)
        findings += results
        outside = "the judge's rate is below 1 − specificity or above sensitivity"
        notes += [
            f"{name}: {own.statistic} has no interval: {outside}; the labelled pairs are no random sample of all"
            for own in results
            if own.statistic.endswith("_corrected") and own.estimate.value is not None and own.estimate.low is None
        ]
    return findings, notes


def sample(units: Sequence[Unit], limit: int | None) -> Sequence[Unit]:
    labelled = [unit for unit in units if unit.votes]
    if limit is None or limit >= len(labelled):
        return units
    return [labelled[i] for i in sorted(np.random.default_rng(0).choice(len(labelled), limit, replace=False))]


def ask(
    judge: Scorer, units: Sequence[Unit], out: str | Path, name: str, progress: Progress
) -> list[Mapping[str, float] | None]:
    """A judge's numbers of each unit, None without a verdict. They are kept in a run folder, as of a win rate of the
    first outputs against the second."""
    task, records = find_task(WIN_RATE), list[Record]()
    for unit in units:
        key = digest({"unit": [unit.prompt_id, unit.models, unit.outputs]})[:16]
        document = Document(key, unit.prompt or "", references=unit.outputs[1:], group=unit.prompt_id)
        records.append(replace(Record.generated(document, ()), outputs=(Output(unit.outputs[0]),)))
    model = {"model": {"name": name, "outputs_sha256": digest({"records": [own.to_json() for own in records]})}}
    identity = Job(task, TaskData([own.document for own in records], ()), None, 0, (judge,)).identity(False) | UNKNOWN
    identity["baseline"] = {"name": "the second output", "folder": None, "template": None}
    (run,) = write_runs([Found(model, task, records, identity, (judge,))], out, progress)
    done = TaskRun.of(TaskFolder(run.folder / run.folders[0]))
    assert done is not None
    if not done.result.n_scored:
        reason = next(iter(done.result.unscored))
        raise AlignbenchError(f"{judge.name}: no verdict on any pair ({reason}); the records are in {done.path}")
    progress.say(f"{judge.name}: verdicts in {done.path}")
    found = {record.id: numbers_of(record) for record in done.records()}
    return [found[own.id] for own in records]


def numbers_of(record: Record) -> Mapping[str, float] | None:
    return None if record.unscored else record.outputs[0].scores.get("preference")


def from_run(units: Sequence[Unit], folder: str) -> tuple[str, list[Unit], int]:
    """The judge of a finished task win_rate, its verdicts, and the number of labelled pairs that it did not see.

    Labels of a pair are found by its texts. Raises AlignbenchError if none is found."""
    path = find_path(folder)
    done = TaskRun.of(TaskFolder(path)) if (path / "task.json").is_file() else None
    if done is None or done.task != WIN_RATE:
        raise AlignbenchError(f"--judge run:{folder}: no finished task win_rate; name its folder, as RUN/win_rate-…")
    waiting: dict[tuple[str, ...], list[Unit]] = {}
    labelled = [unit for unit in units if unit.votes]
    for unit in labelled:
        waiting.setdefault(_texts(unit.prompt, unit.outputs), []).append(unit)
    models = path.parent.name, str(done.identity["baseline"]["name"])
    found = []
    for record in done.records():
        texts, votes = (record.outputs[0].text, record.references[0]), dict[str, float]()
        if same := waiting.get(_texts(record.prompt, texts)):
            own = same.pop(0)  # of two records with equal texts one
            mirrored = own.outputs[0].strip() != texts[0].strip()
            votes = {name: 1 - vote if mirrored else vote for name, vote in own.votes.items()}
        found.append(Unit(record.id, record.prompt, texts, models, votes, numbers_of(record)))
    unmatched = sum(map(len, waiting.values()))
    if unmatched == len(labelled):
        why = "the prompt and both answers must be the same texts"
        why += ", and the labels have no text of a prompt" * all(unit.prompt is None for unit in labelled)
        raise AlignbenchError(f"--judge run:{folder}: none of the {unmatched} labelled pairs is in the run; {why}")
    return str(ScorerIdentity(**done.identity["scorers"][0])), found, unmatched


def _texts(prompt: str | None, outputs: Sequence[str]) -> tuple[str, ...]:
    return ((prompt or "").strip(), *sorted(output.strip() for output in outputs))
