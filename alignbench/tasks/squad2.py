"""SQuAD 2.0 as InstructGPT puts it: questions on a paragraph, some of which it does not answer.

Rajpurkar et al. 2018, arXiv 1806.03822; prompt of arXiv 2203.02155, figure 20: title, background, and all earlier
questions of the paragraph with their answers. Exact match and F1 are the official script's, as shares (the papers print
percent): the right answer to an unanswerable question is none, so a model that writes nothing scores 1 there, as one
that declines does, and 0 elsewhere. InstructGPT's F1 compares words with the phrase "Not in background." instead.

Questions on one article are not independent: errors are clustered by its title, as in all tasks on SQuAD's paragraphs.

Few-shot: 4 paragraphs with all their questions, of different articles, drawn with the seed from the same file; they are
not scored. (The paper does not say which it used.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.data import Provenance, load
from alignbench.scorers import squad
from alignbench.tasks import instructgpt
from alignbench.tasks.instructgpt import ANSWER_RATE, WORDS
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

DECLINE = "Not in background."
INSTRUCTION = (
    "Answer each question using information in the preceding background paragraph."
    f' If there is not enough information provided, answer with "{DECLINE}"'
)


@dataclass(frozen=True)
class Question:
    """`answers`: the annotators' different answers; none where the paragraph does not tell."""

    id: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Paragraph:
    id: str
    title: str
    text: str
    questions: tuple[Question, ...]


def load_documents(options: Options) -> TaskData:
    paragraphs, provenance = load_paragraphs(options)
    examples, scored = _take_examples(paragraphs, options.shots or 0, options.seed)
    shown = [_shown(paragraph, len(paragraph.questions)) for paragraph in examples]
    documents = [_document(paragraph, number) for paragraph in scored for number, _ in enumerate(paragraph.questions)]
    return TaskData(documents, (provenance,), instructgpt.prefix(INSTRUCTION, shown), len(examples))


def load_paragraphs(options: Options) -> tuple[list[Paragraph], Provenance]:
    """The development set's paragraphs in their order, from the official nested layout or the hub's flat one."""
    rows = load("squad2", "dev", _parse, data_dir=options.data_dir)
    questions: dict[tuple[str, str], list[Question]] = {}
    for title, text, question in (entry for row in rows.items for entry in row):
        questions.setdefault((title, text), []).append(question)
    numbers: dict[str, int] = {}
    paragraphs = []
    for (title, text), own in questions.items():
        numbers[title] = numbers.get(title, -1) + 1
        paragraphs.append(Paragraph(f"{title} {numbers[title]}", title, text, tuple(own)))
    return paragraphs, rows.provenance


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """EM and F1, where declining is the official script's empty answer, and whether the model answered."""
    text = instructgpt.answer(outputs)
    given = "" if declines(text) else text
    found = {
        "f1": squad.f1(given, document.references),
        "em": squad.exact_match(given, document.references),
        "answer_rate": float(bool(given)),
        "words": instructgpt.words(text),
    }
    return found | ({} if document.references else {"answered_unanswerable": found["answer_rate"]})


def declines(text: str) -> bool:
    """Whether an answer says that the background has none."""
    return squad.normalise(DECLINE) in squad.normalise(text)


def _document(paragraph: Paragraph, number: int) -> Document:
    question = paragraph.questions[number]
    return Document(
        id=question.id,
        prompt=f"{_shown(paragraph, number)}\n\nQ: {question.text}\n\nA:",
        references=question.answers,
        source=paragraph.text,
        group=paragraph.title,
        category="answerable" if question.answers else "unanswerable",
    )


def _shown(paragraph: Paragraph, answered: int) -> str:
    """The paragraph with its first `answered` questions and their answers."""
    turns = [
        f"\n\nQ: {question.text}\n\nA: {question.answers[0] if question.answers else DECLINE}"
        for question in paragraph.questions[:answered]
    ]
    return f"Title: {paragraph.title}\n\nBackground: {paragraph.text}" + "".join(turns)


def _take_examples(paragraphs: list[Paragraph], shots: int, seed: int) -> tuple[list[Paragraph], list[Paragraph]]:
    """One paragraph of each of `shots` articles, and all other paragraphs."""
    titles = list(dict.fromkeys(paragraph.title for paragraph in paragraphs))
    chosen, _ = instructgpt.take_examples(titles, shots, seed, "squad2")
    examples = [instructgpt.draw([p for p in paragraphs if p.title == title], 1, seed)[0] for title in chosen]
    return examples, [paragraph for paragraph in paragraphs if paragraph not in examples]


def _parse(row: dict[str, Any], schema: str | None) -> list[tuple[str, str, Question]]:
    """The questions of a row, which is an article of the official file, or one question of the hub's table."""
    if schema == "flat":
        answers = tuple(dict.fromkeys(row["answers"]["text"]))
        return [(row["title"], row["context"], Question(row["id"], row["question"].strip(), answers))]
    return [
        (
            row["title"],
            paragraph["context"],
            Question(qa["id"], qa["question"].strip(), tuple(dict.fromkeys(a["text"] for a in qa["answers"]))),
        )
        for paragraph in row["paragraphs"]
        for qa in paragraph["qas"]
    ]


TASKS = (
    Task(
        name="squad2",
        version=1,
        title="SQuAD 2.0, InstructGPT's form",
        card="squad2",
        metrics=(
            Metric("f1", "share", "higher", bounds=(0, 1)),
            Metric("em", "share", "higher", binary=True),
            Metric("answered_unanswerable", "share", "lower", binary=True),
            ANSWER_RATE,
            WORDS,
        ),
        group="reading",
        headline="f1",
        load=load_documents,
        generation=Generation(instructgpt.greedy(max_tokens=50), score),
        takes_shots=True,
    ),
)
