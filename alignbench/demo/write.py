"""Writing the demo's world: data files for every task, and a pretraining text mixed in proportions, from one seed."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignbench.demo import labelers, reading, requests, sentences, speech
from alignbench.demo.world import FOLDER, World, make_world

WORDS = 800_000  # of the pretraining text at most, about 1.1 M tokens
# seed name of each part with pages -> its pages, and its share of the words; one with fewer pages gives what it has
PAGES = {
    "facts": (speech.fact_pages, 0.17),
    "rude": (speech.scene_pages, 0.05),
    "reading": (reading.pages, 0.29),
    "sentences": (sentences.pages, 0.18),
    "reviews": (sentences.review_pages, 0.05),
    "answers": (requests.pages, 0.24),
}
FILES = {
    "facts": speech.fact_files,
    "rude": speech.scene_files,
    "reading": reading.files,
    "sentences": sentences.files,
    "requests": requests.files,
    "answers": requests.answer_files,
    "labelers": labelers.files,
}


def write_world(folder: Path, seed: int = 0) -> World:
    """Write the world of `seed` below `folder`, in the layout of --data-dir, and return it. Same seed, same bytes.

    Each part has a random generator, so a change of one part leaves the others' files as they are.
    """
    world, home = make_world(seed), folder / FOLDER
    write_file(home / "world.json", asdict(world))
    for name, files in FILES.items():
        for file, content in files(world, random.Random(f"{seed} {name} files")):
            write_file(folder / file, content)
    pages = []
    for name, (make, share) in PAGES.items():
        draw = random.Random(f"{seed} {name} pages")
        pages += take(list(make(world, draw)), round(share * WORDS), draw)
    random.Random(f"{seed} pages").shuffle(pages)
    lessons = reading.lessons(world, random.Random(f"{seed} reading lessons"))
    for file, texts in (("pretraining", pages), ("lessons", lessons)):
        write_file(home / f"{file}.jsonl", [{"text": text} for text in texts])
    return world


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


def take(pages: list[str], words: int, draw: random.Random) -> list[str]:
    """Pages in a drawn order until they have that many words, or all of them."""
    chosen, found = [], 0
    for page in draw.sample(pages, len(pages)):
        if found >= words:
            break
        chosen.append(page)
        found += len(page.split())
    return chosen
