"""What a good answer to a request is: a goal that any text can be checked against."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


@dataclass(frozen=True)
class Goal:
    """What has to be so, each a requirement of its own.

    fact: the id of the fact that is asked about
    mention: groups of words or phrases, of each of which at least one has to occur
    items, at_least: how many different ones of the items have to occur
    first: words one of which has to be the first; names: just these names have to occur, and no other of the prompt's
    absent: words that must not occur
    sentences, words: least and most; closing phrases ("I hope this helps!") do not count
    source: the text that the answer must keep to; None for an open request
    """

    fact: str | None = None
    mention: tuple[tuple[str, ...], ...] = ()
    items: tuple[str, ...] = ()
    at_least: int = 0
    first: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    sentences: tuple[int, int] = (1, 3)
    words: tuple[int, int] = (3, 40)
    source: str | None = None


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def has(words: Sequence[str], phrase: str) -> bool:
    """Whether the phrase's words stand in a row among the words."""
    wanted = _phrase(phrase)
    if len(wanted) == 1:
        return wanted[0] in words
    return any(tuple(words[i : i + len(wanted)]) == wanted for i in range(len(words) - len(wanted) + 1))


@lru_cache(maxsize=4096)
def _phrase(phrase: str) -> tuple[str, ...]:
    return tuple(words_of(phrase))


def met(goal: Goal, text: str, names: Sequence[str], true_fact: bool) -> float:
    """Share of the requirements of content that the text meets, 0..1; one without any is met by every text.

    names: of the island's, those that stand in the prompt; true_fact: whether the text says what is so of goal.fact
    """
    words = words_of(text)
    found = [float(any(has(words, phrase) for phrase in group)) for group in goal.mention]
    if goal.fact is not None:
        found.append(float(true_fact))
    if goal.at_least:
        found.append(min(1.0, sum(has(words, item) for item in goal.items) / goal.at_least))
    if goal.first:
        found.append(float(any(words[: len(words_of(first))] == words_of(first) for first in goal.first)))
    if goal.names:
        said = {name for name in names if name.lower() in words}
        right = said & set(goal.names)
        found.append(len(right) / len(said | set(goal.names)))
    if goal.absent:
        found.append(float(not any(has(words, word) for word in goal.absent)) if words else 0.0)
    return sum(found) / len(found) if found else float(bool(words))
