"""Reading comprehension in InstructGPT's form (arXiv 2203.02155, appendix D, figures 19 and 20): SQuAD 2.0, QuAC,
CANARD and DROP, with the exact match and F1 of the official scorers (docs/metrics.md).

A question follows the earlier ones on its text with their answers. Few-shot: whole texts with all their questions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from alignbench.data import Provenance, Row, load
from alignbench.scorers import drop, quac, squad
from alignbench.scorers.quac import NO_ANSWER
from alignbench.tasks.common import draw, grouped, prefix, solved, take_examples
from alignbench.tasks.declare import PROMPTS, check_line, one_line_task
from alignbench.types.task import Document, Options, Output, TaskData

SQUAD2_DECLINE, QUAC_DECLINE = "Not in background.", "I don't know."


@dataclass(frozen=True)
class Passage:
    """A text with its questions.

    head: the text as shown above the first question
    questions: documents whose `prompt` is the question alone; the first reference is the answer that later prompts show
    decline: the answer shown for a question without one
    """

    id: str
    head: str
    questions: tuple[Document, ...]
    decline: str

    def shown(self, n: int) -> str:
        """The head and the first `n` questions with their answers."""
        turns = ((q.prompt, q.references[0] if q.references else NO_ANSWER) for q in self.questions[:n])
        return self.head + "".join(f"\n\nQ: {q}\n\nA: {self.decline if a == NO_ANSWER else a}" for q, a in turns)


def ask(scored: Sequence[Passage], examples: Sequence[Passage], instruction: str, provenance: Provenance) -> TaskData:
    """A document per question of the scored passages, after the examples with all their questions and answers."""
    documents = [
        replace(question, prompt=f"{passage.shown(number)}\n\nQ: {question.prompt}\n\nA:")
        for passage in scored
        for number, question in enumerate(passage.questions)
    ]
    shown = prefix(instruction, [passage.shown(len(passage.questions)) for passage in examples])
    return TaskData(documents, (provenance,), shown, len(examples))


def load_squad2(options: Options) -> TaskData:
    paragraphs, provenance = load_paragraphs(options)
    of_title = grouped(paragraphs, lambda paragraph: paragraph.questions[0].group)
    articles, _ = take_examples(list(of_title.values()), options, "squad2")
    examples = [draw(article, 1, options.seed)[0] for article in articles]
    return ask([p for p in paragraphs if p not in examples], examples, PROMPTS["squad2"], provenance)


def load_paragraphs(options: Options) -> tuple[list[Passage], Provenance]:
    """The paragraphs of the development set in their order, from the official nested layout or the hub's flat one."""
    rows = load("squad2", "dev", parse_squad2, options.data_dir)
    numbers: Counter[str] = Counter()  # of the paragraphs of a title
    paragraphs = []
    for (title, text), own in grouped(chain(*rows.items), lambda q: (str(q.group), str(q.source))).items():
        head = f"Title: {title}\n\nBackground: {text}"
        paragraphs.append(Passage(f"{title} {numbers[title]}", head, tuple(own), SQUAD2_DECLINE))
        numbers[title] += 1
    return paragraphs, rows.provenance


def parse_squad2(row: Row) -> list[Document]:
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


def score_squad2(document: Document, output: Output) -> dict[str, float]:
    """EM and F1, where declining equals the official script's empty answer, and the rate of answers."""
    text = "" if squad.normalise(SQUAD2_DECLINE) in squad.normalise(output.text) else output.text
    found = {
        "f1": squad.f1(text, document.references),
        "em": squad.exact_match(text, document.references),
        "answer_rate": float(bool(text)),
    }
    return found | ({} if document.references else {"answered_unanswerable": found["answer_rate"]})


def load_quac(options: Options) -> TaskData:
    rows = load("quac", "validation", parse_quac, options.data_dir)
    examples, scored = take_examples(list(chain(*rows.items)), options, "quac")
    return ask(scored, examples, PROMPTS["quac"], rows.provenance)


