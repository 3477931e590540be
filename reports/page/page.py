"""The report as one HTML file: no network, no other files, the same bytes for the same runs."""

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignbench.audit.references import task_of
from alignbench.runs.read import Run, TaskRun
from reports.drawing import SYNTHETIC, Drawing, save
from reports.evidence import Evidence, metric_of
from reports.page.data import audit_data, findings, sets_by_folder, sets_of, win_rates
from reports.page.format import interval, pack, value, visible
from reports.page.samples import block_of

HERE = Path(__file__).parent
SIZE = re.compile(r" \(\d[\d,]* \w+ of \d{4}\)|, all [\d,]+ sentences")
SCRIPTS = ("dom.js", "format.js", "audit.js", "sample.js", "task.js", "main.js")  # in the order of their use


def write_page(
    evidence: Evidence, drawn: Sequence[Drawing], left_out: Mapping[str, str], out: Path, title: str
) -> Path:
    """Write out/index.html and return its path.

    drawn: figures; those that `reports.drawing.save` has not yet written to out/figures are written now
    left_out: title -> reason of figures without data
    """
    sets = {task: sets_of(evidence, task) for task in evidence.tasks}
    found = {task: evidence.task(task) for task in evidence.tasks}  # None: this version of alignbench does not know it
    titles = {task: own.title if own else task for task, own in found.items()}
    if evidence.synthetic:  # a title may name the size of the real data set
        titles = {task: f"{SIZE.sub('', title)} ({SYNTHETIC})" for task, title in titles.items()}
    groups = {task: own.group or own.ability if own else "" for task, own in found.items()}
    data = {f"task-{task}-{one.number}": pack(block_of(one)) for task, own in sets.items() for one in own}
    systems = (*evidence.systems, *evidence.intermediate)
    figures = []
    for drawing in drawn:
        files = [out / "figures" / f"{drawing.name}.{kind}" for kind in ("svg", "csv")]
        if not all(file.is_file() for file in files):
            save(drawing, out / "figures")
        picture, table = (file.read_bytes() for file in files)
        data[f"figure-{drawing.name}"] = pack(table.decode("utf-8"))
        figures.append((drawing, Markup(f"data:image/svg+xml;base64,{base64.b64encode(picture).decode('ascii')}")))
    data["core"] = pack(
        audit_data(evidence, sets)
        | {"tasks": {task: {"title": titles[task],
                            "sets": [{"block": f"task-{task}-{one.number}", "note": one.note} for one in own]}
                     for task, own in sets.items()}}
        | {"anchors": {system.name: f"run-{number}" for number, system in enumerate(evidence.systems)}}
    )  # fmt: skip
    files_of = {own.name: str(own.run.description["model"].get("outputs") or own.name) for own in systems}
    commands = {own.path: command(system.run, own, files_of) for system in systems for own in system.tasks}
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    # everything but Markup is escaped, and control characters are made visible
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda content: content if isinstance(content, Markup) else visible(content),
    )  # fmt: skip

    def sha256(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    environment.filters |= {"count": "{:,}".format, "value": value, "interval": interval, "sha256": sha256}
    environment.globals |= {"titles": titles, "groups": groups, "metric_of": metric_of}
    text = environment.get_template("template.html").render(
        title=title, style=Markup(style), script=Markup(script), evidence=evidence, systems=systems, figures=figures,
        left_out=left_out, samples=sets_by_folder(sets), commands=commands, win_rates=win_rates(sets),
        tasks=sorted(sets.items(), key=lambda named: (groups[named[0]], named[0])),
        verdicts=findings(evidence.audit, sets) if evidence.audit else [],
        data={name: Markup(block) for name, block in data.items()},
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    file = out / "index.html"
    file.write_text(text, encoding="utf-8", newline="\n")
    return file


def command(run: Run, own: TaskRun, files: Mapping[str, str]) -> str:
    """Return the command, quoted for a POSIX shell.

    files: system -> the file of its outputs, for such baselines. Models and files have their names instead of paths,
    which run folders do not contain.
    """
    model, result, engine = run.description["model"], own.result, run.description.get("engine") or {}
    baseline = (own.identity.get("baseline") or {}).get("name")
    prompts = [str(part["source"]) for part in own.identity.get("data") or () if not part["card"]]
    task, shots = task_of(own), {"--shots": result.shots}
    documents: dict[str, Any] = {**(shots if task is not None and task.takes_shots else {}), "--limit": result.limit}
    documents |= {"--seed": result.seed, "--prompts": next(iter(prompts), None)}
    if imported := run.description.get("imported_by"):
        return shlex.join(map(str, ["alignbench", *imported]))
    if "outputs" in model:
        read = run.description.get("read") or {}
        words = ["score", model["outputs"]]
        options: dict[str, Any] = {"--name": model["name"]}
        if own.task != "outputs":
            options |= {"--task": own.task, **documents}
        options["--baseline"] = files.get(baseline, baseline) if baseline else None
        mapped = [f"{theirs}={ours}" for theirs, ours in (read.get("columns") or {}).items()]
        last = [word for pair in mapped for word in ("--map", pair)] + ["--in-order"] * bool(read.get("in_order"))
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


def _asset(name: str) -> str:
    text = (HERE / name).read_text(encoding="utf-8").replace("\r\n", "\n")
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), f"{name} would end its own element"
    return text
