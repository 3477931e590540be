"""Where each number came from: what was run, with which data and scorers, and the command that would do it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.audit.references import find
from alignbench.runs.read import Run, TaskRun
from reports.evidence import Evidence, System
from reports.page.sets import Sets, link_to

SHORT = 12  # digits of a hash on the page
SOFTWARE = (
    "alignbench",
    "commit",
    "dirty",
    "python",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
)
Fact = tuple[str, str]


@dataclass(frozen=True)
class TaskSource:
    """One folder of records.

    link: to its samples, "" where they are not in the page; facts: (name, value), in the order of the page; command:
        for a shell
    """

    task: str
    link: str
    folder: str
    facts: tuple[Fact, ...]
    command: str


@dataclass(frozen=True)
class SystemSource:
    """A system. anchor: of its place on the page."""

    name: str
    anchor: str
    folder: str
    facts: tuple[Fact, ...]
    tasks: tuple[TaskSource, ...]


def sources(evidence: Evidence, sets: Sets) -> list[SystemSource]:
    """One entry a system, those on the way of a training, too."""
    systems = (*evidence.systems, *evidence.on_the_way)
    files = {
        system.run.name: str(_model(system.run)["outputs"]) for system in systems if "outputs" in _model(system.run)
    }
    links = {own.path: link_to(one.task, one) for many in sets.values() for one in many for _, own in one.folders}
    return [_system(system, f"run-{number}", files, links) for number, system in enumerate(systems)]


def _system(system: System, anchor: str, files: Mapping[str, str], links: Mapping[Path, str]) -> SystemSource:
    run = system.run
    tasks = tuple(
        TaskSource(own.task, links.get(own.path, ""), own.path.name, tuple(_task_facts(own)), command(run, own, files))
        for own in system.tasks
    )
    return SystemSource(system.name, anchor, run.path.name, tuple(_system_facts(system)), tasks)


def _system_facts(system: System) -> list[Fact]:
    told, model = system.run.description, _model(system.run)
    engine, environment = told.get("engine") or {}, told.get("environment") or {}
    facts: list[Fact] = [("model", str(model["name"]))]
    if "outputs" in model:
        facts += [("outputs of the file", str(model["outputs"])), ("sha256", _short(model.get("outputs_sha256")))]
    else:
        facts += [
            ("revision", str(model.get("revision") or "a local folder")),
            ("weights sha256", _short(model.get("weights_sha256"))),
            ("tokenizer sha256", _short(model.get("tokenizer_sha256"))),
            ("chat template sha256", _short(model.get("chat_template_sha256"))),
            ("engine", " ".join(str(engine[key]) for key in ("kind", "dtype", "device") if engine.get(key))),
        ]
    if system.run.lineage:
        facts.append(("lineage", " → ".join(f"{step['stage']}: {step['name']}" for step in system.run.lineage)))
    if system.training:
        shown = (f"{key} {value:.4g}" for key, value in system.training.items() if isinstance(value, float | int))
        facts.append(("training", ", ".join(shown)))
    software = [
        f"{name} {_short(environment[name])}" for name in SOFTWARE if environment.get(name) not in (None, "", False)
    ]
    facts.append(("software", ", ".join(part.replace("dirty True", "with local changes") for part in software)))
    facts.append(("machine", str(environment.get("machine") or "")))
    return [(name, value) for name, value in facts if value]


def _task_facts(own: TaskRun) -> list[Fact]:
    told, result = own.identity, own.result
    data = (
        " ".join(
            [str(part["card"] or part["source"]), str(part["split"]), f"revision {_short(part['revision'])}"]
            + ([] if part.get("pinned") else ["(not the pinned one)"])
        )
        for part in told.get("data") or ()
    )
    scorers = (f"{entry['kind']}: {entry['name']}@{_short(entry['revision'])}" for entry in told.get("scorers") or ())
    sampling, unscored = told.get("sampling") or {}, result.n - result.n_scored
    facts: list[Fact] = [
        ("documents", f"{result.n:,}" + (f", {unscored:,} unscored" if unscored else "")),
        ("documents sha256", _short(told.get("documents_sha256"))),
        ("data", "; ".join(data)),
        ("task version", str(result.version)),
        ("scorers", "; ".join(scorers)),
        ("template", str(result.template or "")),
        ("sampling", ", ".join(f"{key} {value}" for key, value in sampling.items() if value not in (None, [], ()))),
        ("shots", str(result.shots)),
        ("limit", "none" if result.limit is None else f"{result.limit:,}"),
        ("seed", str(result.seed)),
        ("baseline", str((told.get("baseline") or {}).get("name") or "")),
        ("judged with", ", ".join(f"{name} {version}" for name, version in (told.get("judged_with") or {}).items())),
    ]
    return [(name, value) for name, value in facts if value]


def command(run: Run, own: TaskRun, files: Mapping[str, str]) -> str:
    """The `alignbench` command that would make this folder again, quoted for a POSIX shell.

    files: system -> the file of its outputs, for baselines that are such. Run folders do not hold where things lay on
    a disk: models and files are called by their names.
    """
    words = _score(run, own, files) if "outputs" in _model(run) else _evaluate(run, own)
    return shlex.join(words)


def _score(run: Run, own: TaskRun, files: Mapping[str, str]) -> list[str]:
    model = _model(run)
    read: dict[str, Any] = run.description.get("read") or {}
    words = ["alignbench", "score", str(model["outputs"]), "--name", str(model["name"])]
    if own.task != "outputs":
        words += ["--task", own.task, *_drawn(own)]
    baseline = (own.identity.get("baseline") or {}).get("name")
    if baseline:
        words += ["--baseline", files.get(baseline, baseline)]
    for theirs, ours in (read.get("columns") or {}).items():
        words += ["--map", f"{theirs}={ours}"]
    return words + (["--in-order"] if read.get("in_order") else []) + _judges(own)


def _evaluate(run: Run, own: TaskRun) -> list[str]:
    model = _model(run)
    engine: dict[str, Any] = run.description.get("engine") or {}
    name = f"{model['name']}@{model['revision']}" if model.get("revision") else str(model["name"])
    name = f"{model['url']}#{model['name']}" if engine.get("kind") == "endpoint" else name
    words = ["alignbench", "evaluate", name, "--tasks", own.task, *_drawn(own)]
    if own.result.template:
        words += ["--template", own.result.template]
    baseline = (own.identity.get("baseline") or {}).get("name")
    if baseline:
        words += ["--baseline", baseline]
    words += _judges(own)
    if engine.get("kind") not in (None, "local", "endpoint"):
        words += ["--engine", str(engine["kind"])]
    for key, option, default in (
        ("dtype", "--dtype", "auto"), ("device", "--device", "auto"), ("token_budget", "--token-budget", "auto"),
    ):  # fmt: skip
        if engine.get(key) not in (None, default):
            words += [option, str(engine[key])]
    return words + (["--trust-remote-code"] if model.get("custom_code") else [])


def _drawn(own: TaskRun) -> list[str]:
    """Which documents, and what stands before them."""
    task, result = find(own.task), own.result
    words = ["--shots", str(result.shots)] if task is not None and task.takes_shots else []
    words += [] if result.limit is None else ["--limit", str(result.limit)]
    words += ["--seed", str(result.seed)]
    prompts = [str(part["source"]) for part in own.identity.get("data") or () if not part["card"]]
    return words + (["--prompts", prompts[0]] if prompts else [])


def _judges(own: TaskRun) -> list[str]:
    scorers: Sequence[Mapping[str, Any]] = own.identity.get("scorers") or ()
    return [word for entry in scorers for word in ("--scorer", f"{entry['kind']}={entry['name']}")]


def _model(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.description["model"]
    return found


def _short(value: object) -> str:
    """The first digits of a hash; anything shorter, such as a version, whole."""
    text = str(value or "")
    return text[:SHORT] if len(text) >= 40 else text
