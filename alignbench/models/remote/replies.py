"""Replies of an OpenAI-compatible server: its choices, and the completion or score of a choice.

To score a continuation, the strings of the echoed tokens are aligned with the text that was sent. The `text_offset` of
servers is not reliable: some count a beginning-of-sequence token as text, or a shared character more than once.
"""

import itertools
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignbench.models.generate.decoding import find_stop
from alignbench.types.engine import UNFINISHED, Completion, Finish, Loglikelihood, Thinking

UNKNOWN = object()  # the server does not report what ended the text
SPECIAL = 2  # maximum number of tokens that a tokenizer adds before a text

Span = tuple[int, int]  # (start, end) in the text
Top = tuple[tuple[tuple[str, float], ...], ...]


@dataclass(frozen=True)
class Choice:
    """One continuation as sent by a server: the strings of its tokens with their log-probabilities, NaN if missing.

    stopped_by: vLLM's `stop_reason`: the stop string, or None after the end-of-sequence token
    thoughts: those of a server that sends them apart from the text
    top: for each token, the strings and log-probabilities of the most likely ones; empty if they were not requested
    """

    text: str
    finish: Any
    stopped_by: Any
    pieces: tuple[str, ...]
    logprobs: tuple[float, ...]
    thoughts: str = ""
    top: Top = ()


def read_choices(reply: dict[str, Any]) -> list[Choice]:
    """All readable choices of a reply, in order. Raises ValueError if there are none."""
    entries = reply.get("choices")
    found = list(filter(None, map(_choice, entries if isinstance(entries, list) else ())))
    if not found:
        raise ValueError("no choices in it")
    return found


def _choice(entry: Any) -> Choice | None:
    """None if the text cannot be read."""
    try:
        message = entry.get("message") or {}
        # the text may be a refusal; a reasoning model may reach the limit before it answers
        text = message["content"] or message.get("refusal") or "" if "content" in message else entry["text"]
        thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
        "".join((text, thoughts))  # raises for what is no text
    except (AttributeError, KeyError, TypeError):
        return None
    stopped_by = entry.get("stop_reason", UNKNOWN)
    pieces, values, top = _logprobs(entry.get("logprobs"))
    return Choice(text, entry.get("finish_reason"), stopped_by, pieces, values, thoughts, top)


def _logprobs(found: Any) -> tuple[tuple[str, ...], tuple[float, ...], Top]:
    """Fields of `Choice`; all empty if they cannot be read."""
    try:
        if isinstance(found.get("content"), list):  # chats, and always in llama.cpp
            pairs = [(token["token"], token.get("logprob")) for token in found["content"]]
            top = [[(t["token"], t["logprob"]) for t in own.get("top_logprobs") or ()] for own in found["content"]]
        else:
            pairs = list(zip(found["tokens"], found["token_logprobs"], strict=True))
            top = [list((own or {}).items()) for own in found.get("top_logprobs") or ()]
        "".join(piece for piece, _ in pairs)  # all are strings
        values = tuple(float(value) if type(value) in (int, float) else math.nan for _, value in pairs)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return (), (), ()
    numbers = tuple(tuple(pair for pair in own if type(pair[1]) in (int, float)) for own in top)
    return tuple(piece for piece, _ in pairs), values, numbers


def completion(choice: Choice, stop: Sequence[str], thinking: Thinking | None = None) -> Completion:
    """Cut a choice before the first stop string after its thoughts, and determine why it ended.

    Servers report "stop" for a stop string and for the end of the sequence alike; if there are stop strings and the
    server does not report which it was, "stop" is assumed.
    """
    if choice.finish == "content_filter":
        return Completion("", "end", unscored="the endpoint's content filter withheld the answer")
    finish: Finish = "length" if choice.finish == "length" else "end"
    if choice.finish == "stop" and stop and (choice.stopped_by is UNKNOWN or isinstance(choice.stopped_by, str)):
        finish = "stop"
    logprobs = choice.logprobs if all(map(math.isfinite, choice.logprobs)) else ()
    whole = Completion(choice.text, finish, logprobs=logprobs, thoughts=choice.thoughts)
    if thinking is not None and choice.thoughts:
        whole = replace(whole, logprobs=(), unscored=None if choice.text or finish == "end" else UNFINISHED)
    elif thinking is not None:
        whole = thinking.apart(whole)
    found = find_stop(whole.text, stop)
    if found is None:
        return whole
    # tokens up to the one that completes the stop string
    kept = bisect_left(list(itertools.accumulate(map(len, choice.pieces))), found[1]) + 1
    logprobs = logprobs[:kept] if "".join(choice.pieces) == whole.text else ()
    return replace(whole, text=whole.text[: found[0]], finish="stop", logprobs=logprobs)


