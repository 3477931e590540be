"""The report as one HTML file that needs nothing else: no network, no other file, the same bytes for the same runs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignbench.audit.read import find
from reports.drawing import Drawing, save
from reports.evidence import Evidence, point_of
from reports.page.audits import audit_data
from reports.page.blocks import pack, shown, told, told_interval
from reports.page.provenance import sources
from reports.page.samples import TaskSet, block_of, sets_of
from reports.page.verdict import SHORT, link_to, title_of, verdicts, win_rates

HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "format.js", "audit.js", "sample.js", "task.js", "main.js")  # in the order of their use
ROWS = 50  # of a figure's table that are shown; all are in its CSV


@dataclass(frozen=True)
class ShownFigure:
    """picture: a data URI; table: header and rows, cut to `ROWS`; data: the whole table as CSV, packed"""

    name: str
    title: str
    source: str
    caption: str
    alt: str
    picture: Markup
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int
    block: str


def write_page(
    evidence: Evidence, drawn: Sequence[Drawing], left_out: Sequence[tuple[str, str]], out: Path, title: str
) -> Path:
    """Write out/index.html and say where it is.

    drawn: figures, as `reports.drawing.save` has put them into out/figures; those that are not there are put there
    left_out: title and reason of figures without data
    """
    data: dict[str, str] = {}
    tasks = [_task(evidence, name, data) for name in evidence.tasks]
    tasks.sort(key=lambda task: (task["group"], task["name"]))
    figures = [_figure(drawing, out / "figures", data) for drawing in drawn]
    told_sources = sources(evidence)
    systems = list(zip(evidence.systems, told_sources, strict=False))  # those on the way of a training come after
    data["core"] = pack(
        {
            **audit_data(evidence.audits),
            "tasks": {task["name"]: {"title": task["title"], "sets": task["blocks"]} for task in tasks},
            "anchors": {system.name: source.anchor for system, source in systems},
        }
    )
    audit = next(iter(evidence.audits.values()), None)
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    page = _template().render(
        title=title,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        systems=systems,
        tasks=tasks,
        documents=sum(task["documents"] for task in tasks),
        verdicts=[] if audit is None else verdicts(audit),
        preferred=win_rates(evidence),
        reference=next(iter(evidence.audits), ""),
        audit=audit,
        figures=figures,
        left_out=left_out,
        notes=evidence.notes,
        sources=told_sources,
        short=SHORT,
        data={name: Markup(block) for name, block in data.items()},
    )
    out.mkdir(parents=True, exist_ok=True)
    file = out / "index.html"
    file.write_text(page, encoding="utf-8", newline="\n")
    return file


def _task(evidence: Evidence, name: str, data: dict[str, str]) -> dict[str, Any]:
    """What the overview tells of a task; its samples go to `data`."""
    sets = sets_of(evidence, name)
    blocks = []
    for one in sets:
        key = f"task-{len(data)}"
        data[key] = pack(block_of(one))
        blocks.append({"block": key, "note": one.note})
    task = find(name)
    return {
        "name": name,
        "title": title_of(name),
        "link": link_to(name),
        "group": "" if task is None else task.group,
        "documents": max(own.result.n for _, own in sets[0].folders),
        "blocks": blocks,
        "headline": _headline(evidence, sets[0]),
    }


def _headline(evidence: Evidence, chosen: TaskSet) -> dict[str, Any]:
    """The headline metric of each system of the report; "–" for those without."""
    task = find(chosen.task)
    own = chosen.folders[0][1].result.metrics
    metric = next((m for m in own if task is not None and m.metric == task.headline and m.category is None), None)
    metric = metric or next((m for m in own if m.category is None), None)
    if metric is None:
        return {"metric": "", "unit": "", "better": "–", "values": [("–", "") for _ in evidence.systems]}
    folders = {system.name: (system, run) for system, run in chosen.folders}
    values = []
    for system in evidence.systems:
        point = point_of(*folders[system.name], metric.metric) if system.name in folders else None
        if point is None:
            values.append(("–", ""))
        else:
            interval = told_interval(point.metric.low, point.metric.high, metric.unit)
            values.append((told(point.value, metric.unit), interval))
    return {"metric": metric.metric, "unit": metric.unit, "better": metric.better, "values": values}


def _figure(drawing: Drawing, folder: Path, data: dict[str, str]) -> ShownFigure:
    file = folder / f"{drawing.name}.svg"
    if not file.is_file() or not file.with_suffix(".csv").is_file():
        save(drawing, folder)
    block = f"figure-{drawing.name}"
    data[block] = pack(file.with_suffix(".csv").read_text(encoding="utf-8"))
    rows = [tuple(map(_cell, row)) for row in drawing.table.head(ROWS).itertuples(index=False)]
    picture = base64.b64encode(file.read_bytes()).decode("ascii")
    return ShownFigure(
        drawing.name,
        drawing.title,
        drawing.source,
        drawing.caption,
        drawing.alt,
        Markup(f"data:image/svg+xml;base64,{picture}"),
        tuple(map(str, drawing.table.columns)),
        tuple(rows),
        len(drawing.table),
        block,
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return "–" if value is None else str(value)


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else shown(value),
    )  # fmt: skip
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template("template.html")


def _asset(name: str) -> str:
    text = (HERE / name).read_text(encoding="utf-8").replace("\r\n", "\n")
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), f"{name} would end its own element"
    return text


def _policy(style: str, script: str) -> str:
    """Nothing may be fetched, and nothing may run but this style and this script."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
