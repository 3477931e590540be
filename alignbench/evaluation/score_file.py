"""`alignbench score FILE`: outputs that exist already, of any system, in the same run folder as a checkpoint's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignbench.data.fetch import sha256_of
from alignbench.data.tables import read_source
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import prepare
from alignbench.evaluation.pipeline import Job
from alignbench.evaluation.saved import UNKNOWN, Found, own_documents, records_of, write_runs
from alignbench.evaluation.thinking import TAGS, find_thinking
from alignbench.evaluation.win_rate import ANSWERS, choose_judge, find_answers, judge
from alignbench.parse import find_path
from alignbench.progress import Progress
from alignbench.scorers.choose import choose_scorers
from alignbench.shards import require_single_process
from alignbench.tasks.outputs import OUTPUTS
from alignbench.types.result import RunResult
from alignbench.types.settings import TaskSettings


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
        pairs = zip(rows, job.data.documents, strict=True)
        rows = [replace(row, fields=row.fields | {"id": document.id}) for row, document in pairs]
    records = records_of(rows, job, thoughts, by_id=task is not None, skipped=skipped)
    model: dict[str, Any] = {"model": {"name": name, "outputs": file.name, "outputs_sha256": sha256_of(file)}}
    if columns or in_order:  # the same bytes, read differently
        model["read"] = {"columns": dict(columns or {}), "in_order": in_order}
    identity = job.identity(False, thoughts) | UNKNOWN
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
    return replace(own, results=(verdicts.result,), folders=(verdicts.folder.path.name,))
