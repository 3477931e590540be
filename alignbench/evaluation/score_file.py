"""`alignbench score FILE` and what `import` shares with it: rows become pending records, and records run folders.

A row has `output` (or `outputs`, a list), and either the `id` of one of a task's documents, or without a task what the
metrics need: `references` (a string or a list), `source`, `prompt`. Lists in a CSV file are written as JSON. Rows with
the same id are samples of one document.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alignbench.data.fetch import sha256_of
from alignbench.data.tables import SourceRow, read_source
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import prepare
from alignbench.evaluation.pipeline import Job, run_task
from alignbench.evaluation.sources import SavedOutputs
from alignbench.evaluation.thinking import TAGS, find_thinking
from alignbench.evaluation.win_rate import ANSWERS, choose_judge, find_answers, judge
from alignbench.parse import find_path, parse_json
from alignbench.progress import Progress
from alignbench.provenance import environment
from alignbench.runs.folder import digest, open_run
from alignbench.runs.read import TaskRun, run_result
from alignbench.scorers.choose import choose_scorers
from alignbench.shards import require_single_process
from alignbench.tasks.common import grouped
from alignbench.tasks.declared import OUTPUTS
from alignbench.tasks.samples import with_samples
from alignbench.types.engine import Completion, Thinking
from alignbench.types.record import Document, Output, Record
from alignbench.types.result import RunResult
from alignbench.types.scorer import Scorer
from alignbench.types.settings import TaskSettings
from alignbench.types.task import Task, TaskData

# fields of a task.json that are not known of outputs that exist already
UNKNOWN: dict[str, Any] = {"template": None, "sampling": None, "prefix": None}


@dataclass(frozen=True)
class Found:
    """The records of a task of a model.

    model: what identifies the model, with its name; about: what else run.json records
    records: pending, if the task has to score them, with `scorers`
    identity: the content of task.json; imported, in it: the hashes of the files
    """

    model: Mapping[str, Any]
    task: Task
    records: Sequence[Record]
    identity: Mapping[str, Any]
    scorers: Sequence[Scorer] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def score_file(
    file: str | Path,
    out: str | Path = "runs",
    *,
    name: str | None = None,
    task: str | None = None,
    scorers: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    in_order: bool = False,
    limit: int | None = None,
    shots: int | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    data_dir: str | Path | None = None,
    device: str = "cpu",
    thinking: str = "auto",
    thinking_tags: str = TAGS,
    progress: Progress | None = None,
) -> RunResult:
    """Score the outputs in a file.

    name: of the system that generated them (default: the file's)
    task: the benchmark whose documents they answer, by id; a document without an output is unscored. None: the file
        has its own references and sources.
    columns: the file's name of a column -> our name, such as "response" -> "output"
    in_order: the rows are the task's documents in its order; they need no ids
    prompts: file of prompts instead of the task's own
    thinking, thinking_tags: as in `evaluate`
    Raises AlignbenchError, naming file and line, for rows that cannot be read, unknown ids and repeated ids.
    """
    file, progress = find_path(file), progress or Progress()
    name = name or file.stem
    thoughts = find_thinking(thinking, thinking_tags)
    require_single_process("score")
    if task is None and (limit, shots, prompts) != (None, None, None):
        why = "they select a benchmark's documents and prompts"
        raise AlignbenchError(f"--limit, --shots and --prompts need --task: {why}")
    if in_order and (task is None or limit is not None):
        raise AlignbenchError("--in-order needs --task, and no --limit: the rows are all of its documents")
    if not file.is_file():
        raise AlignbenchError(f"{file}: no such file")
    rows = read_source(str(file), columns)
    skipped: set[str] = set()
    if task is None:
        loaded = choose_scorers([OUTPUTS], scorers, device=device)[OUTPUTS.name]
        job = Job(OUTPUTS, own_documents(rows), None, seed, loaded)
    else:
        own = TaskSettings(limit, shots, seed, str(prompts) if prompts else None, scorers=tuple(scorers))
        (job,) = prepare({task: own}, data_dir, device=device)
        if job.task.generation is None:
            raise AlignbenchError(f"task {task}: the model generates no text in it, so there are no outputs to score")
        if limit is not None:
            (whole,) = prepare({task: replace(own, limit=None)}, data_dir, scored=False)
            skipped = {document.id for document in whole.data.documents}
    if in_order:
        if len(rows) != len(job.data.documents):
            raise AlignbenchError(
                f"{file}: {len(rows)} rows, but {task} has {len(job.data.documents)} documents: give ids"
            )
        rows = [row.having(id=document.id) for row, document in zip(rows, job.data.documents, strict=True)]
    job, sampled = with_samples_of(rows, job)
    records = records_of(rows, job, thoughts, by_id=task is not None, skipped=skipped)
    model: dict[str, Any] = {"model": {"name": name, "outputs": file.name, "outputs_sha256": sha256_of(file)}}
    if columns or in_order:  # the same bytes, read differently
        model["read"] = {"columns": dict(columns or {}), "in_order": in_order}
    identity = job.identity(False, thoughts) | UNKNOWN | sampled
    (run,) = write_runs([Found(model, job.task, records, identity, job.scorers)], out, progress)
    return run


def judge_files(
    file: str | Path, baseline: str | Path, out: str | Path = "runs", *, scorers: Sequence[str] = (), **settings: Any
) -> RunResult:
    """The win rate of a file's outputs against another's, for the same prompts (see `score_file`)."""
    progress = settings.get("progress") or Progress()
    thoughts = find_thinking(settings.get("thinking", "auto"), settings.get("thinking_tags", TAGS))
    scorer = choose_judge(scorers, settings.get("device", "cpu"), thoughts)
    other = score_file(baseline, out, task=ANSWERS, **settings | {"name": None})
    own = score_file(file, out, task=ANSWERS, **settings)
    mine, others = (find_answers(run.folder, run.folders[0]) for run in (own, other))
    verdicts = judge(mine, others, scorer, progress=progress)
    return run_result(own.checkpoint, own.folder, [verdicts])


def write_runs(found: Sequence[Found], out: str | Path, progress: Progress) -> list[RunResult]:
    """Write a run folder for each model. Of several results for the same task and settings, the first ones count.

    Raises AlignbenchError if an earlier import wrote the same task and settings from other files or with other options.
    """
    runs = []
    for together in grouped(found, lambda own: digest(own.model)).values():
        model, taken, done = together[0].model, set[str](), list[TaskRun]()
        name, file = str(model["model"]["name"]), model["model"].get("outputs")
        with open_run(out, name, model) as run:
            run.describe({**model, **together[0].about, "environment": environment()})
            before = {_key(folder.identity()): folder for folder in run.tasks()}
            for own in together:
                if (key := _key(own.identity)) in taken:
                    progress.say(f"{name} {own.task.name}: older, left out: {', '.join(own.identity['imported'])}")
                    continue
                taken.add(key)
                if key in before and digest(before[key].identity()) != digest(own.identity):
                    raise AlignbenchError(f"{before[key].path}: of other files or options; import into another --out")
                records = {record.id: record for record in own.records}
                source = SavedOutputs(name, records.__getitem__, **{"file": file} if file else {})
                documents = [record.document for record in own.records]
                done.append(run_task(source, run, own.task, documents, own.scorers, own.identity, progress))
        runs.append(run_result(name, run.path, done))
    return runs


def _key(identity: Mapping[str, Any]) -> str:
    """What results for the same task and settings have in common."""
    return digest({**identity, "imported": None, "declared": None})


def with_samples_of(rows: Sequence[SourceRow], job: Job) -> tuple[Job, dict[str, Any]]:
    """The job with as many samples as most documents have rows, if its task checks answers, and what task.json says
    of it: nothing for one sample."""
    counts = Counter[str]()
    if job.task.generation is not None and job.task.generation.check is not None:
        for identifier, row in zip(row_ids(rows, required=True), rows, strict=True):
            counts[identifier] += len(output_texts(row))
    ((samples, _),) = Counter(counts.values()).most_common(1) or [(1, 0)]
    if samples == 1:
        return job, {}
    return replace(job, task=with_samples(job.task, samples)), {"sampling": {"samples": samples}}


def records_of(
    rows: Sequence[SourceRow],
    job: Job,
    thinking: Thinking | None,
    *,
    by_id: bool,
    skipped: Collection[str] = (),
    scores: Callable[[SourceRow], Mapping[str, Mapping[str, float]]] | None = None,
) -> list[Record]:
    """The pending record of each document of a job, with the outputs of its rows; without a row it is unscored.

    by_id: the documents are a benchmark's; every row has an id, and a document has as many outputs as the task samples
    skipped: ids of documents that a limit left out; scores: numbers of the scorers that a row has for its outputs
    """
    assert job.task.generation is not None
    outputs: dict[str, list[Output]] = {document.id: [] for document in job.data.documents}
    for identifier, row in zip(row_ids(rows, required=by_id), rows, strict=True):
        if identifier not in outputs and identifier not in skipped:
            raise AlignbenchError(f"{row.where}: id {identifier!r} is not a document of {job.task.name}")
        own = [_output(text, thinking) for text in output_texts(row)]
        if scores is not None:
            own = [replace(output, scores=scores(row)) for output in own]
        outputs.get(identifier, []).extend(own)
    expected = job.task.generation.sampling.samples
    for identifier, own in outputs.items():
        if by_id and own and len(own) != expected:
            raise AlignbenchError(
                f"id {identifier!r}: {len(own)} outputs, but {job.task.name} takes {expected} per document"
            )
    missing = (Output("", unscored="the file has no output for it"),)
    pending = (Record.generated(document, ()) for document in job.data.documents)
    return [replace(record, outputs=tuple(outputs[record.id]) or missing) for record in pending]


def _output(text: str | None, thinking: Thinking | None) -> Output:
    if text is None:
        return Output("", unscored="the output in the file is null")
    return Output.of(thinking.apart(Completion(text, "end"))) if thinking else Output(text)


def output_texts(row: SourceRow) -> list[str | None]:
    """The outputs of a row of a file; None for null. Raises AlignbenchError if it has none or they are not text."""
    texts = _json_list(row, "outputs") if "outputs" in row.fields else [row.fields.get("output", 0)]
    if not isinstance(texts, list) or not texts or not all(text is None or isinstance(text, str) for text in texts):
        raise AlignbenchError(f"{row.where}: expected a column `output` with text, or `outputs` with a list of texts")
    return texts


def row_ids(rows: Sequence[SourceRow], *, required: bool) -> list[str]:
    """The id of each row; of a row without an id its number, or AlignbenchError if ids are required.

    Raises AlignbenchError for ids that are the same text, but not the same value: 1 and "1", or "row 1" and no id.
    """
    given: dict[str, Any] = {}
    found = []
    for number, row in enumerate(rows, start=1):
        value = None if (own := row.fields.get("id")) == "" else own
        if value is None and required:
            raise AlignbenchError(f"{row.where}: no id; give each row the id of its document")
        found.append(f"row {number}" if value is None else str(value))
        if type(first := given.setdefault(found[-1], value)) is not type(value):
            own, before = ("the number of a row without id" if v is None else f"the id {v!r}" for v in (value, first))
            raise AlignbenchError(f"{row.where}: {own} has the same text as {before}; give each row one id")
    return found


def own_documents(rows: Sequence[SourceRow]) -> TaskData:
    """Documents that the rows themselves describe, one per id."""
    documents: dict[str, Document] = {}
    for identifier, row in zip(row_ids(rows, required=False), rows, strict=True):
        references = _json_list(row, "references")
        references = () if references is None else (references,) if isinstance(references, str) else references
        if not isinstance(references, list | tuple) or not all(isinstance(text, str) for text in references):
            raise AlignbenchError(f"{row.where}: `references` must be a text or a list of texts")
        given = {name: row.fields.get(name) for name in ("prompt", "source", "category", "group")}
        fields: dict[str, Any] = {name: None if own in (None, "") else str(own) for name, own in given.items()}
        fields["prompt"] = fields["prompt"] or ""
        document = Document(identifier, references=tuple(references), **fields)
        if documents.setdefault(identifier, document) != document:
            raise AlignbenchError(
                f"{row.where}: an earlier row with id {identifier!r} has another prompt, source or references"
            )
    return TaskData(list(documents.values()), ())


def _json_list(row: SourceRow, column: str) -> Any:
    """The value of a column; in a CSV file, whose cells are text, a JSON list is parsed, and an empty cell is None."""
    value = row.fields.get(column)
    if not row.is_text or not isinstance(value, str):
        return value
    if value.startswith("["):
        with suppress(ValueError):
            return parse_json(value)
    return value or None
