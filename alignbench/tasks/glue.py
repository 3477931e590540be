"""GLUE and SuperGLUE in InstructGPT's form: SST-2, RTE and WSC, few-shot with examples from the training sets.

Wang et al. 2019, arXiv 1804.07461 and 1905.00537; prompts of arXiv 2203.02155, figures 22 to 24. SST-2 and RTE: the
label with the higher mean log-probability per token. WSC: the model names the noun that a pronoun refers to.
"""

import re
from functools import partial

from alignbench.data import Row
from alignbench.scorers import squad
from alignbench.tasks.common import few_shot, score_label
from alignbench.tasks.declare import PROMPTS, choice_task, one_line_task
from alignbench.types.task import Document, Output

SST2_INSTRUCTION, WSC_INSTRUCTION = PROMPTS["sst2"], PROMPTS["wsc"]
CHOICES = (" negative", " positive")  # SST-2's labels 0 and 1
LABELS = {"entailment": 0, "not_entailment": 1, 0: 0, 1: 1}  # SuperGLUE's files have words, the hub numbers
# GLUE's sentences are tokenised; here the tokens are joined again, as in the paper's example
_SPACE_BEFORE = re.compile(r" (?=[.,;:!?%)]|n't\b|'(?:s|re|ve|ll|d|m)\b)")


def parse_sst2(row: Row) -> Document:
    label = int(row["label"])
    if label not in (0, 1):
        raise ValueError(f"label {label}, expected 0 or 1")
    return Document("", f"Text: {join_tokens(row['sentence'])}\nLabel:", CHOICES, target={"label": label})


def join_tokens(text: str) -> str:
    """Remove the spaces that GLUE's tokeniser put before punctuation and clitics."""
    return _SPACE_BEFORE.sub("", text.strip()).replace("( ", "(")


def parse_rte(row: Row) -> Document:
    if row["label"] not in LABELS:
        raise ValueError(f"label {row['label']!r}, expected entailment or not_entailment")
    claim = row["hypothesis"].strip().rstrip(".")
    question = f"From this passage can one reasonably conclude that {claim}?"
    prompt = f"Passage: {row['premise'].strip()}\nQuestion: {question}\nAnswer:"
    return Document(str(row["idx"]), prompt, (" Yes", " No"), target={"label": LABELS[row["label"]]})


def parse_wsc(row: Row) -> Document:
    """Parse a row of SuperGLUE's files, which have the spans under `target`, or of the hub's flat table."""
    spans = row if "span1_text" in row else row["target"]
    pronoun = spans["span2_text"].strip()
    passage = mark(row["text"], pronoun, int(spans["span2_index"]))
    question = f'In the passage above, what does the pronoun "*{pronoun}*" refer to?'
    prompt = f"Passage: {passage}\nQuestion: {question}\nAnswer:"
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


def score_wsc(document: Document, output: Output) -> dict[str, float]:
    """SuperGLUE asks whether it is a given noun: yes if the answer contains the noun or the noun the answer."""
    answer, noun = (squad.normalise(text) for text in (output.text, document.references[0]))
    named = bool(answer) and bool(noun) and (f" {answer} " in f" {noun} " or f" {noun} " in f" {answer} ")
    return {"acc": float(bool(output.text) and named == document.target["meant"])}


# WSC's examples are those whose noun is the right one
_load_wsc = partial(few_shot, "wsc", parse_wsc, instruction=WSC_INSTRUCTION, usable=lambda d: d.target["meant"])
TASKS = (
    choice_task("rte", partial(few_shot, "rte", parse_rte), score_label),
    choice_task("sst2", partial(few_shot, "sst2", parse_sst2, instruction=SST2_INSTRUCTION), score_label),
    one_line_task("wsc", _load_wsc, score_wsc),
)
