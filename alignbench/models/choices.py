"""What an OpenAI-compatible server's answer says: its choices, and what they make as a completion or a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignbench.models.echo import continuation_start
from alignbench.types.engine import Completion, Finish, Loglikelihood

UNTOLD = object()  # the server does not say what ended the text


@dataclass(frozen=True)
class Choice:
    """One continuation as a server sent it.

    stopped_by: vLLM's `stop_reason`: the stop string, or None after the end-of-sequence token
    pieces: its tokens' strings; logprobs: their log-probabilities in nats, NaN where one is missing
    """

    text: str
    finish: str | None
    stopped_by: Any
    pieces: tuple[str, ...]
    logprobs: tuple[float, ...]


def read_choices(reply: dict[str, Any]) -> list[Choice]:
    """All choices of an answer that can be read, in order. Raises ValueError where there is none."""
    entries = reply.get("choices")
    found = []
    for entry in entries if isinstance(entries, list) else []:
        text = _text(entry) if isinstance(entry, dict) else None
        if text is None:
            continue
        pieces, logprobs = _logprobs(entry.get("logprobs"))
        finish = entry.get("finish_reason")
        found.append(
            Choice(
                text=text,
                finish=finish if isinstance(finish, str) else None,
                stopped_by=entry.get("stop_reason", UNTOLD),
                pieces=pieces,
                logprobs=logprobs,
            )
        )
    if not found:
        raise ValueError("no choices in it")
    return found


def completion(choice: Choice, stop: Sequence[str]) -> Completion:
    """Cut before the first stop string, and say why the text ended.

    Servers say "stop" for a stop string and for the end of the sequence alike; where stop strings were asked for and
    the server does not tell which it was, "stop" is assumed.
    """
    if choice.finish == "content_filter":
        return Completion("", "end", unscored="the endpoint's content filter withheld the answer")
    logprobs = choice.logprobs if all(map(math.isfinite, choice.logprobs)) else ()
    finish: Finish = "length" if choice.finish == "length" else "end"
    if choice.finish == "stop" and stop and (choice.stopped_by is UNTOLD or isinstance(choice.stopped_by, str)):
        finish = "stop"
    whole = Completion(choice.text, finish, logprobs=logprobs)
    found = [(at, at + len(string)) for string in stop if (at := choice.text.find(string)) >= 0]
    if not found:
        return whole
    start, end = min(found)
    read = spelled = 0  # tokens up to the one that completes the stop string
    while read < len(choice.pieces) and spelled < end:
        spelled += len(choice.pieces[read])
        read += 1
    kept = logprobs[:read] if "".join(choice.pieces) == choice.text else ()
    return replace(whole, text=choice.text[:start], finish="stop", logprobs=kept)


def score(choice: Choice, text: str, boundary: int) -> Loglikelihood:
    """Add up the log-probabilities of the echoed tokens that reach past `boundary`, a position in `text`.

    The one token that was generated after the text is left out.
    """
    count = len(choice.pieces) - 1
    try:
        try:
            first = continuation_start(choice.pieces[:count], text, boundary)
        except ValueError:  # an end-of-sequence token that was generated is not always among the tokens
            count += 1
            first = continuation_start(choice.pieces[:count], text, boundary)
    except ValueError as error:
        return Loglikelihood(math.nan, 0, f"the endpoint's tokens do not fit: {error}")
    values = choice.logprobs[first:count]
    if not values:
        return Loglikelihood(math.nan, 0, "the continuation has no tokens")
    if first == 0 and math.isnan(values[0]):
        return Loglikelihood(math.nan, len(values), "the endpoint gives no log-probability of a text's first token")
    if not all(math.isfinite(value) and value < 1e-3 for value in values):  # rounding may leave a little above 0
        return Loglikelihood(math.nan, len(values), "the endpoint's log-probabilities are not numbers up to 0")
    return Loglikelihood(math.fsum(values), len(values))


def _text(entry: dict[str, Any]) -> str | None:
    """What was written; None where the entry cannot be read."""
    message = entry.get("message")
    if isinstance(message, dict) and "content" in message:
        # a refusal may stand beside the content; a model that thinks may reach the limit before it says anything
        text = message["content"] or message.get("refusal") or ""
    else:
        text = entry.get("text")
    if not isinstance(text, str):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which no file could hold
        return None
    return text


def _logprobs(found: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Tokens' strings and log-probabilities; both empty where they cannot be read.

    They come as `tokens` and `token_logprobs` (completions), or as `content` (chats, and all of llama.cpp's).
    """
    if not isinstance(found, dict):
        return (), ()
    pieces, values = found.get("tokens"), found.get("token_logprobs")
    content = found.get("content")
    if isinstance(content, list) and all(isinstance(token, dict) for token in content):
        pieces, values = [token.get("token") for token in content], [token.get("logprob") for token in content]
    if not isinstance(pieces, list) or not isinstance(values, list) or len(pieces) != len(values):
        return (), ()
    if not all(isinstance(piece, str) for piece in pieces):
        return (), ()
    return tuple(pieces), tuple(float(v) if type(v) in (int, float) else math.nan for v in values)
