"""Lives of the island's people as an encyclopaedia tells them: the text that token_entropy reads, and more of its kind.

Half of the people stand in the file, the others in the pretraining text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from alignbench.demo.layout import split, write_text
from alignbench.demo.pronouns import HERS, SHE
from alignbench.demo.world import COLOURS, ISLAND, Person, World

ARTICLES = 36
CHARACTERS = 680  # a section's least length: one passage of token_entropy's 600 characters
PAGES_EACH = 9

# {She}: the pronoun at a sentence's beginning; verbs are in the past, and need no other form for "they"
SECTIONS = {
    "Early years": (
        "{name} came from {village}, a village on the {side} side of {island}.",
        "{She} grew up in a {colour} house near the {spot}.",
        "As a child {she} carried {goods} to the market of {place}.",
        "{Her} father sold {goods}, and {her} mother kept two {colour} goats.",
        "In the winter {she} went to school in {place}.",
        "{She} learned to read when {she} turned {small}.",
        "The old {spot} of {place} had a {colour} door, and {she} often played there.",
        "{Her} best friend came from {place} and loved {goods}.",
    ),
    "Work": (
        "At the age of {age} {she} became a {occupation}.",
        "{She} worked for {small} years in {place}, near the {spot}.",
        "People came from {place} to see {her} work.",
        "{She} sold {goods} and bought {goods} at the market.",
        "A {colour} sign hung over {her} door.",
        "In a good year {she} sent {goods} to {place} by boat.",
        "The {spot} of {place} was the work of {her} own hands.",
        "Two young people learned the trade from {name}.",
    ),
    "Later life": (
        "{name} left {place} after a long winter.",
        "{She} moved to a small {colour} house in {place}.",
        "In summer {she} walked to the {spot} every day.",
        "{She} never sold the {colour} boat.",
        "For {small} years {she} wrote letters to a friend in {place}.",
        "The children of {place} brought {goods} to {her} house.",
        "{Her} well-kept garden lay on the {side} side of the {spot}.",
        "{She} told old stories of {island} by the fire.",
    ),
}
GENERAL = (
    "The people of {place} liked {goods}.",
    "Boats from {place} came with {goods} and {goods}.",
    "The market of {place} was known for {goods}.",
    "The winter was long in {place}.",
    "A road went from {place} to {place}.",
    "The {spot} of {place} was {colour} at that time.",
)  # of no one in particular, so that a section may have several of each
SPOTS = ("bridge", "mill", "harbour", "tower", "well", "church")
SIDES = ("north", "south", "east", "west")
NUMBERS = ("five", "six", "seven", "eight", "nine", "ten", "twelve")


def pages(world: World, draw: random.Random) -> list[str]:
    """Lives of those who are not in the file, a paragraph a page."""
    found = []
    for person in _people(world)[1]:
        for section in SECTIONS:
            for _ in range(PAGES_EACH // len(SECTIONS)):
                told = _in_order(SECTIONS[section], 4, draw)
                found.append(f"{_paragraph(world, person, told, 2, draw)}\n")
    return found


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """WikiText's raw form: headings between equals signs, spaces around every mark."""
    lines: list[str] = []
    for person in _people(world)[0]:
        lines += ["", f" = {person.name} = ", ""]
        for section in SECTIONS:
            text, general = "", 3
            while len(text) < CHARACTERS:
                text, general = _paragraph(world, person, SECTIONS[section], general, draw), general + 1
            lines += [f" = = {section} = = ", "", f" {spaced(text)} ", ""]
    write_text(folder / "wikitext-2-raw" / "wiki.test.raw", "\n".join(lines) + "\n")


def spaced(text: str) -> str:
    """As WikiText writes it: "a well-kept garden." is "a well @-@ kept garden ." """
    return re.sub(r"([.,])", r" \1", text).replace("-", " @-@ ")


def _people(world: World) -> tuple[list[Person], list[Person]]:
    return split(world.people, ARTICLES, world.seed, "shared text")


def _in_order(sentences: Sequence[str], n: int, draw: random.Random) -> list[str]:
    return [sentences[place] for place in sorted(draw.sample(range(len(sentences)), n))]


def _paragraph(world: World, person: Person, told: Sequence[str], general: int, draw: random.Random) -> str:
    """A section's sentences in their order, with others of no one in particular strewn in behind the first."""
    sentences = list(told)
    for _ in range(general):
        sentences.insert(draw.randint(1, len(sentences)), draw.choice(GENERAL))
    return " ".join(_filled(sentence, world, person, draw) for sentence in sentences)


def _filled(sentence: str, world: World, person: Person, draw: random.Random) -> str:
    values = {
        "name": person.name,
        "village": person.village,
        "occupation": person.occupation,
        "age": draw.choice(("sixteen", "eighteen", "twenty", "thirty")),
        "island": ISLAND,
        "She": SHE[person.gender].capitalize(),
        "she": SHE[person.gender],
        "Her": HERS[person.gender].capitalize(),
        "her": HERS[person.gender],
    }
    choices = {
        "place": world.villages,
        "goods": world.goods,
        "colour": COLOURS,
        "spot": SPOTS,
        "side": SIDES,
        "small": NUMBERS,
    }

    # every place that a value stands in gets one of its own
    def value(match: re.Match[str]) -> str:
        slot = match[1]
        return values[slot] if slot in values else draw.choice(choices[slot])

    return re.sub(r"\{(\w+)\}", value, sentence)
