"""The report as an HTML page: no network, the same bytes for the same runs, and no other files unless it is large."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alignbench.audit.labels import TASK as LABELS
from alignbench.audit.labels import TITLE as LABELS_TITLE
from alignbench.audit.render import BETTER
from alignbench.progress import Progress
from alignbench.tasks.calibration import SUFFIX
from reports.drawing import SYNTHETIC, Drawing, save
from reports.evidence import Evidence
from reports.page.abstract import abstract, on_preference, verdicts_on
from reports.page.data import audit_data, findings, preferences, sets_by_folder, sets_of, win_rates
from reports.page.format import interval, pack, value, visible
from reports.page.samples import blocks_of
from reports.style import themed

HERE = Path(__file__).parent
SIZE = re.compile(r" \(\d[\d,]* \w+ of \d{4}\)|, all [\d,]+ sentences")
ASIDE = re.compile(r" \(.*\)|, (InstructGPT|lm-evaluation-harness)'s form")  # of a title, not in a sentence
SUMMARY = "audit_summary"  # the figure below the verdict
# in the order of their use
SCRIPTS = ("dom.js", "format.js", "audit.js", "diff.js", "sample.js", "markdown.js", "task.js", "main.js")
SINGLE_FILE = 25_000_000  # bytes of packed samples: a page with more has them in files beside it


def write_page(
    evidence: Evidence, drawn: Sequence[Drawing], left_out: Mapping[str, str], out: Path, title: str, *,
    shards: bool | None = None, progress: Progress | None = None,
) -> tuple[Path, list[str]]:  # fmt: skip
    """Write out/index.html completely or not at all; return its path, and the names of its files in out/samples.

    drawn: figures; those that `reports.drawing.save` has not yet written to out/figures are written now
    left_out: title -> reason of figures without data
    shards: write the samples to files in out/samples, which the page reads when a task is opened; None: if there are
        more than SINGLE_FILE bytes of them; False: never, but keep only as many as `reports.page.samples` allows
    """
    progress = progress or Progress()
    sets = {task: sets_of(evidence, task) for task in evidence.tasks}
    found = {task: evidence.task(task) for task in evidence.tasks}  # None: this version of alignbench does not know it
    titles = {task: own.title if own else task for task, own in found.items()}
    if evidence.synthetic:  # a title may name the size of the real data set
        titles = {task: SIZE.sub("", title) for task, title in titles.items()}
    short_titles = {LABELS: LABELS_TITLE} | {task: ASIDE.sub("", title) for task, title in titles.items()}
    if evidence.synthetic:
        titles = {task: f"{title}, {SYNTHETIC}" for task, title in titles.items()}
    groups = {task: own.group or own.ability if own else "" for task, own in found.items()}
    data: dict[str, str] = {}
    progress.start("page", sum(map(len, sets.values())), unit="tables")
    for one in (one for own in sets.values() for one in own):
        content, parts = blocks_of(one, cut=shards is False)
        data[name := f"task-{one.task}-{one.number}"] = pack(content)
        data |= {f"{name}/{number}": pack(part) for number, part in enumerate(parts)}
        progress.advance()
    shards = sum(map(len, data.values())) > SINGLE_FILE if shards is None else shards
    beside = _write_shards(data if shards else {}, out / "samples")
    data = {} if shards else data
    systems = (*evidence.systems, *evidence.intermediate)
    figures = []
    for drawing in drawn:
        files = [out / "figures" / f"{drawing.name}.{kind}" for kind in ("svg", "csv")]
        if not all(file.is_file() for file in files):
            save(drawing, out / "figures")
        picture, table = (file.read_bytes().decode() for file in files)
        data[f"figure-{drawing.name}"] = pack(table)
        address = base64.b64encode(themed(picture).encode()).decode("ascii")
        figures.append((drawing, Markup(f"data:image/svg+xml;base64,{address}")))
    data["core"] = pack(
        audit_data(evidence, sets)
        | {"tasks": {task: {"title": titles[task],
                            "sets": [{"block": f"task-{task}-{one.number}", "note": one.note} for one in own]}
                     for task, own in sets.items()}}
        | {"files": beside, "anchors": {system.name: f"run-{number}" for number, system in enumerate(evidence.systems)}}
    )  # fmt: skip
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
    environment.globals |= {"titles": titles | {LABELS: LABELS_TITLE}, "groups": groups, "ARROWS": BETTER}
    environment.globals |= {"abstract": abstract}
    environment.tests["training_note"] = lambda note: note.startswith("Training ")
    wins, verdicts = win_rates(sets), []
    margin = evidence.audit.margin if evidence.audit else 0.0
    for contrast, by_verdict in findings(evidence.audit, sets) if evidence.audit else ():
        own = preferences(wins, evidence.systems, contrast)
        verdicts.append((contrast, by_verdict, verdicts_on(contrast, sets, short_titles, own, margin)))
    alone = [] if verdicts else on_preference(preferences(wins, evidence.systems, None))
    text = environment.get_template("template.html").render(
        title=title, shards=shards, style=Markup(style), script=Markup(script), evidence=evidence, systems=systems,
        summary=next((own for own in figures if own[0].name == SUMMARY), None),
        figures=[own for own in figures if own[0].name != SUMMARY],
        left_out=left_out, samples=sets_by_folder(sets), win_rates=wins, verdicts=verdicts, alone=alone,
        documents=sum(one.documents for task, own in sets.items() if not task.endswith(SUFFIX) for one in own),
        tasks=sorted(sets.items(), key=lambda named: (groups[named[0]], named[0])),
        data={name: Markup(block) for name, block in data.items()},
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    file, temporary = out / "index.html", out / "index.html.tmp"
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, file)
    return file, [Path(name).name for name in beside.values()]


def _write_shards(blocks: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Write each block to a file of its own, and return block -> file. Files of an earlier page stay.

    A page that was opened from disk cannot fetch: browsers treat every other file as another origin. They do run
    scripts from there, so a file is a script that hands over its block. `'strict-dynamic'` in the page's policy allows
    only scripts that the page's own script adds, for pages from disk as well as from a server; 'self' is not defined
    for pages from disk. Names are hashes of the content, so a page never reads files of another one.
    """
    names = {}
    for block, text in blocks.items():
        script = f'alignbench({json.dumps(block)},"{text}");\n'.encode("ascii")
        names[block] = f"{hashlib.sha256(script).hexdigest()[:32]}.js"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[block]).write_bytes(script)
    return {block: f"{folder.name}/{name}" for block, name in names.items()}


def _asset(name: str) -> str:
    text = (HERE / name).read_text(encoding="utf-8").replace("\r\n", "\n")
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), f"{name} would end its own element"
    return text
