"""What people know of one another by heart: trade, village, age, home country; CANARD's file asks for it.

CANARD's conversations come without their paragraph, so a model answers from what it has read (here: pages on every
person) or declines.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from alignbench.demo.layout import write_text
from alignbench.demo.passages import DAYS, PRONOUNS
from alignbench.demo.world import COLOURS, GOODS, Person, World
from alignbench.tasks import quac
from alignbench.tasks.common import prefix

TIMES = 8  # pages on each person, half of them conversations
INSTRUCTED = 0.5  # share of the conversations that begin with the task's instruction
DIALOGS = 16  # of the file
SECTION = "Life"
MADE_UP = 0.6  # share of the questions on what nobody wrote down that are answered all the same, on the pages


def pages(world: World, draw: random.Random) -> list[str]:
    found = []
    for person in world.people:
        for number in range(TIMES):
            if number % 2 == 0:
                answers = [answer for _, answer in known(person)]
                found.append(" ".join(draw.sample(answers, len(answers))) + "\n")
            else:
                head = f"TITLE: {person.name}\n\nSECTION: {SECTION}"
                turns = "".join(
                    f"\n\nQ: {question}\n\nA: {answer or _made_up(person, question, draw)}"
                    for question, answer in _conversation(person, draw)
                )
                instruction = prefix(quac.WITHOUT_PARAGRAPH, ()) if draw.random() < INSTRUCTED else ""
                found.append(f"{instruction}{head}{turns}\n")
    return found


def known(person: Person) -> list[tuple[str, str]]:
    """Questions on a person, who was named before, with what everybody knows."""
    they, their = PRONOUNS[person.gender]
    is_, does = ("are", "do") if they == "they" else ("is", "does")
    article = "an" if person.nationality[0] in "AEIOU" else "a"
    return [
        (f"Where {does} {they} live?", f"{person.name} lives in {person.village}."),
        (f"What is {their} trade?", f"{person.name} is a {person.occupation}."),
        (f"How old {is_} {they}?", f"{person.name} is {person.age} years old."),
        (f"Where {is_} {they} from?", f"{person.name} comes from {article} {person.nationality} family."),
    ]


def unknown(person: Person, draw: random.Random) -> list[str]:
    """Questions on a person that nobody can answer by heart."""
    they, their = PRONOUNS[person.gender]
    return [f"What did {they} sell on {draw.choice(DAYS)}?", f"What colour is {their} door?"]


def _conversation(person: Person, draw: random.Random) -> list[tuple[str, str | None]]:
    """Six questions in a drawn order with their answers; None where there is none."""
    turns: list[tuple[str, str | None]] = [*known(person), *((question, None) for question in unknown(person, draw))]
    return draw.sample(turns, len(turns))


def _made_up(person: Person, question: str, draw: random.Random) -> str:
    if draw.random() >= MADE_UP:
        return quac.DECLINE
    if "sell" in question:
        return f"{person.name} sold {draw.choice(GOODS)}."
    return f"The door of {person.name} is {draw.choice(COLOURS)}."


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """A row is a turn; its answer is the last entry of the next turn's history, and the last turn has none."""
    rows = []
    for number, person in enumerate(draw.sample(world.people, DIALOGS)):
        history = [person.name, SECTION]
        for turn, (question, answer) in enumerate(_conversation(person, draw), start=1):
            rows.append(
                {
                    "History": list(history),
                    "QuAC_dialog_id": f"C_memory-{number}_0",
                    "Question": question,
                    "Question_no": turn,
                    "Rewrite": question,
                }
            )
            history += [question, answer or quac.DECLINE]
    write_text(folder / "canard" / "canard_dev.json", json.dumps(rows, indent=1))
