"""`alignbench judges validate`: the verdicts of judges on what people have labelled, from a model, a file or a run."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.evaluation.pipeline import Job
from alignbench.evaluation.score_file import UNKNOWN, Found, write_runs
from alignbench.evaluation.win_rate import WIN_RATE
from alignbench.labels.judges import PAIRS, JudgeFinding, Numbers, Unit, read_comparisons, take, units_of, validate
from alignbench.parse import find_path
from alignbench.progress import Progress
from alignbench.runs.folder import TaskFolder
from alignbench.runs.read import TaskRun
from alignbench.scorers import find_scorer
from alignbench.stats.bootstrap import RESAMPLES
from alignbench.tasks import find_task
from alignbench.types.record import Document, Output, Record
from alignbench.types.scorer import Scorer, ScorerIdentity
from alignbench.types.task import TaskData

SAVED = ("labeler", "column", "run")


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
    judges: as after `preference=`, whose verdicts are kept in a run folder in `out`; or saved verdicts: labeler:NAME,
        column:NAME (of the tables), run:FOLDER (a finished task win_rate)
    question: "ranking" or a flag; limit: at most so many pairs with labels, sampled with seed 0
    seeds: how often a judge that generates text is asked again, at this temperature
    Raises AlignbenchError if there is nothing to judge, and for unknown judges.
    """
    progress = progress or Progress()
    specs = [spec.removeprefix("preference=") for spec in judges]
    answer = "preference" if question == PAIRS else question
    columns = {spec.partition(":")[2]: answer for spec in specs if spec.startswith("column:")}
    every = [label for source in labels for label in read_comparisons(source, question, columns)]
    units = units_of(every, question)
    if not any(unit.votes for unit in units):
        what = "no two outputs of a prompt are compared" if question == PAIRS else f"no label answers {question!r}"
        raise AlignbenchError(f"{', '.join(labels)}: {what}")
    asked = [name for spec in specs if (name := _saved(spec)) is not None]
    if unknown := [name for name in asked if not any(name in unit.votes for unit in units)]:
        there = ", ".join(sorted({name for unit in units for name in unit.votes})[:10])
        raise AlignbenchError(f"{', '.join(labels)}: no verdicts of a labeler {unknown[0]!r} (there are: {there}, …)")
    findings, notes = list[JudgeFinding](), list[str]()
    for spec in specs:
        others = set(asked) - {_saved(spec)}  # the other judges are no people
        own = [
            replace(unit, votes={name: vote for name, vote in unit.votes.items() if name not in others})
            for unit in units
        ]
        kind, _, rest = spec.partition(":")
        if (saved := _saved(spec)) is not None:
            name, found = spec, take(own, saved)
        elif question != PAIRS:
            raise AlignbenchError(
                f"--judge {spec}: of a flag only saved verdicts are validated: labeler:NAME, column:NAME"
            )
        elif kind == "run":
            name, found = from_run(own, rest)
        else:
            judge = find_scorer(f"preference={spec}", device=device, trust_remote_code=trust_remote_code)
            name = str(ScorerIdentity.of(judge))
            found = ask(judge, sample(own, limit), out, labels, seeds, temperature, progress, notes.append)
        without = sum(unit.verdict is None and bool(unit.votes) for unit in found)
        if without == sum(bool(unit.votes) for unit in found):
            raise AlignbenchError(f"{name}: no verdict on anything that people labelled")
        if without:
            notes.append(f"{name}: no verdict on {without} units with labels, which are left out")
        findings += validate(name, found, width=width, seed=seed, resamples=resamples)
    return findings, notes


def _saved(spec: str) -> str | None:
    """The labeler whose verdicts a spec names."""
    kind, _, name = spec.partition(":")
    return name if kind in ("labeler", "column") else None


def sample(units: Sequence[Unit], limit: int | None) -> list[Unit]:
    labelled = [unit for unit in units if unit.votes]
    if limit is None or limit >= len(labelled):
        return list(units)
    return [labelled[i] for i in sorted(np.random.default_rng(0).choice(len(labelled), limit, replace=False))]


