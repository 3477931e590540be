"""An audit as a person reads it (a terminal, Markdown, LaTeX) and as a program does (JSON, CSV)."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO

from alignbench.audit.audit import Audit, Checkpoint, Contrast, Front, MeanTax, Row
from alignbench.console import print_table, printable
from alignbench.errors import AlignbenchError
from alignbench.stats.significance import LEVEL

NONE = "–"
DIGITS = {"share": 3, "bits": 3, "nats": 3, "r": 3, "points": 2, "tokens": 1, "words": 1, "characters": 1, "number": 3}
BETTER = {"higher": " ↑", "lower": " ↓", "0.5": " → 0.5", "0": " → 0", "–": ""}
HEADER = (
    "verdict",
    "task",
    "metric",
    "reference",
    "aligned",
    "change",
    "95 % interval",
    "p",
    "p (Holm)",
    "test",
    "relative tax",
    "seen from",
    "documents",
)
# columns of a terminal -> what a narrower one has no room for
ROOM = {140: ("p", "test", "relative tax"), 110: ("reference", "aligned", "documents")}
WORDS = ("verdict", "task", "metric", "checkpoint", "group", "tasks")  # what may be broken over lines
MEAN_HEADER = ("group", "mean tax, % of range", "95 % interval", "tasks")
FRONT_HEADER = ("checkpoint", "reward", "95 % interval", "mean tax, % of range", "95 % interval", "front")


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(audit: Audit, *, every_metric: bool = False) -> list[Table]:
    """What is shown to people: for each contrast its rows and its mean taxes; then the front."""
    found = []
    for contrast in audit.contrasts:
        rows = [row for row in contrast.rows if every_metric or row.headline]
        title = f"{contrast.aligned} against {contrast.reference} ({_how(contrast)})"
        found.append(Table(title, HEADER, tuple(map(_cells, rows)), _notes(contrast, rows)))
        means = (*contrast.groups, *([contrast.mean] if contrast.mean else []))
        if means:
            tax = f"Tax of {contrast.aligned} against {contrast.reference}: what alignment cost; below 0 it gained"
            found.append(Table(tax, MEAN_HEADER, tuple(map(_mean_cells, means))))
    if audit.front is not None:
        found.append(_front(audit.front))
    return found


def to_terminal(audit: Audit, *, every_metric: bool = False) -> None:
    """Tables on a terminal, cut to its width; lines with tabs elsewhere."""
    for number, table in enumerate(tables(audit, every_metric=every_metric)):
        print(("\n" if number else "") + printable(table.title))
        if sys.stdout.isatty():
            _print_to_fit(table)
        else:
            print_table(table.header, table.rows)
        for note in table.notes:
            print(printable(note))
    for note in audit.notes:
        print(printable(f"note: {note}"))


def _print_to_fit(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    dropped = [name for room, names in ROOM.items() if console.width < room for name in names if table.header == HEADER]
    shown = [place for place, name in enumerate(table.header) if name not in dropped]
    drawn = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place in shown:
        if table.header[place] in WORDS:
            drawn.add_column(table.header[place], overflow="fold", min_width=8)
        else:  # half a number would be another number: it is whole, or it ends in an ellipsis
            drawn.add_column(table.header[place], overflow="ellipsis", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(Text(printable(row[place])) for place in shown))
    console.print(drawn)
    if dropped:
        print(f"not shown on so narrow a terminal: {', '.join(dropped)} (see --json, --csv, --markdown, --latex)")


def to_json(audit: Audit) -> str:
    return json.dumps(asdict(audit), indent=2, ensure_ascii=False, allow_nan=False)


def to_csv(audit: Audit, file: Path) -> None:
    """One line a metric and contrast, unrounded; every metric, whatever the terminal shows."""
    columns = [field.name for field in fields(Row)]
    with _opened(file) as stream:
        writer = csv.writer(stream)
        writer.writerow(["aligned_model", "reference_model", "role", "templates", *columns])
        for contrast in audit.contrasts:
            for row in contrast.rows:
                names = (contrast.aligned, contrast.reference, contrast.role, contrast.templates)
                values = [getattr(row, column) for column in columns]
                writer.writerow([csv_cell(value) for value in (*names, *values)])


def to_markdown(audit: Audit, file: Path, *, every_metric: bool = False) -> None:
    lines = []
    for table in tables(audit, every_metric=every_metric):
        lines += [f"### {_markdown(table.title)}", ""]
        lines += [_markdown_row(table.header), _markdown_row(["---"] * len(table.header), escape=str)]
        lines += [_markdown_row(row) for row in table.rows]
        lines += ["", *(f"- {_markdown(note)}" for note in table.notes), ""]
    lines += [f"- {_markdown(note)}" for note in audit.notes]
    with _opened(file) as stream:
        stream.write("\n".join(lines).rstrip() + "\n")


def to_latex(audit: Audit, file: Path, *, every_metric: bool = False) -> None:
    r"""Tables for \input, with booktabs (`\usepackage{booktabs}`)."""
    lines = ["% \\usepackage{booktabs}"]
    for table in tables(audit, every_metric=every_metric):
        lines += ["\\begin{table}", "\\centering\\small", f"\\caption{{{_latex(table.title)}}}"]
        lines += [
            f"\\begin{{tabular}}{{{'l' * len(table.header)}}}",
            "\\toprule",
            _latex_row(table.header),
            "\\midrule",
        ]
        lines += [_latex_row(row) for row in table.rows]
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"\\par {_latex(note)}" for note in table.notes]
        lines += ["\\end{table}", ""]
    lines += [f"\\par {_latex(note)}" for note in audit.notes]
    with _opened(file) as stream:
        stream.write("\n".join(lines).rstrip() + "\n")


def _how(contrast: Contrast) -> str:
    if contrast.templates == "own":
        return f"{contrast.role}; each with its own chat template, where it has one"
    return contrast.role


def _notes(contrast: Contrast, rows: Sequence[Row]) -> tuple[str, ...]:
    judged = [row for row in contrast.rows if row.verdict != NONE]
    count = {verdict: sum(row.verdict == verdict for row in judged) for verdict in ("gain", "cost", "not decided")}
    family = sum(row.p_holm is not None for row in judged)
    found = [
        f"gains {count['gain']}, costs {count['cost']}, not decided {count['not decided']} "
        f"(p below {LEVEL} by Holm over {family} headline metric{'' if family == 1 else 's'})"
    ]
    if len(judged) > family:
        untested = ", ".join(_name(row) for row in judged if row.p_holm is None)
        found.append(f"not decided for want of a test: {untested}")
    for note in dict.fromkeys(row.note for row in rows if row.note):
        found.append(f"told and not judged, {note}: {', '.join(_name(row) for row in rows if row.note == note)}")
    if count["not decided"]:
        found.append('"not decided" is not "no tax": of changes below "seen from" more than one in five is missed')
    if any(row.clusters != row.n for row in rows):
        found.append("documents: so many in so many groups, which are resampled whole")
    if any(row.left_out for row in rows):
        found.append("documents (-k): k that one of the two models could not be scored on are left out")
    if any(not row.paired for row in rows):
        found.append("unpaired: from the two runs' own standard errors, since the metric cannot be resampled")
    found += [f"not compared: {line}" for line in contrast.left_out]
    return (*found, *(f"note: {note}" for note in contrast.notes))


def _name(row: Row) -> str:
    return f"{row.task}.{row.metric}" + (f" [{row.variant}]" if row.variant else "")


def _cells(row: Row) -> tuple[str, ...]:
    digits = DIGITS.get(row.unit, 3)
    return (
        row.verdict,
        f"{row.task} [{row.variant}]" if row.variant else row.task,
        _metric(row),
        f"{row.reference:.{digits}f}",
        f"{row.aligned:.{digits}f}",
        f"{row.delta:+.{digits}f}",
        _interval(row.low, row.high, digits),
        _p(row.p),
        _p(row.p_holm),
        row.test,
        NONE if row.relative_tax is None else f"{100 * row.relative_tax:+.1f} %",
        NONE if row.detectable is None else f"{row.detectable:.{digits}f}",
        _documents(row),
    )


def _metric(row: Row) -> str:
    """Its name, unit and direction, and the scorer that it was made with; sacrebleu's signature stands in the files."""
    scorer = f", by {row.scorer}" if row.scorer and "|" not in row.scorer else ""
    return f"{row.metric}, {row.unit}{BETTER[row.better]}{scorer}"


