"""What a scorer is: the one protocol between tasks and the models or word lists that judge what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alignbench.errors import AlignbenchError


@dataclass(frozen=True, slots=True)
class Item:
    """What a scorer may look at: an output, and where a task has them its prompt (or question), the source text that
    it must stay true to, and right answers.

    group: the document. Items of one group come together, in order, for scorers that compare a prompt's outputs
    """

    output: str
    prompt: str = ""
    source: str | None = None
    references: tuple[str, ...] = ()
    group: str = ""


class ScorerGoneError(AlignbenchError):
    """The scorer cannot be asked any more: what it has said is kept, the run ends, and the same command goes on."""


class Scorer(Protocol):
    """Scores outputs.

    kind: what it measures: "toxicity", "entailment", "sentiment", "truth", "info", "embedding", "equivalence",
        "preference", "reward"
    name, revision: which one exactly (a package and its version, a checkpoint and its hash): part of the identity of
        every metric made with it
    """

    kind: str
    name: str
    revision: str

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        """The numbers of each item, in order. Beyond rounding they depend on no item of another group."""
        ...


class Embedder(Scorer, Protocol):
    """A scorer of the kind "embedding": it also makes vectors of texts, for distances between outputs."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d), each row of length 1, so that a product of two rows is their cosine."""
        ...


@dataclass(frozen=True, slots=True)
class ScorerIdentity:
    """What a record, a folder's hash and a table say of a scorer."""

    kind: str
    name: str
    revision: str

    @classmethod
    def of(cls, scorer: Scorer) -> ScorerIdentity:
        return cls(scorer.kind, scorer.name, scorer.revision)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision[:12]}"
