"""SST-2: is a sentence from a film review positive or negative? As InstructGPT puts it (arXiv 2203.02155, figure 23):
the label with the higher mean log-probability per token.

Socher et al. 2013, D13-1170, as collected in GLUE (Wang et al. 2019, arXiv 1804.07461). GLUE's sentences are cut into
tokens by spaces; they are joined again, as in the paper's example. Few-shot: 15 examples drawn with the seed from the
training set.
"""

from __future__ import annotations

import re
from typing import Any

from alignbench.data import load
from alignbench.tasks import instructgpt
from alignbench.types.task import Document, Metric, Options, Task, TaskData

INSTRUCTION = "For each snippet of text, label the sentiment of the text as positive or negative."
CHOICES = (" negative", " positive")  # GLUE's labels 0 and 1
_SPACE_BEFORE = re.compile(r" (?=[.,;:!?%)]|n't\b|'(?:s|re|ve|ll|d|m)\b)")


def load_documents(options: Options) -> TaskData:
    items = load("sst2", "validation", _parse, data_dir=options.data_dir)
    provenance = [items.provenance]
    shown = []
    if options.shots:
        train = load("sst2", "train", _parse, data_dir=options.data_dir)
        provenance.append(train.provenance)
        examples, _ = instructgpt.take_examples(train.items, options.shots, options.seed, "sst2")
        shown = [prompt + CHOICES[label] for prompt, label in examples]
    documents = [
        Document(str(number), prompt, choices=CHOICES, target={"label": label})
        for number, (prompt, label) in enumerate(items.items)
    ]
    return TaskData(documents, tuple(provenance), instructgpt.prefix(INSTRUCTION, shown), len(shown))


def join_tokens(text: str) -> str:
    """Take out the spaces that GLUE's tokeniser put before punctuation and clitics."""
    return _SPACE_BEFORE.sub("", text.strip()).replace("( ", "(")


def _parse(row: dict[str, Any], schema: str | None) -> tuple[str, int]:
    label = int(row["label"])
    if label not in (0, 1):
        raise ValueError(f"label {label}, expected 0 or 1")
    return f"Text: {join_tokens(row['sentence'])}\nLabel:", label


TASKS = (
    Task(
        name="sst2",
        version=1,
        title="SST-2, InstructGPT's form",
        card="sst2",
        metrics=(Metric("acc", "share", "higher", binary=True, chance=0.5),),
        group="sentiment",
        headline="acc",
        load=load_documents,
        score=instructgpt.score_label,
        takes_shots=True,
    ),
)
