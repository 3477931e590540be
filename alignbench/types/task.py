"""What a task is: documents to put to a model, and what its answers mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alignbench.stats.estimates import Estimate
from alignbench.types.engine import Loglikelihood, Sampling
from alignbench.types.scorer import Item

Unit = Literal["share", "bits", "nats", "r", "points", "tokens", "characters", "words", "number"]
Better = Literal["higher", "lower", "0.5", "0", "–"]


@dataclass(frozen=True)
class Provenance:
    """Where rows came from. No paths: a record must read the same on every machine."""

    card: str
    split: str
    source: str  # file name or hub id
    revision: str  # sha256 of the file that was read, or hub commit ("unknown" where it cannot be told)
    rows: int
    pinned: bool  # whether `revision` is the one that the card names


@dataclass(frozen=True)
class Metric:
    """A number per document, averaged over the documents that it applies to.

    unit: "share" (0..1), "bits", "nats", "r" (a correlation), "points" (0..100: BLEU, F1 in percent), or a length
    better: the direction, or the value, that is better; "–" for what is merely told beside the others
    binary: every document's value is 0 or 1, so the mean is a share with a Wilson interval
    ties: every document's value is 0, 1 or ½, so the mean is a win rate with a bootstrap interval over documents
    bounds: the range of a value, to which an interval is cut
    chance: what answering at random scores, where that is the same for all documents
    scorer: the kind of scorer that it is made with ("toxicity", or two as "truth+info"), whose name and revision become
        part of its identity
    signature: what computes it in place of a scorer, where that has a name to be told: sacrebleu's signature
    """

    name: str
    unit: Unit
    better: Better
    binary: bool = False
    ties: bool = False
    bounds: tuple[float | None, float | None] = (None, None)
    chance: float | None = None
    scorer: str | None = None
    signature: str | None = None


@dataclass(frozen=True)
class Document:
    """One item of a task, to be put to the model after the task's prefix.

    choices: continuations of prefix + `prompt`, for a task that scores given answers; else empty
    references: right answers, for a task in which the model writes
    source: the text that what the model writes must stay true to, where there is one
    target: what else the scoring needs to know of the right answer
    group: documents of one group are not independent of each other (None: independent)
    category: results are also given for each category
    chance: metric -> what answering at random scores on this document
    details: further columns of the document's record
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    source: str | None = None
    target: Mapping[str, object] = field(default_factory=dict)
    group: str | None = None
    category: str | None = None
    chance: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str | float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What the model wrote for a document, and what the scorers said of it.

    scores: kind of scorer -> its numbers; a kind that failed is missing
    tokens: length in the model's tokens; None where it is not known
    logprobs, entropies, top_entropies: of each of its tokens, in nats, as `Completion` has them; empty where they are
        not known
    """

    text: str
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tokens: int | None = None
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    top_entropies: tuple[float, ...] = ()


@dataclass(frozen=True)
class Options:
    """What a user may ask of any task.

    shots: examples before each prompt, the same for every document; None: the task's own number
    seed: draws the examples, the documents of a limit, and orders of choices
    prompts: file of prompts in place of the task's own, for tasks that take them (`Task.takes_prompts`)
    """

    data_dir: Path | None = None
    shots: int | None = None
    seed: int = 0
    prompts: Path | None = None


@dataclass(frozen=True)
class TaskData:
    """A task's documents, the text that stands before every prompt, and where the data came from."""

    documents: list[Document]
    provenance: tuple[Provenance, ...]
    prefix: str = ""
    shots: int = 0


@dataclass(frozen=True)
class Scored:
    """A scored document as the summary sees it: `metrics` has those that apply to it; `details` all of its record
    but the heavy columns.

    texts: of its outputs, and vectors: (outputs, size), each of length 1, where the task's `Writing.spread` asks for
        them; vectors are None without a scorer of the kind "embedding"
    """

    metrics: Mapping[str, float]
    group: str | None
    category: str | None
    chance: Mapping[str, float]
    details: Mapping[str, object]
    texts: tuple[str, ...] = ()
    vectors: NDArray[np.float32] | None = None


def items_of(document: Document, outputs: Sequence[Output]) -> list[Item]:
    """What scorers look at, unless a task says otherwise: each output with the document's prompt and source."""
    return [Item(output.text, document.prompt, document.source, document.references, document.id) for output in outputs]


@dataclass(frozen=True)
class Writing:
    """The part of a task in which the model writes.

    score: metrics of one document from its outputs. A metric that does not apply to this document is left out of the
        answer; one that cannot be told (a scorer failed) is NaN.
    scorers: kinds of scorer that every output is given to before `score`
    optional_scorers: kinds that are used where the user names one
    items: what a scorer is given, one item an output
    plain: the model is to go on with a text, not to answer: `--template auto` leaves the prompts plain
    spread: the task's `across` looks at the outputs themselves (`Scored.texts` and `vectors`)
    """

    sampling: Sampling
    score: Callable[[Document, Sequence[Output]], dict[str, float]]
    scorers: tuple[str, ...] = ()
    optional_scorers: tuple[str, ...] = ()
    items: Callable[[Document, Sequence[Output]], list[Item]] = items_of
    plain: bool = False
    spread: bool = False
    # document and outputs -> further columns of the record: n-gram counts that `across` adds up, fields that were read
    statistics: Callable[[Document, Sequence[Output]], Mapping[str, Sequence[object]]] | None = None


@dataclass(frozen=True)
class Task:
    """A benchmark: either the log-likelihoods of given choices are scored (`score`), or the model writes (`writing`).

    version: grows whenever a change alters the numbers
    card: the data card in data_cards/
    load: makes the documents
    score: metrics of one document from its choices' log-likelihoods, none of them unscored
    across: metrics over all scored documents together, such as a correlation or a corpus BLEU
    group: what the audit counts it to ("reading", "common sense", "translation", …)
    headline: the metric that stands for the task in the audit, one of `metrics` or of those of `across`
    told: metrics that a table shows unless all are asked for; none named: all
    entropies: the choices' token entropies are asked for, and stand in the records
    """

    name: str
    version: int
    title: str
    card: str
    metrics: tuple[Metric, ...]
    group: str
    headline: str
    load: Callable[[Options], TaskData]
    score: Callable[[Document, Sequence[Loglikelihood]], dict[str, float]] | None = None
    writing: Writing | None = None
    across: Callable[[Sequence[Scored]], list[tuple[Metric, Estimate]]] | None = None
    takes_shots: bool = False
    takes_prompts: bool = False
    told: tuple[str, ...] = ()
    entropies: bool = False
