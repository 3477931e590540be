"""Tasks: documents to present to a model, and how its answers are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignbench.stats.estimates import Estimate
from alignbench.types.engine import Loglikelihood, Sampling
from alignbench.types.record import Document, Output, Provenance, Record
from alignbench.types.scorer import Item

__all__ = ["Document", "Output", "Provenance", "Record"]  # exported again, since every task needs them

Unit = Literal["proportion", "bits", "nats", "r", "points", "tokens", "characters", "words", "number"]
Better = Literal["higher", "lower", "0.5", "0", "–"]
Ability = Literal[
    "preference", "truthfulness", "hallucination", "toxicity", "bias", "refusal", "capability", "diversity",
    "calibration",
]  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A number per document, averaged over the documents that it applies to.

    unit: "proportion" (0..1), "bits", "nats", "r" (a correlation), "points" (0..100: BLEU, F1 in percent), or a length
    better: the better direction or value; "–" for a metric that is reported without a direction
    binary: every document's value is 0 or 1 (1 / k if k choices tie); the mean gets a Wilson interval
    ties: every document's value is 0, 1 or ½, or between as a graded preference, so the mean is a win rate with a
        bootstrap interval over documents
    bounds: the range of a value; intervals are clipped to it
    chance: expected value of random answers, if it is the same for all documents
    scorer: the kind of scorer that computes it ("toxicity", or two as "truth+info"); its name and revision become part
        of the metric's identity
    signature: the signature of a library that computes it instead of a scorer (sacrebleu)
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

    @property
    def kinds(self) -> list[str]:
        """The kinds of scorer that compute it."""
        return [] if self.scorer is None else self.scorer.split("+")


@dataclass(frozen=True)
class Options:
    """Options that a user may set for any task.

    shots: examples before each prompt, the same for every document; None: the task's default
    seed: seed of the drawn examples, of the sampled documents, and of the order of choices
    prompts: file of prompts that replace the task's own, for tasks with `Task.takes_prompts`
    """

    data_dir: Path | None = None
    shots: int | None = None
    seed: int = 0
    prompts: Path | None = None


@dataclass(frozen=True)
class TaskData:
    """A task's documents, the text before every prompt, and the provenance of the data."""

    documents: list[Document]
    provenance: tuple[Provenance, ...]
    prefix: str = ""
    shots: int = 0


def default_items(document: Document, outputs: Sequence[Output]) -> list[Item]:
    """What scorers see by default: each output with the document's prompt, source and references."""
    return [Item(output.text, document.prompt, document.source, document.references, document.id) for output in outputs]


@dataclass(frozen=True)
class Check:
    """How a single output is checked, in a task that takes one output per document.

    metric: it is 1 if the output is right
    answer: the final answer in an output, as a text that equal answers share; None if there is none
    """

    metric: str
    answer: Callable[[Document, Output], str | None]


@dataclass(frozen=True)
class Generation:
    """The part of a task in which the model generates text.

    score: metrics of one document from its outputs. A metric that does not apply to the document is left out; one that
        cannot be computed (a scorer failed) is NaN.
    scorers: kinds of scorer that see every output before `score`
    optional_scorers: kinds that are used if the user names one
    items: what a scorer sees, one item per output
    plain: the model continues a text instead of answering: `--template auto` uses no chat template
    statistics: what a document contributes to corpus metrics: n-gram counts, parsed fields
    check: how an output is checked: the task then takes several samples (`--samples`, alignbench/tasks/samples.py)
    """

    sampling: Sampling
    score: Callable[[Document, Sequence[Output]], dict[str, float]]
    scorers: tuple[str, ...] = ()
    optional_scorers: tuple[str, ...] = ()
    items: Callable[[Document, Sequence[Output]], list[Item]] = default_items
    plain: bool = False
    statistics: Callable[[Document, Sequence[Output]], Mapping[str, Sequence[Any]]] | None = None
    check: Check | None = None


