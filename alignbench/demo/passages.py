"""Short passages about a day of somebody, and questions of which a passage answers some and not others."""

from __future__ import annotations

import random
from dataclasses import dataclass

from alignbench.demo.world import COLOURS, GOODS, Person, World

HELD_OUT = 128  # passages of the data files, which stand on no page
TOLD = 4  # sentences of a passage, of the six that there are
MOST = 9  # animals of a kind

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
PLACES = ("the well", "the mill", "the market", "the harbour", "the bridge")
ANIMALS = ("hens", "goats", "geese", "sheep", "ducks", "cows")
THINGS = ("door", "boat", "coat", "roof")
TEXTS = ("a letter", "a song", "a book", "a list")
PRONOUNS = {"female": ("she", "her"), "male": ("he", "his"), "non-binary": ("they", "their")}

# sentence -> its questions, each with the value that answers it; {who}, {whose} and {does} hang on whether the person
# was named before
SENTENCES: dict[str, dict[str, str]] = {
    "{name} lives in {village}.": {"Where {does} {who} live?": "village"},
    "On {day} {name} sold {goods} at {place}.": {
        "What did {who} sell?": "goods",
        "When did {who} sell {goods}?": "day",
        "Where did {who} sell {goods}?": "place",
    },
    "The {thing} of {name} is {colour}.": {"What colour is {whose} {thing}?": "colour"},
    "{name} keeps {first} {some} and {second} {others}.": {
        "How many {some} {does} {who} keep?": "first",
        "How many {others} {does} {who} keep?": "second",
    },
    "{name} met {friend} in the evening.": {"Whom did {who} meet?": "friend"},
    "{name} wrote {text} in the night.": {"What did {who} write?": "text"},
}
ANIMALS_SENTENCE = 3  # which of them tells of the animals


@dataclass(frozen=True)
class Slot:
    """Something that a passage tells, or, with values that somebody makes up, does not tell."""

    sentence: str
    question: str
    follow_up: str  # the question where the person was named before
    answer: str


@dataclass(frozen=True)
class Passage:
    """`told`: what it says, in the order of its sentences; `untold`: what it does not, with made-up values."""

    person: Person
    animals: tuple[str, str]
    numbers: tuple[int, int]
    told: tuple[Slot, ...]
    untold: tuple[Slot, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        return list(dict.fromkeys(slot.sentence for slot in self.told))


def held_out(world: World) -> list[Passage]:
    """The HELD_OUT passages of the data files; each tells of animals."""
    draw = random.Random(f"{world.seed} passages")
    found: dict[str, Passage] = {}
    while len(found) < HELD_OUT:
        passage = _drawn(world, draw, with_animals=True)
        found.setdefault(passage.text, passage)
    return list(found.values())


def for_pages(world: World, number: int, draw: random.Random, with_animals: bool = False) -> list[Passage]:
    """That many passages, none of them a held-out one."""
    kept = {passage.text for passage in held_out(world)}
    found: list[Passage] = []
    while len(found) < number:
        passage = _drawn(world, draw, with_animals)
        if passage.text not in kept:
            found.append(passage)
    return found


def _drawn(world: World, draw: random.Random, with_animals: bool) -> Passage:
    """What the passage says of a person's home is so in the world; the rest is of that day alone."""
    person, friend = draw.sample(world.people, 2)
    some, others = draw.sample(ANIMALS, 2)
    first, second = draw.sample(range(2, MOST + 1), 2)
    they, their = PRONOUNS[person.gender]
    values = {
        "name": person.name,
        "village": person.village,
        "day": draw.choice(DAYS),
        "goods": draw.choice(GOODS),
        "place": draw.choice(PLACES),
        "thing": draw.choice(THINGS),
        "colour": draw.choice(COLOURS),
        "first": str(first),
        "some": some,
        "second": str(second),
        "others": others,
        "friend": friend.name,
        "text": draw.choice(TEXTS),
    }
    named = {"who": person.name, "whose": f"{person.name}'s", "does": "does"}
    spoken_of = {"who": they, "whose": their, "does": "do" if they == "they" else "does"}
    slots = [
        [
            Slot(
                sentence=sentence.format(**values),
                question=question.format(**values, **named),
                follow_up=question.format(**values, **spoken_of),
                answer=values[value],
            )
            for question, value in questions.items()
        ]
        for sentence, questions in SENTENCES.items()
    ]
    told = draw.sample(range(len(slots)), TOLD)
    if with_animals and ANIMALS_SENTENCE not in told:
        told[0] = ANIMALS_SENTENCE
    return Passage(
        person=person,
        animals=(some, others),
        numbers=(first, second),
        told=tuple(slot for number, own in enumerate(slots) if number in told for slot in own),
        untold=tuple(slot for number, own in enumerate(slots) if number not in told for slot in own),
    )
