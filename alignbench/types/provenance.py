"""Where a task's rows came from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """Where rows came from. No paths: a record must be the same on every machine.

    source: file name or hub id
    revision: sha256 of the file, or hub commit ("unknown" if it cannot be determined)
    pinned: True if `revision` is the one that the card names
    """

    card: str
    split: str
    source: str
    revision: str
    rows: int
    pinned: bool