def _documents(row: Row) -> str:
    """How many were compared, in how many groups, and how many were not."""
    grouped = "" if row.clusters == row.n else f" in {row.clusters}"
    return f"{row.n}{grouped}" + (f" (-{row.left_out})" if row.left_out else "")


def _mean_cells(mean: MeanTax) -> tuple[str, ...]:
    name = "mean of groups" if mean.name == "all" else mean.name
    return name, f"{mean.value:+.2f}", _interval(mean.low, mean.high, 2), ", ".join(mean.tasks)


def _front(front: Front) -> Table:
    digits = DIGITS.get(front.unit, 3)
    rows = tuple(
        (
            point.name,
            f"{point.reward:.{digits}f}",
            _reward_interval(point, digits),
            f"{point.tax:+.2f}",
            _interval(point.tax_low, point.tax_high, 2),
            "yes" if point.on_front else "no",
        )
        for point in sorted(front.points, key=lambda point: -point.reward)
    )
    reward, tax = front.reference_point
    notes = (
        f"hypervolume {front.hypervolume:.3f} from the reference point {front.reward} {reward:g}, tax {tax:g} % "
        f"({front.why})",
        f"tax over {', '.join(front.tasks)}",
    )
    return Table(f"Reward ({front.reward}) against tax paid by {front.reference}", FRONT_HEADER, rows, notes)


def _reward_interval(point: Checkpoint, digits: int) -> str:
    if point.by_definition:
        return "by definition"
    return NONE if point.reward_low is None else f"{point.reward_low:.{digits}f} … {point.reward_high:.{digits}f}"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return NONE if low is None or high is None else f"{low:+.{digits}f} … {high:+.{digits}f}"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "<.001" if value < 0.001 else f"{value:.3f}"


def csv_cell(value: object) -> object:
    """Empty for None; text that a spreadsheet would take for a formula begins with an apostrophe."""
    if isinstance(value, str):
        return "'" * value.startswith(("=", "+", "-", "@", "\t", "\r")) + printable(value)
    return value


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", printable(text).replace("&", "&amp;"))


def _markdown_row(cells: Sequence[str], escape: Callable[[str], str] = _markdown) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "…": r"\ldots{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text).replace("->", "→"))


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _opened(file: Path) -> TextIO:
    try:
        return file.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be written ({error.strerror or error})") from error
