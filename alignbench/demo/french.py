"""French sentences of a small lexicon and their English: wmt15_fr_en, and its layout in the pretraining text.

Agreement is kept easy: nouns in the singular, verbs in the third person, adjectives that look the same in both genders.
What has to be learnt besides the words is that a colour stands behind its noun, and "often" behind its verb.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from alignbench.demo.layout import paged, split, write_text
from alignbench.demo.world import World
from alignbench.tasks.wmt15 import INSTRUCTION

TEST_PAIRS = 100
PAGES = 700
PER_PAGE = 4

# French -> (gender, English)
SUBJECTS = {
    "boulanger": ("m", "baker"),
    "forgeron": ("m", "smith"),
    "meunier": ("m", "miller"),
    "tailleur": ("m", "tailor"),
    "marin": ("m", "sailor"),
    "potier": ("m", "potter"),
    "chanteuse": ("f", "singer"),
    "tisseuse": ("f", "weaver"),
    "peintre": ("f", "painter"),
    "fermière": ("f", "farmer"),
}
OBJECTS = {
    "pain": ("m", "bread"),
    "sel": ("m", "salt"),
    "miel": ("m", "honey"),
    "fromage": ("m", "cheese"),
    "beurre": ("m", "butter"),
    "laine": ("f", "wool"),
    "sac": ("m", "bag"),
    "panier": ("m", "basket"),
    "chapeau": ("m", "hat"),
    "livre": ("m", "book"),
    "lampe": ("f", "lamp"),
    "corde": ("f", "rope"),
    "robe": ("f", "dress"),
}
UNCOUNTED = {"pain", "sel", "miel", "fromage", "beurre", "laine"}  # "du pain" is "bread", "un sac" is "a bag"
VERBS = {
    "vend": "sells",
    "porte": "carries",
    "cherche": "seeks",
    "trouve": "finds",
    "garde": "keeps",
    "prend": "takes",
    "aime": "loves",
    "voit": "sees",
}
ADJECTIVES = {"rouge": "red", "jaune": "yellow", "propre": "clean", "sale": "dirty", "rare": "rare"}
PLACES = {
    "au village": "in the village",
    "dans la maison": "in the house",
    "sur le pont": "on the bridge",
    "sur la plage": "on the beach",
    "dans le jardin": "in the garden",
}


@dataclass(frozen=True)
class Pair:
    french: str
    english: str


def pages(world: World, draw: random.Random) -> list[str]:
    """Pairs whose subject, verb and object never stand together in the test."""
    _, seen = _triples(world)
    pairs = [_pair(draw.choice(seen), draw) for _ in range(PAGES * PER_PAGE)]
    return paged(
        [f"French: {pair.french}\nEnglish: {pair.english}" for pair in pairs], PER_PAGE, draw, INSTRUCTION, 0.7
    )


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """WMT's plain text: a sentence a line, a file a language."""
    pairs = [_pair(triple, draw) for triple in _triples(world)[0]]
    for language, lines in (("fr", [p.french for p in pairs]), ("en", [p.english for p in pairs])):
        write_text(folder / "wmt15-fr-en" / f"newsdiscusstest2015.{language}", "".join(f"{line}\n" for line in lines))


def _triples(world: World) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """(subject, verb, object) of the test and of the pages."""
    return split(list(product(SUBJECTS, VERBS, OBJECTS)), TEST_PAIRS, world.seed, "french")


def _pair(triple: tuple[str, str, str], draw: random.Random) -> Pair:
    subject, verb, thing = triple
    (subject_gender, who), (gender, what) = SUBJECTS[subject], OBJECTS[thing]
    article = "Le" if subject_gender == "m" else "La"
    if draw.random() < 0.5:
        before, english_before = ("le" if gender == "m" else "la"), "the "
    elif thing in UNCOUNTED:
        before, english_before = ("du" if gender == "m" else "de la"), ""
    else:
        before, english_before = ("un" if gender == "m" else "une"), "a "
    adjective = draw.choice(list(ADJECTIVES)) if draw.random() < 0.3 else ""
    often = draw.random() < 0.25
    place = draw.choice(list(PLACES)) if draw.random() < 0.4 else ""
    french = (article, subject, verb, "souvent" * often, before, thing, adjective, place)
    quality = f"{ADJECTIVES[adjective]} " if adjective else ""
    english = ("The", who, "often" * often, VERBS[verb], f"{english_before}{quality}{what}", PLACES.get(place, ""))
    return Pair(*(" ".join(part for part in parts if part) + "." for parts in (french, english)))