def load_canard(options: Options) -> TaskData:
    """QuAC's conversations without the paragraph. The answer to a turn is in the history of the next one."""
    rows = load("canard", "dev", parse_canard, options.data_dir)
    turns = grouped(rows.items, lambda row: row["QuAC_dialog_id"]).values()
    dialogs = []
    for own in (sorted(own, key=lambda row: row["Question_no"]) for own in turns):
        dialog, (title, section), questions = own[0]["QuAC_dialog_id"], own[0]["History"][:2], []
        for row, following in pairwise(own):  # each turn but the last becomes a question with an answer
            said = following["History"][-1].strip()
            references = (NO_ANSWER if said == QUAC_DECLINE else said,)
            identifier = f"{dialog}_q#{row['Question_no']}"
            questions.append(Document(identifier, row["Question"].strip(), references=references, group=dialog))
        dialogs.append(Passage(dialog, f"TITLE: {title}\n\nSECTION: {section}", tuple(questions), QUAC_DECLINE))
    examples, scored = take_examples([dialog for dialog in dialogs if dialog.questions], options, "canard")
    return ask(scored, examples, PROMPTS["canard"], rows.provenance)


def parse_quac(row: Row) -> list[Passage]:
    """The conversations of an entry of the official file."""
    dialogs = []
    for paragraph in row["paragraphs"]:
        text = paragraph["context"].removesuffix(NO_ANSWER).strip()
        turns = []
        for qa in paragraph["qas"]:
            said = qa["orig_answer"]["text"]
            answers = [answer["text"] for answer in qa["answers"]]
            if said in answers:  # the answer of the conversation comes first: the next question follows it
                answers.remove(said)
            references = (said, *answers)
            turns.append(Document(qa["id"], qa["question"].strip(), (), references, text, group=paragraph["id"]))
        head = f"TITLE: {row['title']}\n\nPARAGRAPH: {text}"
        dialogs.append(Passage(paragraph["id"], head, tuple(turns), QUAC_DECLINE))
    return dialogs


def parse_canard(row: Row) -> Row:
    if len(row["History"]) != 2 * row["Question_no"]:
        raise ValueError(f"turn {row['Question_no']} has a history of {len(row['History'])} entries")
    return row


def score_conversation(document: Document, output: Output) -> dict[str, float]:
    """F1, where declining equals the official "CANNOTANSWER"."""
    text = output.text
    declined = text == NO_ANSWER or squad.normalise(text.replace("’", "'")).startswith("i dont know")
    f1 = quac.f1(NO_ANSWER if declined else text, document.references)
    return {"f1": f1, "answer_rate": float(bool(text) and not declined)}


def score_quac(document: Document, output: Output) -> dict[str, float]:
    """As `score_conversation`, with the F1 of the questions on which the annotators agree."""
    found = score_conversation(document, output)
    agreed = quac.agreement(document.references) >= quac.AGREEMENT
    return found | ({"f1_agreed": found["f1"]} if agreed else {})


def load_drop(options: Options) -> TaskData:
    loaded = load("drop", "dev", parse_drop, options.data_dir)
    passages = grouped(loaded.items, lambda document: document.source).values()
    clusters = [[replace(d, group=str(number)) for d in own] for number, own in enumerate(passages)]
    examples, scored = take_examples(clusters, options, "drop")
    shown = prefix(PROMPTS["drop"], [solved(own[0]) for own in examples])
    return TaskData([d for own in scored for d in own], (loaded.provenance,), shown, len(examples))


def parse_drop(row: Row) -> Document:
    """Parse a row of drop_100.jsonl or of the hub, which has one flat list of answers."""
    is_hub = "query_id" in row
    identifier, answers = (row["query_id"], row["answers_spans"]["spans"]) if is_hub else (row["id"], row["answers"])
    if not answers:
        raise ValueError("no answer")
    passage = row["passage"].strip()
    prompt = f"Passage: {passage}\nQuestion: {row['question'].strip()}\nAnswer:"
    return Document(identifier, prompt, references=tuple(dict.fromkeys(answers)), source=passage)


def score_drop(document: Document, output: Output) -> dict[str, float]:
    em, f1 = drop.scores(output.text, document.references)
    return {"f1": f1, "em": em}


TASKS = (
    one_line_task("squad2", load_squad2, score_squad2, check=check_line("em", squad.normalise)),
    one_line_task("quac", load_quac, score_quac),
    one_line_task("canard", load_canard, score_conversation),
    one_line_task("drop", load_drop, score_drop, check=check_line("em", drop.normalise)),
)
