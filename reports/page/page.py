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

from alignbench.audit.references import find
from reports.drawing import Drawing, save
from reports.evidence import Evidence
from reports.page.audits import audit_data
from reports.page.blocks import pack, shown, told, told_interval
from reports.page.preferred import win_rates
from reports.page.provenance import sources
from reports.page.samples import block_of
from reports.page.sets import TaskSet, all_sets, link_to, metric_of
from reports.page.verdict import FIRST, SHORT, counted, methods, title_of, verdicts

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
    sets = all_sets(evidence)
    tasks = [_task(evidence, name, own, data) for name, own in sets.items()]
    tasks.sort(key=lambda task: (task["group"], task["name"]))
    figures = [_figure(drawing, out / "figures", data) for drawing in drawn]
    told_sources = sources(evidence, sets)
    systems = list(zip(evidence.systems, told_sources, strict=False))  # those on the way of a training come after
    data["core"] = pack(
        {
            **audit_data(evidence.audits, sets),
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
        documents=sum(one["documents"] for task in tasks for one in task["sets"]),
        verdicts=[] if audit is None else verdicts(audit, sets),
        methods="" if audit is None else methods(audit),
        preferred=win_rates(sets),
        reference=next(iter(evidence.audits), ""),
        audit=audit,
        figures=figures,
        left_out=left_out,
        notes=evidence.notes,
        sources=told_sources,
        short=SHORT,
        first=FIRST,
        data={name: Markup(block) for name, block in data.items()},
    )
    out.mkdir(parents=True, exist_ok=True)
    file = out / "index.html"
    file.write_text(page, encoding="utf-8", newline="\n")
    return file


def _task(evidence: Evidence, name: str, sets: Sequence[TaskSet], data: dict[str, str]) -> dict[str, Any]:
    """What the overview tells of a task, a line a set; its samples go to `data`."""
    blocks, lines = [], []
    for one in sets:
        key = f"task-{len(data)}"
        data[key] = pack(block_of(one))
        blocks.append({"block": key, "note": one.note})
        line = {"link": link_to(name, one), "note": one.note, "documents": one.documents}
        lines.append({**line, "headline": _headline(evidence, one)})
    task = find(name)
    return {
        "name": name,
        "title": title_of(name),
        "group": "" if task is None else task.group,
        "blocks": blocks,
        "sets": lines,
    }


def _headline(evidence: Evidence, chosen: TaskSet) -> dict[str, Any]:
    """The headline metric of each system of the report: value, interval, n; "–" for those without."""
    task = find(chosen.task)
    every = [m for _, own in chosen.folders for m in own.result.metrics if m.category is None]
    metric = next((m for m in every if task is not None and m.metric == task.headline), next(iter(every), None))
    if metric is None:
        return {"metric": "", "unit": "", "better": "–", "values": [("–", "", "") for _ in evidence.systems]}
    folders = {system.name: own for system, own in chosen.folders}
    values = []
    for system in evidence.systems:
        folder = folders.get(system.name)
        own = None if folder is None else metric_of(folder, metric.metric)
        if folder is None:
            values.append(("–", "", ""))
        elif own is None:  # nothing that it could be told from
            values.append(("–", "", counted(0, folder.result.n - folder.result.n_scored)))
        else:
            interval = told_interval(own.low, own.high, own.unit)
            values.append((told(own.value, own.unit), interval, counted(own.n, own.n_unscored)))
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
