"""A prompt to continue, on its way through the engine: as a job, while it is computed, and sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignbench.models.pages import Pages
from alignbench.models.sampling import Stream
from alignbench.models.tree import Tokens
from alignbench.types.engine import Completion

NOT_FINITE = "the logits are not finite"
NO_MEMORY = "out of the device's memory"


@dataclass(slots=True, eq=False)
class Job:
    """A prompt to continue: its place in the call, its tokens, its key, and its continuations as they get ready."""

    index: int
    key: str
    tokens: Tokens
    completions: list[Completion | None]

    @property
    def done(self) -> bool:
        return all(completion is not None for completion in self.completions)

    def answer(self) -> tuple[int, tuple[Completion, ...]]:
        return self.index, tuple(completion for completion in self.completions if completion is not None)


@dataclass(slots=True, eq=False)
class Filling:
    """A prompt on its way through the model, for those of its samples that begin together.

    own: its pages after the shared ones; done: positions that are computed
    start: the first page (counted from position 0) that its samples do not share
    """

    job: Job
    numbers: list[int]
    done: int
    own: Pages | None = None
    start: int = 0
    left: int = 0  # samples that have not ended


@dataclass(slots=True, eq=False)
class Sample:
    """One running continuation. length: positions whose keys and values are stored; pages: its own, in the pool."""

    filling: Filling
    number: int
    stream: Stream
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    top_entropies: list[float] = field(default_factory=list)
    length: int = 0
    pages: list[int] = field(default_factory=list)


def unscored(reason: str) -> Completion:
    return Completion("", "length", unscored=reason)
