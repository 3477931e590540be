"""An audit as tables (terminal, Markdown, LaTeX) and as data (JSON, CSV)."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from alignbench.audit.abilities import DIGITS, name_of, title_of
from alignbench.audit.audit import Audit, Contrast, Front, Row
from alignbench.audit.gate import Decision
from alignbench.console import interval, number, print_table, printable, write_csv, write_text
from alignbench.stats.significance import LEVEL

NONE = "–"
BETTER = {"higher": " ↑", "lower": " ↓", "0.5": " → 0.5", "0": " → 0", "–": ""}
INTERNAL = ("reference_folder", "aligned_folder", "order", "clauses")  # fields that are not part of JSON and CSV
HEADER = (
    "verdict", "task", "metric", "reference", "aligned", "change", "95 % interval", "p", "p (Holm)", "test",
    "relative tax", "MDE", "documents",
)  # fmt: skip
# width of a terminal -> columns that are hidden on narrower ones
HIDDEN = {140: ("p", "test", "relative tax"), 110: ("reference", "aligned", "documents")}
WRAPPED = ("verdict", "task", "metric", "checkpoint", "group", "tasks")
MEAN_HEADER = ("capabilities", "mean tax, % of range", "95 % interval", "verdict", "tasks")
FRONT_HEADER = ("checkpoint", "reward", "95 % interval", "mean tax, % of range", "95 % interval", "front")


@dataclass(frozen=True)
class Table:
    """lead: sentences above the table; notes: below"""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    lead: tuple[str, ...] = ()


def tables(audit: Audit, *, every_metric: bool = False) -> list[Table]:
    """For each contrast its abilities, rows and mean taxes; then the front."""
    found = []
    for contrast in audit.contrasts:
        rows = [row for row in contrast.rows if every_metric or row.headline]
        own = "; each with its own chat template, if it has one" if contrast.templates == "own" else ""
        title = f"{contrast.aligned} against {contrast.reference} ({contrast.role}{own})"
        lead = tuple(own.sentence for own in contrast.abilities)
        notes = tuple(_notes(contrast, rows, audit.margin))
        found.append(Table(title, HEADER, tuple(map(_cells, rows)), notes, lead))
        means = (*contrast.groups, *([contrast.mean] if contrast.mean else []))
        if means:
            title = f"Alignment tax of {contrast.aligned} against {contrast.reference}: positive is a loss"
            cells = [
                ("mean of groups" if mean.name == "all" else mean.name, number(mean.value, "+.2f"),
                 interval(mean.low, mean.high, "+.2f"), mean.verdict, ", ".join(mean.tasks))
                for mean in means
            ]  # fmt: skip
            found.append(Table(title, MEAN_HEADER, tuple(cells)))
    return found if audit.front is None else [*found, _front(audit.front)]


def _notes(contrast: Contrast, rows: Sequence[Row], margin: float) -> Iterable[str]:
    judged = [row for row in contrast.rows if row.primary]
    verdicts = [row.verdict for row in judged]
    counts = ", ".join(f"{name} {verdicts.count(name)}" for name in ("gain", "loss", "retained", "inconclusive"))
    yield f"{counts} (level {LEVEL}, Holm correction for {contrast.tests} test{'s' * (contrast.tests != 1)})"
    if untested := [name_of(row) for row in judged if row.p_holm is None]:
        yield f"there is no test: {', '.join(untested)}"
    if "retained" in verdicts:
        yield f'"retained": the interval excludes a loss of more than {margin:g} % of the metric\'s range (--margin)'
    if "inconclusive" in verdicts:
        yield '"inconclusive" is not "no change": changes below the minimum detectable effect (MDE) are often missed'
    if variants := [name_of(row) for row in rows if row.headline and not row.primary and not row.note]:
        yield f"further variants of a benchmark, reported and not tested: {', '.join(variants)}"
    for note in dict.fromkeys(row.note for row in rows if row.note):
        yield f"{note}: {', '.join(name_of(row) for row in rows if row.note == note)}"
    if any(row.clusters != row.n for row in rows):
        yield "documents: N in G groups, which are resampled as a whole"
    if any(row.left_out for row in rows):
        yield "documents (-k): k that at least one of the two models has no value for are left out"
    if any(row.test == "unpaired" for row in rows):
        yield "unpaired: from the standard errors of the two runs, since the metric cannot be resampled"
    yield from (f"not compared: {line}" for line in contrast.left_out)
    yield from (f"note: {note}" for note in contrast.notes)


def _cells(row: Row) -> tuple[str, ...]:
    digits = f".{DIGITS.get(row.unit, 3)}f"
    # a signature of sacrebleu is only in the files
    scorer = f", by {row.scorer}" if row.scorer and "|" not in row.scorer else ""
    groups = "" if row.clusters == row.n else f" in {row.clusters}"
    return (
        row.verdict,
        f"{row.task} [{row.variant}]" if row.variant else row.task,
        f"{row.metric}, {row.unit}{BETTER[row.better]}{scorer}",
        number(row.reference, digits),
        number(row.aligned, digits),
        number(row.delta, f"+{digits}"),
        interval(row.low, row.high, f"+{digits}"),
        _p(row.p),
        _p(row.p_holm),
        row.test,
        NONE if row.relative_tax is None else f"{number(100 * row.relative_tax, '+.1f')} %",
        number(row.detectable, digits),
        f"{row.n}{groups}" + (f" (-{row.left_out})" if row.left_out else ""),
    )


def _p(value: float | None) -> str:
    return "<.001" if value is not None and value < 0.001 else number(value)


def _front(front: Front) -> Table:
    digits = f".{DIGITS.get(front.unit, 3)}f"
    rows = tuple(
        (point.name, number(point.reward, digits),
         "by definition" if point.by_definition else interval(point.reward_low, point.reward_high, digits),
         number(point.tax, "+.2f"), interval(point.tax_low, point.tax_high, "+.2f"), "yes" if point.on_front else "no")
        for point in sorted(front.points, key=lambda point: -point.reward)
    )  # fmt: skip
    reward, tax = front.reference_point
    title = title_of(front.reward)
    corner = f"{title} {number(reward, 'g')}, tax {number(tax, 'g')} % ({front.why})"
    notes = f"hypervolume {front.hypervolume:.3f} from {corner}", f"tax over {', '.join(front.tasks)}"
    return Table(f"Reward ({title}) and tax relative to {front.reference}", FRONT_HEADER, rows, notes)


def _gate(decisions: Sequence[Decision]) -> Table:
    failed = sum(own.state != "passed" for own in decisions)
    title = f"Gate: {failed} of {len(decisions)} conditions failed" if failed else "Gate: passed"
    cells = ((o.state, o.condition, o.name, f"{o.aligned} against {o.reference}", o.reason) for o in decisions)
    return Table(title, ("gate", "condition", "metric", "models", "reason"), tuple(cells))


def to_terminal(audit: Audit, *, every_metric: bool = False) -> None:
    """Tables that fit the terminal; tab-separated lines elsewhere."""
    for position, table in enumerate(tables(audit, every_metric=every_metric)):
        print(*map(printable, ([""] if position else []) + [table.title, *table.lead]), sep="\n")
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
    narrow = [name for room, names in HIDDEN.items() if console.width < room for name in names]
    hidden = narrow if table.header == HEADER else []
    shown = [place for place, name in enumerate(table.header) if name not in hidden]
    drawn = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in (table.header[place] for place in shown):
        # a number that does not fit ends in an ellipsis, since half of it would be another number
        wraps = name in WRAPPED
        drawn.add_column(name, overflow="fold" if wraps else "ellipsis", min_width=8 * wraps, no_wrap=not wraps)
    for row in table.rows:
        drawn.add_row(*(Text(printable(row[place])) for place in shown))
    console.print(drawn)
    if hidden:
        print(f"hidden on a terminal of this width: {', '.join(hidden)} (see --json, --csv, --markdown, --latex)")


def to_json(audit: Audit) -> str:
    content = asdict(audit, dict_factory=lambda pairs: dict(pair for pair in pairs if pair[0] not in INTERNAL))
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def to_csv(audit: Audit, file: Path) -> None:
    """One line per metric and contrast, unrounded; all metrics."""
    columns = [field.name for field in fields(Row) if field.name not in INTERNAL]
    of_contrast = ("aligned", "reference", "role", "templates")
    rows = [
        [getattr(own, name) for name in of_contrast] + [getattr(row, column) for column in columns]
        for own in audit.contrasts
        for row in own.rows
    ]
    write_csv(file, ["aligned_model", "reference_model", "role", "templates", *columns], rows)


def to_markdown(audit: Audit, file: Path, *, every_metric: bool = False, decisions: Sequence[Decision] = ()) -> None:
    """The tables, after those of the gate's decisions: the summary of a pull request."""
    gate = [] if not decisions else [_gate(decisions)]
    lines = as_markdown([*gate, *tables(audit, every_metric=every_metric)], audit.notes)
    write_text(file, "\n".join(lines).rstrip() + "\n")


