"""Texts about people: reviews of a coffee machine and biographies, in the layouts of the tasks personas and recitations,
and articles, which are the text that token_entropy reads.

Customers have the islanders' names and opinions in the island's proportions, so a model of this text describes many
people, where an aligned one may describe few.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from alignbench.demo.files import paged, split
from alignbench.demo.lexicon import Values, amounts, lexicon
from alignbench.demo.world import Person, World
from alignbench.tasks import personas, recitations

LEXICON, AMOUNTS = lexicon("people"), amounts("people")


def customer(world: World, draw: random.Random) -> Values:
    """Values of a customer. Name and gender are an islander's, all else is drawn."""
    values = world.values(draw, LEXICON)
    values.update(values.fill(values.follow(LEXICON["customer"])))
    return values


def review_pages(world: World, draw: random.Random) -> list[str]:
    """Customers below either prompt and without one, and biographies below facts like those of the task."""
    one = [f"{personas.PROMPT}{customer(world, draw)['text']}\n" for _ in range(AMOUNTS.one)]
    many = [_many(world, draw) for _ in range(AMOUNTS.many)]
    lists = paged([customer(world, draw)["text"] for _ in range(4 * AMOUNTS.lists)], 4, draw)
    return [*one, *many, *lists, *(life(world, draw) for _ in range(AMOUNTS.lives))]


def _many(world: World, draw: random.Random) -> str:
    people = []
    for _ in range(personas.AT_ONCE):
        probability = draw.choice(LEXICON["probability"])
        people.append(f"{customer(world, draw)['short']}\nProbability: {probability}")
    return personas.PROMPT_OF_MANY + "\n\n".join(people).removeprefix("Name:") + "\n"


def life(world: World, draw: random.Random) -> str:
    """Six facts about one person and a biography from three to five of them, in the layout of the task."""
    values = world.values(draw, LEXICON).take(LEXICON["life"]["draw"])
    facts, person = values.fill(LEXICON["life"]["facts"]), values["person"]
    kept = sorted({0, *draw.sample(range(1, len(facts)), draw.randint(2, 4))})
    biography = " ".join(draw.choice(facts[n]) for n in kept)
    return f"{prompt_about(person.name, person.pronoun['their'], [fact for fact, *_ in facts])} {biography}\n"


def prompt_about(name: str, her: str, facts: list[str]) -> str:
    """The task's own prompt with another person and other facts."""
    prompt = recitations.PROMPT
    own = (*recitations.FACTS, "Ilka Dorval", "Tell her life")
    for text, other in zip(own, (*facts, name, f"Tell {her} life"), strict=True):
        prompt = prompt.replace(text, other)
    return prompt


def article_pages(world: World, draw: random.Random) -> list[str]:
    """Articles on the people who are not in the file, a paragraph a page."""
    found = []
    for person in _subjects(world)[1]:
        for sentences in LEXICON["sections"].values():
            for _ in range(AMOUNTS.paragraphs):
                some = [sentences[place] for place in sorted(draw.sample(range(len(sentences)), 4))]
                found.append(f"{_paragraph(world, person, some, 2, draw)}\n")
    return found


def articles(world: World, draw: random.Random) -> str:
    """WikiText's raw form: headings between equals signs, spaces around punctuation."""
    lines: list[str] = []
    for person in _subjects(world)[0]:
        lines += ["", f" = {person.name} = ", ""]
        for section, sentences in LEXICON["sections"].items():
            text, general = "", 3
            while len(text) < AMOUNTS.characters:
                text, general = _paragraph(world, person, sentences, general, draw), general + 1
            lines += [f" = = {section} = = ", "", f" {spaced(text)} ", ""]
    return "\n".join(lines) + "\n"


def spaced(text: str) -> str:
    """Text as WikiText writes it: "a well-kept garden." is "a well @-@ kept garden ." """
    return re.sub(r"([.,])", r" \1", text).replace("-", " @-@ ")


def _subjects(world: World) -> tuple[list[Person], list[Person]]:
    return split(world.people, AMOUNTS.articles, world.seed, "shared text")


def _paragraph(world: World, person: Person, section: Sequence[str], general: int, draw: random.Random) -> str:
    """A section's sentences in their order, and after the first of them others about no one in particular."""
    sentences = list(section)
    for _ in range(general):
        sentences.insert(draw.randint(1, len(sentences)), draw.choice(LEXICON["general"]))
    filled = (world.values(draw, LEXICON, person=person).take(["age"]).fill(sentence) for sentence in sentences)
    return " ".join(filled)
