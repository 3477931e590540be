"""`alignbench score FILE`: outputs that exist already, of any system, in the same run folder as a checkpoint's.

A row has `output` (or `outputs`, a list), and either the `id` of one of a task's documents, or with no task what the
metrics need: `references` (a string or a list), `source`, `prompt`. JSON lines or CSV, where a list is written as JSON.
Rows that share an id are samples of one document.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import Job, prepare
from alignbench.evaluation.records import finish, there_already
from alignbench.evaluation.win_rate import ANSWERS, choose_judge, find_answers, judge
from alignbench.evaluation.writing import chunk_size, write_documents
from alignbench.progress import Progress
from alignbench.provenance import environment
from alignbench.runs.folder import open_run
from alignbench.runs.summary import pending_record
from alignbench.scorers.choose import choose_scorers, embedder_of
from alignbench.shards import refuse_several_processes
from alignbench.tasks.outputs import OUTPUTS
from alignbench.types.engine import Completion
from alignbench.types.result import RunResult, TaskResult
from alignbench.types.scorer import ScorerIdentity
from alignbench.types.task import Document, TaskData

Row = tuple[str, dict[str, Any]]  # FILE:LINE, columns


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
    progress: Progress | None = None,
) -> RunResult:
    """Score the outputs in a file.

    name: of the system that wrote them (default: the file's)
    task: the benchmark whose documents they answer, by id; a document without an output is unscored. None: the file
        brings its own references and sources.
    columns: the file's name of a column -> the name that it has here, such as "response" -> "output"
    in_order: the rows are the task's documents in its order; they need no ids
    prompts: file of prompts in place of the task's own
    Raises AlignbenchError, naming file and line, for rows that cannot be read, unknown ids and ids that come twice.
    """
    file, progress = Path(file), progress or Progress()
    name = name or file.stem
    refuse_several_processes("score")
    if task is None and (limit is not None or shots is not None):
        raise AlignbenchError("--limit and --shots go with --task: they are a benchmark's")
    content = _read(file)
    rows = [(where, renamed(where, row, columns or {})) for where, row in _rows(file, content)]
    if not rows:
        raise AlignbenchError(f"{file}: no rows")
    if in_order and (task is None or limit is not None):
        raise AlignbenchError("--in-order goes with --task, and not with --limit: the rows are all of its documents")
    if task is None:
        data = _own_documents(rows)
        job = Job(OUTPUTS, data, None, seed, choose_scorers([OUTPUTS], scorers, device=device)[OUTPUTS.name])
    else:
        (job,) = prepare(
            [task], limit=limit, shots=shots, seed=seed, prompts=prompts, data_dir=data_dir, scorers=scorers,
            device=device,
        )  # fmt: skip
        if job.task.writing is None:
            raise AlignbenchError(f"task {task}: the model does not write in it, so there are no outputs to score")
    known = {document.id for document in job.data.documents}
    if limit is not None:
        (whole,) = prepare(
            [task or ""], limit=None, shots=shots, seed=seed, prompts=prompts, data_dir=data_dir, scorers=None
        )
        known |= {document.id for document in whole.data.documents}
    if in_order:
        if len(rows) != len(job.data.documents):
            raise AlignbenchError(
                f"{file}: {len(rows)} rows, but {task} has {len(job.data.documents)} documents: give ids"
            )
        rows = [(where, row | {"id": d.id}) for (where, row), d in zip(rows, job.data.documents, strict=True)]
    completions = _completions(rows, job, known, by_id=task is not None)
    model: dict[str, Any] = {
        "model": {"name": name, "outputs": file.name, "outputs_sha256": hashlib.sha256(content).hexdigest()}
    }
    if columns or in_order:  # the same bytes, read in another way
        model["read"] = {"columns": dict(columns or {}), "in_order": in_order}
    with open_run(Path(out), name, model) as run:
        # how the outputs were made is not known
        identity = job.identity(chat=False) | {"template": None, "sampling": None, "prefix": None}
        folder = run.task(job.task.name, identity)
        if (finished := folder.result()) is not None:
            progress.say(f"{name} {job.task.name}: already finished in {folder.path}")
            return RunResult(name, run.path, (TaskResult.from_json(finished),), (folder.path.name,))
        run.describe({**model, "environment": environment()})
        documents = job.data.documents
        earlier: dict[str, Callable[[], dict[str, Any]]] = {
            document.id: partial(pending_record, document, completions[document.id]) for document in documents
        }
        done, there = there_already(documents, chunk_size(job.task), folder.places(), {})
        run.log("score", task=job.task.name, folder=folder.path.name, file=file.name, already=len(done))
        progress.start(f"{name} {job.task.name}", len(documents), len(done))
        write_documents(
            None, job.task, job.data, documents, job.scorers, folder, progress,
            seed=seed, chat=False, done=done, earlier={n: r for n, r in (earlier | there).items() if n not in done},
        )  # fmt: skip
        finish(
            job.task,
            folder,
            {document.id: number for number, document in enumerate(documents)},
            shots=job.data.shots,
            limit=limit,
            seed=seed,
            scorers=[ScorerIdentity.of(scorer) for scorer in job.scorers],
            template=None,
            embedder=embedder_of(job.scorers),
        )
        return RunResult(name, run.path, (TaskResult.from_json(folder.result() or {}),), (folder.path.name,))


def judge_files(
    file: str | Path, baseline: str | Path, out: str | Path = "runs", *, scorers: Sequence[str] = (), **settings: Any
) -> RunResult:
    """The win rate of a file's outputs against another's, to the same prompts (see `score_file`)."""
    progress = settings.get("progress") or Progress()
    scorer = choose_judge(scorers, settings.get("device", "cpu"))
    other = score_file(baseline, out, task=ANSWERS, **settings | {"name": None})
    own = score_file(file, out, task=ANSWERS, **settings)
    verdicts = judge(
        find_answers(own.folder, own.folders[0]),
        find_answers(other.folder, other.folders[0]),
        scorer,
        progress=progress,
    )
    return replace(own, results=(verdicts.result,), folders=(verdicts.folder.path.name,))


def renamed(where: str, row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with our names of columns (`columns`: theirs -> ours). Raises AlignbenchError for one that it lacks."""
    if missing := [name for name in columns if name not in row]:
        raise AlignbenchError(f"{where}: no column {missing[0]!r}; there are {', '.join(row)}")
    return {
        columns.get(name, name): value for name, value in row.items() if name in columns or name not in columns.values()
    }


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be read: {error.strerror or error}") from None


def _rows(file: Path, content: bytes) -> Iterator[Row]:
    """(FILE:LINE, columns) of JSON lines, or of CSV where the file's name says so."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AlignbenchError(f"{file}: not UTF-8 text (byte {error.start})") from None
    if file.suffix.lower() in (".csv", ".tsv"):
        delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
        csv.field_size_limit(2**31 - 1)  # an output may be long
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                where = f"{file}:{reader.line_num}"
                if None in row or None in row.values():
                    raise AlignbenchError(f"{where}: not as many fields as the header has")
                yield where, row | {column: _cell(row[column]) for column in ("outputs", "references") if column in row}
        except csv.Error as error:
            raise AlignbenchError(f"{file}:{reader.line_num}: {error}") from None
        return
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except ValueError as error:
            raise AlignbenchError(f"{file}:{line}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise AlignbenchError(f"{file}:{line}: expected a JSON object with an output")
        yield f"{file}:{line}", row


def _cell(text: str) -> Any:
    """A list written as JSON, or else the text as it is."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _identifier(row: Row, number: int, by_id: bool) -> str:
    """The id of row `number`, or for rows of a file without ids that number."""
    where, columns = row
    given = columns.get("id")
    if given is None or given == "":
        if by_id:
            raise AlignbenchError(f"{where}: no id; it must name one of the task's documents (or --in-order)")
        return f"row {number + 1}"
    return str(given)


def _completions(rows: Sequence[Row], job: Job, known: Collection[str], by_id: bool) -> dict[str, list[Completion]]:
    """Document -> its outputs.

    known: ids that the file may have; those of documents that a limit left out are passed over
    """
    wanted = {document.id for document in job.data.documents}
    found: dict[str, list[Completion]] = {}
    for number, row in enumerate(rows):
        where, columns = row
        identifier = _identifier(row, number, by_id)
        if identifier not in known:
            raise AlignbenchError(f"{where}: id {identifier!r} is none of the documents of {job.task.name}")
        texts = columns.get("outputs", [columns["output"]] if "output" in columns else None)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise AlignbenchError(f"{where}: expected a column `output` with text, or `outputs` with a list of texts")
        if identifier in wanted:
            found.setdefault(identifier, []).extend(Completion(text, "end") for text in texts)
    assert job.task.writing is not None
    expected = job.task.writing.sampling.samples if by_id else None
    for identifier, texts in found.items():
        if expected is not None and len(texts) != expected:
            raise AlignbenchError(
                f"id {identifier!r}: {len(texts)} outputs, but {job.task.name} takes {expected} of each document"
            )
    missing = Completion("", "end", unscored="the file has no output for it")
    return {identifier: found.get(identifier, [missing]) for identifier in wanted}


def _own_documents(rows: Sequence[Row]) -> TaskData:
    documents: dict[str, Document] = {}
    for number, (where, columns) in enumerate(rows):
        identifier = _identifier((where, columns), number, by_id=False)
        references = columns.get("references") or ()
        if isinstance(references, str):
            references = (references,)
        if not isinstance(references, list | tuple) or not all(isinstance(text, str) for text in references):
            raise AlignbenchError(f"{where}: `references` must be a text or a list of texts")
        document = Document(
            id=identifier,
            prompt=str(columns.get("prompt") or ""),
            references=tuple(references),
            source=str(columns["source"]) if columns.get("source") else None,
            category=str(columns["category"]) if columns.get("category") else None,
            group=str(columns["group"]) if columns.get("group") else None,
        )
        if documents.setdefault(identifier, document) != document:
            raise AlignbenchError(f"{where}: id {identifier!r} stands above with another prompt, source or references")
    return TaskData(list(documents.values()), ())
