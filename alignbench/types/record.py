"""Documents, where their rows came from, and records: one line of documents.jsonl per document, with the model's
answers, the scorers' numbers and the metrics."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.types.engine import Completion
from alignbench.types.result import known_fields


@dataclass(frozen=True)
class Provenance:
    """Where rows came from. No paths: a record must be the same on every machine.

    source: file name or hub id
    revision: sha256 of the file, or hub commit ("unknown" if it cannot be determined)
    pinned: True if `revision` is the one that the card names
    """

    card: str
    split: str
    source: str
    revision: str
    rows: int
    pinned: bool


@dataclass(frozen=True)
class Document:
    """One item of a task, presented to the model after the task's prefix.

    choices: continuations of prefix + `prompt`, for a task that scores given answers; otherwise empty
    contexts: of each choice its own prompt, where they differ; otherwise empty
    references: correct answers, for a task in which the model generates text
    source: the text that the output must be faithful to, if the task has one
    target: what else the scoring or a report needs to know about the document (label, false answers, occupation, …)
    group: documents of the same group are not independent (None: independent)
    category: results are also reported for each category
    chance: metric -> expected value of a random answer on this document
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    source: str | None = None
    target: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    category: str | None = None
    chance: Mapping[str, float] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The fields that a task's identity is made of."""
        return {name: value for name, value in vars(self).items() if name != "contexts" or value}


