"""What a task is: documents to score, and what their log-likelihoods mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from alignbench.data import Provenance
from alignbench.models.engine import Loglikelihood
from alignbench.stats import Estimate

Unit = Literal["share", "bits", "nats", "r"]
Better = Literal["higher", "lower", "0.5", "0"]


@dataclass(frozen=True)
class Metric:
    """A number per document, averaged over documents.

    unit: "share" (0..1), "bits", "nats", or "r" (a correlation)
    better: the direction, or the value, that is better
    binary: every document's value is 0 or 1, so the mean is a share with a Wilson interval
    bounds: the range of a value, to which an interval is cut
    chance: what answering at random scores, where that is the same for all documents
    """

    name: str
    unit: Unit
    better: Better
    binary: bool = False
    bounds: tuple[float | None, float | None] = (None, None)
    chance: float | None = None


@dataclass(frozen=True)
class Document:
    """One item of a task, ready to be scored: each of `choices` is a continuation of the task's prefix + `prompt`.

    target: what the scoring needs to know of the right answer
    group: documents of one group are not independent of each other (None: independent)
    category: results are also given for each category
    chance: metric -> what answering at random scores on this document
    details: further columns of the document's record
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    target: Mapping[str, object] = field(default_factory=dict)
    group: str | None = None
    category: str | None = None
    chance: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str | float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What a user may ask of any task.

    shots: examples before each prompt, the same for every document; None: the task's own number
    seed: draws the examples, the documents of a limit, and orders of choices
    """

    data_dir: Path | None = None
    shots: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class TaskData:
    """A task's documents, the text that stands before every prompt, and where the data came from."""

    documents: list[Document]
    provenance: tuple[Provenance, ...]
    prefix: str = ""
    shots: int = 0


@dataclass(frozen=True)
class Scored:
    """A scored document as the summary sees it."""

    metrics: Mapping[str, float]
    group: str | None
    category: str | None
    chance: Mapping[str, float]
    details: Mapping[str, str | float | None]


@dataclass(frozen=True)
class Task:
    """A benchmark.

    version: grows whenever a change alters the numbers
    card: the data card in data_cards/
    load: makes the documents
    score: metrics of one document from its choices' log-likelihoods, none of them unscored
    across: metrics over all scored documents together, such as a correlation
    """

    name: str
    version: int
    title: str
    card: str
    metrics: tuple[Metric, ...]
    load: Callable[[Options], TaskData]
    score: Callable[[Document, Sequence[Loglikelihood]], dict[str, float]]
    across: Callable[[Sequence[Scored]], list[tuple[Metric, Estimate]]] | None = None
    takes_shots: bool = False