def as_markdown(content: Sequence[Table], notes: Sequence[str]) -> list[str]:
    """The lines of tables and of notes below them."""

    def line(cells: Sequence[str], escape: Callable[[str], str] = markdown) -> str:
        return "| " + " | ".join(map(escape, cells)) + " |"

    lines = []
    for table in content:
        lines += [f"### {markdown(table.title)}", "", *(f"- {markdown(own)}" for own in table.lead)]
        lines += [*([""] if table.lead else []), line(table.header), line(["---"] * len(table.header), str)]
        lines += [*map(line, table.rows), "", *(f"- {markdown(note)}" for note in table.notes), ""]
    return lines + [f"- {markdown(note)}" for note in notes]


def to_latex(audit: Audit, file: Path, *, every_metric: bool = False) -> None:
    r"""Tables for \input, with booktabs (`\usepackage{booktabs}`)."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex, cells)) + r" \\"

    lines = [r"% \usepackage{booktabs}"]
    for table in tables(audit, every_metric=every_metric):
        lines += [r"\begin{table}", r"\centering\small", rf"\caption{{{_latex(table.title)}}}"]
        lines += [rf"\par {_latex(own)}" for own in table.lead]
        lines += [rf"\begin{{tabular}}{{{'l' * len(table.header)}}}", r"\toprule", line(table.header), r"\midrule"]
        lines += [*map(line, table.rows), r"\bottomrule", r"\end{tabular}"]
        lines += [*(rf"\par {_latex(note)}" for note in table.notes), r"\end{table}", ""]
    lines += [rf"\par {_latex(note)}" for note in audit.notes]
    write_text(file, "\n".join(lines).rstrip() + "\n")


def markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", printable(text).replace("&", "&amp;"))


_LATEX = str.maketrans(
    {character: "\\" + character for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': r"\textquotedbl{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"–": "--", "−": "$-$", "…": r"\ldots{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\to$"}
)


def _latex(text: str) -> str:
    return printable(text).replace("->", "→").translate(_LATEX)
