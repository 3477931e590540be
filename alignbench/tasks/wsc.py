"""WSC: which noun does a pronoun refer to? In InstructGPT's form (arXiv 2203.02155, figure 24): the model names a noun.

Levesque et al. 2012, as in SuperGLUE (Wang et al. 2019, arXiv 1905.00537), which asks whether the pronoun refers to a
given noun: yes if the answer contains the noun or the noun the answer. Few-shot: examples whose noun is the right one.
"""

import re
from functools import partial

from alignbench.data import Row
from alignbench.scorers import squad
from alignbench.tasks.common import WORDS, few_shot, one_line
from alignbench.types.task import Document, Metric, Output, Task

INSTRUCTION = (
    "Final Exam with Answer Key\nInstructions: Please carefully read the following passages."
    " For each passage, you must identify which noun the pronoun marked in *bold* refers to."
)


def parse(row: Row) -> Document:
    """Parse a row of SuperGLUE's files, which have the spans under `target`, or of the hub's flat table."""
    spans = row if "span1_text" in row else row["target"]
    pronoun = spans["span2_text"].strip()
    passage = mark(row["text"], pronoun, int(spans["span2_index"]))
    prompt = (
        f'Passage: {passage}\nQuestion: In the passage above, what does the pronoun "*{pronoun}*" refer to?\nAnswer:'
    )
    noun = spans["span1_text"].strip()
    return Document(str(row["idx"]), prompt, references=(noun,), target={"meant": bool(row["label"])})


def mark(text: str, pronoun: str, place: int) -> str:
    """The text with asterisks around the pronoun: word number `place`, or the nearest word that is the pronoun, since
    some indices of the data are wrong."""
    words = text.split()
    at = [n for n, word in enumerate(words) if re.sub(r"\W", "", word).lower() == re.sub(r"\W", "", pronoun).lower()]
    if not at:
        raise ValueError(f"no word {pronoun!r} in the text")
    nearest = min(at, key=lambda n: abs(n - place))
    words[nearest] = re.sub(r"\w(?:.*\w)?", r"*\g<0>*", words[nearest])
    return " ".join(words)


def score(document: Document, output: Output) -> dict[str, float]:
    answer, noun = (squad.normalise(text) for text in (output.text, document.references[0]))
    named = bool(answer) and bool(noun) and (f" {answer} " in f" {noun} " or f" {noun} " in f" {answer} ")
    return {"acc": float(bool(output.text) and named == document.target["meant"])}


TASKS = (
    Task(
        name="wsc",
        title="Winograd schemas, InstructGPT's form",
        card="wsc",
        metrics=(Metric("acc", "share", "higher", binary=True, chance=0.5), WORDS),
        group="common sense",
        headline="acc",
        load=partial(few_shot, "wsc", parse, instruction=INSTRUCTION, usable=lambda document: document.target["meant"]),
        generation=one_line(20, score),
        takes_shots=True,
    ),
)
