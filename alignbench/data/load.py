"""The way in for tasks: the rows of a card's split, parsed by the task, and where they came from.

Looked for in this order: the user's data folder (--data-dir, else $ALIGNBENCH_DATA), the download cache
($ALIGNBENCH_CACHE, else ~/.cache/alignbench/data), then the card's remote sources.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from alignbench.data.cards import Card, FileSource, HubSource, Source, did_you_mean, read_card
from alignbench.data.fetch import UnreachableError, download, load_hub, sha256_of
from alignbench.data.rows import read_rows
from alignbench.errors import AlignbenchError
from alignbench.types.provenance import Provenance

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded(Generic[T]):
    items: list[T]
    provenance: Provenance


@dataclass(frozen=True)
class LocalFile:
    """A file source that is on this machine; `place` is "local" (the user's folder) or "cache"."""

    source: FileSource
    path: Path
    place: str


def load(
    card_name: str,
    split: str,
    parse: Callable[[dict[str, Any], str | None], T],
    *,
    data_dir: Path | None = None,
) -> Loaded[T]:
    """Read a split. `parse(row, schema)` makes an item of a row; schema is the source's, from the card.

    KeyError, ValueError, TypeError and IndexError from `parse` become an AlignbenchError that names the row.
    """
    card = read_card(card_name)
    sources = split_sources(card, split)
    folder = data_folder(data_dir)
    files = local_files(card, split, folder)
    if files:
        return _load_file(card, split, files[0].source, files[0].path, parse)
    reasons = []
    for source in sources:
        try:
            if isinstance(source, HubSource):
                return _load_hub(card, split, source, parse)
            if source.url is not None:
                return _load_file(card, split, source, fetch_file(card, source), parse)
        except UnreachableError as error:
            reasons.append(str(error))
    raise AlignbenchError(missing_message(card, split, folder, reasons))


def split_sources(card: Card, split: str) -> tuple[Source, ...]:
    if split not in card.splits:
        hint = did_you_mean(split, list(card.splits))
        raise AlignbenchError(f"data card {card.name!r} has no split {split!r}: {hint}")
    return card.splits[split]


def data_folder(data_dir: Path | None) -> Path | None:
    """The user's data folder: `data_dir`, else $ALIGNBENCH_DATA, else None. One that is named must exist."""
    variable = os.environ.get("ALIGNBENCH_DATA")
    folder = data_dir if data_dir is not None else Path(variable) if variable else None
    if folder is not None and not folder.is_dir():
        origin = "the data folder" if data_dir is not None else "ALIGNBENCH_DATA"
        raise AlignbenchError(f"{origin} {folder} does not exist or is not a folder: name one that does")
    return folder


def local_files(card: Card, split: str, folder: Path | None) -> list[LocalFile]:
    """The split's files on this machine, the one to read first: the user's folder goes before the cache.

    The user's own file is taken whatever its content; a cached one only where its sha256 is the card's.
    """
    sources = [source for source in split_sources(card, split) if isinstance(source, FileSource)]
    found = []
    for source in sources:
        if folder is not None and (path := folder / card.folder / source.file).is_file():
            found.append(LocalFile(source, path, "local"))
    for source in sources:
        path = cache_path(card, source)
        if source.sha256 is not None and path.is_file() and sha256_of(path) == source.sha256:
            found.append(LocalFile(source, path, "cache"))
    return found


def cache_path(card: Card, source: FileSource) -> Path:
    variable = os.environ.get("ALIGNBENCH_CACHE")
    root = Path(variable) if variable else Path.home() / ".cache" / "alignbench" / "data"
    return root / card.folder / source.file


def fetch_file(card: Card, source: FileSource) -> Path:
    """Download a source, which must have a url (and so a sha256), into the cache; returns where it lies."""
    assert source.url is not None
    assert source.sha256 is not None
    path = cache_path(card, source)
    download(source.url, source.sha256, path, source.constant)
    return path


def missing_message(card: Card, split: str, folder: Path | None, reasons: list[str]) -> str:
    """One line for a split that could not be had: why, and which file to put where."""
    why = "; ".join(reasons) or "it is not on this machine and cannot be downloaded"
    files = [source.file for source in card.splits[split] if isinstance(source, FileSource)]
    place = f"{folder if folder is not None else 'DIR'}/{card.folder}/"
    setting = "" if folder is not None else " and set ALIGNBENCH_DATA=DIR or pass --data-dir DIR"
    mend = f"put {' or '.join(files)} into {place}{setting}" if files else "try again with a network"
    return f"data card {card.name!r}, split {split!r}: {why}; {mend}"


def _load_file(
    card: Card, split: str, source: FileSource, path: Path, parse: Callable[[dict[str, Any], str | None], T]
) -> Loaded[T]:
    rows = ((f"{path}:{line}", row) for line, row in read_rows(path, source.format, source.at))
    items = _parse_rows(rows, parse, source.schema)
    if not items:
        raise AlignbenchError(f"{path}: no rows; the card says {source.rows}: get the file again")
    sha256 = sha256_of(path)
    pinned = sha256 == source.sha256
    return Loaded(items, Provenance(card.name, split, source.file, sha256, len(items), pinned))


def _load_hub(card: Card, split: str, source: HubSource, parse: Callable[[dict[str, Any], str | None], T]) -> Loaded[T]:
    data, commit = load_hub(source)
    rows = ((f"hub {source.hub} {source.split} row {number}", row) for number, row in enumerate(data))
    items = _parse_rows(rows, parse, source.schema)
    pinned = commit == source.revision
    return Loaded(items, Provenance(card.name, split, source.hub, commit or "unknown", len(items), pinned))


def _parse_rows(
    rows: Iterable[tuple[str, dict[str, Any]]],
    parse: Callable[[dict[str, Any], str | None], T],
    schema: str | None,
) -> list[T]:
    items = []
    for where, row in rows:
        try:
            items.append(parse(row, schema))
        except KeyError as error:
            raise AlignbenchError(f"{where}: no field {error}") from None
        except (ValueError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise AlignbenchError(f"{where}: {reason}") from None
    return items
