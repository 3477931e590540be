"""Data cards: one Markdown file per data set; its front matter says where it comes from, which bytes are meant (a
sha256 or a hub commit), and the number of rows."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PositiveInt, Tag, ValidationError, model_validator

from alignbench.errors import AlignbenchError, first_line
from alignbench.parse import parse_yaml, read_text

# The repository root in a checkout, site-packages in an installation.
CARDS_DIR = Path(__file__).resolve().parents[2] / "data_cards"

Text = Annotated[str, Field(pattern=r"\S")]
FileName = Annotated[str, Field(pattern=r"^[\w.-]+$")]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FileSource(_Fields):
    """A file of the data set's authors, from the user's data folder, or downloaded if it has a url.

    sha256: None: any content is accepted, and never counts as pinned
    constant: the file contains the text of this constant of the Python source behind the url
    at: key of the list inside a JSON object
    """

    file: FileName
    format: Literal["json", "jsonl", "csv", "tsv", "text"]
    rows: PositiveInt
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    url: Url | None = None
    constant: Text | None = None
    at: Text | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def _downloads_are_pinned(self) -> Self:
        if self.url is not None and self.sha256 is None:
            raise ValueError("a source with a url needs a sha256")
        return self


class HubSource(_Fields):
    """A split of a data set on the Hugging Face hub, at one commit."""

    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    split: Text
    rows: PositiveInt
    config: Text | None = None
    note: Text | None = None


def _kind(source: object) -> str | None:
    """The one of the fields "file" and "hub" that a source has."""
    found = [kind for kind in ("file", "hub") if isinstance(source, dict) and kind in source]
    return found[0] if len(found) == 1 else None


Source = Annotated[
    Annotated[FileSource, Tag("file")] | Annotated[HubSource, Tag("hub")],
    Discriminator(_kind, "source", "a source is a mapping with one of the fields 'file' and 'hub'"),
]


class Card(_Fields):
    """One data set. `splits` maps a split's name to its sources, the preferred one first."""

    name: Text
    title: Text
    folder: FileName
    paper: Text
    homepage: Url
    licence: Text
    citation: Text
    splits: Annotated[dict[str, Annotated[list[Source], Field(min_length=1)]], Field(min_length=1)]
    text: str

    def remote(self, split: str) -> list[FileSource | HubSource]:
        return [source for source in self.splits[split] if isinstance(source, HubSource) or source.url is not None]


def card_names() -> list[str]:
    return sorted(path.stem for path in CARDS_DIR.glob("*.md"))


def read_card(name: str) -> Card:
    """The card of that name; AlignbenchError if there is none, or if it is malformed."""
    names = card_names()
    if name not in names:
        raise AlignbenchError(f"no data card {name!r} in {CARDS_DIR}: {did_you_mean(name, names)}")
    path = CARDS_DIR / f"{name}.md"
    match = re.match(r"---\n(.*?)\n---\n(.*)", read_text(path), re.DOTALL)
    if match is None:
        raise AlignbenchError(f"{path}: a data card starts with YAML front matter between two '---' lines")
    try:
        card = Card.model_validate(parse_yaml(match[1]) | {"text": match[2].strip()})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise AlignbenchError(f"{path}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
    except (ValueError, TypeError) as error:
        raise AlignbenchError(f"{path}: the front matter is not a YAML mapping: {first_line(error)}") from None
    if card.name != name:
        raise AlignbenchError(f"{path}: name: it is {card.name!r}, but the file is called {name!r}")
    return card


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of an "unknown name" message: the nearest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known) or 'none'}"
