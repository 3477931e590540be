"""What a task may ask of a model: the one protocol between tasks and engines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

TOP = 5  # tokens of `top_entropies`: so many does "Creativity Has Left the Chat" (arXiv 2406.05587, fig. 11) look at


@dataclass(frozen=True, slots=True)
class Request:
    """Score `continuation` after `context` (both plain text; the context may be empty).

    entropies: the distributions that its tokens were predicted from are to be described too
    """

    context: str
    continuation: str
    entropies: bool = False


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """The answer to one request.

    `logprob` is the total log-probability of the continuation in nats; `tokens` its length in tokens.
    A request that could not be scored carries the reason in `unscored`, and `logprob` is then NaN: it must
    be counted and left out, never compared.

    entropies: of the distribution that each token was predicted from, in nats, over the whole vocabulary;
    top_entropies: over its TOP most likely tokens, renormalised. Both empty unless the request asked for them.
    """

    logprob: float
    tokens: int
    unscored: str | None = None
    entropies: tuple[float, ...] = ()
    top_entropies: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a prompt is continued.

    max_tokens: of one continuation, the token that ends it included
    samples: continuations of each prompt
    temperature: 0 is greedy, and then `samples` is 1 and `top_p` has no effect
    top_p: draw from the smallest set of tokens whose mass reaches this (Holtzman et al., arXiv 1904.09751)
    stop: a continuation ends before the first of these strings; matched on new text only
    top_entropies: `Completion.top_entropies` are wanted
    """

    max_tokens: int
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    top_entropies: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` to continue. The key names its random numbers: the same key and seed draw the same continuations,
    whatever else is asked for, in whatever order and batch."""

    key: str
    text: str


Finish = Literal["stop", "end", "length"]  # a stop string, the end-of-sequence token, max_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation.

    text: decoded, without special tokens, cut before the stop string
    tokens: ids exactly as sampled, with those of the stop string or the end-of-sequence token that ended it
    logprobs, entropies: of each of `tokens`, in nats, from the model's own logits (temperature 1, no top-p); empty
        where the engine cannot tell
    top_entropies: of the TOP most likely tokens, renormalised, in nats; empty unless `Sampling` asks for them
    unscored: why there is no continuation; then all else is empty
    transient: the fault was on the way to the model, not in the prompt: worth asking again
    """

    text: str
    finish: Finish
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    top_entropies: tuple[float, ...] = ()
    unscored: str | None = None
    transient: bool = False


class Engine(Protocol):
    """Anything that can score or continue text. Answers come in the engine's own order, each with its index."""

    scores: bool  # whether `loglikelihood` works: an endpoint may only write
    chat_template: bool  # whether `generate(chat=True)` works

    def loglikelihood(
        self, requests: Sequence[Request], wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """Log-probability of each continuation.

        The batches are planned from all `requests`, and only those that hold a `wanted` index (default: all)
        are computed: floating-point sums depend on the batch they are made in, so a resumed run has to make
        the very batches of an uninterrupted one.
        """
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Continue each prompt `sampling.samples` times; a prompt is answered when all its continuations are there.

        chat: each prompt becomes a user's message in the model's chat template
        """
        ...

    def work(self) -> dict[str, int | str]:
        """What was computed so far (tokens asked for, tokens computed, …), for the log."""
        ...
