"""Tables of outputs: one row per output, with the columns system, task, id, prompt, output, references, source, group,
category, and any number of scores that exist already."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from alignbench.data.fetch import sha256_of
from alignbench.data.messages import joined
from alignbench.data.tables import SourceRow, read_source
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import prepare
from alignbench.evaluation.pipeline import Job
from alignbench.evaluation.score_file import (
    UNKNOWN,
    Found,
    output_texts,
    own_documents,
    records_of,
    row_ids,
    with_samples_of,
)
from alignbench.evaluation.thinking import find_thinking
from alignbench.imports.foreign import CORPUS, declare, describe_metric, task_name
from alignbench.parse import find_path
from alignbench.runs.folder import digest
from alignbench.scorers.choose import choose_scorers
from alignbench.tasks.common import grouped
from alignbench.tasks.declared import NUMBERS, OUTPUTS, READY, declared_task, find_any
from alignbench.types.scorer import Scorer
from alignbench.types.settings import TaskSettings
from alignbench.types.task import Task

OF_REFERENCES = ("rouge_l", "f1", "exact_match")  # the first one represents a task of which nothing is known
QUESTION = re.compile(r"(?:Q|Question|Input):\s*(.*?)\s*(?:A|Answer|Output):\s*", re.DOTALL)


def read_table(
    files: Sequence[str | Path], *, renamed: Mapping[str, str], scores: Sequence[str] = (),
    where: Mapping[str, str] | None = None, split_by: Sequence[str] = (), separator: str | None = None,
    system: str | None = None, task: str | None = None, scorers: Sequence[str] = (), prompts: str | Path | None = None,
    data_dir: str | Path | None = None, seed: int = 0, device: str = "cpu",
) -> list[Found]:  # fmt: skip
    """The outputs in the files, by task and system. A system without a column is named after its file.

    renamed: the file's name of a column -> ours; scores: columns with scores, as NAME, NAME:higher or NAME:lower
    where: column -> the value of the rows to keep; split_by: columns whose values divide a task into tasks
    separator: between several references in a cell; system, task: of rows without such a column
    scorers, prompts, data_dir, seed, device: as in `score_file`

    The outputs of a benchmark of ours get its metrics; its documents are found by the prompt's text, or else by id.
    Other tasks get the metrics of outputs without a benchmark. A document that a system has no output for is unscored.
    """
    better = {name: direction or None for name, _, direction in (spec.partition(":") for spec in scores)}
    if wrong := [name for name, direction in better.items() if direction not in (None, "lower", "higher")]:
        raise AlignbenchError(f"--score {wrong[0]}:{better[wrong[0]]}: write NAME, NAME:lower or NAME:higher")
    where = where or {}
    needed = (*where, *split_by, *better)
    paths, tasks = [find_path(file) for file in files], dict[str, list[SourceRow]]()
    for number, path in enumerate(paths):
        if path.name in {own.name for own in paths[:number]}:
            raise AlignbenchError(f"{path}: two files have this name, which is that of their system; rename one")
        for row in read_source(str(path), renamed):
            row = _checked(row, needed, separator)
            if all(str(row.fields[name]) == value for name, value in where.items()):
                parts = [str(row.fields[name]) for name in split_by]
                named = _text(row, "task") or task or (OUTPUTS.name if not parts else "")
                label = task_name("_".join(filter(None, [named, *parts])))
                tasks.setdefault(label, []).append(row.having(system=_text(row, "system") or system or path.stem))
    if not tasks:
        raise AlignbenchError(f"{paths[0]}: no row with {', '.join(map('='.join, where.items()))}")
    marks = {path.name: sha256_of(path) for path in paths}
    read, thinking = {"columns": dict(renamed), "where": dict(where), "separator": separator}, find_thinking()
    found = []
    for label, rows in tasks.items():
        for own in grouped(rows, _system).values():
            row_ids(own, required=False)
        base = find_any(label)
        known = base is not None and base.generation is not None and base is not OUTPUTS
        if base is not None and known:
            settings = TaskSettings(seed=seed, prompts=str(prompts) if prompts else None)
            (job,) = prepare({label: settings}, data_dir, scored=False)
            rows = _of_benchmark(job, rows)
        else:
            base, rows = OUTPUTS, _numbered(rows)
            job = Job(OUTPUTS, own_documents(rows), None, seed)
        declared = _declared(base, label, rows, better, any(own.references for own in job.data.documents))
        kinds = {name: _kind(base, name) for name in better}
        given = {kind for kind in kinds.values() if kind is not None}
        whole = declared_task(label, declared) or base
        job = replace(job, task=whole, scorers=_scorers(whole, scorers, given, device))
        ready = [{"kind": kind, "name": f"column {kind}", "revision": digest(marks)} for kind in sorted(given)]
        identity = job.identity(False, thinking) | UNKNOWN
        identity |= {"scorers": identity["scorers"] + ready, "imported": marks, "declared": declared}
        numbers = partial(_scores, kinds=kinds) if kinds else None
        for name, own in grouped(rows, _system).items():
            sampled, sampling = with_samples_of(own, job)
            records = records_of(own, sampled, thinking, by_id=known, scores=numbers)
            model = {"name": name, "outputs": ", ".join(marks), "outputs_sha256": digest(marks)}
            found.append(Found({"model": model, "read": read}, sampled.task, records, identity | sampling, job.scorers))
    return found


def _system(row: SourceRow) -> str:
    return str(row.fields["system"])


def _checked(row: SourceRow, needed: Sequence[str], separator: str | None) -> SourceRow:
    """The row with its references as a list, if they are separated. Raises AlignbenchError if a column is missing."""
    if missing := [name for name in needed if name not in row.fields]:
        raise AlignbenchError(f"{row.where}: no column {missing[0]!r}; there are {', '.join(row.fields)}")
    output_texts(row)
    references = row.fields.get("references", row.fields.get("reference"))
    if separator and isinstance(references, str):
        references = [part.strip() for part in references.split(separator) if part.strip()]
    return row.having(references=references)


def _prompts(row: SourceRow) -> list[str]:
    """The prompt of a row, and its instruction with its input, as far as it has them."""
    prompt, instruction, given = (_text(row, name) for name in ("prompt", "instruction", "input"))
    return [text for text in (prompt, joined(instruction, given) if instruction else "") if text]


def _text(row: SourceRow, name: str) -> str:
    return "" if (value := row.fields.get(name)) is None else str(value)


def _of_benchmark(job: Job, rows: Sequence[SourceRow]) -> list[SourceRow]:
    """The rows with the ids of the benchmark's documents, found by the text of the prompt, or else by the id."""
    ids, of_text = {document.id for document in job.data.documents}, dict[str, set[str]]()
    for document in job.data.documents:
        inner = QUESTION.fullmatch(document.prompt.strip())
        for text in {document.prompt, job.data.prefix + document.prompt, inner[1] if inner else document.prompt}:
            of_text.setdefault(" ".join(text.split()), set()).add(document.id)
    found = []
    for row in rows:
        identifier = _text(row, "id")
        texts = [" ".join(text.split()) for text in _prompts(row)]
        same = next((of_text[text] for text in texts if text in of_text), set())
        if len(same) == 1:  # the text counts more than an id, which may be another numbering
            (identifier,) = same
        elif identifier not in ids:
            why = f"and its prompt is that of {len(same)} documents" if same else "nor by its prompt"
            raise AlignbenchError(f"{row.where}: not a document of {job.task.name} by its id {identifier!r}, {why}")
        found.append(row.having(id=identifier))
    return found


