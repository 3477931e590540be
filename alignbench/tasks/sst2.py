"""SST-2: is a sentence from a film review positive or negative? In InstructGPT's form (arXiv 2203.02155, figure 23):
the label with the higher mean log-probability per token.

Socher et al. 2013, D13-1170, as collected in GLUE (Wang et al. 2019, arXiv 1804.07461). GLUE's sentences are tokenised;
here the tokens are joined again, as in the paper's example. Few-shot: 15 examples from the training set.
"""

import re
from functools import partial

from alignbench.data import Row
from alignbench.tasks.common import few_shot, score_label
from alignbench.types.task import Document, Metric, Task

INSTRUCTION = "For each snippet of text, label the sentiment of the text as positive or negative."
CHOICES = (" negative", " positive")  # GLUE's labels 0 and 1
_SPACE_BEFORE = re.compile(r" (?=[.,;:!?%)]|n't\b|'(?:s|re|ve|ll|d|m)\b)")


def parse(row: Row) -> Document:
    label = int(row["label"])
    if label not in (0, 1):
        raise ValueError(f"label {label}, expected 0 or 1")
    return Document("", f"Text: {join_tokens(row['sentence'])}\nLabel:", CHOICES, target={"label": label})


def join_tokens(text: str) -> str:
    """Remove the spaces that GLUE's tokeniser put before punctuation and clitics."""
    return _SPACE_BEFORE.sub("", text.strip()).replace("( ", "(")


TASKS = (
    Task(
        name="sst2",
        title="SST-2, InstructGPT's form",
        card="sst2",
        metrics=(Metric("acc", "share", "higher", binary=True, chance=0.5),),
        group="sentiment",
        headline="acc",
        load=partial(few_shot, "sst2", parse, instruction=INSTRUCTION),
        score=score_label,
        takes_shots=True,
    ),
)
