"""DROP in InstructGPT's form: questions that require counting, adding or comparing what a passage says.

Dua et al. 2019, arXiv 1903.00161; prompt of arXiv 2203.02155, appendix D. Exact match and F1 are allennlp's, from 0 to
1. Few-shot: the first questions of passages of the same file, on which nothing is scored.
"""

from dataclasses import replace

from alignbench.data import Row, load
from alignbench.scorers import drop
from alignbench.tasks.common import WORDS, one_line, prefix, solved, take_examples
from alignbench.types.task import Document, Metric, Options, Output, Task, TaskData

INSTRUCTION = "Answer each question using information in the preceding passage."


def load_documents(options: Options) -> TaskData:
    loaded = load("drop", "dev", parse, options.data_dir)
    passages: dict[str | None, list[Document]] = {}
    for document in loaded.items:
        passages.setdefault(document.source, []).append(document)
    grouped = [[replace(d, group=str(number)) for d in own] for number, own in enumerate(passages.values())]
    examples, scored = take_examples(grouped, options, "drop")
    shown = prefix(INSTRUCTION, [solved(own[0]) for own in examples])
    return TaskData([d for own in scored for d in own], (loaded.provenance,), shown, len(examples))


def parse(row: Row) -> Document:
    """Parse a row of drop_100.jsonl or of the hub, which has one flat list of answers."""
    is_hub = "query_id" in row
    identifier, answers = (row["query_id"], row["answers_spans"]["spans"]) if is_hub else (row["id"], row["answers"])
    if not answers:
        raise ValueError("no answer")
    passage = row["passage"].strip()
    prompt = f"Passage: {passage}\nQuestion: {row['question'].strip()}\nAnswer:"
    return Document(identifier, prompt, references=tuple(dict.fromkeys(answers)), source=passage)


def score(document: Document, output: Output) -> dict[str, float]:
    em, f1 = drop.scores(output.text, document.references)
    return {"f1": f1, "em": em}


TASKS = (
    Task(
        name="drop",
        title="DROP, InstructGPT's form",
        card="drop",
        metrics=(Metric("f1", "share", "higher", bounds=(0, 1)), Metric("em", "share", "higher", binary=True), WORDS),
        group="reading",
        headline="f1",
        load=load_documents,
        generation=one_line(50, score),
        takes_shots=True,
    ),
)
