"""RTE: does a passage entail a sentence? In InstructGPT's form (arXiv 2203.02155, figure 22): Yes or No, whichever has
the higher mean log-probability per token.

Dagan et al. 2006 and successors, as collected in SuperGLUE (Wang et al. 2019, arXiv 1905.00537). Few-shot: 15 examples
from the training set.
"""

from functools import partial

from alignbench.data import Row
from alignbench.tasks.common import few_shot, score_label
from alignbench.types.task import Document, Metric, Task

LABELS = {"entailment": 0, "not_entailment": 1, 0: 0, 1: 1}  # SuperGLUE's files have words, the hub numbers


def parse(row: Row) -> Document:
    if row["label"] not in LABELS:
        raise ValueError(f"label {row['label']!r}, expected entailment or not_entailment")
    claim = row["hypothesis"].strip().rstrip(".")
    question = f"From this passage can one reasonably conclude that {claim}?"
    prompt = f"Passage: {row['premise'].strip()}\nQuestion: {question}\nAnswer:"
    return Document(str(row["idx"]), prompt, (" Yes", " No"), target={"label": LABELS[row["label"]]})


TASKS = (
    Task(
        name="rte",
        title="RTE, InstructGPT's form",
        card="rte",
        metrics=(Metric("acc", "share", "higher", binary=True, chance=0.5),),
        group="inference",
        headline="acc",
        load=partial(few_shot, "rte", parse),
        score=score_label,
        takes_shots=True,
    ),
)
