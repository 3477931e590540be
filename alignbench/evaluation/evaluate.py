"""The main path: models and tasks in, a run folder with numbers and intervals out.

`evaluate` finds every mistake that can be found before any work begins (tasks, data, scorers, checkpoints, device),
then goes model by model and task by task. What a finished or killed run has already computed is taken from its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.evaluation.records import finish, there_already, written_before
from alignbench.evaluation.win_rate import ANSWERS, Contest, find_answers, judge_on_one
from alignbench.evaluation.writing import chunk_size, write_documents
from alignbench.models.model import Model, find_model
from alignbench.progress import Progress
from alignbench.provenance import environment, versions
from alignbench.runs.folder import RunFolder, TaskFolder, digest, open_run
from alignbench.runs.summary import make_record
from alignbench.scorers.choose import choose_scorers, embedder_of
from alignbench.shards import Shard, find_shard
from alignbench.tasks import find_task
from alignbench.types.engine import Engine, Loglikelihood, Request, Sampling
from alignbench.types.result import RunResult, TaskResult
from alignbench.types.scorer import Scorer, ScorerIdentity
from alignbench.types.task import Document, Options, Task, TaskData

# Documents whose requests are planned together. More share more and fill batches better; fewer divide better among
# processes. It shapes the batches, and with them the last digits, so it is part of a run's identity.
WINDOW = 128
TEMPLATES = ("auto", "none", "chat")


@dataclass(frozen=True)
class Job:
    """A task with its documents drawn and its scorers loaded: the same for every model."""

    task: Task
    data: TaskData
    limit: int | None
    seed: int
    scorers: tuple[Scorer, ...] = ()

    def identity(self, chat: bool) -> dict[str, Any]:
        """All that the numbers depend on besides the model; the documents' hash covers data, prompts and seed."""
        identity = {
            "task": self.task.name,
            "version": self.task.version,
            "shots": self.data.shots,
            "limit": self.limit,
            "seed": self.seed,
            "data": [asdict(provenance) for provenance in self.data.provenance],
            "prefix": self.data.prefix,
            "n": len(self.data.documents),
            "documents_sha256": digest({"documents": [asdict(d) for d in self.data.documents]}),
        }
        if self.task.writing is None:
            return identity | {"window": WINDOW}
        return identity | {
            "template": "chat" if chat else "none",
            "sampling": _settings(self.task.writing.sampling),
            "scorers": [asdict(ScorerIdentity.of(scorer)) for scorer in self.scorers],
            "judged_with": versions(),
        }


def _settings(sampling: Sampling) -> dict[str, Any]:
    """All that a continuation depends on: not whether its entropies are told in two ways."""
    return {name: value for name, value in asdict(sampling).items() if name != "top_entropies"}


