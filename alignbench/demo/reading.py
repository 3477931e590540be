"""Texts to read: the files of SQuAD, DROP, QuAC, CANARD and the two summary tasks, and pages in those tasks' prompts.

On the pages people often answer what a passage does not say (MADE_UP), so a model that continues text makes things up
too. No passage of the files is on a page. CANARD's conversations come without their paragraph: a model answers from
what it has read about a person (TIMES pages on each) or declines. A summary says what the first sentence of its text
says, in fewer words.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from alignbench.demo.files import write_file
from alignbench.demo.lexicon import Values, lexicon
from alignbench.demo.world import Person, World
from alignbench.scorers.quac import NO_ANSWER
from alignbench.tasks import drop, hallucination, quac, squad2
from alignbench.tasks.instructgpt import prefix
from alignbench.tasks.summaries import CUE

HELD_OUT = 128  # passages of the data files
SQUAD, DROP, QUAC = slice(0, 32), slice(32, 112), slice(112, 128)
TOLD = 4  # sentences of a passage, of the six that there are
ANIMALS = 3  # the sentence about animals
MADE_UP = 0.6  # proportion of unanswerable questions that are answered all the same, on the pages
MADE_UP_SUMMARIES = 0.3
INSTRUCTED, INSTRUCTED_DIALOGS = 0.4, 0.5  # proportion of the pages that begin with the task's instruction
SQUAD_PAGES, QUESTION_PAGES, SUM_PAGES, DIALOG_PAGES = 900, 500, 450, 400
LESSONS = {1: 5000, 2: 1000}  # sentences -> pages
TOLD_ASKED, UNTOLD_ASKED = 3, 2  # questions about a passage that it answers, and others, of which there may be only one
NOT_IN_PASSAGE = "Not in the passage."
TIMES = 8  # pages on what is known of each person, half of them conversations
DIALOGS, SECTION = 16, "Life"  # of CANARD's file
SUMMARY_PAGES = {"news": 300, "post": 300, "passage": 250}
DOCUMENTS = 60  # of either file of summaries
LEXICON = lexicon("reading")
Q_AND_A, QUESTION_AND_ANSWER = "\n\nQ: {}\n\nA: {}", "\nQuestion: {}\nAnswer: {}"
Turn = tuple[str, str]  # a question and its answer


@dataclass(frozen=True)
class Slot:
    """A value in a sentence, with the question that it answers; follow_up: where the person was named before."""

    sentence: str
    question: str
    follow_up: str
    answer: str


@dataclass(frozen=True)
class Passage:
    """A day of a person. told: what the passage says, in its order; untold: what it does not say, with made-up values;
    sums: questions that need a calculation, with their answers"""

    name: str
    told: tuple[Slot, ...]
    untold: tuple[Slot, ...]
    sums: tuple[Turn, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        return list(dict.fromkeys(slot.sentence for slot in self.told))


@lru_cache(maxsize=4)
def held_out(world: World) -> list[Passage]:
    """The HELD_OUT passages of the data files; each mentions animals."""
    draw = random.Random(f"{world.seed} passages")
    found: dict[str, Passage] = {}
    while len(found) < HELD_OUT:
        passage = _passage(world, draw, with_animals=True)
        found.setdefault(passage.text, passage)
    return list(found.values())


def for_pages(world: World, number: int, draw: random.Random, with_animals: bool = False) -> list[Passage]:
    """That many passages, none of them held out."""
    kept = {passage.text for passage in held_out(world)}
    found: list[Passage] = []
    while len(found) < number:
        passage = _passage(world, draw, with_animals)
        if passage.text not in kept:
            found.append(passage)
    return found


def _passage(world: World, draw: random.Random, with_animals: bool) -> Passage:
    """The person's home is as in the world; the rest is true of that day only."""
    values = world.values("reading", draw).take(LEXICON["passage"]["draw"])
    person, first, second = values["person"], values["first"], values["second"]
    slots = []
    for sentence in LEXICON["passage"]["sentences"]:
        text, own = values.fill(sentence["text"]), []
        for question, answer in sentence["questions"]:
            values.update(who=person.name, whose=f"{person.name}'s", does="does")
            whole = values.fill(question)
            values.update(who=person.they, whose=person.their, does=person.does)
            own.append(Slot(text, whole, values.fill(question), str(values.fill(answer))))
        slots.append(own)
    told = draw.sample(range(len(slots)), TOLD)
    if with_animals and ANIMALS not in told:
        told[0] = ANIMALS
    more, fewer = sorted(("some", "others"), key=lambda which: which == ("others" if first > second else "some"))
    values.update(more=values[more], fewer=values[fewer], total=first + second, difference=abs(first - second))
    return Passage(
        person.name,
        told=tuple(slot for number, own in enumerate(slots) if number in told for slot in own),
        untold=tuple(slot for number, own in enumerate(slots) if number not in told for slot in own),
        sums=tuple((values.fill(question), str(values.fill(answer))) for question, answer in LEXICON["sums"]),
    )