def ask(
    judge: Scorer,
    units: Sequence[Unit],
    out: str | Path,
    labels: Sequence[str],
    seeds: int,
    temperature: float,
    progress: Progress,
    say: Callable[[str], None],
) -> list[Unit]:
    """The units with the judge's verdicts, and with those of samples with other seeds."""
    if any(unit.prompt is None for unit in units):
        raise AlignbenchError(f"{', '.join(labels)}: no text of a prompt, which a judge needs; add a column prompt")
    first = verdicts(judge, units, out, labels, progress)
    runs: list[list[Numbers | None]] = []
    again = getattr(judge, "again", None)  # of a judge that generates text
    if seeds and again is None:
        say(f"{judge.name}: it does not sample; its verdicts are the same with every seed")
    elif again is not None:
        runs = [verdicts(again(n, temperature), units, out, labels, progress) for n in range(1, seeds + 1)]
    found = []
    for unit, verdict, *others in zip(units, first, *runs, strict=True):
        known = tuple(own["win"] for own in others if own is not None)
        found.append(replace(unit, verdict=verdict, repeated=known))
    return found


def verdicts(
    judge: Scorer, units: Sequence[Unit], out: str | Path, labels: Sequence[str], progress: Progress
) -> list[Numbers | None]:
    """A judge's numbers of each unit, None without a verdict. They are kept in a run folder as those of a win rate: the
    first outputs against the second."""
    task, records = find_task(WIN_RATE), list[Record]()
    for unit in units:
        key = hashlib.sha256("\0".join((unit.prompt_id, *unit.models, *unit.outputs)).encode(errors="replace"))
        document = Document(key.hexdigest()[:16], unit.prompt or "", references=unit.outputs[1:], group=unit.prompt_id)
        records.append(replace(Record.generated(document, ()), outputs=(Output(unit.outputs[0]),)))
    name = f"labels-{Path(labels[0]).name}"
    model = {
        "model": {"name": name, "outputs_sha256": hashlib.sha256(repr(records).encode(errors="replace")).hexdigest()}
    }
    job = Job(task, TaskData([record.document for record in records], ()), None, 0, (judge,))
    identity = (
        job.identity(False) | UNKNOWN | {"baseline": {"name": "the second output", "folder": None, "template": None}}
    )
    (run,) = write_runs([Found(model, task, records, identity, (judge,))], out, progress)
    done = TaskRun.of(TaskFolder(run.folder / run.folders[0]))
    assert done is not None
    progress.say(f"{judge.name}: verdicts in {done.path}")
    found = {record.id: record for record in done.records()}
    return [numbers_of(found[record.id]) for record in records]


def numbers_of(record: Record) -> Numbers | None:
    return None if record.unscored else record.outputs[0].scores.get("preference")


def from_run(units: Sequence[Unit], folder: str) -> tuple[str, list[Unit]]:
    """The judge of a finished task win_rate, and its verdicts; labels of a pair are found by its texts."""
    path = find_path(folder)
    done = TaskRun.of(TaskFolder(path)) if (path / "task.json").is_file() else None
    if done is None or done.task != WIN_RATE:
        raise AlignbenchError(f"--judge run:{folder}: no finished task win_rate; name its folder, as RUN/win_rate-…")
    labelled = {_texts(unit.prompt or "", *unit.outputs): unit.votes for unit in units}
    scorer = ScorerIdentity(**done.identity["scorers"][0])
    models = path.parent.name, str(done.identity["baseline"]["name"])
    found = []
    for record in done.records():
        if (numbers := numbers_of(record)) is None:
            continue
        texts = record.outputs[0].text, record.references[0]
        votes = labelled.get(_texts(record.prompt, *texts))
        if votes is None and (other := labelled.get(_texts(record.prompt, *reversed(texts)))) is not None:
            votes = {name: 1 - vote for name, vote in other.items()}
        found.append(Unit(record.id, record.prompt, texts, models, votes or {}, numbers))
    return str(scorer), found


def _texts(*texts: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in texts)
