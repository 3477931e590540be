"""WSC: whom does a pronoun mean? As InstructGPT puts it (arXiv 2203.02155, figure 24): the model names a noun.

Levesque et al. 2012, as in SuperGLUE (Wang et al. 2019, arXiv 1905.00537), which asks of one noun whether the pronoun
means it. The model is taken to say yes if its answer contains the noun or the noun its answer. What counts is whole
words without articles; an empty answer is wrong. The paper prints the pronoun in bold, here it stands between
asterisks, as in GPT-3's form of the task.

Few-shot: 15 examples drawn with the seed from those of the training set whose noun is the right one. A model that never
names the noun scores the share of "no" among the answers (.635), not .5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.data import load
from alignbench.scorers import squad
from alignbench.tasks import instructgpt
from alignbench.tasks.instructgpt import WORDS
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

INSTRUCTION = (
    "Final Exam with Answer Key\nInstructions: Please carefully read the following passages."
    " For each passage, you must identify which noun the pronoun marked in *bold* refers to."
)


@dataclass(frozen=True)
class Schema:
    id: str
    prompt: str
    noun: str
    meant: bool


def load_documents(options: Options) -> TaskData:
    schemas = load("wsc", "validation", _parse, data_dir=options.data_dir)
    provenance = [schemas.provenance]
    shown = []
    if options.shots:
        train = load("wsc", "train", _parse, data_dir=options.data_dir)
        provenance.append(train.provenance)
        right = [schema for schema in train.items if schema.meant]
        examples, _ = instructgpt.take_examples(right, options.shots, options.seed, "wsc")
        shown = [f"{schema.prompt} {schema.noun}" for schema in examples]
    documents = [
        Document(schema.id, schema.prompt, references=(schema.noun,), target={"meant": schema.meant})
        for schema in schemas.items
    ]
    return TaskData(documents, tuple(provenance), instructgpt.prefix(INSTRUCTION, shown), len(shown))


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text = instructgpt.answer(outputs)
    named = names(text, document.references[0])
    right = bool(text) and named == document.target["meant"]
    return {"acc": float(right), "words": instructgpt.words(text)}


def names(answer: str, noun: str) -> bool:
    """Whether one contains the other, as whole words."""
    a, b = (squad.normalise(text) for text in (answer, noun))
    return bool(a) and bool(b) and (f" {a} " in f" {b} " or f" {b} " in f" {a} ")


def mark(text: str, pronoun: str, place: int) -> str:
    """The text with asterisks around the pronoun that is its word number `place`, or the nearest that is that pronoun:
    some indices of the data are off."""
    words = text.split()
    at = [n for n, word in enumerate(words) if re.sub(r"\W", "", word).lower() == re.sub(r"\W", "", pronoun).lower()]
    if not at:
        raise ValueError(f"no word {pronoun!r} in the text")
    nearest = min(at, key=lambda n: abs(n - place))
    words[nearest] = re.sub(r"\w(?:.*\w)?", r"*\g<0>*", words[nearest])
    return " ".join(words)


def _parse(row: dict[str, Any], schema: str | None) -> Schema:
    """Read a row of SuperGLUE's files, whose spans stand under `target`, or of the hub's flat table."""
    spans = row if schema == "flat" else row["target"]
    pronoun = spans["span2_text"].strip()
    passage = mark(row["text"], pronoun, int(spans["span2_index"]))
    question = f'In the passage above, what does the pronoun "*{pronoun}*" refer to?'
    prompt = f"Passage: {passage}\nQuestion: {question}\nAnswer:"
    return Schema(str(row["idx"]), prompt, spans["span1_text"].strip(), bool(row["label"]))


TASKS = (
    Task(
        name="wsc",
        version=1,
        title="Winograd schemas, InstructGPT's form",
        card="wsc",
        metrics=(Metric("acc", "share", "higher", binary=True, chance=0.5), WORDS),
        group="common sense",
        headline="acc",
        load=load_documents,
        generation=Generation(instructgpt.greedy(max_tokens=20), score),
        takes_shots=True,
    ),
)
