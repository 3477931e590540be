"""Prompts and samples in progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alignbench.models.encode import Tokens
from alignbench.models.generate.attention import Pages
from alignbench.models.generate.sampling import Drawn, Stream
from alignbench.models.generate.stopping import Ending
from alignbench.types.engine import Completion

NOT_FINITE = "the logits are not finite"
NO_MEMORY = "out of the device's memory"


@dataclass(slots=True, eq=False)
class Job:
    """A prompt to continue: its index in the call, its key, its tokens, and its completions (None: not complete)."""

    index: int
    key: str
    tokens: Tokens
    completions: list[Completion | None]

    @property
    def missing(self) -> list[int]:
        """Numbers of the samples that are not complete."""
        return [number for number, completion in enumerate(self.completions) if completion is None]

    def fail(self, reason: str) -> None:
        """Leave the samples that are not complete unscored."""
        self.completions = [completion or Completion.failed(reason) for completion in self.completions]

    def answer(self) -> tuple[int, tuple[Completion, ...]]:
        return self.index, tuple(completion for completion in self.completions if completion is not None)


@dataclass(slots=True, eq=False)
class Prefill:
    """A prompt being computed for those of its samples that start together.

    numbers: the samples
    done: positions computed so far
    own: its pages after the shared ones
    start: first page, counted from position 0, that its samples do not share
    """

    job: Job
    numbers: Sequence[int]
    done: int = 0
    own: Pages | None = None
    start: int = 0


@dataclass(slots=True, eq=False)
class Sample:
    """A continuation in progress.

    length: positions whose keys and values are stored
    pages: its own pages in the pool
    """

    prefill: Prefill
    number: int
    stream: Stream
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    top_entropies: list[float] = field(default_factory=list)
    length: int = 0
    pages: list[int] = field(default_factory=list)

    def append(self, drawn: Drawn, row: int, ending: Ending) -> Completion | None:
        """Append the token drawn in a row. Returns the completion if the sample ends with it, and stores it."""
        completion = None
        if drawn.tokens[row] < 0:
            completion = Completion.failed(NOT_FINITE)
        else:
            self.tokens.append(drawn.tokens[row])
            self.logprobs.append(drawn.logprobs[row])
            self.entropies.append(drawn.entropies[row])
            self.top_entropies += drawn.top_entropies[row : row + 1]
            if end := ending.of(self.tokens):
                measured = map(tuple, (self.tokens, self.logprobs, self.entropies, self.top_entropies))
                completion = Completion(end[1], end[0], *measured)
        self.prefill.job.completions[self.number] = completion
        return completion
