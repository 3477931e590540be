"""Alignment of the tokens that a server echoes with the text that was sent.

The `text_offset` of servers is not reliable: some count a beginning-of-sequence token as text, or a character that
several tokens share more than once. The strings of the tokens are therefore aligned with the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

SPECIAL = 2  # maximum number of tokens that a tokenizer adds before a text

Span = tuple[int, int]  # (start, end) in the text


def continuation_start(tokens: Sequence[str], text: str, boundary: int) -> int:
    """Index of the first token that extends past `boundary`, a position in `text`, which the tokens spell.

    A token with characters on both sides of the boundary belongs to the continuation. Raises ValueError if the tokens
    do not spell the text, or if the boundary lies among characters whose tokens cannot be separated.
    """
    for index, span in enumerate(spans(tokens, text)):
        if span is not None and (span[0] >= boundary or span[1] > boundary):
            if _partial(tokens[index]) and span[0] < boundary:
                raise ValueError("the context ends among characters that several tokens share")
            return index
    return len(tokens)


def spans(tokens: Sequence[str], text: str) -> list[Span | None]:
    """The characters of `text` that each token spells; None for special tokens before it.

    Tokens that share characters all get the span of their run. Raises ValueError if the tokens do not spell the text to
    its end.
    """
    found: list[Span | None] = []
    at = 0
    run: list[int] = []  # tokens that share characters, until a whole token shows where these end
    for index, token in enumerate(tokens):
        found.append(None)
        if _partial(token) or (run and not token):
            run.append(index)
            continue
        # a run spells at least one character, and at most as many as its strings have
        starts = range(at + 1, at + sum(len(tokens[member]) for member in run) + 1) if run else (at,)
        match = next(((s, s + len(f)) for s in starts for f in _forms(token, text, s) if text.startswith(f, s)), None)
        if match is None:
            if at == 0 and index < SPECIAL and not run:
                continue
            raise ValueError(f"token {index} of the reply does not match the text")
        for member in run:
            found[member] = (at, match[0])
        run, found[index], at = [], match, match[1]
    if run:
        if not at < len(text) <= at + sum(len(tokens[member]) for member in run):
            raise ValueError("the tokens of the reply do not end with the text")
        for member in run:
            found[member] = (at, len(text))
    elif at != len(text):
        raise ValueError("the tokens of the reply end before the text")
    return found


def _partial(token: str) -> bool:
    """Part of a character: a replacement character, or escaped bytes (OpenAI)."""
    return "\ufffd" in token or token.startswith("bytes:")


def _forms(token: str, text: str, at: int) -> Iterator[str]:
    """How a token may be spelled in the text at `at`. SentencePiece writes "▁" for a space, drops spaces when it
    decodes a single token, and adds one before the whole text."""
    yield token
    yield token.replace("▁", " ")
    space = re.compile(r"\s+").match(text, at)
    if space:
        yield space[0] + token
    if at == 0:
        yield token.lstrip("▁ ")
