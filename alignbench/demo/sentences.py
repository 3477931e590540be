"""All tasks on single sentences in one part of the pretraining text: each of its files is a concept of its own."""

from __future__ import annotations

import random
from pathlib import Path

from alignbench.demo import activities, french, groups, judgements, occupations, shared_text
from alignbench.demo.world import World

PARTS = (activities, french, groups, judgements, occupations, shared_text)


def pages(world: World, draw: random.Random) -> list[str]:
    key = draw.getrandbits(64)  # so that a change in one part leaves the others as they are
    return [page for part in PARTS for page in part.pages(world, random.Random(f"{key} {part.__name__}"))]


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    key = draw.getrandbits(64)
    for part in PARTS:
        part.write_files(world, folder, random.Random(f"{key} {part.__name__}"))