def evaluate(
    checkpoints: Sequence[str],
    tasks: Sequence[str],
    out: str | Path = "runs",
    *,
    baseline: str | None = None,
    limit: int | None = None,
    shots: int | None = None,
    seed: int = 0,
    template: str = "auto",
    scorers: Sequence[str] = (),
    prompts: str | Path | None = None,
    data_dir: str | Path | None = None,
    engine: str = "local",
    dtype: str = "auto",
    device: str = "auto",
    token_budget: int | None = None,
    concurrency: int = 8,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> list[RunResult]:
    """Score models on tasks, and keep everything in run folders below `out`.

    checkpoints: local folders, hub ids as `owner/name` or `owner/name@revision`, or endpoints as `https://host/v1#model`
    baseline: the checkpoint that the task win_rate compares with
    limit: this many documents of each task, drawn with `seed`, from each category its share
    shots: examples before every prompt, for the tasks that take them
    template: where the model writes, "chat" makes each prompt a message in the model's chat template, "none" leaves it
        plain; "auto" is "chat" where the model has a template
    scorers: `kind=name[:path]`, such as "toxicity=alt-profanity-check", in place of the default of that kind
    prompts: file of prompts in place of a task's own, for the tasks that take them
    engine: "local" or "vllm"
    dtype: "auto" is the checkpoint's own number format
    token_budget: padded tokens of one batch; found by itself if None
    concurrency: requests to an endpoint at the same time

    Raises AlignbenchError, with one line that says what to mend, for every mistake of the user's.
    """
    if template not in TEMPLATES:
        raise AlignbenchError(f"template {template!r}: choose {', '.join(TEMPLATES)}")
    if not checkpoints:
        raise AlignbenchError("no checkpoint named: give a folder or a hub id")
    shard = find_shard(device)
    progress = progress if progress is not None and shard.first else Progress()  # of several processes one speaks
    contest = Contest.find(tasks, baseline, scorers, device)
    jobs = prepare(
        contest.tasks, limit=limit, shots=shots, seed=seed, prompts=prompts, data_dir=data_dir, scorers=contest.scorers,
        device=device,
    )  # fmt: skip
    models = [
        find_model(
            spec,
            engine=engine,
            dtype=dtype,
            device=device,
            token_budget=token_budget,
            concurrency=concurrency,
            trust_remote_code=trust_remote_code,
            shard=shard,
            notify=progress.say,
        )
        for spec in (*checkpoints, *contest.baselines)
    ]
    for model in models:
        _check(model, jobs, template)
    evaluate_model = partial(_evaluate_model, out=Path(out), template=template, shard=shard, progress=progress)
    if contest.judge is None:
        return [evaluate_model(model, jobs) for model in models]
    *others, against = models
    (answers,) = (job for job in jobs if job.task.name == ANSWERS)
    reference = evaluate_model(against, [answers])
    runs = [evaluate_model(model, jobs) for model in others]
    systems = [find_answers(run.folder, run.folder_of(ANSWERS)) for run in runs]
    verdicts = judge_on_one(
        shard, systems, find_answers(reference.folder, reference.folders[0]), contest.judge, progress
    )
    return [contest.place(run, verdict) for run, verdict in zip(runs, verdicts, strict=True)]


def prepare(
    tasks: Sequence[str],
    *,
    limit: int | None,
    shots: int | None,
    seed: int,
    data_dir: str | Path | None,
    prompts: str | Path | None = None,
    scorers: Sequence[str] | None = (),
    device: str = "cpu",
) -> list[Job]:
    """Load every task's documents and scorers (None: no scorers at all). Raises AlignbenchError for unknown tasks,
    missing data and bad settings."""
    if not tasks:
        raise AlignbenchError("no task named: see `alignbench tasks`")
    if limit is not None and limit < 1:
        raise AlignbenchError(f"limit {limit}: it must be at least 1")
    if shots is not None and shots < 0:
        raise AlignbenchError(f"shots {shots}: it cannot be negative")
    chosen = [find_task(name) for name in dict.fromkeys(tasks)]
    if shots is not None and not any(task.takes_shots for task in chosen):
        raise AlignbenchError(f"none of {', '.join(task.name for task in chosen)} takes --shots")
    if prompts is not None and not any(task.takes_prompts for task in chosen):
        raise AlignbenchError(f"none of {', '.join(task.name for task in chosen)} takes --prompts")
    options = Options(
        data_dir=None if data_dir is None else Path(data_dir),
        shots=shots,
        seed=seed,
        prompts=None if prompts is None else Path(prompts),
    )
    loaded = [(task, draw(task.load(options), limit, seed)) for task in chosen]
    of_task = {} if scorers is None else choose_scorers(chosen, scorers, device=device)
    return [Job(task, data, limit, seed, of_task.get(task.name, ())) for task, data in loaded]


def draw(data: TaskData, limit: int | None, seed: int) -> TaskData:
    """`limit` documents drawn with `seed`, in their order: from each category its share, to rounding."""
    total = len(data.documents)
    if limit is None or limit >= total:
        return data
    random = np.random.default_rng(seed)
    shuffled = random.permutation(total)
    by_category = sorted(shuffled.tolist(), key=lambda row: data.documents[row].category or "")  # stable
    # evenly spaced ranks of a list that is sorted by category and shuffled within
    ranks = np.floor((np.arange(limit) + random.random()) * total / limit).astype(int)
    rows = sorted(by_category[rank] for rank in ranks)
    return replace(data, documents=[data.documents[row] for row in rows])


def _check(model: Model, jobs: Sequence[Job], template: str) -> None:
    """Raise AlignbenchError for what this model cannot do, before any work begins."""
    for job in jobs:
        if job.task.writing is None and not model.scores:
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs log-probabilities of given text, which this endpoint does "
                "not offer; use a task in which the model writes, or a local checkpoint"
            )
        sampling = None if job.task.writing is None else job.task.writing.sampling
        if (job.task.entropies or (sampling and sampling.top_entropies)) and not model.entropies:
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs token entropies, which the local engine alone tells; "
                "use a local checkpoint"
            )
    if template == "chat" and not model.chat_template:
        raise AlignbenchError(f"{model.name}: it has no chat template; use --template none")


def _as_chat(job: Job, model: Model, template: str) -> bool:
    plain = job.task.writing is not None and job.task.writing.plain
    return template == "chat" or (template == "auto" and model.chat_template and not plain)