@dataclass(frozen=True, slots=True)
class Output(Completion):
    """One text that the model generated for a document, and the scorers' numbers.

    scores: kind of scorer -> its numbers; a kind that failed is missing
    reasons: kind of scorer -> its reasons, if it gives any (see `Explained`)
    divergences, log_ratios: of each token, from a base model, in nats (task kl): the KL divergence of the two
        distributions at its position, and its log-probability minus that of the base model
    """

    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    divergences: tuple[float, ...] = ()
    log_ratios: tuple[float, ...] = ()

    @classmethod
    def of(cls, completion: Completion) -> Output:
        """A completion without scores. Numbers per token are rounded to four decimals, to keep files small."""
        fields = {name: getattr(completion, name) for name in Completion.__dataclass_fields__}
        return cls(**fields | {name: rounded(fields[name]) for name in ("logprobs", "entropies", "top_entropies")})

    def to_json(self) -> dict[str, Any]:
        names = ("text", "finish", "tokens", "logprobs", "entropies", "unscored", "scores")
        content = {name: getattr(self, name) for name in names}
        optional = ("top_entropies", "transient", "thoughts", "reasons", "divergences", "log_ratios")
        return content | {name: value for name in optional if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Output:
        fields = checked({name: _tuples(value) for name, value in known_fields(cls, content).items()})
        if not all(isinstance(numbers, dict) for numbers in fields.get("scores", {}).values()):
            raise TypeError("scores are not {kind: {name: number}}")
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Record(Document):
    """A document with its result.

    logprobs, tokens: of each choice: log-probability in nats (None: unscored) and length in tokens
    entropies, top_entropies: a list per choice, a number per token, in nats; empty unless the task asks for them
    outputs: what the model generated
    notes: what was done differently for this document, if anything
    statistics: what the document contributes to corpus metrics (n-gram counts, parsed fields)
    metrics: metric -> value; a metric that does not apply to the document is missing, one that could not be computed
        is None
    unscored: the first reason why a metric is None; None if there is no such metric
    pending: the outputs are generated but not scored yet
    vectors: (outputs, d) embeddings of the outputs, each of length 1; set for corpus metrics, never written
    """

    logprobs: tuple[float | None, ...] = ()
    tokens: tuple[int, ...] = ()
    entropies: tuple[tuple[float, ...], ...] = ()
    top_entropies: tuple[tuple[float, ...], ...] = ()
    outputs: tuple[Output, ...] = ()
    notes: tuple[str, ...] = ()
    statistics: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    unscored: str | None = None
    pending: bool = False
    vectors: NDArray[np.float32] | None = field(default=None, compare=False)

    @classmethod
    def generated(cls, document: Document, completions: Sequence[Completion]) -> Record:
        """The pending record of a document: generated, not yet scored."""
        return cls(**_document_fields(document), outputs=tuple(map(Output.of, completions)), pending=True)

    @property
    def document(self) -> Document:
        return Document(**_document_fields(self))

    @property
    def cluster(self) -> object:
        """What resampling draws as a whole: the group, or the document itself."""
        return self.group if self.group is not None else ("document", self.id)

    @property
    def answered(self) -> bool:
        """True if every output was generated (or every choice scored), whether or not a scorer failed on it."""
        return not any(output.unscored for output in self.outputs) if self.outputs else self.unscored is None

    @property
    def values(self) -> dict[str, float]:
        """The metrics that have a value."""
        return {name: value for name, value in self.metrics.items() if value is not None}

    def unjudged(self, kinds: Sequence[str] | None = None) -> Record:
        """The record as it was before scorers of these kinds (None: any) saw it."""

        def others(numbers: Mapping[str, Any]) -> dict[str, Any]:
            return {} if kinds is None else {kind: own for kind, own in numbers.items() if kind not in kinds}

        outputs = tuple(replace(own, scores=others(own.scores), reasons=others(own.reasons)) for own in self.outputs)
        return replace(self, outputs=outputs, pending=True, unscored=None)

    def to_json(self) -> dict[str, Any]:
        """The line of documents.jsonl. Fields of the other kind of task are left out."""
        answers: tuple[str, ...] = ("source", "references")
        if self.choices:
            answers = ("choices", "logprobs", "tokens", *(("entropies", "top_entropies") if self.entropies else ()))
            answers = ("contexts", *answers) if self.contexts else answers
        content = {n: getattr(self, n) for n in ("id", "group", "category", "prompt", *answers, "target")}
        if not self.choices:
            content["outputs"] = [output.to_json() for output in self.outputs]
        if self.notes:
            content["notes"] = self.notes
        if self.statistics:
            content["statistics"] = self.statistics
        content |= {"metrics": self.metrics, "chance": self.chance, "unscored": self.unscored}
        return content | ({"pending": True} if self.pending else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """Raises TypeError or AttributeError for a line that is not a record."""
        fields = checked({name: _tuples(value) for name, value in known_fields(cls, content).items()})
        return cls(**fields | {"outputs": tuple(map(Output.from_json, content.get("outputs", ())))})

    @classmethod
    def slim(cls, content: Mapping[str, Any], *, keep_texts: bool = False) -> Record:
        """The record without its large fields: what summaries and audits hold in memory for every document.

        keep_texts: keep the texts of the outputs, for corpus metrics that read them
        """
        outputs = content.get("outputs", ()) if keep_texts or content.get("unscored") is not None else ()
        return cls(
            prompt="",
            outputs=tuple(Output(own["text"] if keep_texts else "", unscored=own.get("unscored")) for own in outputs),
            statistics={name: _compact(values) for name, values in content.get("statistics", {}).items()},
            **checked({name: content[name] for name in SLIM if name in content}),
        )


# of the fields whose type a reader relies on; None too where a field may be null
KINDS: dict[str, Any] = dict.fromkeys(("id", "prompt", "text", "finish", "thoughts"), str)
KINDS |= dict.fromkeys(("group", "category", "source", "unscored"), str | None)
KINDS |= dict.fromkeys(("target", "chance", "metrics", "scores", "reasons", "statistics"), dict)
KINDS |= dict.fromkeys(("choices", "references", "outputs", "notes", "tokens", "logprobs", "entropies"), tuple)
SLIM = ("id", "target", "group", "category", "chance", "metrics", "unscored")


def checked(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields. Raises TypeError for one of a wrong type."""
    for name, value in fields.items():
        if name in KINDS and not isinstance(value, KINDS[name]):
            raise TypeError(f"{name} is {'null' if value is None else type(value).__name__}")
    for name in ("metrics", "chance"):
        if not all(isinstance(value, int | float | None) for value in fields.get(name, {}).values()):
            raise TypeError(f"a value of {name} is not a number")
    return fields


def rounded(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(number, 4) for number in numbers)


def _compact(values: Sequence[Any]) -> Sequence[Any]:
    """Numbers in 8 bytes each; other values as they are."""
    try:
        return array("d", values)
    except TypeError:
        return values


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _document_fields(document: Document) -> dict[str, Any]:
    return {name: getattr(document, name) for name in Document.__dataclass_fields__}
