"""QuAC as InstructGPT puts it: a conversation in which a student asks about a paragraph; and the same conversations
without the paragraph.

Choi et al. 2018, arXiv 1808.07036; prompt of arXiv 2203.02155, figure 19, with blank lines as in the authors' SQuAD
samples. F1 is the official scorer's, as a share, over all questions; `f1_agreed` leaves out those on which the
annotators themselves do not agree, as QuAC's leaderboard does.

`canard` is not QuAC. CANARD's file (Elgohary et al. 2019) has the titles, questions and answers of QuAC conversations,
but no paragraph, so the model answers from memory. The answer to a turn is read from the history of the next one; the
last turn of a conversation has none and is not scored.

Few-shot: 2 whole conversations drawn with the seed from the same file; they are not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from alignbench.data import load
from alignbench.scorers import quac, squad
from alignbench.tasks import instructgpt
from alignbench.tasks.instructgpt import ANSWER_RATE, WORDS
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

DECLINE = "I don't know."
INSTRUCTION = (
    "Answer each question using information in the preceding background paragraph."
    f' If there is not enough information provided, answer with "{DECLINE}"'
)
WITHOUT_PARAGRAPH = f'Answer each question. If you cannot, answer with "{DECLINE}"'


@dataclass(frozen=True)
class Turn:
    """`answers`: the annotators', NO_ANSWER where one found none; the first is what the conversation went on with."""

    id: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Dialog:
    """`head`: what stands above the first question."""

    id: str
    head: str
    source: str | None
    turns: tuple[Turn, ...]


def load_quac(options: Options) -> TaskData:
    rows = load("quac", "validation", _parse_quac, data_dir=options.data_dir)
    dialogs = [dialog for row in rows.items for dialog in row]
    return replace(_data(dialogs, INSTRUCTION, options, "quac"), provenance=(rows.provenance,))


def load_canard(options: Options) -> TaskData:
    rows = load("canard", "dev", _parse_canard, data_dir=options.data_dir)
    turns: dict[str, list[dict[str, Any]]] = {}
    for row in rows.items:
        turns.setdefault(row["QuAC_dialog_id"], []).append(row)
    dialogs = [_canard_dialog(sorted(own, key=lambda row: row["Question_no"])) for own in turns.values()]
    dialogs = [dialog for dialog in dialogs if dialog.turns]
    return replace(_data(dialogs, WITHOUT_PARAGRAPH, options, "canard"), provenance=(rows.provenance,))


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """F1, where declining is the official "CANNOTANSWER"."""
    text = instructgpt.answer(outputs)
    declined = text == quac.NO_ANSWER or squad.normalise(text.replace("’", "'")).startswith("i dont know")
    return {
        "f1": quac.f1(quac.NO_ANSWER if declined else text, document.references),
        "answer_rate": float(bool(text) and not declined),
        "words": instructgpt.words(text),
    }


def score_quac(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """With the F1 of those questions on which the annotators agree."""
    found = score(document, outputs)
    agreed = quac.agreement(document.references) >= quac.AGREEMENT
    return found | ({"f1_agreed": found["f1"]} if agreed else {})


def _data(dialogs: list[Dialog], instruction: str, options: Options, task: str) -> TaskData:
    examples, scored = instructgpt.take_examples(dialogs, options.shots or 0, options.seed, task)
    shown = [dialog.head + _answered(dialog.turns) for dialog in examples]
    documents = [
        Document(
            id=turn.id,
            prompt=f"{dialog.head}{_answered(dialog.turns[:number])}\n\nQ: {turn.question}\n\nA:",
            references=turn.answers,
            source=dialog.source,
            group=dialog.id,
        )
        for dialog in scored
        for number, turn in enumerate(dialog.turns)
    ]
    return TaskData(documents, (), instructgpt.prefix(instruction, shown), len(examples))


def _answered(turns: Sequence[Turn]) -> str:
    return "".join(
        f"\n\nQ: {turn.question}\n\nA: {DECLINE if turn.answers[0] == quac.NO_ANSWER else turn.answers[0]}"
        for turn in turns
    )


def _parse_quac(row: dict[str, Any], schema: str | None) -> list[Dialog]:
    """The conversations of an entry of the official file."""
    dialogs = []
    for paragraph in row["paragraphs"]:
        text = paragraph["context"].removesuffix(quac.NO_ANSWER).strip()
        turns = []
        for qa in paragraph["qas"]:
            said = qa["orig_answer"]["text"]
            answers = [answer["text"] for answer in qa["answers"]]
            if said in answers:  # what the teacher said in the conversation goes first: the next question follows it
                answers.remove(said)
            turns.append(Turn(qa["id"], qa["question"].strip(), (said, *answers)))
        head = f"TITLE: {row['title']}\n\nPARAGRAPH: {text}"
        dialogs.append(Dialog(paragraph["id"], head, text, tuple(turns)))
    return dialogs


def _parse_canard(row: dict[str, Any], schema: str | None) -> dict[str, Any]:
    if len(row["History"]) != 2 * row["Question_no"]:
        raise ValueError(f"turn {row['Question_no']} has a history of {len(row['History'])} entries")
    return row


def _canard_dialog(rows: list[dict[str, Any]]) -> Dialog:
    """rows: the turns of one conversation in their order; each but the last becomes a turn with an answer."""
    first = rows[0]
    turns = []
    for row, following in pairwise(rows):
        said = following["History"][-1].strip()
        answer = quac.NO_ANSWER if said == DECLINE else said
        turns.append(Turn(f"{row['QuAC_dialog_id']}_q#{row['Question_no']}", row["Question"].strip(), (answer,)))
    title, section = first["History"][:2]
    return Dialog(first["QuAC_dialog_id"], f"TITLE: {title}\n\nSECTION: {section}", None, tuple(turns))


_F1 = Metric("f1", "share", "higher", bounds=(0, 1))
_SAMPLING = instructgpt.greedy(max_tokens=50)

TASKS = (
    Task(
        name="quac",
        version=1,
        title="QuAC, InstructGPT's form",
        card="quac",
        metrics=(_F1, replace(_F1, name="f1_agreed"), ANSWER_RATE, WORDS),
        group="reading",
        headline="f1",
        load=load_quac,
        generation=Generation(_SAMPLING, score_quac),
        takes_shots=True,
    ),
    Task(
        name="canard",
        version=1,
        title="QuAC's conversations without the paragraph (CANARD)",
        card="canard",
        metrics=(_F1, ANSWER_RATE, WORDS),
        group="reading",
        headline="f1",
        load=load_canard,
        generation=Generation(_SAMPLING, score),
        takes_shots=True,
    ),
)
