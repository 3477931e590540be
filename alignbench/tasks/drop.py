"""DROP as InstructGPT puts it: questions that ask to count, add or compare what a passage says.

Dua et al. 2019, arXiv 1903.00161; prompt of arXiv 2203.02155, appendix D. Exact match and F1 are allennlp's, as shares.
Few-shot: 4 passages, each with its first question, drawn with the seed from the same file; none of their questions is
scored.

The hub's rows do not tell several answers from an answer of several spans: there each span is an answer of its own, and
naming one of several scores 1. Not comparable with files that keep them together (see the card).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.data import load
from alignbench.scorers import drop
from alignbench.tasks import instructgpt
from alignbench.tasks.instructgpt import WORDS
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

INSTRUCTION = "Answer each question using information in the preceding passage."


@dataclass(frozen=True)
class Question:
    id: str
    passage: str
    text: str
    answers: tuple[str, ...]


def load_documents(options: Options) -> TaskData:
    questions = load("drop", "dev", _parse, data_dir=options.data_dir)
    passages: dict[str, list[Question]] = {}
    for question in questions.items:
        passages.setdefault(question.passage, []).append(question)
    numbers = {passage: str(number) for number, passage in enumerate(passages)}
    examples, scored = instructgpt.take_examples(list(passages.values()), options.shots or 0, options.seed, "drop")
    documents = [
        Document(
            id=question.id,
            prompt=_prompt(question),
            references=question.answers,
            source=question.passage,
            group=numbers[question.passage],
        )
        for own in scored
        for question in own
    ]
    shown = [f"{_prompt(own[0])} {own[0].answers[0]}" for own in examples]
    return TaskData(documents, (questions.provenance,), instructgpt.prefix(INSTRUCTION, shown), len(examples))


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text = instructgpt.answer(outputs)
    em, f1 = drop.scores(text, document.references)
    return {"f1": f1, "em": em, "words": instructgpt.words(text)}


def _prompt(question: Question) -> str:
    return f"Passage: {question.passage}\nQuestion: {question.text}\nAnswer:"


def _parse(row: dict[str, Any], schema: str | None) -> Question:
    """Read a row of drop_100.jsonl or of the hub, whose list of answers is flat: each stands as an alternative."""
    identifier, answers = (
        (row["query_id"], row["answers_spans"]["spans"]) if schema == "hub" else (row["id"], row["answers"])
    )
    if not answers:
        raise ValueError("no answer")
    return Question(identifier, row["passage"].strip(), row["question"].strip(), tuple(dict.fromkeys(answers)))


TASKS = (
    Task(
        name="drop",
        version=1,
        title="DROP, InstructGPT's form",
        card="drop",
        metrics=(
            Metric("f1", "share", "higher", bounds=(0, 1)),
            Metric("em", "share", "higher", binary=True),
            WORDS,
        ),
        group="reading",
        headline="f1",
        load=load_documents,
        generation=Generation(instructgpt.greedy(max_tokens=50), score),
        takes_shots=True,
    ),
)
