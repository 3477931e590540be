"""Parts of the world's text: held-out and other items, pages, and files in the layouts of the real data sets."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def write_file(file: Path, content: Any) -> None:
    """Write rows as .jsonl or as a table (.csv, .tsv; the header first), an object as .json, text as anything else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        if file.suffix in (".csv", ".tsv"):
            delimiter = "," if file.suffix == ".csv" else "\t"
            csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(content)
        elif file.suffix == ".jsonl":
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        else:
            stream.write(json.dumps(content, indent=1) if file.suffix == ".json" else content)


def split(items: Sequence[T], held_out: int, seed: int, name: str) -> tuple[list[T], list[T]]:
    """(held out, the rest), both shuffled. It depends on the world's seed and the name only, so that files and pages,
    which are drawn separately, agree on what may be in the pretraining text."""
    shuffled = list(items)
    random.Random(f"{seed} {name}").shuffle(shuffled)
    return shuffled[:held_out], shuffled[held_out:]


def paged(
    items: Sequence[str], size: int, draw: random.Random, heading: str = "", headed: float = 1.0, between: str = "\n\n"
) -> list[str]:
    """Pages of `size` items, a proportion of them below the heading."""
    found = []
    for start in range(0, len(items), size):
        heads = [heading] if heading and draw.random() < headed else []
        found.append(between.join([*heads, *items[start : start + size]]) + "\n")
    return found


def take(pages: list[str], words: int, draw: random.Random) -> list[str]:
    """Pages in a drawn order until they have that many words, or all of them."""
    chosen, found = [], 0
    for page in draw.sample(pages, len(pages)):
        if found >= words:
            break
        chosen.append(page)
        found += len(page.split())
    return chosen
