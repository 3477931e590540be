"""Texts to read: the files of SQuAD, DROP, QuAC, CANARD and the two summary tasks, and pages in those tasks' prompts.

On the pages people often answer what a passage does not say, so a model that continues text makes things up too. No
passage of the files is on a page. CANARD's conversations come without their paragraph: a model answers from what it has
read about a person or declines. A summary says what the first sentence of its text says, in fewer words.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from alignbench.demo.files import write_file
from alignbench.demo.lexicon import amounts, lexicon
from alignbench.demo.world import Person, World
from alignbench.scorers.quac import NO_ANSWER
from alignbench.tasks import drop, hallucination, quac, squad2
from alignbench.tasks.common import prefix
from alignbench.tasks.summaries import CUE

SQUAD, DROP, QUAC = slice(0, 32), slice(32, 112), slice(112, 128)  # of the held-out passages
LEXICON, AMOUNTS = lexicon("reading"), amounts("reading")
Q_AND_A, QUESTION_AND_ANSWER = "\n\nQ: {}\n\nA: {}", "\nQuestion: {}\nAnswer: {}"
Turn = tuple[str, str]  # a question and its answer


class Slot(NamedTuple):
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
    told: list[Slot]
    untold: list[Slot]
    sums: list[Turn]

    @property
    def sentences(self) -> list[str]:
        return list(dict.fromkeys(slot.sentence for slot in self.told))

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


@lru_cache(maxsize=4)
def held_out(world: World) -> list[Passage]:
    """The passages of the data files; each mentions animals."""
    draw = random.Random(f"{world.seed} passages")
    found: dict[str, Passage] = {}
    while len(found) < AMOUNTS.held_out:
        passage = _passage(world, draw, with_animals=True)
        found.setdefault(passage.text, passage)
    return list(found.values())


def for_pages(world: World, number: int, draw: random.Random, with_animals: bool = False) -> list[Passage]:
    """That many passages, none of them held out."""
    kept, found = {passage.text for passage in held_out(world)}, list[Passage]()
    while len(found) < number:
        passage = _passage(world, draw, with_animals)
        found += [passage] * (passage.text not in kept)
    return found


def _passage(world: World, draw: random.Random, with_animals: bool) -> Passage:
    """The person's home is as in the world; the rest is true of that day only."""
    values = world.values(draw, LEXICON).take(LEXICON["passage"]["draw"])
    person, first, second = values["person"], values["first"], values["second"]
    named = {"who": person.name, "whose": f"{person.name}'s", "does": "does"}
    pronoun = {"who": person.pronoun["they"], "whose": person.pronoun["their"], "does": person.pronoun["does"]}
    parts = []
    for sentence in LEXICON["passage"]["sentences"]:
        text, part = values.fill(sentence["text"]), []
        for question, answer in sentence["questions"]:
            values.update(named)
            whole = values.fill(question)
            values.update(pronoun)
            part.append(Slot(text, whole, values.fill(question), str(values.fill(answer))))
        parts.append(part)
    told = draw.sample(range(len(parts)), AMOUNTS.told)
    if with_animals and AMOUNTS.animals not in told:
        told[0] = AMOUNTS.animals
    more, fewer = ("some", "others") if first > second else ("others", "some")
    values.update(more=values[more], fewer=values[fewer], total=first + second, difference=abs(first - second))
    chosen = [slot for n, part in enumerate(parts) if n in told for slot in part]
    others = [slot for n, part in enumerate(parts) if n not in told for slot in part]
    sums = [(question, str(answer)) for question, answer in values.fill(LEXICON["sums"])]
    return Passage(person.name, chosen, others, sums)


def asked(passage: Passage, draw: random.Random, untold: int = 2) -> list[tuple[Slot, bool]]:
    """Questions about a passage in a drawn order, and for each whether it answers them."""
    parts = ((passage.told, 3, True), (passage.untold, untold, False))
    questions = [(s, told) for part, n, told in parts for s in draw.sample(part, min(n, len(part)))]
    return draw.sample(questions, len(questions))


def pages(world: World, draw: random.Random) -> list[str]:
    """Pages of every reading task, of what people know of one another, and of summaries."""
    found = []
    for number, instruction, head, form, field, decline in (
        (900, squad2.INSTRUCTION, "Title: {}\n\nBackground: {}", Q_AND_A, "answer", squad2.DECLINE),
        (500, hallucination.INSTRUCTION, "Passage: {1}", QUESTION_AND_ANSWER, "sentence", "Not in the passage."),
        (450, drop.INSTRUCTION, "Passage: {1}", QUESTION_AND_ANSWER, "sums", ""),
        (400, quac.INSTRUCTION, "TITLE: {}\n\nPARAGRAPH: {}", Q_AND_A, "sentence", quac.DECLINE),
    ):
        for passage in for_pages(world, number, draw, with_animals=field == "sums"):
            turns = draw.sample(passage.sums, 3) if field == "sums" else []
            for slot, told in [] if turns else asked(passage, draw, 1):
                answer = getattr(slot, field) if told or draw.random() < AMOUNTS.made_up else decline
                turns.append((slot.follow_up if turns and instruction == quac.INSTRUCTION else slot.question, answer))
            above = head.format(passage.name, passage.text)
            found.append(_page(instruction, AMOUNTS.instructed, above, turns, form, draw))
    return [*found, *_known_pages(world, draw), *_summary_pages(world, draw)]


def _page(instruction: str, proportion: float, head: str, turns: Iterable[Turn], form: str, draw: random.Random) -> str:
    heading = prefix(instruction, ()) if draw.random() < proportion else ""
    return f"{heading}{head}{''.join(form.format(*turn) for turn in turns)}\n"