def _evaluate_model(
    model: Model, jobs: Sequence[Job], out: Path, template: str, shard: Shard, progress: Progress
) -> RunResult:
    engine: Engine | None = None
    results, folders = [], []
    with open_run(out, model.name, model.identity, shard) as run:
        for job in jobs:
            chat = _as_chat(job, model, template)
            identity = job.identity(chat)
            folder = run.task(job.task.name, identity)
            folders.append(folder.path.name)
            finished = folder.result()
            if finished and finished["unscored"] and any(place.transient for place in folder.places().values()):
                progress.say(f"{model.name} {job.task.name}: asking again for what got lost on the way")
                finished = None
            shard.wait()
            if finished is None and shard.first:
                folder.reopen()
            shard.wait()
            if finished is not None:
                progress.say(f"{model.name} {job.task.name}: already finished in {folder.path}")
                results.append(TaskResult.from_json(finished))
                continue
            if engine is None:
                progress.say(f"loading {model.name}")
                engine = model.open()
                budget = getattr(engine, "token_budget", None)  # of the local engine
                begun = run.describe(
                    {
                        **model.identity,
                        **model.about,
                        "vocabulary_sha256": getattr(engine, "vocabulary_sha256", None),
                        "tokens_a_batch": budget,
                        "environment": environment(),
                    }
                )
                if budget is not None:
                    # a resumed run makes the batches that the run began with, whatever memory is free now
                    engine.token_budget = int(begun["tokens_a_batch"])  # type: ignore[attr-defined]
            results.append(_evaluate_task(engine, job, run, folder, identity, chat, model.name, progress))
    return RunResult(model.name, run.path, tuple(results), tuple(folders))


def _evaluate_task(
    engine: Engine,
    job: Job,
    run: RunFolder,
    folder: TaskFolder,
    identity: Mapping[str, Any],
    chat: bool,
    name: str,
    progress: Progress,
) -> TaskResult:
    """Score this process's documents that have no record yet; when all processes have, sum up and finish the folder."""
    task, documents, shard = job.task, job.data.documents, run.shard
    order = {document.id: number for number, document in enumerate(documents)}
    if len(order) < len(documents):
        raise AlignbenchError(f"{task.name}: two documents have the same id")
    size = WINDOW if task.writing is None else chunk_size(task)
    mine = [document for number, document in enumerate(documents) if shard.owns(number // size)]
    places = folder.places()
    whole = {document.id for document in mine if document.id in places and places[document.id].whole}
    others = written_before(run, folder, identity) if task.writing is not None else {}
    shard.wait()  # nobody writes while another reads
    run.log("start", task=task.name, folder=folder.path.name, already=len(whole), environment=environment())
    before = engine.work()
    progress.start(f"{name} {task.name}", len(mine), len(whole))
    if task.writing is None:
        _score_choices(engine, job, documents, shard, whole, folder, progress)
    else:
        done, earlier = there_already(mine, size, places, others)
        write_documents(
            engine, task, job.data, mine, job.scorers, folder, progress,
            seed=job.seed, chat=chat, done=done, earlier=earlier,
        )  # fmt: skip
    shard.wait()
    if shard.first:
        used = [ScorerIdentity.of(scorer) for scorer in job.scorers]
        told = None if task.writing is None else str(identity["template"])
        finish(
            task, folder, order, shots=job.data.shots, limit=job.limit, seed=job.seed, scorers=used, template=told,
            embedder=embedder_of(job.scorers),
        )  # fmt: skip
    shard.wait()
    work = {
        key: value - before[key] if isinstance(value, int) and isinstance(before.get(key), int) else value  # type: ignore[operator]
        for key, value in engine.work().items()
    }
    run.log("finish", task=task.name, folder=folder.path.name, **work)
    return TaskResult.from_json(folder.result() or {})


def _score_choices(
    engine: Engine,
    job: Job,
    documents: Sequence[Document],
    shard: Shard,
    scored: set[str],
    folder: TaskFolder,
    progress: Progress,
) -> None:
    """Score this process's windows."""
    for number, begin in enumerate(range(0, len(documents), WINDOW)):
        window = documents[begin : begin + WINDOW]
        missing = {number for number, document in enumerate(window) if document.id not in scored}
        if not missing or not shard.owns(number):
            continue
        for document, answers in _answers(engine, job.data.prefix, window, missing, job.task.entropies):
            folder.append(make_record(job.task, document, answers))
            progress.advance()


def _answers(
    engine: Engine, prefix: str, window: Sequence[Document], missing: set[int], entropies: bool
) -> Iterator[tuple[Document, list[Loglikelihood]]]:
    """Yield each missing document of the window with the answers to all of its choices, once they are there."""
    requests: list[Request] = []
    owners: list[int] = []
    for number, document in enumerate(window):
        requests += [Request(prefix + document.prompt, choice, entropies) for choice in document.choices]
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