def _numbered(rows: Sequence[SourceRow]) -> list[SourceRow]:
    """The rows with ids; those without one are numbered by their prompts, or else within their system."""
    numbers, counted, found = dict[object, str](), Counter[str](), []
    taken = {_text(row, "id") for row in rows}
    free = (name for number in count(1) if (name := f"row {number}") not in taken)
    for row in rows:
        prompt, identifier = next(iter(_prompts(row)), ""), _text(row, "id")
        counted[_system(row)] += 1
        if not identifier:
            key = prompt or counted[_system(row)]
            identifier = numbers[key] = numbers.get(key) or next(free)
        found.append(row.having(id=identifier, prompt=prompt))
    return found


def _kind(task: Task, name: str) -> str | None:
    """The kind of scorer of the task whose numbers a column has; None if it is a metric of its own."""
    of_metric = [own.scorer for own in task.metrics if own.name == name]  # "truth+info" is not a kind
    return next((kind for kind in (name, *of_metric) if kind in task.scorer_kinds), None)


def _declared(
    task: Task, label: str, rows: Sequence[SourceRow], scores: Mapping[str, str | None], referenced: bool
) -> dict[str, Any]:
    """How the task of these rows differs from `task`: it has the columns of scores as further metrics."""
    ready = [name for name in scores if _kind(task, name) is None]
    if taken := [metric.name for metric in task.metrics if metric.name in ready]:
        raise AlignbenchError(f"--score {taken[0]}: {task.name} computes it itself; rename the column with --map")
    values = {name: [own for row in rows if (own := _score(row, name)) is not None] for name in ready}
    metrics = [describe_metric(name, own, scores[name]) for name, own in values.items() if own]
    names = [metric.name for metric in metrics]
    if task is not OUTPUTS or label == OUTPUTS.name:
        every = [asdict(metric) for metric in (*task.metrics, *metrics)]
        return {"ready": names, "metrics": every} if names else {}
    kept = [own for own in (*task.metrics, *metrics) if referenced or own.name not in OF_REFERENCES]
    kept.sort(key=lambda own: [own.name != name for name in (*OF_REFERENCES[:1], *scores)])
    return declare(label, kept, corpus=CORPUS if referenced else (), ready=names)


def _score(row: SourceRow, name: str) -> float | None:
    if (value := row.fields[name]) in (None, ""):
        return None
    try:
        if math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError):
        pass
    raise AlignbenchError(f"{row.where}: {name} is {str(value)[:40]!r}, not a number")


def _scorers(task: Task, specs: Sequence[str], given: set[str], device: str) -> tuple[Scorer, ...]:
    """The scorers that the task needs or the user names, without the kinds whose scores are given."""
    assert task.generation is not None
    kinds = (task.generation.scorers, task.generation.optional_scorers)
    needed, optional = (tuple(kind for kind in own if kind not in {*given, READY}) for own in kinds)
    trimmed = replace(task, generation=replace(task.generation, scorers=needed, optional_scorers=optional))
    return choose_scorers([trimmed], specs, device=device)[task.name]


def _scores(row: SourceRow, kinds: Mapping[str, str | None]) -> dict[str, dict[str, float]]:
    """The numbers of each kind of scorer in the columns of a row."""
    found: dict[str, dict[str, float]] = {}
    for name, kind in kinds.items():
        if (value := _score(row, name)) is not None:
            found.setdefault(kind or READY, {})[NUMBERS.get(kind, kind) if kind else name] = value
    return found
