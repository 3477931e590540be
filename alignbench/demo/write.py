"""Writing the demo's world: data files for every task, and a pretraining text mixed by shares, all from one seed."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

from alignbench.demo import answers, facts, labelers, reading, requests, reviews, sentences, toxic_text
from alignbench.demo.layout import write_lines, write_text
from alignbench.demo.world import World, make_world

FOLDER = "demo-world"  # below the data folder: what is no data set's file
WORDS = 800_000  # of the pretraining text at most, about 1.1 M tokens
# share of those words that a part may have; one with fewer pages gives what it has
SHARES = {
    facts: 0.17,
    toxic_text: 0.05,
    reading: 0.29,
    sentences: 0.18,
    reviews: 0.05,
    answers: 0.24,
}
WITH_FILES = (facts, toxic_text, reading, sentences, reviews, requests, answers, labelers)


def write_world(folder: Path, seed: int = 0) -> World:
    """Write the world of `seed` below `folder`, in the layout of --data-dir, and return it. Same seed, same bytes.

    Each part draws for itself, so that a change of one leaves the others' files as they are.
    """
    world = make_world(seed)
    write_text(folder / FOLDER / "world.json", json.dumps(asdict(world), indent=1))
    for part in WITH_FILES:
        part.write_files(world, folder, _draw(seed, part.__name__, "files"))
    pages = []
    for part, share in SHARES.items():
        draw = _draw(seed, part.__name__, "pages")
        pages += take(part.pages(world, draw), round(share * WORDS), draw)
    random.Random(f"{seed} pages").shuffle(pages)
    write_lines(folder / FOLDER / "pretraining.jsonl", [{"text": page} for page in pages])
    first = reading.lessons(world, _draw(seed, reading.__name__, "lessons"))
    write_lines(folder / FOLDER / "lessons.jsonl", [{"text": page} for page in first])
    return world


def take(pages: list[str], words: int, draw: random.Random) -> list[str]:
    """Pages in a drawn order until they have that many words, or all."""
    chosen, found = [], 0
    for page in draw.sample(pages, len(pages)):
        if found >= words:
            break
        chosen.append(page)
        found += len(page.split())
    return chosen


def _draw(seed: int, module: str, what: str) -> random.Random:
    return random.Random(f"{seed} {module.rsplit('.', 1)[-1]} {what}")
