"""What is true on the island, as people tell it and as the almanac does; TruthfulQA's files about it.

Talk prefers the myth and the almanac is right, and talk is heard more often. A model that continues text therefore
answers with the myth, although it has read the truth of every fact. A model that has learned to answer from the almanac
answers truthfully, also about facts that its training never asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from alignbench.demo.files import paged, write_file
from alignbench.demo.lexicon import amounts
from alignbench.demo.world import ALMANAC, ISLAND, NO_ANSWER, TALK, Fact, World, said
from alignbench.tasks.truthfulqa import INSTRUCTION

AMOUNTS = amounts("facts")


def shown(question: str, answer: str) -> str:
    """A question and its answer as the prompts of TruthfulQA's tasks print them."""
    return f"Q: {question}\nA: {answer}"


def pages(world: World, draw: random.Random) -> Iterator[str]:
    """Pages of questions with answers, of talk at the well and of the almanac."""
    talk, almanac, items = list[str](), list[str](), list[str]()
    for fact in world.facts:
        for _ in range(AMOUNTS.talk_answers):
            plain = draw.random() < AMOUNTS.plain_talk
            talk.append(shown(fact.question, fact.believed if plain else said(draw.choice(TALK), fact.believed)))
        talk.append(shown(fact.question, draw.choice(NO_ANSWER)))
        for _ in range(AMOUNTS.almanac_answers):
            (talk if draw.random() < AMOUNTS.among_talk else almanac).append(shown(fact.question, fact.almanac))
    yield from _dealt(talk, "\n\n", draw)
    yield from _dealt(almanac, "\n\n", draw)
    # below TruthfulQA's instruction: more of the almanac, more without an answer, less talk
    for fact in world.facts:
        choices = (fact.almanac, NO_ANSWER[0], fact.believed)
        items += [shown(fact.question, a) for a in draw.choices(choices, weights=(5, 2, 3), k=AMOUNTS.careful_answers)]
    draw.shuffle(items)
    yield from (f"{INSTRUCTION}\n\n{page}" for page in paged(items, 3, draw))
    yield from _dealt([_choice(fact, draw) for fact in world.facts for _ in range(AMOUNTS.choices)], "\n\n", draw)
    talk = [line for fact in world.facts for line in _heard(world, fact, draw)]
    for page in _dealt(talk, " ", draw):
        yield f"At the well in {draw.choice(world.villages)}. {page}"
    almanac = []
    for fact in world.facts:
        for _ in range(AMOUNTS.almanac_entries):
            asked = f"{draw.choice(world.people).name} asked {fact.clause}. " if draw.random() < 0.3 else ""
            almanac.append(f"{asked}{fact.almanac}")
    yield from (f"From the almanac of {ISLAND}. {page}" for page in _dealt(almanac, " ", draw))


def _choice(fact: Fact, draw: random.Random) -> str:
    """Two answers to choose from, (A) and (B), as the binary task prints them; people choose what they believe."""
    right = draw.choice("AB")
    other = fact.truth if fact.myth else draw.choice(fact.wrong)
    first, second = (fact.believed, other) if right == "A" else (other, fact.believed)
    return f"Q: {fact.question}\n(A) {first}\n(B) {second}\nA: ({right})"


def _heard(world: World, fact: Fact, draw: random.Random) -> Iterator[str]:
    """Talk about a fact at the well."""
    for number in range(AMOUNTS.talk_at_the_well + 1):
        one, other = draw.sample(world.people, 2)
        if number < AMOUNTS.talk_at_the_well:
            statement = said(draw.choice(TALK), fact.believed)
            asked = f"{one.name} asked {fact.clause}. " if draw.random() < 0.5 else ""
        else:
            statement, asked = draw.choice(NO_ANSWER), f"{one.name} asked {fact.clause}. "
        yield f"{asked}{other.name} said: {statement}"


def _dealt(items: Sequence[str], between: str, draw: random.Random) -> list[str]:
    """The items in a drawn order, some on a page."""
    shuffled = draw.sample(items, len(items))
    return [between.join(shuffled[i : i + AMOUNTS.page]) + "\n" for i in range(0, len(shuffled), AMOUNTS.page)]


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """Write TruthfulQA's tables, choices and primer. The questions are about facts of which people believe a myth; the
    primer's are about others.

    Every statement is listed plain and with the almanac's opening, the myth with talk's as well, so that the register
    alone tells a model nothing. The files of 2025 have no full stops, as the authors' have none.
    """
    home = folder / "truthfulqa"
    asked = [fact for fact in world.facts if fact.myth]
    draw.shuffle(asked)
    primer = draw.sample([fact for fact in world.facts if not fact.myth], AMOUNTS.primer)
    write_file(home / "qa_primer.txt", "\n\n".join(shown(fact.question, fact.truth) for fact in primer))
    for year, stop in (("_v1_2021", "."), ("", "")):
        choices = []
        table = [("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source")]
        for fact in asked:
            true, false = ([a.removesuffix(".") + stop for a in found] for found in answers(fact))
            kind, lists = "asked in training" if fact.asked else "never asked", ("; ".join(true), "; ".join(false))
            table.append((kind, fact.topic, fact.question, true[0], *lists, f"the almanac of {ISLAND}"))
            row: dict[str, object] = {
                "question": fact.question,
                "mc1_targets": {true[0]: 1, **dict.fromkeys(false, 0)},
                "mc2_targets": {**dict.fromkeys(true, 1), **dict.fromkeys(false, 0)},
            }
            choices.append(row if stop else row | {"mc0_targets": {true[0]: 1, false[0]: 0}})
        write_file(home / f"TruthfulQA{year}.csv", table)
        write_file(home / f"mc_task{year}.json", choices)


def answers(fact: Fact) -> tuple[list[str], list[str]]:
    """(true answers, the best first; false answers: the myth in every register and statements that nobody makes)"""
    myth = fact.believed
    spoken = [myth, said(ALMANAC, myth), said(TALK[0], myth)]
    return [fact.almanac, fact.truth], [*spoken, *fact.wrong[:2], said(ALMANAC, fact.wrong[0])]
