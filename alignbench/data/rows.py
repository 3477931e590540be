"""Reading one data file into rows, each with the line that it starts on.

Line numbers are kept so that a bad row can be named as FILE:LINE, where an editor opens it. Data files of
evaluations are small (tens of megabytes), so a file is read whole.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError

Row = tuple[int | None, dict[str, Any]]


def read_rows(path: Path, format: str, at: str | None) -> Iterator[Row]:
    """Yield (1-based line where the row starts, row).

    `format` is json, jsonl, csv, tsv or text; `at` is the key of the list inside a JSON object. A file called
    *.gz is unpacked. What does not parse raises AlignbenchError "FILE:LINE: what is wrong".
    """
    text = _read_text(path)
    if format == "json":
        return _json_rows(text, path, at)
    if format == "jsonl":
        return _jsonl_rows(text, path)
    if format == "csv":
        return _table_rows(csv.reader(io.StringIO(text, newline=""), strict=True), path)
    if format == "tsv":
        # Tab-separated files of the field do not quote: a " is a character like any other.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        return _table_rows(reader, path)
    if format == "text":
        return iter([(1, {"text": text})])
    raise ValueError(f"unknown format {format!r}")


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AlignbenchError(f"{path}: not a whole gzip file: {error}") from None
    except OSError as error:
        raise AlignbenchError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.start counts from after a byte order mark, which holds no newline: the line is right anyway.
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise AlignbenchError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8 text") from None


def _table_rows(reader: Any, path: Path) -> Iterator[Row]:
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise AlignbenchError(f"{path}:{line}: {error}") from None
        if cells is None:
            return
        if not cells:  # a blank line
            continue
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                raise AlignbenchError(f"{path}:{line}: a column name occurs twice in the header")
            continue
        if len(cells) != len(header):
            raise AlignbenchError(
                f"{path}:{line}: {len(cells)} fields, but the header has {len(header)} ({', '.join(header)})"
            )
        yield line, dict(zip(header, cells, strict=True))


def _jsonl_rows(text: str, path: Path) -> Iterator[Row]:
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except json.JSONDecodeError as error:
            reason = f"not valid JSON: {error.msg} (column {error.colno})"
            raise AlignbenchError(f"{path}:{line}: {reason}") from None
        yield line, _object(value, path, line)


def _json_rows(text: str, path: Path, at: str | None) -> Iterator[Row]:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"not valid JSON: {error.msg} (column {error.colno})"
        raise AlignbenchError(f"{path}:{error.lineno}: {reason}") from None
    if at is None:
        items, position = whole, _after_space(text, 0)
    elif isinstance(whole, dict) and at in whole:
        items, position = whole[at], _value_position(text, at)
    else:
        raise AlignbenchError(f"{path}:1: expected a JSON object with a list under the key {at!r}")
    if not isinstance(items, list):
        wanted = "a JSON list" if at is None else f"a JSON list under the key {at!r}"
        raise AlignbenchError(f"{path}:1: expected {wanted}, found {_type_name(items)}")

    # The text is known to be valid: step through the list once more, only to learn where each element starts.
    decode = json.JSONDecoder().raw_decode
    position += 1  # past the "["
    line, counted = 1, 0
    for _ in items:
        position = _after_space(text, position)
        line += text.count("\n", counted, position)
        counted = position
        value, position = decode(text, position)
        yield line, _object(value, path, line)
        position = _after_space(text, position) + 1  # past the "," or "]"


def _value_position(text: str, key: str) -> int:
    """Where the value of `key` starts in the text of a valid JSON object that has the key."""
    decode = json.JSONDecoder().raw_decode
    position = _after_space(text, 0) + 1  # past the "{"
    while True:
        name, position = decode(text, _after_space(text, position))
        position = _after_space(text, _after_space(text, position) + 1)  # past the ":"
        if name == key:
            return position
        _, position = decode(text, position)
        position = _after_space(text, position) + 1  # past the ","


def _after_space(text: str, position: int) -> int:
    match = re.compile(r"[ \t\n\r]*").match(text, position)
    assert match is not None  # the pattern matches the empty string
    return match.end()


def _object(value: object, path: Path, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AlignbenchError(f"{path}:{line}: expected a JSON object, found {_type_name(value)}")
    return value


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
