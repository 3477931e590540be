"""Tables of rows: a local file, or one split of a data set on the Hugging Face hub.

Every row has the line on which it starts, so that an error names FILE:LINE. CSV and JSON are parsed with the standard
library: pandas and pyarrow do not report this line, pad short rows, and convert text to numbers and dates.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.data.fetch import UnreachableError, load_hub, sha256_of
from alignbench.errors import AlignbenchError, first_line
from alignbench.parse import find_path, finite, open_file, parse_json

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = {f".{name}": name for name in ("jsonl", "json", "csv", "tsv", "parquet")} | {".txt": "text"}
HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<split>[^@]+))?(@(?P<revision>[\w./-]+))?")
TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}

_TOKEN = re.compile(r"[^\s,:]")  # the first character of a token of JSON


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row.

    where: FILE:LINE or the row's number, for error messages
    number: the line on which the row starts in a file, its index in a split of the hub
    is_text: all cells are text (CSV, TSV), so that a list is written as JSON
    """

    where: str
    number: int
    fields: dict[str, Any]
    is_text: bool = False

    @contextmanager
    def located(self) -> Iterator[None]:
        """Report a ValueError about the row as an AlignbenchError that names its place."""
        try:
            yield
        except (ValueError, OverflowError) as error:
            raise AlignbenchError(f"{self.where}: {error}") from None

    def field(self, *names: str) -> Any:
        """The first of these fields that the row has; ValueError if it has none of them."""
        for name in names:
            if name in self.fields:
                return self.fields[name]
        raise ValueError(f"no field {' or '.join(names)} (found: {', '.join(self.fields) or 'nothing'})")

    def having(self, **fields: Any) -> "SourceRow":
        """The row with these fields."""
        return replace(self, fields=self.fields | fields)

    def renamed(self, columns: Mapping[str, str]) -> "SourceRow":
        """The row with renamed columns. Raises AlignbenchError if two columns would have the same name."""
        fields: dict[str, Any] = {}
        for name, value in self.fields.items():
            if (ours := columns.get(name, name)) in fields:
                raise AlignbenchError(f"{self.where}: two columns would be named {ours!r}; map one to another name")
            fields[ours] = value
        return replace(self, fields=fields)

    def text(self, name: str) -> str:
        return checked_text(self.field(name), name)

    def list(self, name: str) -> list[Any]:
        """A list, or text that is a JSON list; ValueError otherwise."""
        value = self.field(name)
        if isinstance(value, str):
            try:
                value = parse_json(value)
            except ValueError:
                raise ValueError(f"{name} is text, not a JSON list") from None
        if not isinstance(value, list):
            raise ValueError(f"{name} is {type(value).__name__}, not a list")
        return value


def read_source(
    source: str, columns: Mapping[str, str] | None = None, *, strings: str | None = None
) -> list[SourceRow]:
    """The rows of a .jsonl, .json (a list, or lines), .csv, .tsv, .txt or .parquet file, or of a split of the hub.

    A file other than .parquet may be compressed as .gz. A .txt file contains documents separated by blank lines, which
    become rows {text}. A hub split is owner/name[:split][@revision], by default `train` of `main`.
    columns: the file's name of a column -> our name; a column may be of another file, if this one has our name for it
    strings: the field of a row of JSON that is a string; None: such a row is refused
    Raises AlignbenchError for a source that does not exist, cannot be read or has no rows, and for unknown `columns`.
    """
    if (path := _local_file(source)) is not None:
        rows = _file_rows(path, strings)
    else:
        where, data, _ = _load_hub(source)
        rows = [SourceRow(f"{where} row {n}", n, row) for n, row in enumerate(data)]
    if not rows:
        raise AlignbenchError(f"{source}: no rows")
    if not columns:
        return rows
    there = dict.fromkeys(name for row in rows for name in row.fields)
    ours = {columns.get(name, name) for name in there}
    if missing := [name for name in columns if name not in there and columns[name] not in ours]:
        raise AlignbenchError(f"{rows[0].where}: no column {missing[0]!r}; there are {', '.join(there)}")
    return [row.renamed(columns) for row in rows]


def fingerprint(source: str, rows: int | None = None) -> dict[str, Any]:
    """What identifies the data: {source, sha256, rows} of a file, {source, revision, fingerprint, rows} of a hub split.

    The source of a file is its name without the folder; the revision is None if it cannot be determined. `rows`: their
    number, if it is known.
    """
    count = len(read_source(source)) if rows is None else rows
    if (path := _local_file(source)) is not None:
        return {"source": path.name, "sha256": sha256_of(path), "rows": count}
    _, data, commit = _load_hub(source)
    return {"source": source, "revision": commit, "fingerprint": data._fingerprint, "rows": count}


def read_rows(
    path: Path, format: str, at: str | None = None, *, number: Callable[[str], Any] = finite, strings: str | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line on which the row starts, row) of a file.

    format: json, jsonl, csv, tsv or text (one row with the whole text); at: key of the list in a JSON object
    number: reads what is not an integer in JSON lines (see `parse_json`); strings: as of `read_source`
    Raises AlignbenchError "FILE:LINE: reason" for content that cannot be parsed.
    """
    text = _read_text(path)
    match format:
        case "json":
            return _json_rows(text, path, at, strings)
        case "jsonl":  # not splitlines(): JSON strings may contain U+2028 and other separators
            lines = ((line, own) for line, own in enumerate(text.split("\n"), 1) if own.strip())
            return ((line, _object(_parse_json(own, path, line, number), path, line, strings)) for line, own in lines)
        case "text":
            return iter([(1, {"text": text})])
    # tab-separated files of the field do not quote: " is a character like any other
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if format == "tsv" else {"strict": True}
    return _table_rows(csv.reader(io.StringIO(text, newline=""), **dialect), path)


def checked_text(value: Any, name: str) -> str:
    """`value`; ValueError if it is not text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {'null' if value is None else type(value).__name__}, not text")
    return value


