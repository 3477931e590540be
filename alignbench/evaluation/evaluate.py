"""`alignbench evaluate`: models × tasks to run folders with numbers and intervals.

`evaluate` finds every mistake that can be found before any computation (tasks, data, scorers, checkpoints, device),
then goes model by model and task by task. What an earlier run has computed is read from its folder.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from alignbench import scorers as registered
from alignbench.errors import AlignbenchError
from alignbench.evaluation import best_of_n
from alignbench.evaluation.config import resolve, to_yaml, with_sampling
from alignbench.evaluation.pipeline import Job, run_task
from alignbench.evaluation.sources import ModelSource, lazy_engine
from alignbench.evaluation.thinking import find_thinking
from alignbench.evaluation.win_rate import ANSWERS, WIN_RATE, find_answers, find_judge, judge_all, with_verdicts
from alignbench.models.model import Model, choose_engine
from alignbench.progress import Progress
from alignbench.runs.folder import digest, open_run
from alignbench.runs.read import run_result
from alignbench.scorers.choose import choose_scorers
from alignbench.shards import Shard, find_shard
from alignbench.tasks import find_task
from alignbench.tasks.kl import KL, check_sampling
from alignbench.types.result import RunResult
from alignbench.types.scorer import Scorer
from alignbench.types.settings import EngineSettings, Settings, TaskSettings, with_fields
from alignbench.types.task import Options, Task, TaskData

TEMPLATES = ("auto", "none", "chat")


def evaluate(
    checkpoints: Sequence[str] = (),
    tasks: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[RunResult]:
    """Evaluate models on tasks, and store everything in run folders in `out` (default: runs).

    checkpoints: local folders, hub ids as `owner/name` or `owner/name@revision`, or endpoints as `https://host/v1#model`
    config: YAML file of settings; those that are given here take precedence
    settings: the fields of `Settings`, with those of `TaskSettings` and `EngineSettings`, which
        alignbench/types/settings.py explains: limit, shots, template, gen_kwargs, scorers, engine, device, …

    Raises AlignbenchError, with one line that says what to fix, for every mistake of the user.
    """
    listed = {"checkpoints": checkpoints, "tasks": tasks, "out": out}
    return run(resolve(config, {name: value for name, value in listed.items() if value} | settings), progress)


evaluate.__signature__ = with_fields(inspect.signature(evaluate))  # type: ignore[attr-defined]


def run(settings: Settings, progress: Progress | None = None) -> list[RunResult]:
    """`evaluate` with these settings."""
    if not settings.checkpoints:
        raise AlignbenchError("no checkpoint given: name a folder or a hub id")
    shard = find_shard(settings.device)
    # only one of several processes reports
    progress = progress if progress is not None and shard.is_main else Progress()
    of_task = {name: settings.of_task(name) for name in settings.tasks}
    against = [name for name in (WIN_RATE, KL) if name in of_task]
    if against and settings.baseline is None:
        raise AlignbenchError(f"task {against[0]}: name the model to compare with, as --baseline CHECKPOINT")
    if settings.baseline is not None and not against:
        raise AlignbenchError(f"--baseline {settings.baseline}: it requires --tasks {WIN_RATE} or {KL}")
    judge = find_judge(of_task.get(WIN_RATE), settings.device)
    if judge is not None:  # a win rate compares the answers of all models with those of the baseline
        of_task = {
            ANSWERS if name == WIN_RATE else name: replace(
                own, scorers=tuple(spec for spec in own.scorers if not spec.startswith("preference="))
            )
            for name, own in of_task.items()
        }
    jobs = prepare(of_task, settings.data_dir, device=settings.device)
    for job in jobs:
        if job.task.name == KL:
            check_sampling(job.task)
        if (of_task[job.task.name].samples or 1) > 1 and not job.task.takes("samples"):
            why = "the task has no metric of several samples and checks no answers"
            progress.say(f"{job.task.name}: --samples does not apply: {why}")
    _check_own(settings)
    engine: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(EngineSettings)}
    engine |= {"template_kwargs": settings.template_kwargs, "system": settings.system}
    if settings.engine == "auto" and shard.world == 1:
        text_only = all(job.task.generation and not _needs_entropies(job.task) for job in jobs)
        engine["engine"] = choose_engine(settings, text_only)
    found = []
    for spec in (*settings.checkpoints, *([settings.baseline] if against else [])):
        found.append(best_of_n.find(str(spec), shard=shard, notify=progress.say, **engine))
        check_model(found[-1], jobs, settings.system, allow_server_sampling=settings.allow_server_sampling)
    models, base = (found[:-1], found[-1]) if against else (found, None)
    on_model = partial(evaluate_model, settings=settings, shard=shard, progress=progress)
    answered = [job for job in jobs if job.task.name == ANSWERS]
    reference = on_model(base, answered) if base and judge else None
    loaded = replace(base, open=cache(base.open)) if base else None  # once for all models
    runs = [on_model(model, jobs, base=loaded) for model in models]
    if reference is None or judge is None:
        return runs
    systems = [find_answers(run.folder, run.folder_of(ANSWERS)) for run in runs]
    baseline_answers = find_answers(reference.folder, reference.folders[0])
    verdicts = judge_all(shard, systems, baseline_answers, judge, progress)
    return [with_verdicts(run, own, list(settings.tasks)) for run, own in zip(runs, verdicts, strict=True)]


def prepare(
    settings: Mapping[str, TaskSettings],
    data_dir: str | Path | None = None,
    *,
    device: str = "cpu",
    scored: bool = True,
) -> list[Job]:
    """Load every task's documents and scorers. settings: name of a task -> its settings; scored: load the scorers

    Raises AlignbenchError for unknown tasks, missing data and invalid settings."""
    if not settings:
        raise AlignbenchError("no task given: see `alignbench tasks`")
    tasks = {name: find_task(name) for name in settings}
    for name in ("shots", "prompts", "samples", "gen_kwargs"):
        wanted = [task for task, own in settings.items() if getattr(own, name) not in (None, {})]
        if wanted and not any(tasks[task].takes(name) for task in wanted):
            why = ": they have no metric of several samples and check no answers" if name == "samples" else ""
            raise AlignbenchError(f"none of {', '.join(wanted)} takes --{name.replace('_', '-')}{why}")
    jobs = [_prepare(tasks[name], own, data_dir) for name, own in settings.items()]
    if not scored:
        return jobs
    find, of_task = cache(partial(registered.find_scorer, device=device)), dict[str, tuple[Scorer, ...]]()
    for specs in dict.fromkeys(own.scorers for own in settings.values()):
        of_task |= choose_scorers([job.task for job in jobs if settings[job.task.name].scorers == specs], specs, find)
    return [replace(job, scorers=of_task.get(job.task.name, ())) for job in jobs]


def _prepare(task: Task, own: TaskSettings, data_dir: str | Path | None) -> Job:
    """A job without scorers."""
    if own.template not in TEMPLATES:
        raise AlignbenchError(f"template {own.template!r}: choose {', '.join(TEMPLATES)}")
    if own.limit is not None and own.limit < 1:
        raise AlignbenchError(f"limit {own.limit}: it must be at least 1")
    for name, value in (("shots", own.shots), ("seed", own.seed)):
        if value is not None and value < 0:
            raise AlignbenchError(f"{name} {value}: it cannot be negative")
    thinking = find_thinking(own.thinking, own.thinking_tags, own.thinking_tokens)
    folder, prompts = (None if path is None else Path(path) for path in (data_dir, own.prompts))
    task = with_sampling(task, own.gen_kwargs, own.samples)
    data = sample(task.load(Options(folder, own.shots, own.seed, prompts)), own.limit, own.seed)
    if not data.documents:
        raise AlignbenchError(f"task {task.name}: it has no documents")
    return Job(task, data, own.limit, own.seed, (), own.template, thinking)


def _check_own(settings: Settings) -> None:
    """Raise AlignbenchError for a setting of a single task that this task does not take."""
    for name, own in settings.tasks.items():
        for setting in own:
            if not find_task(ANSWERS if name == WIN_RATE else name).takes(setting):
                raise AlignbenchError(f"task {name}: it takes no {setting}")


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


def _server_sampling(model: Model, job: Job) -> tuple[dict[str, Any], str]:
    """For an endpoint, the part of a task's identity that says how it samples, and why not from the model's own
    distribution; empty if it does, or samples nothing."""
    if model.sampling is None or job.task.generation is None:
        return {}, ""
    accepted, found = model.sampling(job.uses_chat(model.chat_template), job.task.generation.sampling.temperature > 0)
    if found is None or found.startswith("unmodified"):
        return {"server_sampling": {"neutral": accepted}}, ""
    # without the numbers that were measured, which may differ when the run is resumed
    return {"server_sampling": {"neutral": accepted, "distribution": found.partition(" (")[0]}}, found


def check_model(
    model: Model, jobs: Sequence[Job], system: str | None = None, *, allow_server_sampling: bool = False
) -> None:
    """Raise AlignbenchError for what this model cannot do, before any computation."""
    for job in jobs:
        generation = job.task.generation
        if generation is None and not model.scores:
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs log-probabilities of given text, which "
                f"{'best-of-n' if 'best_of_n' in model.identity else 'this endpoint'} does not offer; use a task in "
                "which the model generates text, or a local checkpoint"
            )
        if generation is None and job.template == "chat" and model.identity["engine"]["kind"] == "endpoint":
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} scores given text, which no endpoint scores as a reply "
                "to a message; use --template none"
            )
        if _needs_entropies(job.task) and not model.entropies:
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs token entropies, which only the local engine computes; "
                "use a local checkpoint"
            )
        if job.template == "chat" and not model.chat_template:
            raise AlignbenchError(f"{model.name}: it has no chat template; use --template none")
        found = "" if allow_server_sampling else _server_sampling(model, job)[1]
        if found and job.task.ability == "diversity":
            raise AlignbenchError(
                f"{model.name}: task {job.task.name} needs samples of the model's own distribution, and that of the "
                f"endpoint is {found}; change the server, or set --allow-server-sampling"
            )
    if system is not None and not any(job.uses_chat(model.chat_template) for job in jobs):
        why = "the prompts of these tasks are plain; use --template chat" if model.chat_template else "it has none"
        raise AlignbenchError(f"{model.name}: --system needs a chat template, but {why}")


def evaluate_model(
    model: Model, jobs: Sequence[Job], settings: Settings, shard: Shard, progress: Progress, base: Model | None = None
) -> RunResult:
    """Evaluate one model on jobs, in its run folder. base: the model that the task kl measures the distance from"""
    done = []
    with open_run(settings.out, model.name, model.identity, shard) as run:
        run.keep(to_yaml(settings))
        engine = lazy_engine(model, run, progress)
        for job in jobs:
            chat = job.uses_chat(model.chat_template)
            source = ModelSource(model.name, engine, job.data.prefix, job.seed, chat, job.thinking)
            identity = job.identity(chat, job.thinking, settings.template_kwargs, settings.system)
            identity |= _server_sampling(model, job)[0]
            if job.task.name == KL:
                from alignbench.evaluation.kl import DivergenceSource  # imports torch

                assert base is not None  # else `run` has refused the task
                source = DivergenceSource(source, base.open)
                identity |= {"baseline": {"name": base.name, "sha256": digest(base.identity)}}
            done.append(run_task(source, run, job.task, job.data.documents, job.scorers, identity, progress))
    return run_result(model.name, run.path, done)
