"""`alignbench score FILE`: outputs that exist already, of any system, in the same run folder as a checkpoint's.

A row has `output` (or `outputs`, a list), and either the `id` of one of a task's documents, or without a task what the
metrics need: `references` (a string or a list), `source`, `prompt`. Lists in a CSV file are written as JSON. Rows with
the same id are samples of one document.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
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
from alignbench.runs.folder import open_run
from alignbench.runs.read import run_result
from alignbench.scorers.choose import choose_scorers
from alignbench.shards import require_single_process
from alignbench.tasks.outputs import OUTPUTS
from alignbench.types.engine import Completion, Thinking
from alignbench.types.record import Document, Record
from alignbench.types.result import RunResult
from alignbench.types.settings import TaskSettings
from alignbench.types.task import TaskData


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
    if task is None and (limit is not None or shots is not None):
        raise AlignbenchError("--limit and --shots need --task: they select a benchmark's documents and prompts")
    if in_order and (task is None or limit is not None):
        raise AlignbenchError("--in-order needs --task, and no --limit: the rows are all of its documents")
    if not file.is_file():
        raise AlignbenchError(f"{file}: no such file")
    rows = [row.renamed(columns or {}) for row in read_source(str(file))]
    if task is None:
        job = Job(OUTPUTS, own_documents(rows), None, seed)
        job = replace(job, scorers=choose_scorers([OUTPUTS], scorers, device=device)[OUTPUTS.name])
        known = {document.id for document in job.data.documents}
    else:
        own = TaskSettings(limit, shots, seed, str(prompts) if prompts else None, scorers=tuple(scorers))
        (job,) = prepare({task: own}, data_dir, device=device)
        if job.task.generation is None:
            raise AlignbenchError(f"task {task}: the model generates no text in it, so there are no outputs to score")
        known = {document.id for document in job.data.documents}
        if limit is not None:
            (whole,) = prepare({task: replace(own, limit=None)}, data_dir, scored=False)
            known |= {document.id for document in whole.data.documents}
    if in_order:
        if len(rows) != len(job.data.documents):
            raise AlignbenchError(
                f"{file}: {len(rows)} rows, but {task} has {len(job.data.documents)} documents: give ids"
            )
        pairs = zip(rows, job.data.documents, strict=True)
        rows = [replace(row, fields=row.fields | {"id": document.id}) for row, document in pairs]
    completions = completions_of(rows, job, known, thoughts, by_id=task is not None)
    model: dict[str, Any] = {"model": {"name": name, "outputs": file.name, "outputs_sha256": sha256_of(file)}}
    if columns or in_order:  # the same bytes, read differently
        model["read"] = {"columns": dict(columns or {}), "in_order": in_order}
    # how the outputs were generated is not known
    identity = job.identity(False, thoughts) | {"template": None, "sampling": None, "prefix": None}
    source = SavedOutputs(name, lambda own: Record.generated(own, completions[own.id]), file=file.name)
    with open_run(Path(out), name, model) as run:
        run.describe({**model, "environment": environment()})
        found = run_task(source, run, job.task, job.data.documents, job.scorers, identity, progress)
    return run_result(name, run.path, [found])


def judge_files(
    file: str | Path, baseline: str | Path, out: str | Path = "runs", *, scorers: Sequence[str] = (), **settings: Any
) -> RunResult:
    """The win rate of a file's outputs against another's, for the same prompts (see `score_file`)."""
    progress = settings.get("progress") or Progress()
    thoughts = find_thinking(settings.get("thinking", "auto"), settings.get("thinking_tags", TAGS))
    scorer = choose_judge(scorers, settings.get("device", "cpu"), thoughts)
    other = score_file(baseline, out, task=ANSWERS, **settings | {"name": None})
    own = score_file(file, out, task=ANSWERS, **settings)
    verdicts = judge(
        find_answers(own.folder, own.folders[0]),
        find_answers(other.folder, other.folders[0]),
        scorer,
        progress=progress,
    )
    return run_result(own.checkpoint, own.folder, [verdicts])


def completions_of(
    rows: Sequence[SourceRow], job: Job, known: Collection[str], thinking: Thinking | None, by_id: bool
) -> dict[str, list[Completion]]:
    """Document -> its outputs.

    known: ids that the file may contain; those of documents that a limit left out are skipped
    """
    wanted = {document.id for document in job.data.documents}
    found: dict[str, list[Completion]] = {}
    for identifier, row in zip(row_ids(rows, required=by_id), rows, strict=True):
        if identifier not in known:
            raise AlignbenchError(f"{row.where}: id {identifier!r} is not a document of {job.task.name}")
        texts = output_texts(row)
        if identifier in wanted:
            null = Completion("", "end", unscored="the output in the file is null")
            own = [null if text is None else Completion(text, "end") for text in texts]
            found.setdefault(identifier, []).extend(map(thinking.apart, own) if thinking else own)
    assert job.task.generation is not None
    expected = job.task.generation.sampling.samples if by_id else None
    for identifier, completions in found.items():
        if expected is not None and len(completions) != expected:
            raise AlignbenchError(
                f"id {identifier!r}: {len(completions)} outputs, but {job.task.name} takes {expected} per document"
            )
    missing = Completion("", "end", unscored="the file has no output for it")
    return {identifier: found.get(identifier, [missing]) for identifier in wanted}


def output_texts(row: SourceRow) -> list[str | None]:
    """The outputs of a row of a file; None for null. Raises AlignbenchError if it has none or they are not text."""
    texts = _json_list(row, "outputs") if "outputs" in row.fields else [row.fields.get("output", 0)]
    if not isinstance(texts, list) or not texts or not all(text is None or isinstance(text, str) for text in texts):
        raise AlignbenchError(f"{row.where}: expected a column `output` with text, or `outputs` with a list of texts")
    return texts


def row_ids(rows: Sequence[SourceRow], *, required: bool) -> list[str]:
    """The id of each row; of a row without an id its number, or AlignbenchError if ids are required.

    Raises AlignbenchError for ids that are the same text, but not the same value: 1 and "1".
    """
    given: dict[str, Any] = {}
    found = []
    for number, row in enumerate(rows, start=1):
        value = row.fields.get("id")
        if value in (None, ""):
            if required:
                raise AlignbenchError(f"{row.where}: no id; give each row the id of its document")
            found.append(f"row {number}")
            continue
        if type(given.setdefault(str(value), value)) is not type(value):
            raise AlignbenchError(f"{row.where}: the id {value!r} has the same text as the id {given[str(value)]!r}")
        found.append(str(value))
    return found


def _json_list(row: SourceRow, column: str) -> Any:
    """The value of a column; in a CSV file, whose cells are text, a JSON list is parsed, and an empty cell is None."""
    value = row.fields.get(column)
    if not row.is_text or not isinstance(value, str):
        return value
    if value.startswith("["):
        with suppress(ValueError):
            return parse_json(value)
    return value or None


def own_documents(rows: Sequence[SourceRow]) -> TaskData:
    documents: dict[str, Document] = {}
    for identifier, row in zip(row_ids(rows, required=False), rows, strict=True):
        references = _json_list(row, "references")
        references = () if references is None else (references,) if isinstance(references, str) else references
        if not isinstance(references, list | tuple) or not all(isinstance(text, str) for text in references):
            raise AlignbenchError(f"{row.where}: `references` must be a text or a list of texts")
        fields: dict[str, Any] = {name: _text(row, name) for name in ("source", "category", "group")}
        document = Document(identifier, _text(row, "prompt") or "", references=tuple(references), **fields)
        if documents.setdefault(identifier, document) != document:
            raise AlignbenchError(
                f"{row.where}: an earlier row with id {identifier!r} has another prompt, source or references"
            )
    return TaskData(list(documents.values()), ())


def _text(row: SourceRow, column: str) -> str | None:
    value = row.fields.get(column)
    return None if value in (None, "") else str(value)
