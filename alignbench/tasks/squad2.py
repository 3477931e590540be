"""SQuAD 2.0 in InstructGPT's form: questions on a paragraph, some of which it does not answer.

Rajpurkar et al. 2018, arXiv 1806.03822; prompt of arXiv 2203.02155, figure 20: title, background, and all earlier
questions on the paragraph with their answers. Exact match and F1 are the official script's, from 0 to 1: the right
answer to an unanswerable question is empty. Few-shot: whole paragraphs of different articles, which are not scored.
"""

from alignbench.data import Provenance, Row, load
from alignbench.scorers import squad
from alignbench.tasks.common import ANSWER_RATE, WORDS, draw, one_line, take_examples
from alignbench.tasks.reading import Passage, ask
from alignbench.types.task import Document, Metric, Options, Output, Task, TaskData

DECLINE = "Not in background."
INSTRUCTION = (
    "Answer each question using information in the preceding background paragraph."
    f' If there is not enough information provided, answer with "{DECLINE}"'
)


def load_documents(options: Options) -> TaskData:
    paragraphs, provenance = load_paragraphs(options)
    of_title: dict[str | None, list[Passage]] = {}
    for paragraph in paragraphs:
        of_title.setdefault(paragraph.questions[0].group, []).append(paragraph)
    articles, _ = take_examples(list(of_title.values()), options, "squad2")
    examples = [draw(article, 1, options.seed)[0] for article in articles]
    return ask([p for p in paragraphs if p not in examples], examples, INSTRUCTION, provenance)


def load_paragraphs(options: Options) -> tuple[list[Passage], Provenance]:
    """The paragraphs of the development set in their order, from the official nested layout or the hub's flat one."""
    rows = load("squad2", "dev", parse, options.data_dir)
    questions: dict[tuple[str, str], list[Document]] = {}
    for question in (question for row in rows.items for question in row):
        questions.setdefault((question.group or "", question.source or ""), []).append(question)
    numbers: dict[str, int] = {}
    paragraphs = []
    for (title, text), own in questions.items():
        numbers[title] = numbers.get(title, -1) + 1
        head = f"Title: {title}\n\nBackground: {text}"
        paragraphs.append(Passage(f"{title} {numbers[title]}", head, tuple(own), DECLINE))
    return paragraphs, rows.provenance


def parse(row: Row) -> list[Document]:
    """The questions of a row: an article of the official file, or one question of the hub's table."""
    if "context" in row:
        return [_question(row["title"], row["context"], row, row["answers"]["text"])]
    return [
        _question(row["title"], paragraph["context"], qa, [answer["text"] for answer in qa["answers"]])
        for paragraph in row["paragraphs"]
        for qa in paragraph["qas"]
    ]


def _question(title: str, text: str, row: Row, answers: list[str]) -> Document:
    category = "answerable" if answers else "unanswerable"
    references = tuple(dict.fromkeys(answers))
    return Document(row["id"], row["question"].strip(), (), references, text, group=title, category=category)


def score(document: Document, output: Output) -> dict[str, float]:
    """EM and F1, where declining equals the official script's empty answer, and the rate of answers."""
    text = "" if squad.normalise(DECLINE) in squad.normalise(output.text) else output.text
    found = {
        "f1": squad.f1(text, document.references),
        "em": squad.exact_match(text, document.references),
        "answer_rate": float(bool(text)),
    }
    return found | ({} if document.references else {"answered_unanswerable": found["answer_rate"]})


TASKS = (
    Task(
        name="squad2",
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
        generation=one_line(50, score),
        takes_shots=True,
    ),
)