def asked(passage: Passage, draw: random.Random, untold: int = UNTOLD_ASKED) -> list[tuple[Slot, bool]]:
    """Questions about a passage in a drawn order, and for each whether it answers them."""
    told = draw.sample(passage.told, min(TOLD_ASKED, len(passage.told)))
    others = draw.sample(passage.untold, min(untold, len(passage.untold)))
    questions = [*((slot, True) for slot in told), *((slot, False) for slot in others)]
    return draw.sample(questions, len(questions))


def pages(world: World, draw: random.Random) -> list[str]:
    """Pages of every reading task, of what people know of one another, and of summaries."""
    found = []
    for passage in for_pages(world, SQUAD_PAGES, draw):
        turns = [(s.question, _answer(s.answer, told, squad2.DECLINE, draw)) for s, told in asked(passage, draw, 1)]
        head = f"Title: {passage.name}\n\nBackground: {passage.text}"
        found.append(_page(squad2.INSTRUCTION, INSTRUCTED, head, turns, Q_AND_A, draw))
    for passage in for_pages(world, QUESTION_PAGES, draw):
        turns = [(s.question, _answer(s.sentence, told, NOT_IN_PASSAGE, draw)) for s, told in asked(passage, draw, 1)]
        head = f"Passage: {passage.text}"
        found.append(_page(hallucination.INSTRUCTION, INSTRUCTED, head, turns[:4], QUESTION_AND_ANSWER, draw))
    for passage in for_pages(world, SUM_PAGES, draw, with_animals=True):
        turns = draw.sample(passage.sums, 3)
        head = f"Passage: {passage.text}"
        found.append(_page(drop.INSTRUCTION, INSTRUCTED, head, turns, QUESTION_AND_ANSWER, draw))
    for passage in for_pages(world, DIALOG_PAGES, draw):
        turns = [
            (s.follow_up if turn else s.question, _answer(s.sentence, told, quac.DECLINE, draw))
            for turn, (s, told) in enumerate(asked(passage, draw, 1))
        ]
        head = f"TITLE: {passage.name}\n\nPARAGRAPH: {passage.text}"
        found.append(_page(quac.INSTRUCTION, INSTRUCTED, head, turns, Q_AND_A, draw))
    return [*found, *_known_pages(world, draw), *_summary_pages(world, draw)]


def _page(instruction: str, proportion: float, head: str, turns: Iterable[Turn], form: str, draw: random.Random) -> str:
    heading = prefix(instruction, ()) if draw.random() < proportion else ""
    return f"{heading}{head}{''.join(form.format(*turn) for turn in turns)}\n"


def _answer(answer: str, told: bool, decline: str, draw: random.Random) -> str:
    return answer if told or draw.random() < MADE_UP else decline


