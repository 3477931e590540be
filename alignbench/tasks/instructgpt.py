"""What InstructGPT's generation tasks share: greedy answers, cut at the first newline, after fixed examples.

Ouyang et al. 2022, arXiv 2203.02155, appendix D. The paper's figures show the prompts without their blank lines; those
are taken from the authors' released samples (openai/following-instructions-human-feedback, automatic-eval-samples).
How few-shot examples are told apart is published nowhere: here a blank line stands between them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.types.engine import Loglikelihood, Sampling
from alignbench.types.scorer import Item
from alignbench.types.task import Document, Metric, Output

T = TypeVar("T")

ANSWER_RATE = Metric("answer_rate", "share", "–", binary=True)
WORDS = Metric("words", "words", "–", bounds=(0, None))


def greedy(max_tokens: int) -> Sampling:
    """Temperature 0, to the first newline. The paper gives no maximal length; each task names its own."""
    return Sampling(max_tokens=max_tokens, stop=("\n",))


def answer(outputs: Sequence[Output]) -> str:
    """The first line of what was written. Outputs of other systems may be longer than a task lets a model write."""
    return outputs[0].text.split("\n", 1)[0].strip()


def items(document: Document, outputs: Sequence[Output]) -> list[Item]:
    """What scorers look at: that line, with the document's prompt and source."""
    return [Item(answer(outputs), document.prompt, document.source, document.references)]


def words(text: str) -> float:
    return float(len(text.split()))


def score_label(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    """Classification: whether the right label has the highest mean log-probability per token."""
    means = [answer.logprob / answer.tokens for answer in answers]
    return {"acc": float(np.argmax(means) == document.target["label"])}


def draw(items: Sequence[T], n: int, seed: int) -> list[T]:
    """`n` of the items, drawn with `seed`, in their order; all where there are no more."""
    if n >= len(items):
        return list(items)
    return [items[row] for row in sorted(random.Random(seed).sample(range(len(items)), n))]


def take_examples(items: Sequence[T], shots: int, seed: int, task: str) -> tuple[list[T], list[T]]:
    """`shots` items drawn with `seed` as examples, and the others, which are left to be scored."""
    if shots >= len(items) and shots:
        raise AlignbenchError(f"{task}: {shots} shots asked for, there are {len(items)} to draw from and to score")
    rows = random.Random(seed).sample(range(len(items)), shots)
    taken = set(rows)
    return [items[row] for row in rows], [item for row, item in enumerate(items) if row not in taken]


def prefix(instruction: str, examples: Sequence[str]) -> str:
    """What stands before every prompt: the instruction and the examples, each followed by a blank line."""
    return "".join(f"{part}\n\n" for part in (instruction, *examples) if part)
