"""Text for terminals and files: without control characters; tables by rich on a terminal, tab-separated elsewhere."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from alignbench.errors import AlignbenchError


def printable(text: str) -> str:
    """Replace control characters, which could drive a terminal: names and reasons come from anywhere."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a rich table on a terminal; elsewhere tab-separated lines with ASCII minus signs, for programs. Cells are
    text, never markup."""
    header, rows = tuple(map(printable, header)), [tuple(map(printable, row)) for row in rows]
    if not sys.stdout.isatty():
        for row in (header, *rows):
            print("\t".join(row).replace("\N{MINUS SIGN}", "-"))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def number(value: float | None, form: str = ".3f") -> str:
    """A number as text with a minus sign, but none before a zero; "–" for None. form: a format specification"""
    if value is None:
        return "–"
    text = f"{value:{form}}"
    if value < 0 and not text.strip("-0."):
        text = f"{abs(value):{form}}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval(low: float | None, high: float | None, form: str = ".3f") -> str:
    """An interval as text, "–" without one."""
    return "–" if low is None or high is None else f"{number(low, form)} … {number(high, form)}"


def csv_cell(value: object) -> object:
    """Text that a spreadsheet would evaluate as a formula gets an apostrophe."""
    if isinstance(value, str):
        return "'" * value.startswith(tuple("=+-@＝＋－＠\t\r")) + printable(value)
    return value


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write numbers unrounded, None as an empty cell (see `write_text`)."""
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header, *([csv_cell(value) for value in row] for row in rows)])
    write_text(file, stream.getvalue())


def write_text(file: Path, text: str, *, with_folder: bool = False) -> None:
    """Write a file, and create its folder if asked. Raises AlignbenchError if it cannot be written."""
    try:
        if with_folder:
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8", "backslashreplace", newline="")
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be written ({error.strerror or error})") from None
