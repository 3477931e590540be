"""The report as one HTML file: no network, no other files, the same bytes for the same runs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from alignbench.audit.references import find
from reports.drawing import Drawing, save
from reports.evidence import Evidence, metric_of
from reports.page.audit import audit_data, findings, win_rates
from reports.page.command import command
from reports.page.format import interval, pack, value, visible
from reports.page.samples import block_of
from reports.page.sets import sets_by_folder, sets_of

HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "format.js", "audit.js", "sample.js", "task.js", "main.js")  # in the order of their use
MOST_ROWS = 50  # of a figure's table in the page; its CSV has all
SHORT_HASH = 12


def write_page(
    evidence: Evidence, drawn: Sequence[Drawing], left_out: Mapping[str, str], out: Path, title: str
) -> Path:
    """Write out/index.html and return its path.

    drawn: figures; those that `reports.drawing.save` has not yet written to out/figures are written now
    left_out: title -> reason of figures without data
    """
    sets = {task: sets_of(evidence, task) for task in evidence.tasks}
    data = {f"task-{task}-{one.number}": pack(block_of(one)) for task, own in sets.items() for one in own}
    systems = (*evidence.systems, *evidence.intermediate)
    core = {
        **audit_data(evidence, sets),
        "tasks": {
            task: {
                "title": _title(task),
                "sets": [{"block": f"task-{task}-{one.number}", "note": one.note} for one in own],
            }
            for task, own in sets.items()
        },
        "anchors": {system.name: f"run-{number}" for number, system in enumerate(evidence.systems)},
    }
    figures = []
    for drawing in drawn:
        files = [out / "figures" / f"{drawing.name}.{kind}" for kind in ("svg", "csv")]
        if not all(file.is_file() for file in files):
            save(drawing, out / "figures")
        picture, table = (file.read_bytes() for file in files)
        data[f"figure-{drawing.name}"] = pack(table.decode("utf-8"))
        figures.append((drawing, Markup(f"data:image/svg+xml;base64,{base64.b64encode(picture).decode('ascii')}")))
    data["core"] = pack(core)
    outputs = {own.name: str(own.run.description["model"].get("outputs", "")) for own in systems}
    commands = {
        own.path: command(system.run, own, {name: file for name, file in outputs.items() if file})
        for system in systems
        for own in system.tasks
    }
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    text = _template().render(
        title=title,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        evidence=evidence,
        systems=systems,
        tasks=sorted(sets.items(), key=lambda named: (_group(named[0]), named[0])),
        verdicts=findings(evidence.audit, sets) if evidence.audit else [],
        win_rates=win_rates(sets),
        figures=figures,
        left_out=left_out,
        samples=sets_by_folder(sets),
        commands=commands,
        data={name: Markup(block) for name, block in data.items()},
    )
    out.mkdir(parents=True, exist_ok=True)
    file = out / "index.html"
    file.write_text(text, encoding="utf-8", newline="\n")
    return file


def _title(task: str) -> str:
    """Return the task's title, or its name if this version of alignbench does not know it."""
    found = find(task)
    return task if found is None else found.title


def _group(task: str) -> str:
    found = find(task)
    return "" if found is None else found.group


def _cell(content: Any) -> str:
    """Return a cell of a figure's table."""
    if isinstance(content, float):
        return "–" if content != content else f"{content:.4g}"
    return "–" if content is None else str(content)


def _short(text: object) -> str:
    """Return the first digits of a hash; anything shorter, such as a version, unchanged."""
    return str(text or "")[: SHORT_HASH if len(str(text)) >= 40 else None]


def _template() -> Template:
    """Return the page's template: everything but Markup is escaped, and control characters are made visible."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda content: content if isinstance(content, Markup) else visible(content),
    )  # fmt: skip
    environment.filters |= {
        "count": "{:,}".format,
        "value": value,
        "interval": interval,
        "short": _short,
        "cell": _cell,
    }
    environment.globals |= {"title_of": _title, "group_of": _group, "metric_of": metric_of, "MOST_ROWS": MOST_ROWS}
    return environment.get_template("template.html")


def _asset(name: str) -> str:
    text = (HERE / name).read_text(encoding="utf-8").replace("\r\n", "\n")
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), f"{name} would end its own element"
    return text


def _policy(style: str, script: str) -> str:
    """Return the content security policy: nothing is fetched, nothing runs except this style and this script."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
