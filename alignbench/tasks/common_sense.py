"""Common sense, inference and sentiment: HellaSwag, RTE, SST-2 and WSC, few-shot with examples from the training sets.

HellaSwag (Zellers et al. 2019, arXiv 1905.07830): which of four endings continues an everyday scene? The plain form is
that of lm-evaluation-harness (its text clean-up, `acc` by total log-probability and `acc_norm` by log-probability per
character). All others are in InstructGPT's form (arXiv 2203.02155, appendix D): the choice with the highest mean
log-probability per token; in WSC, the model names the noun that a pronoun refers to. GLUE and SuperGLUE: Wang et al.
2019, arXiv 1804.07461 and 1905.00537.
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np

from alignbench.data import Row
from alignbench.scorers import squad
from alignbench.tasks.common import few_shot, share_of_best
from alignbench.tasks.declare import PROMPTS, check_line, choice_task, one_line_task
from alignbench.types.engine import Loglikelihood
from alignbench.types.task import Document, Output

CHOICES = (" negative", " positive")  # SST-2's labels 0 and 1
LABELS = {"entailment": 0, "not_entailment": 1, 0: 0, 1: 1}  # SuperGLUE's files have words, the hub numbers
# GLUE's sentences are tokenised; here the tokens are joined again, as in the paper's example
_SPACE_BEFORE = re.compile(r" (?=[.,;:!?%)]|n't\b|'(?:s|re|ve|ll|d|m)\b)")


def parse_hellaswag(row: Row, strip: bool = False) -> Document:
    """Parse a row of the authors' layout, or of AbstainQA's, which has no activity label."""
    if "question" in row:
        letters = sorted(row["choices"])
        endings, label, identifier = [row["choices"][a] for a in letters], letters.index(row["answer"]), row["id"]
        text = row["question"]
    else:
        endings, label, identifier = row["endings"], int(row["label"]), row["ind"]
        text = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    if not 0 <= label < len(endings):
        raise ValueError(f"label {label} names none of the {len(endings)} endings")
    text, endings = clean(text).lstrip(), list(map(clean, endings))
    if strip:
        text, endings = text.strip(), [ending.strip() for ending in endings]
    target = {"label": label, "ind": str(identifier)}
    # the row's number is the id: the data's own index is not unique
    return Document("", text, tuple(f" {ending}" for ending in endings), target=target, group=row.get("source_id"))


def clean(text: str) -> str:
    """Remove WikiHow's marks: " [title]" ends a sentence.

    Exactly as in lm-evaluation-harness, so that numbers are comparable: an ending that began with a mark keeps a space
    before its first word.
    """
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def score_plain(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    """Accuracy by total log-probability (`acc`), and by log-probability per character of the ending (`acc_norm`)."""
    logprobs = np.array([answer.logprob for answer in answers])
    characters = np.array([len(choice) - 1 for choice in document.choices])  # without the leading space
    label = document.target["label"]
    return {"acc": share_of_best(logprobs, label), "acc_norm": share_of_best(logprobs / characters, label)}


def score_label(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    """Classification: 1 if the right label has the highest mean log-probability per token."""
    means = [answer.logprob / answer.tokens for answer in answers]
    return {"acc": share_of_best(means, document.target["label"])}


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


_hellaswag = partial(few_shot, "hellaswag")
_in_form = partial(_hellaswag, partial(parse_hellaswag, strip=True), instruction=PROMPTS["hellaswag"])
# WSC's examples are those whose noun is the right one
_load_wsc = partial(few_shot, "wsc", parse_wsc, instruction=PROMPTS["wsc"], usable=lambda d: d.target["meant"])
TASKS = (
    choice_task("hellaswag", partial(_hellaswag, parse_hellaswag), score_plain),
    choice_task("hellaswag_instructgpt", _in_form, score_label),
    choice_task("rte", partial(few_shot, "rte", parse_rte), score_label),
    choice_task("sst2", partial(few_shot, "sst2", parse_sst2, instruction=PROMPTS["sst2"]), score_label),
    one_line_task("wsc", _load_wsc, score_wsc, check=check_line("acc", squad.normalise)),
)