def lessons(world: World, draw: random.Random) -> list[str]:
    """A sentence or two and as many questions that they answer: a small model learns from them to copy from a text.

    No sentence of a held-out passage is among them, except where somebody lives.
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
            turns = "".join(Q_AND_A.format(slot.question, slot.answer) for slot in slots)
            found.append(f"Title: {passage.name}\n\nBackground: {' '.join(text)}{turns}\n")
    return found


def known(world: World, person: Person, draw: random.Random) -> list[Turn]:
    """Questions on a person, who was named before, with what everybody knows."""
    return list(map(tuple, world.values("reading", draw, person=person).fill(LEXICON["known"])))


def _conversation(
    world: World, person: Person, draw: random.Random
) -> tuple[Values, list[tuple[str, str | None, str]]]:
    """Six questions in a drawn order with their answers (None if there is none) and templates of made-up answers."""
    values = world.values("reading", draw, person=person)
    turns = [(question, answer, "") for question, answer in known(world, person, draw)]
    turns += [(values.fill(question), None, made_up) for question, made_up in LEXICON["unknown"]]
    return values, draw.sample(turns, len(turns))


def _known_pages(world: World, draw: random.Random) -> list[str]:
    found = []
    for person in world.people:
        for number in range(TIMES):
            if number % 2 == 0:
                answers = [answer for _, answer in known(world, person, draw)]
                found.append(" ".join(draw.sample(answers, len(answers))) + "\n")
                continue
            values, conversation = _conversation(world, person, draw)
            turns = [
                (question, answer or (values.fill(made_up) if draw.random() < MADE_UP else quac.DECLINE))
                for question, answer, made_up in conversation
            ]
            head = f"TITLE: {person.name}\n\nSECTION: {SECTION}"
            found.append(_page(quac.WITHOUT_PARAGRAPH, INSTRUCTED_DIALOGS, head, turns, Q_AND_A, draw))
    return found


def summarised(kind: str, world: World, draw: random.Random) -> dict[str, str]:
    """{text, summary} of a text that is news or a post."""
    form = LEXICON[kind]
    values = world.values("reading", draw).take(form["draw"])
    return {name: values.fill(form[name]) for name in ("text", "summary")}


def _summary_pages(world: World, draw: random.Random) -> list[str]:
    found = []
    for kind in ("news", "post"):
        for _ in range(SUMMARY_PAGES[kind]):
            text, other = summarised(kind, world, draw), summarised(kind, world, draw)
            found.append((text["text"], (other if draw.random() < MADE_UP_SUMMARIES else text)["summary"]))
    for passage in for_pages(world, SUMMARY_PAGES["passage"], draw):
        second = passage.untold[0].sentence if draw.random() < MADE_UP_SUMMARIES else passage.sentences[1]
        found.append((passage.text, f"{passage.sentences[0]} {second}"))
    return [f"{text}{CUE} {summary}\n" for text, summary in found]


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """Write SQuAD's, DROP's, QuAC's and CANARD's files, and those of summaries."""
    passages = held_out(world)
    _write_squad(folder / "squad2" / "dev-v2.0.json", passages[SQUAD], draw)
    rows = []
    for number, passage in enumerate(passages[DROP]):
        question, answer = draw.choice(passage.sums)
        rows.append({"id": f"sum-{number}", "passage": passage.text, "question": question, "answers": [answer]})
    write_file(folder / "drop-100" / "drop_100.jsonl", rows)
    _write_quac(folder / "quac" / "val_v0.2.json", passages[QUAC], draw)
    _write_canard(folder / "canard" / "canard_dev.json", world, draw)
    news, posts = ([summarised(kind, world, draw) for _ in range(DOCUMENTS)] for kind in ("news", "post"))
    articles = [{"id": f"news-{n}", "article": t["text"], "highlights": t["summary"]} for n, t in enumerate(news)]
    write_file(folder / "cnn-dailymail" / "cnn_dailymail_test.jsonl", articles)
    rows = [{"id": f"post-{n}", "post": t["text"], "summary": t["summary"]} for n, t in enumerate(posts)]
    write_file(folder / "tldr" / "tldr_test.jsonl", rows)


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
        articles.setdefault(passage.name, []).append({"context": passage.text, "qas": questions})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in sorted(articles.items())]
    write_file(file, {"version": "v2.0", "data": data})


def _write_quac(file: Path, passages: Sequence[Passage], draw: random.Random) -> None:
    dialogs = []
    for number, passage in enumerate(passages):
        name, turns = f"C_dialog-{number}_0", []
        for turn, (slot, told) in enumerate(asked(passage, draw)):
            answer = (
                _span(passage, slot.sentence) if told else {"text": NO_ANSWER, "answer_start": len(passage.text) + 1}
            )
            question = slot.follow_up if turn else slot.question
            turns.append(
                {"id": f"{name}_q#{turn}", "question": question, "answers": [answer] * 2, "orig_answer": answer}
            )
        text = {"id": name, "context": f"{passage.text} {NO_ANSWER}", "qas": turns}
        dialogs.append({"title": passage.name, "section_title": "A day", "paragraphs": [text]})
    write_file(file, {"data": dialogs})


def _write_canard(file: Path, world: World, draw: random.Random) -> None:
    """A row is a turn; its answer is the last entry of the next turn's history, and the last turn has none."""
    rows = []
    for number, person in enumerate(draw.sample(world.people, DIALOGS)):
        history = [person.name, SECTION]
        for turn, (question, answer, _) in enumerate(_conversation(world, person, draw)[1], start=1):
            place = {"History": list(history), "QuAC_dialog_id": f"C_memory-{number}_0", "Question": question}
            rows.append({**place, "Question_no": turn, "Rewrite": question})
            history += [question, answer or quac.DECLINE]
    write_file(file, rows)


def _span(passage: Passage, text: str) -> dict[str, object]:
    return {"text": text, "answer_start": passage.text.index(text)}
