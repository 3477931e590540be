"""Shared parts of the tasks: few-shot prompts and one-line answers in InstructGPT's form, and common metrics.

Ouyang et al. 2022, arXiv 2203.02155, appendix D; docs/metrics.md describes the form.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alignbench.data import Loaded, Row, load
from alignbench.errors import AlignbenchError
from alignbench.types.engine import Loglikelihood, Sampling
from alignbench.types.scorer import Item
from alignbench.types.task import Document, Generation, Metric, Options, Output, Record, TaskData, default_items

T = TypeVar("T")

ANSWER_RATE = Metric("answer_rate", "share", "–", binary=True)
WORDS = Metric("words", "words", "–", bounds=(0, None))


def words(text: str) -> float:
    return float(len(text.split()))


def load_documents(card: str, split: str, parse: Callable[[Row], Document], data_dir: Path | None) -> Loaded[Document]:
    """A split whose rows are documents. A document without an id gets the number of its row, from 0."""
    loaded = load(card, split, parse, data_dir)
    return replace(loaded, items=[replace(d, id=d.id or str(number)) for number, d in enumerate(loaded.items)])


def few_shot(
    card: str,
    parse: Callable[[Row], Document],
    options: Options,
    instruction: str = "",
    usable: Callable[[Document], bool] = lambda document: True,
) -> TaskData:
    """The validation split, after `options.shots` usable documents of the training split with their answers."""
    data = load_documents(card, "validation", parse, options.data_dir)
    provenance, examples = [data.provenance], list[Document]()
    if options.shots:
        train = load_documents(card, "train", parse, options.data_dir)
        provenance.append(train.provenance)
        examples, _ = take_examples(list(filter(usable, train.items)), options, card)
    return TaskData(data.items, tuple(provenance), prefix(instruction, map(solved, examples)), len(examples))


def take_examples(items: Sequence[T], options: Options, task: str) -> tuple[list[T], list[T]]:
    """`options.shots` items drawn with the seed as examples, and the other items, which are scored."""
    shots = options.shots or 0
    if shots >= len(items) and shots:
        raise AlignbenchError(f"{task}: {shots} shots requested, but there are only {len(items)} items to draw from")
    rows = random.Random(options.seed).sample(range(len(items)), shots)
    taken = set(rows)
    return [items[row] for row in rows], [item for row, item in enumerate(items) if row not in taken]


def draw(items: Sequence[T], n: int, seed: int) -> list[T]:
    """`n` of the items, drawn with `seed`, in their order; all items if there are no more than `n`."""
    if n >= len(items):
        return list(items)
    return [items[row] for row in sorted(random.Random(seed).sample(range(len(items)), n))]


def solved(document: Document) -> str:
    """The document as a few-shot example: its prompt with the right choice or the first reference."""
    answer = document.choices[document.target["label"]] if document.choices else f" {document.references[0]}"
    return document.prompt + answer


def prefix(instruction: str, examples: Iterable[str]) -> str:
    """The text before every prompt: the instruction and the examples, each followed by a blank line."""
    return "".join(f"{part}\n\n" for part in (instruction, *examples) if part)


def score_label(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    """Classification: 1 if the right label has the highest mean log-probability per token."""
    means = [answer.logprob / answer.tokens for answer in answers]
    return {"acc": float(np.argmax(means) == document.target["label"])}


def one_line(max_tokens: int, score: Callable[[Document, Output], dict[str, float]], **parts: Any) -> Generation:
    """Greedy generation of one line, scored by its metrics and its number of words.

    max_tokens: the paper gives no maximum; every task names its own
    score: metrics of a document and its output, whose text is stripped
    parts: other fields of `Generation`
    """

    def score_outputs(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
        output = first_line(outputs)
        return score(document, output) | {"words": words(output.text)}

    def items(document: Document, outputs: Sequence[Output]) -> list[Item]:
        return default_items(document, [first_line(outputs)])

    return Generation(Sampling(max_tokens, stop=("\n",)), score_outputs, **{"items": items, **parts})


def first_line(outputs: Sequence[Output]) -> Output:
    """The first output, cut to its first line: outputs of other systems may have more."""
    return replace(outputs[0], text=outputs[0].text.split("\n", 1)[0].strip())


def equivalence_classes(outputs: Sequence[Output]) -> list[float] | None:
    """The class of each output, by a scorer of the kind "equivalence"; None if it failed."""
    classes = [output.scores.get("equivalence", {}).get("class", math.nan) for output in outputs]
    return classes if all(map(math.isfinite, classes)) else None


def first_outputs(records: Sequence[Record]) -> tuple[list[str], NDArray[np.float32] | None]:
    """The text of each record's first output, and their (n, d) embedding vectors; None unless all have one."""
    vectors = [record.vectors[0] for record in records if record.vectors is not None]
    known = np.stack(vectors) if vectors and len(vectors) == len(records) else None
    return [record.outputs[0].text for record in records], known
