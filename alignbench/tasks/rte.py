"""RTE: does a passage entail a sentence? As InstructGPT puts it (arXiv 2203.02155, figure 22): Yes or No, whichever
has the higher mean log-probability per token.

Dagan et al. 2006 and successors, as collected in SuperGLUE (Wang et al. 2019, arXiv 1905.00537). Few-shot: 15 examples
drawn with the seed from the training set.
"""

from __future__ import annotations

from typing import Any

from alignbench.data import load
from alignbench.tasks import instructgpt
from alignbench.types.task import Document, Metric, Options, Task, TaskData

CHOICES = (" Yes", " No")
LABELS = {"entailment": 0, "not_entailment": 1, 0: 0, 1: 1}  # SuperGLUE's files have words, the hub numbers


def load_documents(options: Options) -> TaskData:
    items = load("rte", "validation", _parse, data_dir=options.data_dir)
    provenance = [items.provenance]
    shown = []
    if options.shots:
        train = load("rte", "train", _parse, data_dir=options.data_dir)
        provenance.append(train.provenance)
        examples, _ = instructgpt.take_examples(train.items, options.shots, options.seed, "rte")
        shown = [prompt + CHOICES[label] for _, prompt, label in examples]
    documents = [
        Document(number, prompt, choices=CHOICES, target={"label": label}) for number, prompt, label in items.items
    ]
    return TaskData(documents, tuple(provenance), instructgpt.prefix("", shown), len(shown))


def _parse(row: dict[str, Any], schema: str | None) -> tuple[str, str, int]:
    if row["label"] not in LABELS:
        raise ValueError(f"label {row['label']!r}, expected entailment or not_entailment")
    claim = row["hypothesis"].strip().rstrip(".")
    question = f"From this passage can one reasonably conclude that {claim}?"
    prompt = f"Passage: {row['premise'].strip()}\nQuestion: {question}\nAnswer:"
    return str(row["idx"]), prompt, LABELS[row["label"]]


TASKS = (
    Task(
        name="rte",
        version=1,
        title="RTE, InstructGPT's form",
        card="rte",
        metrics=(Metric("acc", "share", "higher", binary=True, chance=0.5),),
        group="inference",
        headline="acc",
        load=load_documents,
        score=instructgpt.score_label,
        takes_shots=True,
    ),
)
