"""The main path: checkpoints and tasks in, a run folder with numbers and intervals out.

`evaluate` finds every mistake that can be found before any work begins (tasks, data, checkpoints, device), then
goes checkpoint by checkpoint and task by task. What a finished or killed run has already computed is taken from its
folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import Checkpoint, find_checkpoint, load_engine, resolve_device
from alignbench.models.engine import Engine, Loglikelihood, Request
from alignbench.models.local import LocalEngine
from alignbench.progress import Progress
from alignbench.provenance import environment
from alignbench.results import TaskResult, kept, make_record, summarise
from alignbench.runs import RunFolder, TaskFolder, digest, open_run
from alignbench.tasks import find_task
from alignbench.tasks.task import Document, Options, Task, TaskData

# Documents whose requests are planned together. More share more and fill batches better; fewer take less memory.
# It shapes the batches, and with them the last digits, so it is part of a run's identity.
WINDOW = 1024
DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class RunResult:
    """One checkpoint's results, and the folder that holds their records."""

    checkpoint: str
    folder: Path
    results: tuple[TaskResult, ...]


@dataclass(frozen=True)
class Job:
    """A task with its documents drawn: the same for every checkpoint."""

    task: Task
    data: TaskData
    limit: int | None
    seed: int

    def identity(self) -> dict[str, Any]:
        """All that the numbers depend on besides the model; the documents' hash covers data, prompts and seed."""
        return {
            "task": self.task.name,
            "version": self.task.version,
            "shots": self.data.shots,
            "limit": self.limit,
            "seed": self.seed,
            "window": WINDOW,
            "data": [asdict(provenance) for provenance in self.data.provenance],
            "prefix": self.data.prefix,
            "n": len(self.data.documents),
            "documents_sha256": digest({"documents": [asdict(d) for d in self.data.documents]}),
        }


