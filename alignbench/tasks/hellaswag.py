"""HellaSwag: which of four endings continues an everyday scene?

Zellers et al. 2019, arXiv 1905.07830. Two forms: the plain one of lm-evaluation-harness (its text clean-up, `acc` by
total log-probability and `acc_norm` by log-probability per character), and InstructGPT's (arXiv 2203.02155, appendix D:
an instruction, "activity: context", the highest mean log-probability per token).
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np

from alignbench.data import Row
from alignbench.tasks.common import few_shot, score_label
from alignbench.tasks.declare import PROMPTS, choice_task
from alignbench.types.engine import Loglikelihood
from alignbench.types.task import Document

INSTRUCTION: str = PROMPTS["hellaswag"]


def parse(row: Row, strip: bool = False) -> Document:
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
    return {"acc": float(np.argmax(logprobs) == label), "acc_norm": float(np.argmax(logprobs / characters) == label)}


_load = partial(few_shot, "hellaswag")
TASKS = (
    choice_task("hellaswag", partial(_load, parse), score_plain),
    choice_task(
        "hellaswag_instructgpt", partial(_load, partial(parse, strip=True), instruction=INSTRUCTION), score_label
    ),
)
