"""How undecided a model is before each token, in bits: over the whole vocabulary, and over its five likeliest tokens.

"Creativity Has Left the Chat" (Mohammadi 2024, arXiv 2406.05587, fig. 11) compares the entropy of an aligned model's
next token with its base model's. Two tasks, which must not be mixed: `token_entropy` on text that somebody else wrote
and all models read alike (teacher-forced), `token_entropy_on_policy` on what the model itself writes. Both from the
unscaled logits: temperature 1, no top-p. The five likeliest are renormalised: their entropy is at most log2 5 = 2.32.

The shared text is WikiText-2's test set: 100 passages of 600 characters, read whole after the start token alone, never
as a message of a chat. Tokenizers cut it differently, and a longer token decides more: between models with different
tokenizers compare the numbers per character. Surprisal is −log2 p of the text's own tokens: its mean is the
cross-entropy. `excess_surprisal`, surprisal less entropy, is 0 on average where the model is as undecided as it ought
to be on this text, and above 0 where it is overconfident (Braverman et al. 2020, arXiv 1906.05664, section 3).

On policy the model answers instructions (Self-Instruct's, or a file's), one sample each at temperature 1: instructions,
because those make sense with a chat template and without, so that both may be compared.

A document counts once, however many tokens it has: a document's number is the mean over its tokens, and the result is
the mean over documents, clustered by article. `entropy_2_8` is over the second to the eighth token alone, and so on, of
the documents that have such tokens. On shared text `entropy_1` is what the start token leaves open, for all alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from alignbench.data import load
from alignbench.errors import AlignbenchError
from alignbench.tasks import instructgpt
from alignbench.tasks.instructgpt import WORDS
from alignbench.tasks.prompts import load_prompts
from alignbench.types.engine import TOP, Loglikelihood, Sampling
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

DOCUMENTS = 100
CHARACTERS = 600  # of a passage: at least one token each, and then still within a window of 600
NEW_TOKENS = 64
POSITIONS = ((1, 1), (2, 8), (9, 16), (17, 32), (33, NEW_TOKENS))

T = TypeVar("T")


def load_passages(options: Options) -> TaskData:
    loaded = load("wikitext_2", "test", lambda row, schema: str(row["text"]), data_dir=options.data_dir)
    lines = "\n".join(loaded.items).split("\n")
    found = [
        Document(f"passage {number}", "", choices=(text,), group=article, target={"article": article})
        for number, (article, text) in enumerate(passages(lines), start=1)
    ]
    if not found:
        raise AlignbenchError(f"token_entropy: {loaded.provenance.source} has no passage of {CHARACTERS} characters")
    return TaskData(evenly(found, DOCUMENTS), (loaded.provenance,))


def load_instructions(options: Options) -> TaskData:
    """Evenly 100 of Self-Instruct's 252, or all of the user's file."""
    data = load_prompts(options, "token_entropy_on_policy")
    documents = data.documents if options.prompts is not None else evenly(data.documents, DOCUMENTS)
    return TaskData(documents, data.provenance)


def evenly(items: Sequence[T], n: int) -> list[T]:
    """`n` of the items at even distances, the same on every machine and for every seed; all where there are no more."""
    if n >= len(items):
        return list(items)
    return [items[(2 * rank + 1) * len(items) // (2 * n)] for rank in range(n)]


def passages(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(article, text) of each passage: whole paragraphs of one section from a paragraph's beginning, cut at the last
    space within the length. The next one begins with the next paragraph; what is too short for a passage is left out.
    """
    article, paragraphs, size = "", list[str](), 0
    for before, line in zip(["", *map(str.strip, lines)], [*map(str.strip, lines), "= ="], strict=True):
        if line.startswith("="):  # a heading: the section ends
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
    """Undo WikiText's spaces and marks, so that a model reads prose as it knows it: "two @-@ part" is "two-part",
    "1 @,@ 000" is "1,000", "( a ) , b" is "(a), b". A ' that stands alone is left, as it may open, close or own."""
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
    written = outputs[0]
    return {
        "entropy": _bits(written.entropies),
        "top5_entropy": _bits(written.top_entropies),
        "surprisal": -_bits(written.logprobs),
        **_curve(written.entropies),
        "words": instructgpt.words(written.text),
    }


def _bits(nats: Sequence[float]) -> float:
    """Their mean, in bits; NaN where the engine told none."""
    return float(np.mean(nats)) / math.log(2) if nats else math.nan


def _curve(entropies: Sequence[float]) -> dict[str, float]:
    """The mean entropy over each stretch of `POSITIONS` that the text reaches; every text has a first token."""
    parts = ((first, last, entropies[first - 1 : last]) for first, last in POSITIONS)
    return {_name(first, last): _bits(part) for first, last, part in parts if part or first == 1}


def _name(first: int, last: int) -> str:
    return f"entropy_{first}" if first == last else f"entropy_{first}_{last}"


_bits_metric = partial(Metric, unit="bits", better="–", bounds=(0, None))
_ENTROPY = _bits_metric("entropy")
_TOP = _bits_metric("top5_entropy", bounds=(0, math.log2(TOP)))
_SURPRISAL = _bits_metric("surprisal")
_CURVE = tuple(_bits_metric(_name(first, last)) for first, last in POSITIONS)

TASKS = (
    Task(
        name="token_entropy",
        version=1,
        title="Token entropy on shared text (teacher-forced)",
        card="wikitext_2",
        metrics=(
            _ENTROPY,
            _TOP,
            _SURPRISAL,
            Metric("excess_surprisal", "bits", "0"),
            _bits_metric("entropy_per_character"),
            _bits_metric("surprisal_per_character"),
            *_CURVE,
        ),
        group="entropy",
        headline="entropy",
        load=load_passages,
        score=score_passage,
        entropies=True,
    ),
    Task(
        name="token_entropy_on_policy",
        version=1,
        title="Token entropy of the model's own text",
        card="self_instruct",
        metrics=(_ENTROPY, _TOP, _SURPRISAL, *_CURVE, WORDS),
        group="entropy",
        headline="entropy",
        load=load_instructions,
        generation=Generation(Sampling(NEW_TOKENS, temperature=1.0, top_entropies=True), score_output),
        takes_prompts=True,
    ),
)
