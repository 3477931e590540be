"""Split text into sentences by rules, for English and languages with similar punctuation."""

from __future__ import annotations

import re


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# abbreviations that never end a sentence
_NEVER_LAST = word_set("mr mrs ms dr prof st gen col sgt capt lt cmdr rev hon sen rep gov pres messrs mt vs no")
# abbreviations that end a sentence if the next word often begins one
_MAY_BE_LAST = word_set(
    "etc inc ltd co corp bros jr sr approx dept est fig vol ed al ave rd jan feb mar apr jun jul aug sep sept oct nov "
    "dec cf ca viz"
)
# words that often begin a sentence and are not names
BEGINNERS = word_set(
    "a an the this that these those he she it they we you i his her its their our my there here in on at by for from "
    "to with as and but or so if when while where after before since although because however according during both "
    "all some many most no not what who which how why one another each every"
)
_CLOSING = "\"'”’»)\\]"
_OPENING = "\"'“‘«([¿¡"
# a possible end: punctuation, closing quotes and brackets, white space (none is needed after full-width signs)
_END = re.compile(rf"(?:[.!?…]+[{_CLOSING}]*(?=\s)|[。！？]+[{_CLOSING}」』]*)\s*")
_LAST_WORD = re.compile(rf"([^\s(\[“‘«\"]*?)[.!?…]+[{_CLOSING}]*\s*$")
_NEXT = re.compile(rf"[{_OPENING}\s]*(\w?)([^\W\d_]*)")


def sentences(text: str) -> list[str]:
    """Return the non-empty sentences of a text, stripped of white space.

    A line break ends a sentence. A full stop does not within a number, after "Mr." or an initial; after "U.S." or
    "Inc." it does only if a word such as "The" follows. In a text without capitals (tokenised summaries) the next
    sentence may begin with a small letter.
    """
    cased = text != text.lower()
    return [sentence for line in text.splitlines() for sentence in _of_line(line, cased)]


def _of_line(line: str, cased: bool) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        if _is_end(line[start : end.end()], line[end.end() :], cased):
            found.append(line[start : end.end()].strip())
            start = end.end()
    found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def _is_end(before: str, after: str, cased: bool) -> bool:
    sign = before.rstrip().rstrip("\"'”’»)]」』")[-1:]
    first, rest = _NEXT.match(after).groups()  # type: ignore[union-attr]  # it also matches the empty string
    if cased and first.islower():
        return False
    word = _LAST_WORD.search(before)
    if sign != "." or word is None or not word[1]:  # "?", "!", or a separate full stop
        return True
    last = word[1].lower().lstrip("'")
    begins = (first + rest).lower() in BEGINNERS
    if last in _NEVER_LAST:
        # "no." abbreviates "number" if a number follows
        return last == "no" and not first.isdigit()
    if last in _MAY_BE_LAST or re.fullmatch(r"(?:[^\W\d_]\.)*[^\W\d_]", last):
        return begins
    return True