def _local_file(source: str) -> Path | None:
    """The file that `source` names; None if it names a data set of the hub."""
    path = find_path(source)
    if path.is_dir():
        raise AlignbenchError(f"{source}: a folder; name a file in it")
    if path.is_file() and _format(path) is None:
        raise AlignbenchError(f"{source}: unsupported file type; supported: {', '.join(FORMATS)}, or these as .gz")
    if not path.is_file() and (_format(path) is not None or not HUB.fullmatch(source)):
        raise AlignbenchError(f"{source}: no such file, nor a hub data set as owner/name[:split][@revision]")
    return path if path.is_file() else None


def _format(path: Path) -> str | None:
    return FORMATS.get((path.with_suffix("") if path.suffix == ".gz" else path).suffix)


def _file_rows(path: Path, strings: str | None) -> list[SourceRow]:
    format = _format(path)
    if format == "parquet":
        return [SourceRow(f"{path} row {number}", number, row) for number, row in enumerate(_parquet_rows(path), 1)]
    if format == "text":
        text = _read_text(path).replace("\r\n", "\n")
        found = [(text.count("\n", 0, m.start()) + 1, m[0]) for m in re.finditer(r"\S.*(\n.*\S.*)*", text)]
        return [SourceRow(f"{path}:{line}", line, {"text": document}) for line, document in found]
    if format == "json" and not _read_text(path).lstrip().startswith("["):
        format = "jsonl"
    rows = read_rows(path, format or "", strings=strings)
    return [SourceRow(f"{path}:{line}", line, row, format in ("csv", "tsv")) for line, row in rows]


def _load_hub(source: str) -> "tuple[str, Dataset, str | None]":
    match = HUB.fullmatch(source)
    assert match is not None
    name, split = match["name"], match["split"] or "train"
    try:
        return f"hub {name} {split}", *load_hub(name, None, split, match["revision"] or "main")
    except UnreachableError as error:
        raise AlignbenchError(f"{error}; name a local file, or load it once with a network connection") from None


def _read_text(path: Path) -> str:
    try:
        with open_file(path) as file:
            content = gzip.GzipFile(fileobj=file).read() if path.suffix == ".gz" else file.read()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise AlignbenchError(f"{path}: cannot be read: {reason}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.start does not count a byte order mark, but that contains no newline
        line = error.object.count(b"\n", 0, error.start) + 1
        raise AlignbenchError(f"{path}:{line}: byte 0x{error.object[error.start]:02x} is not UTF-8 text") from None


def _table_rows(reader: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] = []
    line = 1  # on which the next row starts
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:  # a blank line
                continue
            if not header and len(set(cells)) < len(cells):
                raise AlignbenchError(f"{path}:{start}: a column name occurs twice in the header")
            if header and len(cells) != len(header):
                expected = f"{len(header)} ({', '.join(header)})"
                raise AlignbenchError(f"{path}:{start}: {len(cells)} fields, but the header has {expected}")
            if header:
                yield start, dict(zip(header, cells, strict=True))
            header = header or cells
    except csv.Error as error:
        raise AlignbenchError(f"{path}:{line}: {error}") from None


def _json_rows(text: str, path: Path, at: str | None, strings: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    whole, start = _parse_json(text, path), 0
    items = whole.get(at) if isinstance(whole, dict) and at is not None else whole
    if not isinstance(items, list):
        place = "" if at is None else f" under the key {at!r}"
        raise AlignbenchError(f"{path}:1: expected a JSON list{place}, found {TYPES.get(type(items), 'a number')}")
    if items is not whole:
        members = list(_elements(text, 0))  # keys and values in turn
        start = {key: value[0] for (_, key), value in zip(members[::2], members[1::2], strict=True)}[at]
    line, counted = 1, 0
    for (position, _), value in zip(_elements(text, start), items, strict=True):
        line += text.count("\n", counted, position)
        counted = position
        yield line, _object(value, path, line, strings)


def _elements(text: str, start: int) -> Iterator[tuple[int, Any]]:
    """(position, value) of each element of the list, or of each key and value of the object, that begins at `start` or
    after white space; `text` is valid JSON."""
    decode = json.JSONDecoder().raw_decode
    end = next(_TOKEN.finditer(text, start)).end()
    while text[position := next(_TOKEN.finditer(text, end)).start()] not in "]}":
        value, end = decode(text, position)
        yield position, value


def _parse_json(text: str, path: Path, line: int | None = None, number: Callable[[str], Any] = finite) -> Any:
    try:
        return parse_json(text, number=number)
    except ValueError as error:
        where, reason = 1, first_line(error)
        if isinstance(error, json.JSONDecodeError):
            where, reason = error.lineno, f"{error.msg} (column {error.colno})"
        raise AlignbenchError(f"{path}:{line or where}: not valid JSON: {reason}") from None


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    try:
        return list(parquet.read_table(path).to_pylist())
    except Exception as error:  # pyarrow has many classes of errors
        raise AlignbenchError(f"{path}: not a parquet file that can be read ({first_line(error)})") from None


def _object(value: object, path: Path, line: int, strings: str | None) -> dict[str, Any]:
    if isinstance(value, str) and strings is not None:
        return {strings: value}
    if not isinstance(value, dict):
        raise AlignbenchError(f"{path}:{line}: expected a JSON object, found {TYPES.get(type(value), 'a number')}")
    return value
