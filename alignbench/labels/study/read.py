"""The labels of a study as rows of a label table, also while it is running."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from alignbench.data.tables import SourceRow
from alignbench.errors import AlignbenchError
from alignbench.parse import find_path

MAGIC = b"SQLite format 3\0"
CURRENT = "s.withdrawn is null and s.answer is not null"
ANSWERED = f"""
  select s.labeler, l."group", i.id, i.prompt_id, i.prompt, s.answer
  from submissions s join items i on i.id = s.item join labelers l on l.name = s.labeler
  where {CURRENT} and (i.gold is not null) = ? order by i.id, s.labeler
"""


def is_study(source: str) -> bool:
    """True if the source is an SQLite file."""
    path = find_path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def study_rows(source: str) -> list[SourceRow]:
    """The current judgements of the study's outputs: a row per labeler, prompt and output. Withdrawn and skipped items
    and the qualification are not among them. Raises AlignbenchError if the file is not a study."""
    with reading(source) as database:
        return [SourceRow(where, number, row) for number, (where, row) in enumerate(_rows(database, source, False), 1)]


def qualification_rows(source: str) -> tuple[list[SourceRow], str | None]:
    """The judgements of the qualification items, with the reference answers; and the name of the reference labeler,
    None if the study has no qualification."""
    with reading(source) as database:
        reference = (value(database, "identity") or {}).get("reference")
        rows = list(_rows(database, source, True)) if reference else []
        for item, prompt_id, prompt, gold in database.execute(
            "select id, prompt_id, prompt, gold from items where gold is not null"
        ).fetchall():
            fields = {"prompt_id": prompt_id, "prompt": prompt, "labeler": reference}
            rows += [(f"{source}: item {item}", fields | own) for own in _labels(database, item, gold)]
    return [SourceRow(where, number, row) for number, (where, row) in enumerate(rows, 1)], reference


@contextmanager
def reading(source: str) -> Iterator[sqlite3.Connection]:
    """A connection that cannot change the study."""
    uri = f"{Path(source).expanduser().resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as database:
            if not database.execute("select 1 from sqlite_master where name = 'submissions'").fetchone():
                raise AlignbenchError(f"{source}: not a study of `alignbench labels serve`")
            yield database
    except sqlite3.Error as error:
        raise AlignbenchError(f"{source}: cannot be read as a study ({error})") from None


def value(database: sqlite3.Connection, name: str) -> Any:
    """A value of the table `study`; None if it is not there."""
    found = database.execute("select value from study where name = ?", (name,)).fetchone()
    return None if found is None else json.loads(found[0])


def _rows(database: sqlite3.Connection, source: str, gold: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for labeler, group, item, prompt_id, prompt, answer in database.execute(ANSWERED, (gold,)).fetchall():
        fields = {"prompt_id": prompt_id, "prompt": prompt, "labeler": labeler, "group": group}
        yield from ((f"{source}: item {item}", fields | own) for own in _labels(database, item, answer))


def _labels(database: sqlite3.Connection, item: int, answer: str) -> list[dict[str, Any]]:
    outputs = database.execute("select model, text from outputs where item = ? order by number", (item,)).fetchall()
    return [
        {"model": model, "output": text} | own for (model, text), own in zip(outputs, json.loads(answer), strict=True)
    ]
