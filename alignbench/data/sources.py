"""A user's own data: one local file, or one split of a data set on the hub. What is wrong in a row is a ValueError."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.data.cards import HubSource
from alignbench.data.fetch import UnreachableError, load_hub, sha256_of
from alignbench.data.rows import read_rows
from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "text"}
HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<split>[^@]+))?(@(?P<revision>[\w./-]+))?")
ASSISTANT = "\n\nAssistant:"  # where the assistant's turns begin in Anthropic's HH data


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row. number: the line on which it starts in a file, its index in a split of the hub; is_text: all cells are
    text (CSV), so that a list in one is JSON"""

    where: str
    number: int
    fields: dict[str, Any]
    is_text: bool = False

    def field(self, *names: str) -> Any:
        """The first of these fields that the row has; ValueError where it has none."""
        for name in names:
            if name in self.fields:
                return self.fields[name]
        raise ValueError(f"no field {' or '.join(names)} (found: {', '.join(self.fields) or 'nothing'})")

    def renamed(self, columns: Mapping[str, str]) -> "SourceRow":
        """The row with the names of `columns` (the file's name -> ours); other columns of those names are dropped.

        Raises AlignbenchError for a column that the row does not have.
        """
        if missing := [name for name in columns if name not in self.fields]:
            raise AlignbenchError(f"{self.where}: no column {missing[0]!r}; there are {', '.join(self.fields)}")
        kept = {name: value for name, value in self.fields.items() if name in columns or name not in columns.values()}
        return replace(self, fields={columns.get(name, name): value for name, value in kept.items()})

    def text(self, name: str) -> str:
        return checked_text(self.field(name), name)

    def list(self, name: str) -> list[Any]:
        """A list; in a file whose cells are text (CSV), a JSON list."""
        value = self.field(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                raise ValueError(f"{name} is text, not a JSON list") from None
        if not isinstance(value, list):
            raise ValueError(f"{name} is {type(value).__name__}, not a list")
        return value


def checked_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {'null' if value is None else type(value).__name__}, not text")
    return value


def checked_messages(value: Any, name: str, role: str | None = None) -> list[dict[str, str]]:
    """Chat messages: role and content of each, both text, at least one; where `role` is given, text is one of it."""
    if isinstance(value, str) and role is not None:
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise ValueError(f"{name} is not {'text or ' if role else ''}a list of messages {{role, content}}")
    return [
        {key: checked_text(message.get(key), f"a {key} in {name}") for key in ("role", "content")} for message in value
    ]


def read_source(source: str) -> list[SourceRow]:
    """The rows of a .jsonl, .json (a list, or lines), .csv or .txt file, also as .gz, or of a split of the hub.

    A hub split is owner/name[:split][@revision], by default `train` of `main`. A .txt file is documents with blank
    lines between, as rows {text}. AlignbenchError: not there, not readable, or without rows.
    """
    if (path := _local_file(source)) is not None:
        rows = _file_rows(path)
    else:
        hub = _hub_source(source)
        data, _ = _load(hub)
        rows = [SourceRow(f"hub {hub.hub} {hub.split} row {n}", n, row) for n, row in enumerate(data)]
    if not rows:
        raise AlignbenchError(f"{source}: no rows")
    return rows


def fingerprint(source: str, rows: int | None = None) -> dict[str, Any]:
    """What pins the data: {source, sha256, rows} of a file, {source, revision, fingerprint, rows} of a hub split.

    A file is named without its folder, so that a record reads the same on every machine. `rows`: where they were
    counted already. `revision` is the commit that was read, null where that cannot be told.
    """
    count = len(read_source(source)) if rows is None else rows
    if (path := _local_file(source)) is not None:
        return {"source": path.name, "sha256": sha256_of(path), "rows": count}
    data, commit = _load(_hub_source(source))
    return {"source": source, "revision": commit, "fingerprint": data._fingerprint, "rows": count}


def shared_prompt(dialogues: Sequence[str]) -> str:
    """What whole dialogues in the form of HH share, to the last "Assistant:" inclusive; ValueError if nothing.

    The form: "\\n\\nHuman: …\\n\\nAssistant: …" (Bai et al., arXiv 2204.05862, the released data).
    """
    shared = os.path.commonprefix(list(dialogues))  # noqa: RUF071 - by characters is what is meant
    end = shared.rfind(ASSISTANT)
    if end < 0:
        raise ValueError('no field prompt, and chosen and rejected share no turns "Human: …", "Assistant:"')
    return shared[: end + len(ASSISTANT)]


def dialogue_messages(dialogue: str) -> list[dict[str, str]]:
    """The chat messages of a dialogue in the form of HH."""
    head, *parts = re.split(r"\n\n(Human|Assistant):", dialogue)
    if head.strip() or not parts:
        raise ValueError("no field prompt, and a dialogue does not begin with a turn of Human or Assistant")
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[::2])
    # HH has blank turns, " ": a labeler preferred silence
    texts = (text.strip() or text for text in parts[1::2])
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def _local_file(source: str) -> Path | None:
    """The file that `source` names; None where it names a data set of the hub."""
    path = Path(source)
    known = _format(path) is not None
    if path.is_file():
        if not known:
            raise AlignbenchError(f"{source}: not a kind of file that is read: {', '.join(FORMATS)}, or these as .gz")
        return path
    if path.is_dir():
        raise AlignbenchError(f"{source}: a folder; name a file in it")
    if known or not HUB.fullmatch(source):
        raise AlignbenchError(f"{source}: no such file, nor a hub data set as owner/name[:split][@revision]")
    return None


def _format(path: Path) -> str | None:
    return FORMATS.get((path.with_suffix("") if path.suffix == ".gz" else path).suffix)


def _file_rows(path: Path) -> list[SourceRow]:
    format = _format(path)
    assert format is not None
    if format == "text":
        ((_, row),) = read_rows(path, "text", None)
        return _documents(row["text"], path)
    if format == "json":
        ((_, row),) = read_rows(path, "text", None)
        format = "json" if row["text"].lstrip().startswith("[") else "jsonl"
    is_text = format in ("csv", "tsv")
    return [SourceRow(f"{path}:{line}", line or 0, row, is_text) for line, row in read_rows(path, format, None)]


def _documents(text: str, path: Path) -> list[SourceRow]:
    found = []
    for match in re.finditer(r"\S.*(\n.*\S.*)*", text.replace("\r\n", "\n")):
        line = text.count("\n", 0, match.start()) + 1
        found.append(SourceRow(f"{path}:{line}", line, {"text": match.group()}))
    return found


def _hub_source(source: str) -> HubSource:
    match = HUB.fullmatch(source)
    assert match is not None
    split, revision = match["split"] or "train", match["revision"] or "main"
    return HubSource(match["name"], revision, None, split, rows=0, schema=None, note=None)


def _load(hub: HubSource) -> "tuple[Dataset, str | None]":
    try:
        return load_hub(hub)
    except UnreachableError as error:
        raise AlignbenchError(f"{error}; name a local file instead, or load it once with a network") from None
