"""Files in the layouts of the real data sets, and what of the world is kept out of the pretraining text."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="\n")


def write_lines(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """JSON lines."""
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def split(items: Sequence[T], held_out: int, seed: int, name: str) -> tuple[list[T], list[T]]:
    """(held out, the rest), both shuffled. It hangs on the world's seed and the name alone, so that pages and files,
    which are written with different draws, agree on what a model may read before it is asked."""
    shuffled = list(items)
    random.Random(f"{seed} {name}").shuffle(shuffled)
    return shuffled[:held_out], shuffled[held_out:]


def paged(
    items: Sequence[str], per_page: int, draw: random.Random, heading: str = "", heading_share: float = 1.0
) -> list[str]:
    """Pages of `per_page` items with blank lines between, a share of them below the heading; every item comes once."""
    found = []
    for start in range(0, len(items), per_page):
        parts = list(items[start : start + per_page])
        if heading and draw.random() < heading_share:
            parts.insert(0, heading)
        found.append("\n\n".join(parts) + "\n")
    return found
