"""Data cards: one Markdown file per data set, with YAML front matter that the loader reads.

A card is the only place that says where a data set comes from, which bytes are meant (sha256 or hub commit), and how
many rows it has, so that a result names the data that it was measured on.
"""

import dataclasses
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from alignbench.errors import AlignbenchError

# The repository root in a checkout, site-packages in an installation.
CARDS_DIR = Path(__file__).resolve().parents[2] / "data_cards"

_ANY_TEXT = r".*\S.*"
_PATTERNS = {  # of the fields that are text; other fields take any text
    "folder": r"[\w.-]+",
    "homepage": r"https?://\S+",
    "file": r"[\w.-]+",
    "format": "json|jsonl|csv|tsv|text",
    "sha256": r"[0-9a-f]{64}",
    "url": r"https?://\S+",
    "hub": r"[\w.-]+/[\w.-]+",
    "revision": r"[0-9a-f]{40}",
}

T = TypeVar("T")


@dataclass(frozen=True)
class FileSource:
    """A file of the data set's authors, from the user's data folder, or downloaded if it has a url.

    sha256: None: any content is accepted, and never counts as pinned
    constant: the file contains the text of this constant of the Python source behind the url
    at: key of the list inside a JSON object
    """

    file: str
    format: str
    rows: int
    sha256: str | None = None
    url: str | None = None
    constant: str | None = None
    at: str | None = None
    note: str | None = None

    @property
    def is_remote(self) -> bool:
        return self.url is not None


@dataclass(frozen=True)
class HubSource:
    """A split of a data set on the Hugging Face hub, at one commit."""

    hub: str
    revision: str
    split: str
    rows: int
    config: str | None = None
    note: str | None = None
    is_remote = True


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
    """The card of that name; AlignbenchError if there is none, or if it is malformed."""
    names = card_names()
    if name not in names:
        raise AlignbenchError(f"no data card {name!r} in {CARDS_DIR}: {did_you_mean(name, names)}")
    path = CARDS_DIR / f"{name}.md"
    match = re.match(r"---\n(.*?)\n---\n(.*)", path.read_text(encoding="utf-8"), re.DOTALL)
    if match is None:
        raise AlignbenchError(f"{path}: a data card starts with YAML front matter between two '---' lines")
    try:
        front = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise AlignbenchError(f"{path}: the front matter is not valid YAML: {reason}") from None
    if not isinstance(front, dict):
        raise AlignbenchError(f"{path}: the front matter must be a mapping of field names to values")
    splits = _splits(front.pop("splits", None), str(path))
    card = _parse(Card, front, str(path), splits=splits, text=match[2].strip())
    if card.name != name:
        raise AlignbenchError(f"{path}: field 'name' is {card.name!r}, but the file is called {name!r}")
    return card


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of an "unknown name" message: the nearest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known) or 'none'}"


def _splits(value: object, where: str) -> dict[str, tuple[Source, ...]]:
    if not isinstance(value, dict) or not value:
        raise AlignbenchError(f"{where}: field 'splits' must map split names to lists of sources")
    for name, sources in value.items():
        if not isinstance(sources, list) or not sources:
            raise AlignbenchError(f"{where}: field 'splits.{name}' must be a list of sources")
    return {
        str(name): tuple(_source(source, f"{where}: splits.{name}[{i}]") for i, source in enumerate(sources))
        for name, sources in value.items()
    }


def _source(value: object, where: str) -> Source:
    if not isinstance(value, dict) or ("file" in value) == ("hub" in value):
        raise AlignbenchError(f"{where}: a source must be a mapping with one of the fields 'file' and 'hub'")
    if "hub" in value:
        return _parse(HubSource, value, where)
    source = _parse(FileSource, value, where)
    if source.url is not None and source.sha256 is None:
        raise AlignbenchError(f"{where}: field 'sha256' is missing: a source with a url needs it")
    return source


def _parse(kind: type[T], values: dict[str, Any], where: str, **known: Any) -> T:
    """A dataclass from a YAML mapping and the `known` fields; AlignbenchError names the field that is wrong."""
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in known}  # type: ignore[arg-type]
    for name, field in fields.items():
        value, pattern = values.get(name), _PATTERNS.get(name, _ANY_TEXT)
        if value is None:
            if field.default is dataclasses.MISSING:
                raise AlignbenchError(f"{where}: field {name!r} is missing")
        elif name == "rows":
            if not isinstance(value, int) or value < 1:
                raise AlignbenchError(f"{where}: field {name!r} is {value!r}, expected a number of rows")
        elif not isinstance(value, str) or not re.fullmatch(pattern, value, re.DOTALL):
            expected = "some text" if pattern == _ANY_TEXT else f"text that matches {pattern}"
            raise AlignbenchError(f"{where}: field {name!r} is {value!r}, expected {expected}")
    if unknown := [name for name in values if name not in fields]:
        raise AlignbenchError(f"{where}: unknown field {unknown[0]!r}")
    return kind(**values, **known)
