"""What a task may ask of a model: the one protocol between tasks and engines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Request:
    """Score `continuation` after `context` (both plain text; the context may be empty)."""

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """The answer to one request.

    `logprob` is the total log-probability of the continuation in nats; `tokens` its length in tokens.
    A request that could not be scored carries the reason in `unscored`, and `logprob` is then NaN: it must
    be counted and left out, never compared.
    """

    logprob: float
    tokens: int
    unscored: str | None = None


class Engine(Protocol):
    """Anything that can score text. Answers come in the engine's own order, each with its request's index."""

    def loglikelihood(
        self, requests: Sequence[Request], wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """Log-probability of each continuation.

        The batches are planned from all `requests`, and only those that hold a `wanted` index (default: all)
        are computed: floating-point sums depend on the batch they are made in, so a resumed run has to make
        the very batches of an uninterrupted one.
        """
        ...

    def next_token_logprobs(self, contexts: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Log-probabilities in nats, shape (vocabulary,), of the token that follows each context."""
        ...
