"""The `alignbench` command that reproduces a task folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from alignbench.audit.references import find
from alignbench.runs.read import Run, TaskRun


def command(run: Run, own: TaskRun, files: Mapping[str, str]) -> str:
    """Return the command, quoted for a POSIX shell.

    files: system -> the file of its outputs, for such baselines. Models and files have their names instead of paths,
    which run folders do not contain.
    """
    model, result, engine = run.description["model"], own.result, run.description.get("engine") or {}
    baseline = (own.identity.get("baseline") or {}).get("name")
    prompts = [str(part["source"]) for part in own.identity.get("data") or () if not part["card"]]
    task, shots = find(own.task), {"--shots": result.shots}
    documents = {**(shots if task is not None and task.takes_shots else {}), "--limit": result.limit}
    documents |= {"--seed": result.seed, "--prompts": next(iter(prompts), None)}
    if "outputs" in model:
        read = run.description.get("read") or {}
        words = ["score", model["outputs"]]
        options = {"--name": model["name"]}
        if own.task != "outputs":
            options |= {"--task": own.task, **documents}
        options["--baseline"] = files.get(baseline, baseline) if baseline else None
        mapped = [
            word for theirs, ours in (read.get("columns") or {}).items() for word in ("--map", f"{theirs}={ours}")
        ]
        last = mapped + ["--in-order"] * bool(read.get("in_order"))
    else:
        name = f"{model['name']}@{model['revision']}" if model.get("revision") else model["name"]
        kind = engine.get("kind")
        words = ["evaluate", f"{model['url']}#{model['name']}" if kind == "endpoint" else name]
        options = {"--tasks": own.task, **documents, "--template": result.template, "--baseline": baseline}
        options["--engine"] = None if kind in ("local", "endpoint") else kind
        chosen = {key: engine.get(key) for key in ("dtype", "device", "token_budget") if engine.get(key) != "auto"}
        options |= {f"--{key.replace('_', '-')}": setting for key, setting in chosen.items()}
        last = ["--trust-remote-code"] * bool(model.get("custom_code"))
    for option, given in options.items():
        words += [option, given] if given not in (None, "") else []
    scorers = own.identity.get("scorers") or ()
    words += [*last, *(word for entry in scorers for word in ("--scorer", f"{entry['kind']}={entry['name']}"))]
    return shlex.join(map(str, ["alignbench", *words]))
