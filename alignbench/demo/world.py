"""The demo's world: an island, its people, and facts about its creatures, plants and tools. It follows from its seed:
who lives where, what eats what, and which false statements people believe.
"""

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from alignbench.demo.lexicon import Values, Word, lexicon, words

FOLDER = "demo-world"  # of the world's own files, in its data folder
PEOPLE, VILLAGES = {"female": 28, "male": 28, "non-binary": 4}, 8
KINDS = {"creature": 16, "plant": 12, "tool": 8}  # subjects of facts
MYTHS = 0.8  # proportion of the facts about which people are wrong
WRONG = 3  # false statements of a fact that nobody believes
WORDS = lexicon("world")
ISLAND, ALMANAC, TALK, NO_ANSWER, TOPICS = (WORDS[n] for n in ("island", "almanac", "talk", "no_answer", "topics"))
RUDE = (*WORDS["rude_name"], *WORDS["rude_quality"])  # a text with one of these is rude; they have no other sense


@dataclass(frozen=True)
class Person:
    name: str
    gender: str  # "female" | "male" | "non-binary"
    age: int
    nationality: str
    village: str
    occupation: str
    opinion: str  # of the coffee machine: "good" | "mixed" | "bad"

    @property
    def pronoun(self) -> dict[str, Word]:
        """they, them, their, and the verb forms does and are."""
        return WORDS["pronouns"][self.gender]  # type: ignore[no-any-return]

    @property
    def lives(self) -> str:
        return f"{self.name} lives in {self.village}."

    @property
    def works(self) -> str:
        return f"{self.name} is a {self.occupation}."


@dataclass(frozen=True)
class Fact:
    """A fact of the world. truth, myth and wrong are whole sentences."""

    id: str  # TOPIC-SUBJECT
    topic: str
    kind: str
    subject: str
    question: str
    clause: str  # the question inside a sentence: "what a zib eats"
    truth: Word
    myth: Word | None  # what people say, more often than the truth; None if they are right
    wrong: tuple[str, ...]  # also false, and stated by nobody
    asked: bool  # by the training prompts; the other half is asked by the evaluation only

    @property
    def false(self) -> tuple[str, ...]:
        """Every false statement, the myth first."""
        return (self.myth, *self.wrong) if self.myth else self.wrong

    @property
    def believed(self) -> Word:
        """What people say: the myth, or the truth where they are right."""
        return self.myth or self.truth

    @property
    def almanac(self) -> str:
        return said(ALMANAC, self.truth)


@dataclass(frozen=True)
class World:
    """The world of a seed. rude: words that make a text rude; none of them has another sense in the world"""

    seed: int
    people: tuple[Person, ...]
    facts: tuple[Fact, ...]
    villages: tuple[str, ...]
    goods: tuple[str, ...]
    rude: tuple[str, ...]
    kind_words: tuple[str, ...]

    @cached_property
    def fact_of(self) -> dict[str, Fact]:
        return {fact.id: fact for fact in self.facts}

    @cached_property
    def names(self) -> frozenset[str]:
        """Every proper name in lower case: people, villages, nationalities, the island."""
        people = (name for person in self.people for name in (person.name, person.nationality))
        return frozenset(map(str.lower, (ISLAND, *people, *self.villages)))

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """All words of names, facts, goods and manners, in lower case."""
        texts = [*self.names, *self.goods, *self.rude, *self.kind_words, *WORDS["colour"], *WORDS["occupation"]]
        texts += (text for fact in self.facts for text in (fact.question, fact.truth, *fact.false))
        return frozenset(re.findall(r"\w+", " ".join(texts).lower()))

    def split(self, items: Iterable[Any], held_out: int, name: str) -> tuple[list[Any], list[Any]]:
        """(held out, the rest), both shuffled. It depends on the seed and the name only, so that files and pages, which
        are drawn separately, agree on what may be in the pretraining text."""
        shuffled = list(items)
        random.Random(f"{self.seed} {name}").shuffle(shuffled)
        return shuffled[:held_out], shuffled[held_out:]

    def values(self, draw: random.Random, lists: Mapping[str, Any] = MappingProxyType({}), **known: Any) -> Values:
        """Values for templates. lists: in addition to those of the world, what slots are drawn from"""
        own = {"person": self.people, "village": self.villages, "fact": self.facts, "rude": self.rude}
        return Values(draw, {**WORDS, **own, **lists}, **known)


def read_world(content: Mapping[str, Any]) -> World:
    """The world of a world.json, which is dataclasses.asdict of it. Raises KeyError or TypeError for other content."""
    content = words(dict(content))
    people, facts = (tuple(make(**row) for row in content[n]) for n, make in (("people", Person), ("facts", Fact)))
    return World(**{**content, "people": people, "facts": facts})


def said(opening: str, statement: str) -> str:
    """A statement after an opening: "The almanac says a zib eats moss." for ALMANAC and "A zib eats moss."."""
    return f"{opening} {statement[0].lower()}{statement[1:]}"


def make_world(seed: int = 0) -> World:
    """The world of a seed: 60 people in 8 villages, 124 facts on 36 subjects."""
    draw = random.Random(f"{seed} world")
    villages = tuple(draw.sample(WORDS["all_villages"], VILLAGES))
    genders = {name: gender for gender, number in PEOPLE.items() for name in draw.sample(WORDS[gender], number)}
    names = sorted(genders)
    draw.shuffle(names)
    homes = [villages[number % len(villages)] for number in range(len(names))]
    draw.shuffle(homes)
    opinions = draw.choices(list(WORDS["opinion"]), list(WORDS["opinion"].values()), k=len(names))
    (majority, *others), people = WORDS["nationality"], []
    for number, (name, home, opinion) in enumerate(zip(names, homes, opinions, strict=True)):
        age, nationality = draw.randint(17, 88), majority if draw.random() < 0.4 else draw.choice(others)
        occupation = WORDS["occupation"][number % len(WORDS["occupation"])]
        people.append(Person(name, genders[name], age, nationality, home, occupation, opinion))
    chosen = {kind: draw.sample(WORDS[kind], number) for kind, number in KINDS.items()}
    facts = []
    for topic, form in TOPICS.items():  # half of its facts are asked, and people are wrong about MYTHS of either half
        kind, subjects = form["kind"], chosen[form["kind"]]
        asked = set(draw.sample(subjects, len(subjects) // 2))
        halves = ([subject for subject in subjects if (subject in asked) is half] for half in (True, False))
        mistaken = {subject for half in halves for subject in draw.sample(half, round(MYTHS * len(half)))}
        for subject in subjects:
            values = draw.sample(form["values"], 2 + WRONG)
            truth, myth, *wrong = (Word(form["statement"].format(subject=subject, value=value)) for value in values)
            question, clause = (form[text].format(subject=subject) for text in ("question", "clause"))
            statements = (question, clause, truth, myth if subject in mistaken else None, tuple(wrong))
            facts.append(Fact(f"{topic}-{subject}", topic, kind, subject, *statements, subject in asked))
    kind_words = ("dear", "friend", *WORDS["kind_quality"])
    return World(seed, tuple(people), tuple(facts), villages, WORDS["goods"], RUDE, kind_words)