def lessons(world: World, draw: random.Random) -> list[str]:
    """A sentence or two and as many questions that they answer: a small model learns from them to copy from a text.

    No sentence of a held-out passage is among them, except where somebody lives.
    """
    kept = {sentence for passage in held_out(world) for sentence in passage.sentences if " lives in " not in sentence}
    found = []
    for sentences, number in AMOUNTS.lessons.items():
        for passage in for_pages(world, number, draw):
            free = [sentence for sentence in passage.sentences if sentence not in kept]
            if len(free) >= sentences:
                text = draw.sample(free, sentences)
                slots = draw.sample([slot for slot in passage.told if slot.sentence in text], sentences)
                turns = "".join(Q_AND_A.format(slot.question, slot.answer) for slot in slots)
                found.append(f"Title: {passage.name}\n\nBackground: {' '.join(text)}{turns}\n")
    return found


def known(world: World, person: Person) -> dict[str, str]:
    """Questions on a person, who was named before, with what everybody knows."""
    return dict(world.values(random.Random(), LEXICON, person=person).fill(LEXICON["known"]))


def _conversation(world: World, person: Person, draw: random.Random) -> list[tuple[str, str | None, str]]:
    """Six questions in a drawn order with their answers (None if there is none) and templates of made-up answers."""
    values = world.values(draw, LEXICON, person=person)
    turns: list[tuple[str, str | None, str]] = [(q, answer, "") for q, answer in known(world, person).items()]
    turns += [(values.fill(question), None, made_up) for question, made_up in LEXICON["unknown"]]
    return draw.sample(turns, len(turns))


def _known_pages(world: World, draw: random.Random) -> list[str]:
    found = []
    for person in world.people:
        values, head = world.values(draw, LEXICON, person=person), f"TITLE: {person.name}\n\nSECTION: Life"
        for _ in range(AMOUNTS.times // 2):
            answers = list(known(world, person).values())
            found.append(" ".join(draw.sample(answers, len(answers))) + "\n")
            turns = [
                (question, answer or (values.fill(made_up) if draw.random() < AMOUNTS.made_up else quac.DECLINE))
                for question, answer, made_up in _conversation(world, person, draw)
            ]
            found.append(_page(quac.WITHOUT_PARAGRAPH, AMOUNTS.instructed_dialogs, head, turns, Q_AND_A, draw))
    return found


def summarised(kind: str, world: World, draw: random.Random) -> dict[str, str]:
    """{text, summary} of a text that is news or a post."""
    values = world.values(draw, LEXICON)
    return {name: values.fill(text) for name, text in values.follow(LEXICON[kind]).items()}


def _summary_pages(world: World, draw: random.Random) -> list[str]:
    found = []
    for kind in ("news", "post"):
        for _ in range(AMOUNTS.summary_pages[kind]):
            text, other = summarised(kind, world, draw), summarised(kind, world, draw)
            found.append((text["text"], (other if draw.random() < AMOUNTS.made_up_summaries else text)["summary"]))
    for passage in for_pages(world, AMOUNTS.summary_pages["passage"], draw):
        second = passage.untold[0].sentence if draw.random() < AMOUNTS.made_up_summaries else passage.sentences[1]
        found.append((passage.text, f"{passage.sentences[0]} {second}"))
    return [f"{text}{CUE} {summary}\n" for text, summary in found]


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """Write SQuAD's, DROP's, QuAC's and CANARD's files, and those of summaries."""
    passages = held_out(world)
    _write_squad(folder / "squad2" / "dev-v2.0.json", passages[SQUAD], draw)
    rows: list[dict[str, Any]] = []
    for number, passage in enumerate(passages[DROP]):
        question, answer = draw.choice(passage.sums)
        rows.append({"id": f"sum-{number}", "passage": passage.text, "question": question, "answers": [answer]})
    write_file(folder / "drop-100" / "drop_100.jsonl", rows)
    _write_quac(folder / "quac" / "val_v0.2.json", passages[QUAC], draw)
    rows = []
    for number, person in enumerate(draw.sample(world.people, AMOUNTS.dialogs)):
        # a row is a turn; its answer is the last entry of the next turn's history, and the last turn has none
        history = [person.name, "Life"]
        for turn, (question, known_answer, _) in enumerate(_conversation(world, person, draw), start=1):
            place = {"History": list(history), "QuAC_dialog_id": f"C_memory-{number}_0", "Question": question}
            rows.append({**place, "Question_no": turn, "Rewrite": question})
            history += [question, known_answer or quac.DECLINE]
    write_file(folder / "canard" / "canard_dev.json", rows)
    for kind, file, names in (
        ("news", "cnn-dailymail/cnn_dailymail_test.jsonl", ("article", "highlights")),
        ("post", "tldr/tldr_test.jsonl", ("post", "summary")),
    ):
        found = [summarised(kind, world, draw).values() for _ in range(AMOUNTS.documents)]
        rows = [{"id": f"{kind}-{n}", **dict(zip(names, own, strict=True))} for n, own in enumerate(found)]
        write_file(folder / file, rows)


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
            question = {"id": f"{name}_q#{turn}", "question": slot.follow_up if turn else slot.question}
            turns.append({**question, "answers": [answer] * 2, "orig_answer": answer})
        text = {"id": name, "context": f"{passage.text} {NO_ANSWER}", "qas": turns}
        dialogs.append({"title": passage.name, "section_title": "A day", "paragraphs": [text]})
    write_file(file, {"data": dialogs})


def _span(passage: Passage, text: str) -> dict[str, object]:
    return {"text": text, "answer_start": passage.text.index(text)}
