"""The interface between tasks and scorers: models, word lists or people that turn an output into numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from alignbench.errors import AlignbenchError

Numbers = Mapping[str, float]


class Explained(dict[str, float]):
    """Numbers with a judge's reasons (what they are of -> text), which are kept in the record."""

    def __init__(self, numbers: Numbers, reasons: Mapping[str, str]) -> None:
        super().__init__(numbers)
        self.reasons = dict(reasons)


@dataclass(frozen=True, slots=True)
class Item:
    """The input of a scorer: an output, and if the task has them its prompt (or question), the source text that it must
    be faithful to, and correct answers.

    group: the document. Items of one group are consecutive, for scorers that compare the outputs of a prompt
    """

    output: str
    prompt: str = ""
    source: str | None = None
    references: tuple[str, ...] = ()
    group: str = ""


class ScorerGoneError(AlignbenchError):
    """The scorer has stopped answering. The run ends; its numbers so far are kept, and the same command resumes."""


class Scorer(Protocol):
    """Scores outputs.

    kind: what it measures: "toxicity", "entailment", "sentiment", "truth", "info", "refusal", "embedding",
        "equivalence", "preference", "reward", "evaluate"
    name, revision: identify it (a package and its version, a checkpoint and its hash), as part of the identity of every
        metric made with it
    """

    kind: str
    name: str
    revision: str

    def score(self, items: Sequence[Item]) -> Sequence[Numbers | str]:
        """The numbers of each item, in order, or why it has none. Up to rounding, they do not depend on items of other
        groups."""
        ...


class Embedder(Scorer, Protocol):
    """A scorer of the kind "embedding", which also embeds texts, for distances between outputs."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d), rows of length 1."""
        ...


@dataclass(frozen=True, slots=True)
class ScorerIdentity:
    """The scorer in a record, in a folder's hash and in tables."""

    kind: str
    name: str
    revision: str

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # of a task.json that a user may have edited

    @classmethod
    def of(cls, scorer: Scorer) -> ScorerIdentity:
        return cls(scorer.kind, scorer.name, scorer.revision)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision[:12]}"
