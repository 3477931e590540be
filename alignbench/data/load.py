"""The rows of a card's split, parsed by a task, and their provenance.

Sources are tried in this order: the user's data folder (--data-dir, else $ALIGNBENCH_DATA), the download cache
($ALIGNBENCH_CACHE, else ~/.cache/alignbench/data), the card's remote sources.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from alignbench.data.cards import Card, FileSource, HubSource, did_you_mean, read_card
from alignbench.data.fetch import UnreachableError, download, load_hub, sha256_of
from alignbench.data.tables import read_rows
from alignbench.errors import AlignbenchError
from alignbench.parse import find_path
from alignbench.types.record import Provenance

if TYPE_CHECKING:
    from datasets import Dataset

DEMO, SYNTHETIC = "demo-world", "demo world: "  # folder that `alignbench demo` writes; begins a source in its records
T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True)
class Loaded(Generic[T]):
    items: list[T]
    provenance: Provenance


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine. place: "local" (the user's folder), "cache", or "fetched" (into the cache, just now)."""

    source: FileSource
    path: Path
    place: str


@dataclass(frozen=True)
class HubSplit:
    """A split of the hub; commit: the one that was read, None if it cannot be determined."""

    source: HubSource
    data: "Dataset"
    commit: str | None


def load(card_name: str, split: str, parse: Callable[[Row], T], data_dir: Path | None = None) -> Loaded[T]:
    """Read a split. `parse` converts a row; it recognises the layout of the row if a split has several.

    KeyError, ValueError, TypeError and IndexError from `parse` become an AlignbenchError that names the row.
    """
    card, folder = read_card(card_name), data_folder(data_dir)
    found: LocalFile | HubSplit = next(iter(local_files(card, split, folder)), None) or fetch(card, split, folder)
    rows: Iterable[tuple[object, Row]]
    if isinstance(found, LocalFile):
        path, source = found.path, found.source
        rows, before = read_rows(path, source.format, source.at), f"{path}:"
        synthetic = found.place == "local" and folder is not None and (folder / DEMO).is_dir()
        name, revision, pin = f"{SYNTHETIC * synthetic}{source.file}", sha256_of(path), source.sha256
    else:
        hub = found.source
        rows, before = enumerate(found.data), f"hub {hub.hub} {hub.split} row "
        name, revision, pin = hub.hub, found.commit or "unknown", hub.revision
    items = []
    for where, row in rows:
        try:
            items.append(parse(row))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            field = "no field " if isinstance(error, KeyError) else ""
            raise AlignbenchError(f"{before}{where}: {field}{reason}") from None
    if not items and isinstance(found, LocalFile):
        raise AlignbenchError(f"{found.path}: no rows; the card says {found.source.rows}: get the file again")
    return Loaded(items, Provenance(card.name, split, name, revision, len(items), pinned=revision == pin))


def data_folder(data_dir: Path | None) -> Path | None:
    """The user's data folder: `data_dir`, else $ALIGNBENCH_DATA, else None. AlignbenchError if it does not exist."""
    folder = data_dir or os.environ.get("ALIGNBENCH_DATA")
    path = find_path(folder) if folder else None
    if path is not None and not path.is_dir():
        origin = "the data folder" if data_dir else "ALIGNBENCH_DATA"
        raise AlignbenchError(f"{origin} {folder} does not exist or is not a folder: name one that does")
    return path


def local_files(card: Card, split: str, folder: Path | None) -> list[LocalFile]:
    """The split's files on this machine, in order of preference: the user's folder first, then the cache.

    A file of the user is accepted with any content, a cached one only if its sha256 is the card's.
    """
    if split not in card.splits:
        near = did_you_mean(split, list(card.splits))
        raise AlignbenchError(f"data card {card.name!r} has no split {split!r}: {near}")
    sources = [source for source in card.splits[split] if isinstance(source, FileSource)]
    own = [LocalFile(s, folder / card.folder / s.file, "local") for s in sources if folder is not None]
    cached = [LocalFile(s, cache_path(card, s), "cache") for s in sources if s.sha256 is not None]
    found = [file for file in own + cached if file.path.is_file()]
    return [file for file in found if file.place == "local" or sha256_of(file.path) == file.source.sha256]


def cache_path(card: Card, source: FileSource) -> Path:
    root = os.environ.get("ALIGNBENCH_CACHE") or Path.home() / ".cache" / "alignbench" / "data"
    return Path(root, card.folder, source.file)


def fetch(card: Card, split: str, folder: Path | None) -> LocalFile | HubSplit:
    """The first remote source that answers, downloaded into the cache; AlignbenchError if there is none."""
    reasons = []
    for source in card.splits[split]:
        try:
            if isinstance(source, HubSource):
                return HubSplit(source, *load_hub(source.hub, source.config, source.split, source.revision))
            if source.url and source.sha256:
                path = cache_path(card, source)
                download(source.url, source.sha256, path, source.constant)
                return LocalFile(source, path, "fetched")
        except UnreachableError as error:
            reasons.append(str(error))
    raise AlignbenchError(missing_message(card, split, folder, reasons))


def missing_message(card: Card, split: str, folder: Path | None, reasons: list[str]) -> str:
    """One line for a split that is not available: the reason, and which file to put where."""
    why = "; ".join(reasons) or "it is not on this machine and cannot be downloaded"
    files = [source.file for source in card.splits[split] if isinstance(source, FileSource)]
    place = f"{folder if folder is not None else 'DIR'}/{card.folder}/"
    setting = "" if folder is not None else " and set ALIGNBENCH_DATA=DIR or pass --data-dir DIR"
    remedy = f"put {' or '.join(files)} into {place}{setting}" if files else "try again with a network connection"
    return f"data card {card.name!r}, split {split!r}: {why}; {remedy}"
