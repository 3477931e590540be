"""`alignbench evaluate`: models × tasks to run folders with numbers and intervals.

`evaluate` finds every mistake that can be found before any computation (tasks, data, scorers, checkpoints, device),
then goes model by model and task by task. What an earlier run has computed is read from its folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.evaluation.pipeline import Job, run_task
from alignbench.evaluation.sources import LazyEngine, ModelSource
from alignbench.evaluation.thinking import TAGS, find_thinking
from alignbench.evaluation.win_rate import ANSWERS, WIN_RATE, find_answers, find_judge, judge_all, with_verdicts
from alignbench.models.model import Model, choose_engine, find_model
from alignbench.progress import Progress
from alignbench.runs.folder import open_run
from alignbench.scorers.choose import choose_scorers
from alignbench.shards import Shard, find_shard
from alignbench.tasks import find_task
from alignbench.types.engine import Thinking
from alignbench.types.result import RunResult
from alignbench.types.settings import EngineSettings
from alignbench.types.task import Options, Task, TaskData

TEMPLATES = ("auto", "none", "chat")


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
    template_kwargs: Mapping[str, Any] | None = None,
    thinking: str = "auto",
    thinking_tags: str = TAGS,
    thinking_tokens: int | None = None,
    scorers: Sequence[str] = (),
    prompts: str | Path | None = None,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    **engine: Any,
) -> list[RunResult]:
    """Evaluate models on tasks, and store everything in run folders in `out`.

    checkpoints: local folders, hub ids as `owner/name` or `owner/name@revision`, or endpoints as `https://host/v1#model`
    baseline: the checkpoint that the task win_rate compares with
    limit: at most this many documents per task, sampled with `seed`, stratified by category
    shots: examples before every prompt, for the tasks that take them
    template: "chat" makes each prompt a message in the model's chat template, "none" leaves it plain; "auto" is "chat"
        where the model generates answers, if it has a template
    template_kwargs: variables of the chat template, such as {"enable_thinking": False}
    thinking: "strip" takes the block of thoughts out of each output, "keep" leaves it in; "auto" is "strip" where the
        chat template or an output has such a block
    thinking_tags: start and end of the block, "START,END"; thinking_tokens: its limit, apart from the answer's
    scorers: `kind=name[:path]`, such as "toxicity=alt-profanity-check", instead of the default of that kind
    prompts: file of prompts instead of a task's own, for the tasks that take them
    engine: fields of `EngineSettings` (alignbench/types/settings.py), such as engine, dtype, device, concurrency

    Raises AlignbenchError, with one line that says what to fix, for every mistake of the user.
    """
    if template not in TEMPLATES:
        raise AlignbenchError(f"template {template!r}: choose {', '.join(TEMPLATES)}")
    if not checkpoints:
        raise AlignbenchError("no checkpoint given: name a folder or a hub id")
    settings = EngineSettings(**engine)
    device = settings.device
    shard = find_shard(device)
    # only one of several processes reports
    progress = progress if progress is not None and shard.is_main else Progress()
    thoughts = find_thinking(thinking, thinking_tags, thinking_tokens)
    judge = find_judge(tasks, baseline, scorers, device, thoughts)
    # a win rate compares the answers of all models with those of the baseline
    names = [ANSWERS if name == WIN_RATE else name for name in tasks]
    others = [spec for spec in scorers if judge is None or not spec.startswith("preference=")]
    options = Options.of(data_dir, shots, seed, prompts)
    jobs = prepare(names, options, limit=limit, scorers=others, device=device)
    if settings.engine == "auto" and shard.world == 1:
        text_only = all(job.task.generation and not _needs_entropies(job.task) for job in jobs)
        settings = replace(settings, engine=choose_engine(settings, text_only))
    models = [
        find_model(spec, shard=shard, notify=progress.say, template_kwargs=template_kwargs, **asdict(settings))
        for spec in (*checkpoints, *([baseline] if baseline is not None else []))
    ]
    for model in models:
        _check(model, jobs, template, settings.allow_server_sampling)
    evaluate_model = partial(
        _evaluate_model,
        out=Path(out),
        template=template,
        template_kwargs=template_kwargs,
        thinking=thoughts,
        shard=shard,
        progress=progress,
    )
    if judge is None:
        return [evaluate_model(model, jobs) for model in models]
    reference = evaluate_model(models.pop(), [job for job in jobs if job.task.name == ANSWERS])
    runs = [evaluate_model(model, jobs) for model in models]
    systems = [find_answers(run.folder, run.folder_of(ANSWERS)) for run in runs]
    baseline_answers = find_answers(reference.folder, reference.folders[0])
    verdicts = judge_all(shard, systems, baseline_answers, judge, progress)
    return [with_verdicts(run, own, tasks) for run, own in zip(runs, verdicts, strict=True)]


def prepare(
    tasks: Sequence[str],
    options: Options,
    *,
    limit: int | None = None,
    scorers: Sequence[str] | None = (),
    device: str = "cpu",
) -> list[Job]:
    """Load every task's documents and scorers (None: no scorers at all). Raises AlignbenchError for unknown tasks,
    missing data and invalid settings."""
    if not tasks:
        raise AlignbenchError("no task given: see `alignbench tasks`")
    if limit is not None and limit < 1:
        raise AlignbenchError(f"limit {limit}: it must be at least 1")
    if options.shots is not None and options.shots < 0:
        raise AlignbenchError(f"shots {options.shots}: it cannot be negative")
    chosen = [find_task(name) for name in dict.fromkeys(tasks)]
    for setting in ("shots", "prompts"):
        if getattr(options, setting) is not None and not any(getattr(task, f"takes_{setting}") for task in chosen):
            raise AlignbenchError(f"none of {', '.join(task.name for task in chosen)} takes --{setting}")
    loaded = [(task, sample(task.load(options), limit, options.seed)) for task in chosen]
    of_task = {} if scorers is None else choose_scorers(chosen, scorers, device=device)
    return [Job(task, data, limit, options.seed, of_task.get(task.name, ())) for task, data in loaded]


def sample(data: TaskData, limit: int | None, seed: int) -> TaskData:
    """At most `limit` documents, sampled with `seed`, stratified by category, in their original order."""
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


def _needs_entropies(task: Task) -> bool:
    return task.entropies or bool(task.generation and task.generation.sampling.top_entropies)


def _chats(model: Model, job: Job, template: str) -> bool:
    """Whether the task's prompts become messages."""
    plain = job.task.generation is None or job.task.generation.plain
    return template == "chat" or (template == "auto" and model.chat_template and not plain)


