"""Texts to read: the files of SQuAD, DROP, QuAC, CANARD and the two summary tasks, and pages in those tasks' prompts.
On the pages people often answer what a passage does not say, so a model that continues text makes things up too. No
passage of the files is on a page. CANARD's conversations come without their paragraph.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from alignbench.demo.lexicon import amounts, lexicon
from alignbench.demo.world import Person, World
from alignbench.scorers.quac import NO_ANSWER
from alignbench.tasks import reading
from alignbench.tasks.common import prefix
from alignbench.tasks.declare import PROMPTS
from alignbench.tasks.texts import CUE

SQUAD, DROP, QUAC = slice(0, 32), slice(32, 112), slice(112, 128)  # of the held-out passages
LEXICON, AMOUNTS = lexicon("reading"), amounts("reading")
Q_AND_A, QUESTION_AND_ANSWER = "\n\nQ: {}\n\nA: {}", "\nQuestion: {}\nAnswer: {}"
# number of pages, instruction, form of the passage and of a question, what is the answer, and how to decline
TASKS = (
    (900, PROMPTS["squad2"], "Title: {}\n\nBackground: {}", Q_AND_A, "answer", reading.SQUAD2_DECLINE),
    (500, PROMPTS["hallucination_qa"], "Passage: {1}", QUESTION_AND_ANSWER, "sentence", "Not in the passage."),
    (450, PROMPTS["drop"], "Passage: {1}", QUESTION_AND_ANSWER, "sums", ""),
    (400, PROMPTS["quac"], "TITLE: {}\n\nPARAGRAPH: {}", Q_AND_A, "sentence", reading.QUAC_DECLINE),
)
Turn = tuple[str, str]  # a question and its answer


class Slot(NamedTuple):
    """A value in a sentence, with the question that it answers; follow_up: where the person was named before."""

    sentence: str
    question: str
    follow_up: str
    answer: str


@dataclass(frozen=True)
class Passage:
    """A day of a person."""

    name: str
    told: list[Slot]  # what the passage says, in its order
    untold: list[Slot]  # what it does not say, with made-up values
    sums: list[Turn]  # questions that need a calculation

    @property
    def sentences(self) -> list[str]:
        return list(dict.fromkeys(slot.sentence for slot in self.told))

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


@lru_cache(maxsize=4)
def held_out(world: World) -> list[Passage]:
    """The passages of the data files; each mentions animals."""
    draw, found = random.Random(f"{world.seed} passages"), dict[str, Passage]()
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
    first_time, later = (world.values(draw, LEXICON, **{**values, **who}) for who in (named, pronoun))
    parts = [
        [Slot(values.fill(form["text"]), first_time.fill(question), later.fill(question), str(values.fill(answer)))
         for question, answer in form["questions"]]
        for form in LEXICON["passage"]["sentences"]
    ]  # fmt: skip
    told = draw.sample(range(len(parts)), AMOUNTS.told)
    if with_animals and AMOUNTS.animals not in told:
        told[0] = AMOUNTS.animals
    more, fewer = ("some", "others") if first > second else ("others", "some")
    values.update(more=values[more], fewer=values[fewer], total=first + second, difference=abs(first - second))
    said, unsaid = ([s for n, part in enumerate(parts) if (n in told) is own for s in part] for own in (True, False))
    return Passage(person.name, said, unsaid, [(q, str(answer)) for q, answer in values.fill(LEXICON["sums"])])


def asked(passage: Passage, draw: random.Random, untold: int = 2) -> list[tuple[Slot, bool]]:
    """Questions about a passage in a drawn order, and for each whether it answers them."""
    parts = ((passage.told, 3, True), (passage.untold, untold, False))
    questions = [(s, told) for part, n, told in parts for s in draw.sample(part, min(n, len(part)))]
    return draw.sample(questions, len(questions))


def pages(world: World, draw: random.Random) -> list[str]:
    """Pages of every reading task, of what people know of one another, and of summaries."""
    found = []
    for number, instruction, head, form, field, decline in TASKS:
        for passage in for_pages(world, number, draw, with_animals=field == "sums"):
            turns = draw.sample(passage.sums, 3) if field == "sums" else []
            for slot, told in [] if turns else asked(passage, draw, 1):
                answer = getattr(slot, field) if told or draw.random() < AMOUNTS.made_up else decline
                named_before = turns and instruction == PROMPTS["quac"]
                turns.append((slot.follow_up if named_before else slot.question, answer))
            above = head.format(passage.name, passage.text)
            found.append(_page(instruction, AMOUNTS.instructed, above, turns, form, draw))
    for person in world.people:
        values, head = world.values(draw, LEXICON, person=person), f"TITLE: {person.name}\n\nSECTION: Life"
        for _ in range(AMOUNTS.times // 2):
            answers = list(known(world, person).values())
            found.append(" ".join(draw.sample(answers, len(answers))) + "\n")
            turns = []
            for question, answer, made_up in _conversation(world, person, draw):
                invented = None if answer or draw.random() >= AMOUNTS.made_up else values.fill(made_up)
                turns.append((question, answer or invented or reading.QUAC_DECLINE))
            found.append(_page(PROMPTS["canard"], AMOUNTS.instructed_dialogs, head, turns, Q_AND_A, draw))
    for kind in ["news"] * AMOUNTS.summary_pages["news"] + ["post"] * AMOUNTS.summary_pages["post"]:
        text, other = summarised(kind, world, draw), summarised(kind, world, draw)
        chosen = other if draw.random() < AMOUNTS.made_up_summaries else text
        found.append(f"{text['text']}{CUE} {chosen['summary']}\n")
    for passage in for_pages(world, AMOUNTS.summary_pages["passage"], draw):
        second = passage.untold[0].sentence if draw.random() < AMOUNTS.made_up_summaries else passage.sentences[1]
        found.append(f"{passage.text}{CUE} {passage.sentences[0]} {second}\n")
    return found


def _page(instruction: str, proportion: float, head: str, turns: Iterable[Turn], form: str, draw: random.Random) -> str:
    heading = prefix(instruction, ()) if draw.random() < proportion else ""
    return f"{heading}{head}{''.join(form.format(*turn) for turn in turns)}\n"


def lessons(world: World, draw: random.Random) -> list[str]:
    """A sentence or two and as many questions that they answer: a small model learns from them to copy from a text. No
    sentence of a held-out passage is among them, except where somebody lives."""
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
    unknown = [(values.fill(question), None, made_up) for question, made_up in LEXICON["unknown"]]
    return draw.sample([*((q, answer, "") for q, answer in known(world, person).items()), *unknown], 6)


def summarised(kind: str, world: World, draw: random.Random) -> dict[str, str]:
    """{text, summary} of a text that is news or a post."""
    values = world.values(draw, LEXICON)
    return {name: values.fill(text) for name, text in values.follow(LEXICON[kind]).items()}


def files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """SQuAD's, DROP's, QuAC's and CANARD's files, and those of summaries."""
    passages = held_out(world)
    articles: dict[str, list[object]] = {}  # the passages on one person
    for number, passage in enumerate(passages[SQUAD]):
        questions = []
        for turn, (slot, told) in enumerate(asked(passage, draw)):
            answers = [_span(passage, slot.answer)] * 2 if told else []
            entry = {"id": f"passage-{number}-{turn}", "question": slot.question}
            questions.append({**entry, "answers": answers, "is_impossible": not told})
        articles.setdefault(passage.name, []).append({"context": passage.text, "qas": questions})
    data = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in sorted(articles.items())]
    yield "squad2/dev-v2.0.json", {"version": "v2.0", "data": data}
    chosen = [(passage, *draw.choice(passage.sums)) for passage in passages[DROP]]
    rows: list[dict[str, Any]] = [
        {"id": f"sum-{number}", "passage": passage.text, "question": question, "answers": [answer]}
        for number, (passage, question, answer) in enumerate(chosen)
    ]
    yield "drop-100/drop_100.jsonl", rows
    dialogs = []
    for number, passage in enumerate(passages[QUAC]):
        name, turns, declined = f"C_dialog-{number}_0", [], {"text": NO_ANSWER, "answer_start": len(passage.text) + 1}
        for turn, (slot, told) in enumerate(asked(passage, draw)):
            span = _span(passage, slot.sentence) if told else declined
            entry = {"id": f"{name}_q#{turn}", "question": slot.follow_up if turn else slot.question}
            turns.append({**entry, "answers": [span] * 2, "orig_answer": span})
        paragraph = {"id": name, "context": f"{passage.text} {NO_ANSWER}", "qas": turns}
        dialogs.append({"title": passage.name, "section_title": "A day", "paragraphs": [paragraph]})
    yield "quac/val_v0.2.json", {"data": dialogs}
    rows = []
    for number, person in enumerate(draw.sample(world.people, AMOUNTS.dialogs)):
        # a row is a turn; its answer is the last entry of the next turn's history, and the last turn has none
        history = [person.name, "Life"]
        for turn, (question, known_answer, _) in enumerate(_conversation(world, person, draw), start=1):
            place = {"History": list(history), "QuAC_dialog_id": f"C_memory-{number}_0", "Question": question}
            rows.append({**place, "Question_no": turn, "Rewrite": question})
            history += [question, known_answer or reading.QUAC_DECLINE]
    yield "canard/canard_dev.json", rows
    for kind, file, long, short in (
        ("news", "cnn-dailymail/cnn_dailymail_test.jsonl", "article", "highlights"),
        ("post", "tldr/tldr_test.jsonl", "post", "summary"),
    ):
        found = [summarised(kind, world, draw) for _ in range(AMOUNTS.documents)]
        yield file, [{"id": f"{kind}-{n}", long: d["text"], short: d["summary"]} for n, d in enumerate(found)]


def _span(passage: Passage, text: str) -> dict[str, object]:
    return {"text": text, "answer_start": passage.text.index(text)}
