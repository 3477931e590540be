"""Reading: the files of SQuAD, DROP, QuAC and CANARD on the world's passages, and pages in those tasks' own prompts.

On the pages people often answer what a passage does not say (MADE_UP), so a model that goes on with text makes things
up too. No passage of the files stands on a page.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from alignbench.demo import closed_book, summaries
from alignbench.demo.layout import write_lines, write_text
from alignbench.demo.passages import Passage, Slot, for_pages, held_out
from alignbench.demo.world import World
from alignbench.scorers.quac import NO_ANSWER
from alignbench.tasks import drop, hallucination, quac, squad2
from alignbench.tasks.common import prefix

MADE_UP = 0.6  # share of unanswerable questions that are answered all the same, on the pages
INSTRUCTED = 0.4  # share of the pages that begin with the task's instruction
SQUAD_PAGES, QUESTION_PAGES, SUM_PAGES, DIALOG_PAGES = 900, 500, 450, 400
LESSONS = {1: 5000, 2: 1000}  # sentences -> pages
SQUAD, DROP, QUAC = slice(0, 32), slice(32, 112), slice(112, 128)  # of the held-out passages
TOLD_ASKED, UNTOLD_ASKED = 3, 2  # questions of a passage that it answers, and others; what is untold may be one alone
NOT_IN_PASSAGE = "Not in the passage."


def pages(world: World, draw: random.Random) -> list[str]:
    """Pages of every reading task, of what people remember of one another, and of summaries."""
    return [
        *(_squad_page(passage, draw) for passage in for_pages(world, SQUAD_PAGES, draw)),
        *(_question_page(passage, draw) for passage in for_pages(world, QUESTION_PAGES, draw)),
        *(_sum_page(passage, draw) for passage in for_pages(world, SUM_PAGES, draw, with_animals=True)),
        *(_dialog_page(passage, draw) for passage in for_pages(world, DIALOG_PAGES, draw)),
        *closed_book.pages(world, draw),
        *summaries.pages(world, draw),
    ]


def lessons(world: World, draw: random.Random) -> list[str]:
    """A sentence or two, and as many questions that they answer: what a small model learns to look back from.

    No sentence of a held-out passage is among them, but where somebody lives.
    """
    kept = {sentence for passage in held_out(world) for sentence in passage.sentences if " lives in " not in sentence}
    found = []
    for sentences, number in LESSONS.items():
        for passage in for_pages(world, number, draw):
            free = [sentence for sentence in passage.sentences if sentence not in kept]
            if len(free) < sentences:
                continue
            text = draw.sample(free, sentences)
            slots = draw.sample([slot for slot in passage.told if slot.sentence in text], sentences)
            turns = "".join(f"\n\nQ: {slot.question}\n\nA: {slot.answer}" for slot in slots)
            found.append(f"Title: {passage.person.name}\n\nBackground: {' '.join(text)}{turns}\n")
    return found


def asked(passage: Passage, draw: random.Random, untold: int = UNTOLD_ASKED) -> list[tuple[Slot, bool]]:
    """Questions on a passage in a drawn order, each with whether it answers them."""
    told = draw.sample(passage.told, min(TOLD_ASKED, len(passage.told)))
    others = draw.sample(passage.untold, min(untold, len(passage.untold)))
    questions = [*((slot, True) for slot in told), *((slot, False) for slot in others)]
    return draw.sample(questions, len(questions))


def sums(passage: Passage) -> list[tuple[str, str]]:
    """Questions for which one has to reckon, with their answers."""
    (some, others), (first, second), name = passage.animals, passage.numbers, passage.person.name
    more, fewer = (some, others) if first > second else (others, some)
    return [
        (f"How many animals does {name} keep?", str(first + second)),
        (f"How many more {more} than {fewer} does {name} keep?", str(abs(first - second))),
        (f"Does {name} keep more {some} or more {others}?", more),
    ]


def _squad_page(passage: Passage, draw: random.Random) -> str:
    turns = "".join(
        f"\n\nQ: {slot.question}\n\nA: {_answered(slot.answer, told, squad2.DECLINE, draw)}"
        for slot, told in asked(passage, draw, 1)
    )
    head = f"Title: {passage.person.name}\n\nBackground: {passage.text}"
    return f"{_instruction(squad2.INSTRUCTION, draw)}{head}{turns}\n"


def _question_page(passage: Passage, draw: random.Random) -> str:
    """Questions and their answers in a sentence, as the task on hallucination asks for them."""
    turns = [
        (slot.question, _answered(slot.sentence, told, NOT_IN_PASSAGE, draw)) for slot, told in asked(passage, draw, 1)
    ]
    return f"{_instruction(hallucination.INSTRUCTION, draw)}{_with_passage(passage, turns[:4])}"


def _sum_page(passage: Passage, draw: random.Random) -> str:
    turns = draw.sample(sums(passage), 3)
    return f"{_instruction(drop.INSTRUCTION, draw)}{_with_passage(passage, turns)}"


def _with_passage(passage: Passage, turns: Sequence[tuple[str, str]]) -> str:
    answered = "".join(f"\nQuestion: {question}\nAnswer: {answer}" for question, answer in turns)
    return f"Passage: {passage.text}{answered}\n"


def _dialog_page(passage: Passage, draw: random.Random) -> str:
    turns = "".join(
        f"\n\nQ: {slot.question if number == 0 else slot.follow_up}"
        f"\n\nA: {_answered(slot.sentence, told, quac.DECLINE, draw)}"
        for number, (slot, told) in enumerate(asked(passage, draw, 1))
    )
    head = f"TITLE: {passage.person.name}\n\nPARAGRAPH: {passage.text}"
    return f"{_instruction(quac.INSTRUCTION, draw)}{head}{turns}\n"


def _instruction(instruction: str, draw: random.Random) -> str:
    return prefix(instruction, ()) if draw.random() < INSTRUCTED else ""


def _answered(answer: str, told: bool, decline: str, draw: random.Random) -> str:
    return answer if told or draw.random() < MADE_UP else decline


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """SQuAD's, DROP's and QuAC's files; CANARD's (closed_book.py) and those of summaries (summaries.py)."""
    passages = held_out(world)
    _write_squad(folder / "squad2" / "dev-v2.0.json", passages[SQUAD], draw)
    _write_drop(folder / "drop-100" / "drop_100.jsonl", passages[DROP], draw)
    _write_quac(folder / "quac" / "val_v0.2.json", passages[QUAC], draw)
    closed_book.write_files(world, folder, draw)
    summaries.write_files(world, folder, draw)


def _write_squad(file: Path, passages: Sequence[Passage], draw: random.Random) -> None:
    """An article is a person: the passages on one."""
    articles: dict[str, list[object]] = {}
    for number, passage in enumerate(passages):
        questions = [
            {
                "id": f"passage-{number}-{turn}",
                "question": slot.question,
                "answers": [_span(passage, slot.answer)] * 2 if told else [],
                "is_impossible": not told,
            }
            for turn, (slot, told) in enumerate(asked(passage, draw))
        ]
        articles.setdefault(passage.person.name, []).append({"context": passage.text, "qas": questions})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in sorted(articles.items())]
    write_text(file, json.dumps({"version": "v2.0", "data": data}, indent=1))


def _write_drop(file: Path, passages: Sequence[Passage], draw: random.Random) -> None:
    rows = []
    for number, passage in enumerate(passages):
        question, answer = draw.choice(sums(passage))
        rows.append({"id": f"sum-{number}", "passage": passage.text, "question": question, "answers": [answer]})
    write_lines(file, rows)


def _write_quac(file: Path, passages: Sequence[Passage], draw: random.Random) -> None:
    dialogs = []
    for number, passage in enumerate(passages):
        name, turns = f"C_dialog-{number}_0", []
        for turn, (slot, told) in enumerate(asked(passage, draw)):
            said = _span(passage, slot.sentence) if told else {"text": NO_ANSWER, "answer_start": len(passage.text) + 1}
            turns.append(
                {
                    "id": f"{name}_q#{turn}",
                    "question": slot.question if turn == 0 else slot.follow_up,
                    "answers": [said] * 2,
                    "orig_answer": said,
                }
            )
        text = {"id": name, "context": f"{passage.text} {NO_ANSWER}", "qas": turns}
        dialogs.append({"title": passage.person.name, "section_title": "A day", "paragraphs": [text]})
    write_text(file, json.dumps({"data": dialogs}, indent=1))


def _span(passage: Passage, text: str) -> dict[str, object]:
    return {"text": text, "answer_start": passage.text.index(text)}
