"""Prompts and samples in progress, and the loop that continues them.

A step computes the next prompts, or a new token of every running sample. A sample that ends leaves at once, and when a
quarter have left, the next prompts are computed. A sample depends on its prompt and its own random numbers only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignbench.models.causal_lm import Budget
from alignbench.models.distributions import Drawn, Stream, draw
from alignbench.models.encode import Tokens
from alignbench.models.generate.decoding import Decoding, Thoughts
from alignbench.models.generate.packed import Pages
from alignbench.types.engine import Completion

NOT_FINITE = "the logits are not finite"


@dataclass(slots=True, eq=False)
class Job:
    """A prompt to continue: its index in the call, and the completion of each sample, None if it is not complete.

    pages: of packed rows, after those that all prompts share; start: first page that its samples do not share
    """

    index: int
    key: str
    tokens: Tokens
    completions: list[Completion | None]
    pages: Pages = field(default_factory=Pages)
    start: int = 0

    @property
    def missing(self) -> list[int]:
        return [number for number, completion in enumerate(self.completions) if completion is None]

    @property
    def complete(self) -> tuple[Completion, ...]:
        return tuple(completion for completion in self.completions if completion is not None)


@dataclass(slots=True, eq=False)
class Sample:
    """A continuation in progress. pages: of packed rows, those that it does not share"""

    job: Job
    number: int
    stream: Stream
    tokens: list[int] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    thoughts: Thoughts | None = None
    pages: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Of the last token."""
        return len(self.job.tokens) + len(self.tokens) - 1

    def append(self, drawn: Drawn, decoding: Decoding) -> Completion | None:
        """Append a token. If the sample ends with it, store and return the completion."""
        self.tokens.append(drawn.token)
        self.drawn.append(drawn)
        if len(self.tokens) == 1:
            self.thoughts = decoding.thoughts()
        completion = None
        if drawn.token < 0:
            completion = Completion.failed(NOT_FINITE)
        elif end := decoding.end(self.tokens, self.thoughts):
            completion = decoding.completion(end, self.drawn, self.thoughts)
        self.job.completions[self.number] = completion
        return completion


class Run:
    """One call of a way to generate.

    limit: samples that run at once; joins: prompts are computed while samples run
    waiting: the prompts to compute, each with the numbers of the samples that begin together
    rows: the samples that run; computed: those of the last step
    """

    joins = True

    def __init__(self, jobs: Sequence[Job], decoding: Decoding, budget: Budget, limit: int) -> None:
        self.jobs, self.decoding, self.budget, self.limit = jobs, decoding, budget, limit
        self.begin()

    def begin(self) -> None:
        """Begin all incomplete samples."""
        self.rows: list[Sample] = []
        self.computed: list[Sample] = []
        self.waiting: deque[tuple[Job, list[int]]] = deque()
        for job in self.jobs:
            missing = job.missing
            self.waiting.extend((job, missing[at : at + self.limit]) for at in range(0, len(missing), self.limit))

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Compute and draw, and return the jobs that this completes."""
        jobs, samples, sources = list[Job](), list[Sample](), list[int]()
        while self.waiting and (not self.rows or (self.joins and len(self.rows) <= self.limit * 3 // 4)):
            job, numbers = self.waiting[0]
            if len(self.rows) + len(samples) + len(numbers) > self.limit or (jobs and not self.fit([*jobs, job])):
                break
            self.waiting.popleft()
            sources += [len(jobs)] * len(numbers)
            jobs.append(job)
            samples += [Sample(job, number, Stream(self.decoding.seed, job.key, number)) for number in numbers]
        self.computed = samples or self.rows
        logits = self.enter(jobs) if jobs else self.advance()
        sources = sources or list(range(len(self.rows)))
        drawn = draw(logits, sources, [sample.stream for sample in self.computed], self.decoding.sampling)
        ended = [sample.append(own, self.decoding) for sample, own in zip(self.computed, drawn, strict=True)]
        self.keep(sources, [at for at, completion in enumerate(ended) if completion is None], bool(jobs))
        return list({sample.job: None for sample in self.computed if not sample.job.missing})

    def fit(self, jobs: list[Job]) -> bool:
        """Whether these prompts, of which the last may be one too many, can be computed at once."""
        raise NotImplementedError

    def enter(self, jobs: list[Job]) -> Tensor:
        """Compute prompts, and return the logits after each."""
        raise NotImplementedError

    def advance(self) -> Tensor:
        """Compute the last token of each of the running samples, and return the logits after it."""
        raise NotImplementedError

    def keep(self, sources: list[int], kept: list[int], entered: bool) -> None:
        """Set the running samples after a step. kept: places of those in `computed` that go on; sources: the row of the
        logits of each; entered: they begin, and others may run already"""
        raise NotImplementedError
