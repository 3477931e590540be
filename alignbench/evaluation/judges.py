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
    """Return findings on each judge, and lines on what was left out.

    labels: tables of labels, or files of ranked conversations
    judges: as after `preference=`; their verdicts are kept in a run folder in `out`. Or saved verdicts: labeler:NAME of
        the tables, or run:FOLDER, a finished task win_rate
    question: "ranking" or a flag; limit: at most so many units with labels, sampled with seed 0
    seeds: how often a judge that generates text is asked again, with samples at this temperature
    Raises AlignbenchError if there is nothing to judge, and for unknown judges.
    """
    progress, source = progress or Progress(), ", ".join(labels)
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
            name, found = from_run(by_people, rest)
        else:
            judge = find_scorer(f"preference={spec}", device=device, trust_remote_code=trust_remote_code)
            if any(unit.prompt is None for unit in units):
                raise AlignbenchError(f"{source}: no text of a prompt, which a judge needs; add a column prompt")
            name, asked = str(ScorerIdentity.of(judge)), sample(by_people, limit)
            runs, again = [judge], getattr(judge, "again", None)  # of a judge that generates text
            if seeds and again is None:
                notes.append(f"{name}: it does not sample; its verdicts are the same with every seed")
            elif again is not None:
                runs += [again(number, temperature) for number in range(1, seeds + 1)]
            first, *repeated = (ask(own, asked, out, f"labels-{Path(labels[0]).name}", progress) for own in runs)
            found = [
                replace(unit, verdict=first[at], repeated=tuple(own["win"] for one in repeated if (own := one[at])))
                for at, unit in enumerate(asked)
            ]
        without = sum(unit.verdict is None for unit in found if unit.votes)
        if without == sum(bool(unit.votes) for unit in found):
            raise AlignbenchError(f"{name}: no verdict on anything that people labelled")
        notes += [f"{name}: no verdict on {without} units with labels, which are left out"] * bool(without)
        findings += validate(name, found, width=width, seed=seed, resamples=resamples)
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


def from_run(units: Sequence[Unit], folder: str) -> tuple[str, list[Unit]]:
    """The judge of a finished task win_rate, and its verdicts; labels of a pair are found by its texts."""
    path = find_path(folder)
    done = TaskRun.of(TaskFolder(path)) if (path / "task.json").is_file() else None
    if done is None or done.task != WIN_RATE:
        raise AlignbenchError(f"--judge run:{folder}: no finished task win_rate; name its folder, as RUN/win_rate-…")
    votes = {_texts(unit.prompt, *unit.outputs): unit.votes for unit in units}
    for unit in units:
        mirrored = {name: 1 - vote for name, vote in unit.votes.items()}
        votes.setdefault(_texts(unit.prompt, *reversed(unit.outputs)), mirrored)
    models = path.parent.name, str(done.identity["baseline"]["name"])
    found = []
    for record in done.records():
        texts = record.outputs[0].text, record.references[0]
        own = votes.get(_texts(record.prompt, *texts), {})
        found.append(Unit(record.id, record.prompt, texts, models, own, numbers_of(record)))
    return str(ScorerIdentity(**done.identity["scorers"][0])), found


def _texts(prompt: str | None, *outputs: str) -> tuple[str, ...]:
    return ((prompt or "").strip(), *(output.strip() for output in outputs))
