"""The `alignbench` command that reproduces a task folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from alignbench.audit.references import find
from alignbench.runs.read import Run, TaskRun


def command(run: Run, own: TaskRun, files: Mapping[str, str]) -> str:
    """Return the command, quoted for a POSIX shell.

    files: system -> the file of its outputs, for such baselines. Models and files have their names instead of paths,
    which run folders do not contain.
    """
    make = _score if "outputs" in run.description["model"] else _evaluate
    scorers = own.identity.get("scorers") or ()
    words = make(run, own, files)
    words += [word for entry in scorers for word in ("--scorer", f"{entry['kind']}={entry['name']}")]
    return shlex.join(words)


def _score(run: Run, own: TaskRun, files: Mapping[str, str]) -> list[str]:
    model, read = run.description["model"], run.description.get("read") or {}
    words = ["alignbench", "score", str(model["outputs"]), "--name", str(model["name"])]
    if own.task != "outputs":
        words += ["--task", own.task, *_documents(own)]
    if baseline := _baseline(own):
        words += ["--baseline", files.get(baseline, baseline)]
    for theirs, ours in (read.get("columns") or {}).items():
        words += ["--map", f"{theirs}={ours}"]
    return words + ["--in-order"] * bool(read.get("in_order"))


def _evaluate(run: Run, own: TaskRun, files: Mapping[str, str]) -> list[str]:
    model: dict[str, Any] = run.description["model"]
    engine: dict[str, Any] = run.description.get("engine") or {}
    name = f"{model['name']}@{model['revision']}" if model.get("revision") else str(model["name"])
    name = f"{model['url']}#{model['name']}" if engine.get("kind") == "endpoint" else name
    kind = None if engine.get("kind") in ("local", "endpoint") else engine.get("kind")
    options = {
        "--template": own.result.template,
        "--baseline": _baseline(own),
        "--engine": kind,
        **{f"--{key.replace('_', '-')}": engine.get(key) for key in ("dtype", "device", "token_budget")},
    }
    words = ["alignbench", "evaluate", name, "--tasks", own.task, *_documents(own)]
    for option, given in options.items():
        words += [option, str(given)] if given not in (None, "", "auto") else []
    return words + ["--trust-remote-code"] * bool(model.get("custom_code"))


def _baseline(own: TaskRun) -> str | None:
    return (own.identity.get("baseline") or {}).get("name")


def _documents(own: TaskRun) -> list[str]:
    """Return the options that select the documents and the examples before them."""
    task, result = find(own.task), own.result
    words = ["--shots", str(result.shots)] if task is not None and task.takes_shots else []
    words += [] if result.limit is None else ["--limit", str(result.limit)]
    words += ["--seed", str(result.seed)]
    prompts = [str(part["source"]) for part in own.identity.get("data") or () if not part["card"]]
    return words + (["--prompts", prompts[0]] if prompts else [])
