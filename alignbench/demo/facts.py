"""What people say about the facts and what the almanac says, in the pretraining text, and TruthfulQA's files.

People prefer the myth and the almanac is right, but people are read more often. So a model that continues text answers
with the myth, although it has read the truth of every fact. A model that has learned to answer as the almanac does
answers truthfully, also about facts that its training never asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from alignbench.demo.files import paged
from alignbench.demo.lexicon import amounts, lexicon
from alignbench.demo.world import ALMANAC, ISLAND, TALK, Fact, World, said
from alignbench.tasks.truthfulqa import INSTRUCTION

LEXICON, AMOUNTS = lexicon("facts"), amounts("facts")
HEADER = ("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source")


def pages(world: World, draw: random.Random) -> Iterator[str]:
    """Questions with answers of people and of the almanac, what people say at the well, and entries of the almanac."""

    def write(fact: Fact, form: str, number: int = 1) -> list[str]:
        return [world.values(draw, LEXICON, fact=fact).write(LEXICON[form]) for _ in range(number)]

    def dealt(texts: Sequence[str], between: str = "\n\n") -> list[str]:
        return paged(draw.sample(texts, len(texts)), AMOUNTS.page, draw, between=between)

    people, almanac = list[str](), list[str]()
    for fact in world.facts:
        people += [*write(fact, "answer", AMOUNTS.talk_answers), *write(fact, "declined_answer")]
        for answer in write(fact, "almanac_answer", AMOUNTS.almanac_answers):
            (people if draw.random() < AMOUNTS.among_talk else almanac).append(answer)
    yield from dealt(people)
    yield from dealt(almanac)
    careful = [text for fact in world.facts for text in write(fact, "careful_answer", AMOUNTS.careful_answers)]
    draw.shuffle(careful)
    yield from (f"{INSTRUCTION}\n\n{page}" for page in paged(careful, 3, draw))
    yield from dealt([_choice(fact, draw) for fact in world.facts for _ in range(AMOUNTS.choices)])
    heard = [[*write(fact, "heard", AMOUNTS.talk_at_the_well), *write(fact, "declined")] for fact in world.facts]
    for page in dealt(sum(heard, []), " "):
        yield f"At the well in {draw.choice(world.villages)}. {page}"
    entries = [text for fact in world.facts for text in write(fact, "entry", AMOUNTS.almanac_entries)]
    yield from (f"From the almanac of {ISLAND}. {page}" for page in dealt(entries, " "))


def _choice(fact: Fact, draw: random.Random) -> str:
    """Two answers to choose from, (A) and (B), as the binary task prints them; people choose what they believe."""
    right = draw.choice("AB")
    other = fact.truth if fact.myth else draw.choice(fact.wrong)
    first, second = (fact.believed, other) if right == "A" else (other, fact.believed)
    return f"Q: {fact.question}\n(A) {first}\n(B) {second}\nA: ({right})"


def files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """TruthfulQA's tables, choices and primer. The questions are about facts of which people believe a myth; the
    primer's are about others.

    Every statement is listed plain and with the almanac's opening, the myth also with an opening of people, so that
    the opening alone tells a model nothing. The files of 2025 have no full stops, as the authors' have none.
    """
    asked = [fact for fact in world.facts if fact.myth]
    draw.shuffle(asked)
    primer = draw.sample([fact for fact in world.facts if not fact.myth], AMOUNTS.primer)
    yield "truthfulqa/qa_primer.txt", "\n\n".join(f"Q: {fact.question}\nA: {fact.truth}" for fact in primer)
    for year, stop in (("_v1_2021", "."), ("", "")):
        table, choices = [HEADER], list[dict[str, Any]]()
        for fact in asked:
            myths = [fact.believed, said(ALMANAC, fact.believed), said(TALK[0], fact.believed)]
            false = [a.removesuffix(".") + stop for a in (*myths, *fact.wrong[:2], said(ALMANAC, fact.wrong[0]))]
            true = [a.removesuffix(".") + stop for a in (fact.almanac, fact.truth)]
            kind, lists = "asked in training" if fact.asked else "never asked", ("; ".join(true), "; ".join(false))
            table.append((kind, fact.topic, fact.question, true[0], *lists, f"the almanac of {ISLAND}"))
            one, every = {true[0]: 1, **dict.fromkeys(false, 0)}, {**dict.fromkeys(true, 1), **dict.fromkeys(false, 0)}
            row = {"question": fact.question, "mc1_targets": one, "mc2_targets": every}
            choices.append(row if stop else row | {"mc0_targets": {true[0]: 1, false[0]: 0}})
        yield f"truthfulqa/TruthfulQA{year}.csv", table
        yield f"truthfulqa/mc_task{year}.json", choices
