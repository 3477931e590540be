"""The interface between tasks and engines: requests, answers, and the `Engine` protocol."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

UNFINISHED = "did not finish thinking"
TOP = 5  # tokens of `top_entropies`, as in "Creativity Has Left the Chat" (arXiv 2406.05587, fig. 11)


@dataclass(frozen=True, slots=True)
class Request:
    """Score `continuation` after `context` (plain text; the context may be empty).

    entropies: also return the entropy of the distribution that each token is predicted from
    greedy: also return whether greedy decoding would give the continuation
    rolling: there is no context, and a continuation that does not fit the model's window is scored in several windows
    """

    context: str
    continuation: str
    entropies: bool = False
    greedy: bool = False
    rolling: bool = False


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """The answer to one request.

    logprob: total log-probability of the continuation in nats; NaN if the request could not be scored, so it must be
        counted and left out, never compared
    tokens: length of the continuation
    unscored: the reason why the request could not be scored
    entropies: entropy of the distribution that each token is predicted from, in nats, over the whole vocabulary
    top_entropies: the same over its TOP most likely tokens, renormalised; both are empty unless requested
    note: what was done differently for this request, if anything
    greedy: each token is the most likely one; None unless requested, and where the engine does not know it
    """

    logprob: float
    tokens: int
    unscored: str | None = None
    entropies: tuple[float, ...] = ()
    top_entropies: tuple[float, ...] = ()
    note: str | None = None
    greedy: bool | None = None

    @classmethod
    def failed(cls, reason: str, tokens: int = 0) -> Loglikelihood:
        return cls(math.nan, tokens, reason)


@dataclass(frozen=True)
class Thinking:
    """The block of thoughts before the answer of a reasoning model. It is not part of the answer.

    start, end: its tags
    limit: most tokens of the block; 0: they count for `Sampling.max_tokens`
    always: expect thoughts of any model, not only of one whose chat template or output has such a block
    opened: the prompt ends within the block, as those of some chat templates do
    """

    start: str = "<think>"
    end: str = "</think>"
    limit: int = 4096
    always: bool = False
    opened: bool = False

    def apart(self, completion: Completion) -> Completion:
        """A completion with its thoughts apart from its text; one whose block is not closed is unscored. A block begins
        the text, or only its end tag is there (the prompt had the other). Numbers per token are dropped."""
        before, closed, answer = completion.text.partition(self.end)
        begun = before.lstrip().startswith(self.start)
        if completion.unscored or not (begun or self.opened or (closed and self.start not in before)):
            return completion
        if not closed:
            return Completion("", completion.finish, unscored=UNFINISHED, thoughts=self.within(before))
        return Completion(answer.lstrip(), completion.finish, thoughts=self.within(before))

    def within(self, text: str) -> str:
        """The thoughts of a text that begins with a block, without its tags."""
        return text.partition(self.end)[0].lstrip().removeprefix(self.start).strip()


THINKING = Thinking()


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a prompt.

    max_tokens: maximum length of a continuation, including an end-of-sequence token
    samples: continuations of each prompt
    temperature: 0 is greedy decoding, with one sample and without effect of `top_p`
    top_p: sample from the smallest set of tokens whose mass reaches this value (Holtzman et al., arXiv 1904.09751)
    top_k: sample from the most likely tokens, this many and those as likely as the last; 0: from all tokens. Applied
        before `top_p`
    stop: a continuation ends before the first of these strings, which are matched on new text only
    top_entropies: fill `Completion.top_entropies`
    thinking: thoughts are not part of the answer: `max_tokens` and `stop` apply after them
    """

    max_tokens: int
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    top_entropies: bool = False
    thinking: Thinking | None = None
    top_k: int = 0

    @property
    def most_tokens(self) -> int:
        """Maximum length of thoughts and answer together."""
        return self.max_tokens + (self.thinking.limit if self.thinking else 0)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` to continue. `key` and the seed determine its random numbers: the continuations do not depend on other
    prompts, on their order, or on the batch."""

    key: str
    text: str


def messages_of(text: str, system: str | None = None) -> list[dict[str, str]]:
    """A user message, after a system message if there is one."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


Finish = Literal["stop", "end", "length"]  # a stop string, the end-of-sequence token, max_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation.

    text: decoded, without special tokens, cut before the stop string
    tokens: ids as sampled, including those of the stop string or the end-of-sequence token that ended it
    logprobs, entropies: of each of `tokens`, in nats, from the unmodified logits (temperature 1, no top-p); empty if
        the engine does not provide them
    top_entropies: of the TOP most likely tokens, renormalised, in nats; empty unless `Sampling.top_entropies` is set
    unscored: the reason why there is no continuation; the other fields are then empty
    transient: the request failed for a temporary reason, not because of the prompt; a retry may succeed
    thoughts: the text of the block before the answer; the other fields are of the answer alone
    top: the string of each token, and the most likely strings there with their log-probabilities in nats; empty unless
        they were requested from an endpoint, and where it gives none
    """

    text: str
    finish: Finish = "end"
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    top_entropies: tuple[float, ...] = ()
    unscored: str | None = None
    transient: bool = False
    thoughts: str = ""
    top: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()

    @classmethod
    def failed(cls, reason: str) -> Completion:
        return cls("", "length", unscored=reason)


class Engine(Protocol):
    """A model that scores or continues text. Answers come in the engine's own order, each with its index."""

    scores: bool  # whether `loglikelihood` is supported: some endpoints only generate
    chat_template: bool  # whether `generate(chat=True)` is supported

    def loglikelihood(
        self, requests: Sequence[Request], only: Collection[int] | None = None, *, chat: bool = False
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """Log-probability of each continuation.

        chat: each context becomes a user message in the model's chat template, and the continuation the reply

        Batches are planned from all `requests`, and only those with an index in `only` (default: all) are computed.
        Floating-point sums depend on the batch, so a resumed run must compute the batches of an uninterrupted one.
        """
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """Continue each prompt `sampling.samples` times. A prompt is yielded once all its continuations are complete.

        chat: each prompt becomes a user message in the model's chat template
        """
        ...

    def work(self) -> dict[str, int | str]:
        """Counters for the log, such as tokens requested and tokens computed."""
        ...
