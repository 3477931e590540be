"""Data cards: one Markdown file for each data set, with YAML front matter that the loader reads.

The card is the single place that says where a data set comes from, which bytes are meant (sha256 or hub
commit), and how many rows it has, so that a score can name exactly what it was measured on.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alignbench.errors import AlignbenchError

# The repository root in a checkout, site-packages in an installation.
CARDS_DIR = Path(__file__).resolve().parents[2] / "data_cards"

FORMATS = ("json", "jsonl", "csv", "tsv", "text")

_ANY_TEXT = r".*\S.*"


@dataclass(frozen=True)
class FileSource:
    """A file of the data set's authors: found in the user's data folder, or downloaded where it has a url."""

    file: str
    format: str  # one of FORMATS
    rows: int
    sha256: str | None  # None: any content is accepted, and never counts as pinned
    url: str | None
    constant: str | None  # the file is the text of this constant in the Python source behind the url
    at: str | None  # key of the list inside a JSON object
    schema: str | None  # row layout, for the task's parser, where a split has more than one
    note: str | None


@dataclass(frozen=True)
class HubSource:
    """A split of a data set on the Hugging Face hub, at one commit."""

    hub: str
    revision: str
    config: str | None
    split: str
    rows: int
    schema: str | None
    note: str | None


Source = FileSource | HubSource


@dataclass(frozen=True)
class Card:
    """One data set. `splits` maps a split's name to its sources, the preferred one first."""

    name: str
    title: str
    folder: str
    paper: str
    homepage: str
    licence: str
    citation: str
    splits: dict[str, tuple[Source, ...]]
    text: str


def card_names() -> list[str]:
    return sorted(path.stem for path in CARDS_DIR.glob("*.md"))


def read_card(name: str) -> Card:
    """The card called `name`; AlignbenchError if there is none, or if it is malformed."""
    names = card_names()
    if name not in names:
        raise AlignbenchError(f"no data card {name!r} in {CARDS_DIR}: {did_you_mean(name, names)}")
    path = CARDS_DIR / f"{name}.md"
    return parse_card(path.read_text(encoding="utf-8"), path)


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of a "no such name" message: the nearest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known) or 'none'}"


def parse_card(content: str, path: Path) -> Card:
    """Read a card's content; `path` gives its name and stands in the errors."""
    match = re.match(r"---\n(.*?)\n---\n(.*)", content, re.DOTALL)
    if match is None:
        raise AlignbenchError(f"{path}: a data card starts with YAML front matter between two '---' lines")
    try:
        front = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise AlignbenchError(f"{path}: the front matter is not valid YAML: {reason}") from None
    if not isinstance(front, dict):
        raise AlignbenchError(f"{path}: the front matter must be a mapping of field names to values")

    fields = _Fields(front, str(path))
    card = Card(
        name=fields.text("name"),
        title=fields.text("title"),
        folder=fields.text("folder", r"[\w.-]+"),
        paper=fields.text("paper"),
        homepage=fields.text("homepage", r"https?://\S+"),
        licence=fields.text("licence"),
        citation=fields.text("citation"),
        splits=_parse_splits(fields.take("splits"), str(path)),
        text=match[2].strip(),
    )
    fields.done()
    if card.name != path.stem:
        raise AlignbenchError(f"{path}: field 'name' is {card.name!r}, but the file is called {path.stem!r}")
    return card


def _parse_splits(value: object, where: str) -> dict[str, tuple[Source, ...]]:
    if not isinstance(value, dict) or not value:
        raise AlignbenchError(f"{where}: field 'splits' must map split names to lists of sources")
    splits: dict[str, tuple[Source, ...]] = {}
    for name, sources in value.items():
        if not isinstance(sources, list) or not sources:
            raise AlignbenchError(f"{where}: field 'splits.{name}' must be a list of sources")
        splits[str(name)] = tuple(
            _parse_source(source, f"{where}: splits.{name}[{i}]") for i, source in enumerate(sources)
        )
    return splits


def _parse_source(value: object, where: str) -> Source:
    if not isinstance(value, dict) or ("file" in value) == ("hub" in value):
        raise AlignbenchError(f"{where}: a source must be a mapping with one of the fields 'file' and 'hub'")
    fields = _Fields(value, where)
    source: Source
    if "file" in value:
        source = FileSource(
            file=fields.text("file", r"[\w.-]+"),
            format=fields.text("format", "|".join(FORMATS)),
            rows=fields.count("rows"),
            sha256=fields.optional_text("sha256", r"[0-9a-f]{64}"),
            url=fields.optional_text("url", r"https?://\S+"),
            constant=fields.optional_text("constant"),
            at=fields.optional_text("at"),
            schema=fields.optional_text("schema"),
            note=fields.optional_text("note"),
        )
        if source.url is not None and source.sha256 is None:
            raise AlignbenchError(f"{where}: field 'sha256' is missing: a source with a url needs it")
    else:
        source = HubSource(
            hub=fields.text("hub", r"[\w.-]+/[\w.-]+"),
            revision=fields.text("revision", r"[0-9a-f]{40}"),
            config=fields.optional_text("config"),
            split=fields.text("split"),
            rows=fields.count("rows"),
            schema=fields.optional_text("schema"),
            note=fields.optional_text("note"),
        )
    fields.done()
    return source


class _Fields:
    """Takes fields out of a YAML mapping one by one, so that errors name the card and the field."""

    def __init__(self, values: dict[Any, Any], where: str) -> None:
        self.left = dict(values)
        self.where = where

    def take(self, field: str) -> object:
        if self.left.get(field) is None:
            raise AlignbenchError(f"{self.where}: field {field!r} is missing")
        return self.left.pop(field)

    def text(self, field: str, pattern: str = _ANY_TEXT) -> str:
        value = self.take(field)
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.DOTALL):
            expected = "some text" if pattern == _ANY_TEXT else f"text that matches {pattern}"
            raise AlignbenchError(f"{self.where}: field {field!r} is {value!r}, expected {expected}")
        return value

    def optional_text(self, field: str, pattern: str = _ANY_TEXT) -> str | None:
        return self.text(field, pattern) if field in self.left else None

    def count(self, field: str) -> int:
        value = self.take(field)
        if not isinstance(value, int) or value < 1:
            raise AlignbenchError(f"{self.where}: field {field!r} is {value!r}, expected a number of rows")
        return value

    def done(self) -> None:
        if self.left:
            raise AlignbenchError(f"{self.where}: unknown field {next(iter(self.left))!r}")
