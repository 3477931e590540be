"""Entropy of the next token in bits, over the whole vocabulary and over its five most likely tokens.

As in "Creativity Has Left the Chat" (Mohammadi 2024, arXiv 2406.05587, fig. 11), on passages of WikiText-2 and on the
model's answers to instructions. `excess_surprisal`: Braverman et al. 2020, arXiv 1906.05664, section 3.
`branching_factor`: Yang and Holtzman 2025, arXiv 2506.17871.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alignbench.data import load
from alignbench.errors import AlignbenchError
from alignbench.stats import estimates
from alignbench.tasks.common import load_prompts
from alignbench.tasks.declare import choice_task, generation_task, words
from alignbench.types.engine import Loglikelihood
from alignbench.types.task import (
    CorpusMetrics,
    Document,
    Estimates,
    Metric,
    Options,
    Output,
    Record,
    Resampled,
    TaskData,
)

DOCUMENTS = 100
CHARACTERS = 600  # of a passage: at least one per token, so it fits a window of 600 tokens
ON_POLICY = "token_entropy_on_policy"
POSITIONS = ((1, 1), (2, 8), (9, 16), (17, 32), (33, 64))

T = TypeVar("T")


def load_passages(options: Options) -> TaskData:
    loaded = load("wikitext_2", "test", lambda row: str(row["text"]), options.data_dir)
    numbered = enumerate(passages("\n".join(loaded.items).split("\n")), start=1)
    found = [
        Document(f"passage {n}", "", (text,), group=title, target={"article": title}) for n, (title, text) in numbered
    ]
    if not found:
        raise AlignbenchError(f"token_entropy: {loaded.provenance.source} has no passage of {CHARACTERS} characters")
    return TaskData(evenly(found, DOCUMENTS), (loaded.provenance,))


def load_instructions(task: str, options: Options) -> TaskData:
    """100 of Self-Instruct's 252 at even distances, or all of the user's file."""
    data = load_prompts(task, options)
    return data if options.prompts is not None else replace(data, documents=evenly(data.documents, DOCUMENTS))


def evenly(items: Sequence[T], n: int) -> list[T]:
    """`n` of the items at even distances, independent of the seed; all items if there are no more than `n`."""
    if n >= len(items):
        return list(items)
    return [items[(2 * rank + 1) * len(items) // (2 * n)] for rank in range(n)]


def passages(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(article, text) of each passage: whole paragraphs of one section, cut at the last space within the length. The
    next passage begins with the next paragraph; text too short for a passage is left out."""
    article, paragraphs, size = "", list[str](), 0
    for before, line in zip(["", *map(str.strip, lines)], [*map(str.strip, lines), "= ="], strict=True):
        if line.startswith("="):  # a heading ends the section
            if not before and (title := re.fullmatch(r"= ([^=].*) =", line)):
                article = clean(title[1])
            paragraphs, size = [], 0
        elif line:
            paragraphs.append(clean(line))
            size += len(paragraphs[-1]) + 1
            if size > CHARACTERS:
                yield article, "\n".join(paragraphs)[: CHARACTERS + 1].rsplit(None, 1)[0]
                paragraphs, size = [], 0


def clean(text: str) -> str:
    """Remove WikiText's spaces and marks: "two @-@ part" becomes "two-part", "1 @,@ 000" "1,000", "( a ) , b" "(a), b".
    A single ' is left, since it may open, close or mark a genitive."""
    text = re.sub(r" @(.)@ ", r"\1", text.strip())
    text = re.sub(r'" ([^"]*?) "', r'"\1"', text)
    text = re.sub(r" ([,.;:!?%)\]]|'(?:s|t|re|ve|m|d|ll)\b)", r"\1", text)
    text = re.sub(r"([(\[$£€¥₱]) ", r"\1", text)
    return text.replace(" / ", "/")


def score_passage(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    answer, characters = answers[0], len(document.choices[0])
    entropy, surprisal = _bits(answer.entropies), -answer.logprob / math.log(2) / answer.tokens
    return {
        "entropy": entropy,
        "top5_entropy": _bits(answer.top_entropies),
        "surprisal": surprisal,
        "excess_surprisal": surprisal - entropy,
        "entropy_per_character": entropy * answer.tokens / characters,
        "surprisal_per_character": surprisal * answer.tokens / characters,
        **_curve(answer.entropies),
    }


def score_output(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    output = outputs[0]
    return {
        "entropy": _bits(output.entropies),
        "top5_entropy": _bits(output.top_entropies),
        "surprisal": -_bits(output.logprobs),
        **_curve(output.entropies),
        "words": words(output.text),
    }


def _bits(nats: Sequence[float]) -> float:
    """The mean in bits; NaN if the engine reports none."""
    return float(np.mean(nats)) / math.log(2) if nats else math.nan


def _curve(entropies: Sequence[float]) -> dict[str, float]:
    """The mean entropy over each range of `POSITIONS` that the text reaches; the first is always included."""
    reached = [(first, last) for first, last in POSITIONS if first == 1 or first <= len(entropies)]
    return {f"entropy{suffix_of(*own)}": _bits(entropies[own[0] - 1 : own[1]]) for own in reached}


def suffix_of(first: int, last: int) -> str:
    """Of the names of metrics over a range of positions: "_1", "_2_8"."""
    return f"_{first}" if first == last else f"_{first}_{last}"


SUFFIXES = ("", *(suffix_of(*own) for own in POSITIONS))


def branching_factors(records: Sequence[Record], intervals: bool) -> Estimates:
    """2 to the power of the mean entropy in bits (exp of that in nats), of whole texts and of each range of positions:
    the number of equally likely tokens with the same entropy. The mean is over texts; the interval is that of the mean.
    """
    found: Estimates = []
    for suffix in SUFFIXES:
        known = [r for r in records if r.metrics.get(f"entropy{suffix}") is not None]
        values = [r.values[f"entropy{suffix}"] for r in known]
        if values:
            own = estimates.mean(values, [r.cluster for r in known], (0, None))
            value, low, high = (None if bits is None else 2.0**bits for bits in (own.value, own.low, own.high))
            error = None if own.standard_error is None or value is None else math.log(2) * value * own.standard_error
            found.append((_branching(suffix), replace(own, value=value, low=low, high=high, standard_error=error)))
    return found


def resampled_branching_factors(records: Sequence[Record]) -> Resampled:
    """What `CorpusMetrics.resample` is for them. NaN for a draw without a text that reaches the positions."""
    bits = np.array([[r.values.get(f"entropy{suffix}", math.nan) for suffix in SUFFIXES] for r in records])
    known = np.isfinite(bits)

    def resample(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):
            found = 2.0 ** (weights @ np.where(known, bits, 0.0) / (weights @ known))
        return {_branching(suffix).name: found[:, i] for i, suffix in enumerate(SUFFIXES) if known[:, i].any()}

    return resample


def _branching(suffix: str) -> Metric:
    return Metric(f"branching_factor{suffix}", "number", "–", bounds=(1, None))


_BRANCHING = CorpusMetrics(branching_factors, resample=resampled_branching_factors)

TASKS = (
    choice_task("token_entropy", load_passages, score_passage),
    generation_task(ON_POLICY, partial(load_instructions, ON_POLICY), score_output, _BRANCHING),
)
