"""QuAC in InstructGPT's form: a conversation about a paragraph; and CANARD, the same without the paragraph.

Choi et al. 2018, arXiv 1808.07036; prompt of arXiv 2203.02155, figure 19. F1 is the official scorer's, from 0 to 1;
`f1_agreed` leaves out questions on which the annotators do not agree. CANARD (Elgohary et al. 2019): the answer to a
turn is in the history of the next one; the last turn has none and is not scored. Few-shot: whole conversations.
"""

from dataclasses import replace
from itertools import pairwise

from alignbench.data import Row, load
from alignbench.scorers import quac, squad
from alignbench.tasks.common import ANSWER_RATE, WORDS, one_line, take_examples
from alignbench.tasks.reading import Passage, ask
from alignbench.types.task import Document, Metric, Options, Output, Task, TaskData

DECLINE = "I don't know."
INSTRUCTION = (
    "Answer each question using information in the preceding background paragraph."
    f' If there is not enough information provided, answer with "{DECLINE}"'
)
WITHOUT_PARAGRAPH = f'Answer each question. If you cannot, answer with "{DECLINE}"'


def load_quac(options: Options) -> TaskData:
    rows = load("quac", "validation", parse_quac, options.data_dir)
    examples, scored = take_examples([dialog for row in rows.items for dialog in row], options, "quac")
    return ask(scored, examples, INSTRUCTION, rows.provenance)


def load_canard(options: Options) -> TaskData:
    rows = load("canard", "dev", parse_canard, options.data_dir)
    turns: dict[str, list[Row]] = {}
    for row in rows.items:
        turns.setdefault(row["QuAC_dialog_id"], []).append(row)
    dialogs = [_canard_dialog(sorted(own, key=lambda row: row["Question_no"])) for own in turns.values()]
    examples, scored = take_examples([dialog for dialog in dialogs if dialog.questions], options, "canard")
    return ask(scored, examples, WITHOUT_PARAGRAPH, rows.provenance)


def parse_quac(row: Row) -> list[Passage]:
    """The conversations of an entry of the official file."""
    dialogs = []
    for paragraph in row["paragraphs"]:
        text = paragraph["context"].removesuffix(quac.NO_ANSWER).strip()
        turns = []
        for qa in paragraph["qas"]:
            said = qa["orig_answer"]["text"]
            answers = [answer["text"] for answer in qa["answers"]]
            if said in answers:  # the answer of the conversation comes first: the next question follows it
                answers.remove(said)
            references = (said, *answers)
            turns.append(Document(qa["id"], qa["question"].strip(), (), references, text, group=paragraph["id"]))
        head = f"TITLE: {row['title']}\n\nPARAGRAPH: {text}"
        dialogs.append(Passage(paragraph["id"], head, tuple(turns), DECLINE))
    return dialogs


def parse_canard(row: Row) -> Row:
    if len(row["History"]) != 2 * row["Question_no"]:
        raise ValueError(f"turn {row['Question_no']} has a history of {len(row['History'])} entries")
    return row


def _canard_dialog(rows: list[Row]) -> Passage:
    """rows: the turns of one conversation in their order; each but the last becomes a question with an answer."""
    dialog, (title, section) = rows[0]["QuAC_dialog_id"], rows[0]["History"][:2]
    turns = []
    for row, following in pairwise(rows):
        said = following["History"][-1].strip()
        answer = quac.NO_ANSWER if said == DECLINE else said
        identifier = f"{dialog}_q#{row['Question_no']}"
        turns.append(Document(identifier, row["Question"].strip(), references=(answer,), group=dialog))
    return Passage(dialog, f"TITLE: {title}\n\nSECTION: {section}", tuple(turns), DECLINE)


def score(document: Document, output: Output) -> dict[str, float]:
    """F1, where declining equals the official "CANNOTANSWER"."""
    text = output.text
    declined = text == quac.NO_ANSWER or squad.normalise(text.replace("’", "'")).startswith("i dont know")
    f1 = quac.f1(quac.NO_ANSWER if declined else text, document.references)
    return {"f1": f1, "answer_rate": float(bool(text) and not declined)}


def score_quac(document: Document, output: Output) -> dict[str, float]:
    """As `score`, with the F1 of the questions on which the annotators agree."""
    found = score(document, output)
    agreed = quac.agreement(document.references) >= quac.AGREEMENT
    return found | ({"f1_agreed": found["f1"]} if agreed else {})


_F1 = Metric("f1", "share", "higher", bounds=(0, 1))

TASKS = (
    Task(
        name="quac",
        title="QuAC, InstructGPT's form",
        card="quac",
        metrics=(_F1, replace(_F1, name="f1_agreed"), ANSWER_RATE, WORDS),
        group="reading",
        headline="f1",
        load=load_quac,
        generation=one_line(50, score_quac),
        takes_shots=True,
    ),
    Task(
        name="canard",
        title="QuAC's conversations without the paragraph (CANARD)",
        card="canard",
        metrics=(_F1, ANSWER_RATE, WORDS),
        group="reading",
        headline="f1",
        load=load_canard,
        generation=one_line(50, score),
        takes_shots=True,
    ),
)