def score(choice: Choice, text: str, boundary: int) -> Loglikelihood:
    """Sum of the log-probabilities of the echoed tokens that extend past `boundary`, a position in `text`."""
    # without the one token that was generated after the text; an end-of-sequence token is not always among the tokens
    for count in (len(choice.pieces) - 1, len(choice.pieces)):
        try:
            first = continuation_start(choice.pieces[:count], text, boundary)
            break
        except ValueError as error:
            reason = f"the endpoint's tokens do not match the text: {error}"
    else:
        return Loglikelihood.failed(reason)
    values = choice.logprobs[first:count]
    if not values:
        return Loglikelihood.failed("the continuation has no tokens")
    if first == 0 and math.isnan(values[0]):
        return Loglikelihood.failed("the endpoint gives no log-probability of the first token of a text", len(values))
    if not all(math.isfinite(value) and value < 1e-3 for value in values):  # rounding may leave a little above 0
        return Loglikelihood.failed("the endpoint's log-probabilities are not finite numbers up to 0", len(values))
    return Loglikelihood(math.fsum(values), len(values))


def continuation_start(tokens: Sequence[str], text: str, boundary: int) -> int:
    """Index of the first token that extends past `boundary`, a position in `text`. Raises ValueError if the tokens do
    not spell the text, or if the boundary lies among characters whose tokens cannot be separated."""
    for index, span in enumerate(spans(tokens, text)):
        if span is not None and (span[0] >= boundary or span[1] > boundary):
            if _partial(tokens[index]) and span[0] < boundary:
                raise ValueError("the context ends among characters that several tokens share")
            return index
    return len(tokens)


def spans(tokens: Sequence[str], text: str) -> list[Span | None]:
    """The characters of `text` that each token spells; None for special tokens before it. Tokens that share characters
    all get the span of their run. Raises ValueError if the tokens do not spell the text to its end."""
    found: list[Span | None] = [None] * len(tokens)
    at = 0
    run: list[int] = []  # tokens that share characters, until a whole token shows where these end
    for index, token in enumerate(tokens):
        if _partial(token) or (run and not token):
            run.append(index)
            continue
        # a run spells at least one character, and at most as many as its strings have
        starts = range(at + 1, at + sum(len(tokens[member]) for member in run) + 1) if run else (at,)
        match = next(((s, s + len(f)) for s in starts for f in _forms(token, text, s) if text.startswith(f, s)), None)
        if match is not None:
            for member in run:
                found[member] = (at, match[0])
            run, found[index], at = [], match, match[1]
        elif at > 0 or index >= SPECIAL or run:
            raise ValueError(f"token {index} of the reply does not match the text")
    if run and at < len(text) <= at + sum(len(tokens[member]) for member in run):
        for member in run:
            found[member] = (at, len(text))
    elif run or at != len(text):
        raise ValueError("the tokens of the reply do not end with the text")
    return found


def _partial(token: str) -> bool:
    """A replacement character, or escaped bytes (OpenAI)."""
    return "\ufffd" in token or token.startswith("bytes:")


def _forms(token: str, text: str, at: int) -> Iterator[str]:
    """How a token may be spelled in the text at `at`. SentencePiece writes "▁" for a space, drops spaces when it
    decodes a single token, and adds one before the whole text."""
    yield from (token, token.replace("▁", " "))
    if space := re.compile(r"\s+").match(text, at):
        yield space[0] + token
    if at == 0:
        yield token.lstrip("▁ ")
