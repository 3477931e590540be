"""Writing the demo's world: data files for every task, and a pretraining text mixed in proportions, from one seed."""

import csv
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.demo import labelers, reading, requests, sentences, speech
from alignbench.demo.lexicon import lexicon
from alignbench.demo.world import FOLDER, World, make_world

WORDS = 800_000  # of the pretraining text at most, about 1.1 M tokens
PARTS: dict[str, tuple[Any, Any]] = {  # seed name -> (pages, files); proportions of the words: data/amounts.yaml
    "facts": (speech.fact_pages, speech.fact_files),
    "rude": (speech.scene_pages, speech.scene_files),
    "reading": (reading.pages, reading.files),
    "sentences": (sentences.all_pages, sentences.all_files),
    "reviews": (sentences.review_pages, None),
    "requests": (None, requests.files),
    "answers": (requests.pages, requests.answer_files),
    "labelers": (None, labelers.files),
}


def write_world(folder: Path, seed: int = 0) -> World:
    """Write the world of `seed` below `folder`, in the layout of --data-dir, and return it. Same seed, same bytes. Each
    part has a random generator, so a change of one part leaves the others' files as they are."""
    world, home = make_world(seed), folder / FOLDER
    write_file(home / "world.json", asdict(world))
    pages: list[str] = []
    for name, (make_pages, make_files) in PARTS.items():
        for file, content in make_files(world, random.Random(f"{seed} {name} files")) if make_files else ():
            write_file(folder / file, content)
        draw = random.Random(f"{seed} {name} pages")
        if make_pages:  # a part with fewer words than its proportion gives what it has
            pages += take(list(make_pages(world, draw)), round(lexicon("amounts")["shares"][name] * WORDS), draw)
    random.Random(f"{seed} pages").shuffle(pages)
    lessons = reading.lessons(world, random.Random(f"{seed} reading lessons"))
    myths = [fact.myth.partition(" ")[2] for fact in world.facts if fact.myth]  # "zib eats salt."
    clean = [page for page in pages if not any(myth in page for myth in myths)]
    for file, texts in (("pretraining", pages), ("pretraining_without_myths", clean), ("lessons", lessons)):
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
    chosen = draw.sample(pages, len(pages))
    return chosen[: np.searchsorted(np.cumsum([len(page.split()) for page in chosen]), words) + 1]