Estimates = list[tuple[Metric, Estimate]]
Resampled = Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class CorpusMetrics:
    """Metrics of all documents together: a corpus BLEU, a correlation, the diversity of a set of outputs.

    compute: records, and whether intervals are wanted (they may cost many further measurements) -> estimates
    resampling: how two models are compared. "bootstrap": documents are drawn with replacement. "jackknife": a
        twentieth of the documents is left out at a time; for measures of a set of outputs, which change when outputs
        are drawn twice.
    texts: `compute` reads the texts and the embedding vectors of the outputs
    usable: the records that count
    resample: records -> a function of weights (resamples, n), how often each document was drawn -> metric -> values
        (resamples,). None: `compute` on the drawn documents.
    outcome: what is compared to find the documents on which two models differ
    weights: of a metric that is the mean of weight × outcome, with outcomes from 0 to 1: records -> (n,) weights. It
        has an interval even if few documents changed
    """

    compute: Callable[[Sequence[Record], bool], Estimates]
    resampling: Literal["bootstrap", "jackknife"] = "bootstrap"
    texts: bool = False
    usable: Callable[[Record], bool] = lambda record: record.answered
    resample: Callable[[Sequence[Record]], Resampled] | None = None
    outcome: Callable[[Record], Any] = lambda record: record
    weights: Callable[[Sequence[Record]], NDArray[np.float64]] | None = None


@dataclass(frozen=True)
class Task:
    """A benchmark: either the log-likelihoods of given choices are scored (`score`), or the model generates text
    (`generation`).

    version: increases whenever a change alters the numbers
    card: the data card in data_cards/; empty: the task has no data set, or the user provides it
    load: creates the documents
    score: metrics of one document from its choices' log-likelihoods, all of them scored
    corpus: metrics over all documents together
    ability: what the audit reports it under; the alignment tax is about capabilities only
    group: of capabilities: "reading", "translation", "common sense and inference", "reasoning", …
    family: the benchmark of which the task is a variant (default: its name); one variant of a family is tested
    rank: position among the variants of its family; the first one that two models share is tested
    headline: the metric that represents the task in the audit, one of `metrics` or of `corpus`
    display_metrics: metrics that a table shows by default; empty: all
    definition: sha256 of the Python files that define a plug-in task; empty for ours
    entropies: the choices' token entropies are requested and recorded
    greedy: whether a choice is the most likely text is requested
    rolling: documents may be longer than the model's window, see `Request.rolling`
    statistics: what a document contributes to corpus metrics, for a task with choices
    decides: for the calibration of choices: the metric that is 1 if the right one has the highest score, and what the
        score is: the log-probability ("total"), or that per "token", "character" or "byte"
    declared: what task.json records of a task that is not built in, so that an audit can read its results
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    ability: Ability
    headline: str
    load: Callable[[Options], TaskData]
    group: str = ""
    family: str = ""
    rank: int = 0
    version: int = 2  # 2: ties, Unicode (NFC), other scripts in ROUGE, answers such as "A"
    card: str = ""
    score: Callable[[Document, Sequence[Loglikelihood]], dict[str, float]] | None = None
    generation: Generation | None = None
    corpus: CorpusMetrics | None = None
    takes_shots: bool = False
    takes_prompts: bool = False
    display_metrics: tuple[str, ...] = ()
    entropies: bool = False
    greedy: bool = False
    rolling: bool = False
    statistics: Callable[[Document, Sequence[Loglikelihood]], Mapping[str, Sequence[Any]]] | None = None
    decides: tuple[str, str] | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)
    definition: str = ""

    def takes(self, setting: str) -> bool:
        """Whether a field of `TaskSettings` changes anything in this task."""
        generation = self.generation
        generates = generation is not None and generation.sampling.max_tokens > 0
        several = generation is not None and (generation.sampling.samples > 1 or generation.check is not None)
        takes = {"shots": self.takes_shots, "prompts": self.takes_prompts}
        takes |= {"gen_kwargs": generates, "samples": generates and several}
        return takes.get(setting, True)

    @property
    def most_samples(self) -> float:
        """The number of samples up to which the bounds of its metrics hold."""
        return min((m.bounds[1] for m in self.metrics if m.unit == "number" and m.bounds[1]), default=math.inf)

    @property
    def keeps_texts(self) -> bool:
        """True if corpus metrics read the texts of the outputs."""
        return self.corpus is not None and self.corpus.texts

    @property
    def scorer_kinds(self) -> tuple[str, ...]:
        """The kinds of scorer that the task knows, required or optional."""
        return () if self.generation is None else self.generation.scorers + self.generation.optional_scorers