def evaluate(
    checkpoints: Sequence[str],
    tasks: Sequence[str],
    out: str | Path = "runs",
    *,
    limit: int | None = None,
    shots: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    token_budget: int | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> list[RunResult]:
    """Score checkpoints on tasks, and keep everything in run folders below `out`.

    checkpoints: local folders, or hub ids as `owner/name` or `owner/name@revision`
    limit: this many documents of each task, drawn with `seed`
    shots: examples before every prompt, for the tasks that take them
    dtype: "auto" is the checkpoint's own number format
    token_budget: padded tokens of one batch; found by itself if None

    Raises AlignbenchError, with one line that says what to mend, for every mistake of the user's.
    """
    jobs = prepare(tasks, limit=limit, shots=shots, seed=seed, data_dir=data_dir)
    if dtype not in ("auto", *DTYPES):
        raise AlignbenchError(f"dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")
    if token_budget is not None and token_budget < 1:
        raise AlignbenchError(f"token budget {token_budget}: it must be at least 1")
    if not checkpoints:
        raise AlignbenchError("no checkpoint named: give a folder or a hub id")
    found = [find_checkpoint(spec, trust_remote_code=trust_remote_code) for spec in checkpoints]
    device = resolve_device(device)
    progress = progress or Progress()
    runs = []
    for checkpoint in found:
        chosen = checkpoint.dtype if dtype == "auto" else dtype
        if chosen not in DTYPES:
            raise AlignbenchError(f"checkpoint {checkpoint.name}: number format {chosen} is not supported; set --dtype")
        runs.append(_evaluate_checkpoint(checkpoint, jobs, Path(out), chosen, device, token_budget, progress))
    return runs


def prepare(
    tasks: Sequence[str], *, limit: int | None, shots: int | None, seed: int, data_dir: str | Path | None
) -> list[Job]:
    """Load every task's documents. Raises AlignbenchError for unknown tasks, missing data and bad settings."""
    if not tasks:
        raise AlignbenchError("no task named: see `alignbench tasks`")
    if limit is not None and limit < 1:
        raise AlignbenchError(f"limit {limit}: it must be at least 1")
    if shots is not None and shots < 0:
        raise AlignbenchError(f"shots {shots}: it cannot be negative")
    chosen = [find_task(name) for name in dict.fromkeys(tasks)]
    if shots is not None and not any(task.takes_shots for task in chosen):
        raise AlignbenchError(f"none of {', '.join(task.name for task in chosen)} takes --shots")
    options = Options(data_dir=None if data_dir is None else Path(data_dir), shots=shots, seed=seed)
    jobs = []
    for task in chosen:
        data = task.load(options)
        if limit is not None and limit < len(data.documents):
            rows = np.sort(np.random.default_rng(seed).permutation(len(data.documents))[:limit])
            data = replace(data, documents=[data.documents[row] for row in rows])
        jobs.append(Job(task, data, limit, seed))
    return jobs


def _evaluate_checkpoint(
    checkpoint: Checkpoint,
    jobs: Sequence[Job],
    out: Path,
    dtype: str,
    device: str,
    token_budget: int | None,
    progress: Progress,
) -> RunResult:
    model = {key: value for key, value in asdict(checkpoint).items() if key not in ("path", "dtype")}
    settings = {"dtype": dtype, "device": device, "token_budget": token_budget or "auto"}
    identity = {"model": model, "engine": settings}
    engine: LocalEngine | None = None
    results = []
    with open_run(out, checkpoint.name, identity) as run:
        for job in jobs:
            folder = run.task(job.task.name, job.identity())
            finished = folder.result()
            if finished is not None:
                progress.say(f"{checkpoint.name} {job.task.name}: already finished in {folder.path}")
                results.append(TaskResult.from_json(finished))
                continue
            if engine is None:
                progress.say(f"loading {checkpoint.name} ({dtype}, {device})")
                engine = load_engine(
                    checkpoint, dtype=dtype, device=device, token_budget=token_budget, notify=progress.say
                )
                begun = run.describe({**identity, "tokens_a_batch": engine.token_budget, "environment": environment()})
                # a resumed run makes the batches that the run began with, whatever memory is free now
                engine.token_budget = int(begun["tokens_a_batch"])
            results.append(_evaluate_task(engine, job, run, folder, checkpoint.name, progress))
    return RunResult(checkpoint.name, run.path, tuple(results))


def _evaluate_task(
    engine: LocalEngine, job: Job, run: RunFolder, folder: TaskFolder, name: str, progress: Progress
) -> TaskResult:
    """Score the documents that have no record yet, window by window, then sum up and finish the folder."""
    documents = job.data.documents
    order = {document.id: number for number, document in enumerate(documents)}
    if len(order) < len(documents):
        raise AlignbenchError(f"{job.task.name}: two documents have the same id")
    scored: dict[str, dict[str, Any]] = {}
    for record in folder.records():
        scored[record["id"]] = kept(record)
    run.log("start", task=job.task.name, folder=folder.path.name, already=len(scored), environment=environment())
    asked, computed = engine.tokens_asked, engine.tokens_computed
    progress.start(f"{name} {job.task.name}", len(documents), len(scored))
    for begin in range(0, len(documents), WINDOW):
        window = documents[begin : begin + WINDOW]
        missing = {number for number, document in enumerate(window) if document.id not in scored}
        if not missing:
            continue
        for document, answers in _answers(engine, job.data.prefix, window, missing):
            record = make_record(job.task, document, answers)
            folder.append(record)
            scored[document.id] = kept(record)
            progress.advance()
    result = summarise(
        job.task,
        [scored[document.id] for document in documents],
        shots=job.data.shots,
        limit=job.limit,
        seed=job.seed,
    )
    folder.finish(order, asdict(result))
    run.log(
        "finish",
        task=job.task.name,
        folder=folder.path.name,
        layout=engine.layout,
        tokens_asked=engine.tokens_asked - asked,
        tokens_computed=engine.tokens_computed - computed,
        token_budget=engine.token_budget,
    )
    return result


def _answers(engine: Engine, prefix: str, window: Sequence[Document], missing: set[int]) -> Any:
    """Yield each missing document of the window with the answers to all of its choices, once they are there."""
    requests: list[Request] = []
    owners: list[int] = []
    for number, document in enumerate(window):
        requests += [Request(prefix + document.prompt, choice) for choice in document.choices]
        owners += [number] * len(document.choices)
    first = {number: owners.index(number) for number in missing}
    wanted = {index for index, owner in enumerate(owners) if owner in missing}
    waiting: dict[int, dict[int, Loglikelihood]] = {number: {} for number in missing}
    for index, answer in engine.loglikelihood(requests, wanted):
        number = owners[index]
        waiting[number][index - first[number]] = answer
        if len(waiting[number]) == len(window[number].choices):
            answers = waiting.pop(number)
            yield window[number], [answers[choice] for choice in range(len(answers))]
