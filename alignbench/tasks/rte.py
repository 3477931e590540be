"""RTE: does a passage entail a sentence? In InstructGPT's form (arXiv 2203.02155, figure 22): Yes or No, whichever has
the higher mean log-probability per token.

Dagan et al. 2006 and successors, as collected in SuperGLUE (Wang et al. 2019, arXiv 1905.00537). Few-shot: 15 examples
from the training set.
"""

from alignbench.data import Row
from alignbench.tasks.common import classification
from alignbench.types.task import Document

LABELS = {"entailment": 0, "not_entailment": 1, 0: 0, 1: 1}  # SuperGLUE's files have words, the hub numbers


def parse(row: Row) -> Document:
    if row["label"] not in LABELS:
        raise ValueError(f"label {row['label']!r}, expected entailment or not_entailment")
    claim = row["hypothesis"].strip().rstrip(".")
    question = f"From this passage can one reasonably conclude that {claim}?"
    prompt = f"Passage: {row['premise'].strip()}\nQuestion: {question}\nAnswer:"
    return Document(str(row["idx"]), prompt, (" Yes", " No"), target={"label": LABELS[row["label"]]})


TASKS = (classification("rte", "RTE, InstructGPT's form", "inference", 0.5, parse),)