def _server_sampling(model: Model, job: Job, chat: bool) -> tuple[dict[str, Any], str]:
    """For an endpoint, the part of a task's identity that says how it samples, and why not from the model's own
    distribution; empty if it does, or samples nothing."""
    if model.sampling is None or job.task.generation is None:
        return {}, ""
    accepted, found = model.sampling(chat, job.task.generation.sampling.temperature > 0)
    if found is None or found.startswith("unmodified"):
        return {"server_sampling": {"neutral": accepted}}, ""
    # without the numbers that were measured, which may differ when the run is resumed
    return {"server_sampling": {"neutral": accepted, "distribution": found.partition(" (")[0]}}, found


def _check(model: Model, jobs: Sequence[Job], template: str, allow_server_sampling: bool = False) -> None:
    """Raise AlignbenchError for what this model cannot do, before any computation."""
    for job in jobs:
        generation = job.task.generation
        if generation is None and not model.scores:
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs log-probabilities of given text, which this endpoint does "
                "not offer; use a task in which the model generates text, or a local checkpoint"
            )
        if generation is None and template == "chat" and model.identity["engine"]["kind"] == "endpoint":
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} scores given text, which no endpoint scores as a reply "
                "to a message; use --template none"
            )
        if _needs_entropies(job.task) and not model.entropies:
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs token entropies, which only the local engine computes; "
                "use a local checkpoint"
            )
    if template == "chat" and not model.chat_template:
        raise AlignbenchError(f"{model.name}: it has no chat template; use --template none")
    for job in jobs if not allow_server_sampling else ():
        _, found = _server_sampling(model, job, _chats(model, job, template))
        if found and job.task.ability == "diversity":
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs samples of the model's own distribution, and that of the "
                f"endpoint is {found}; change the server, or set --allow-server-sampling"
            )


def _evaluate_model(
    model: Model,
    jobs: Sequence[Job],
    out: Path,
    template: str,
    shard: Shard,
    progress: Progress,
    template_kwargs: Mapping[str, Any] | None = None,
    thinking: Thinking | None = None,
) -> RunResult:
    results, folders = [], []
    with open_run(out, model.name, model.identity, shard) as run:
        engine = LazyEngine(model, run, progress)
        for job in jobs:
            chat = _chats(model, job, template)
            source = ModelSource(engine, job.data.prefix, job.seed, chat, thinking)
            identity = job.identity(chat, thinking, template_kwargs) | _server_sampling(model, job, chat)[0]
            result, folder = run_task(source, run, job.task, job.data.documents, job.scorers, identity, progress)
            results.append(result)
            folders.append(folder.path.name)
    return RunResult(model.name, run.path, tuple(results), tuple(folders))
