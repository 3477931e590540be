"""Split text into sentences by rules, for English and languages with similar punctuation."""

import re
from pathlib import Path

import yaml

_TEXTS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text("utf-8"))
WORDS = {name: words.split() for name, words in _TEXTS.items()}
BEGINNERS, _NEVER_LAST, _MAY_BE_LAST = (frozenset(WORDS[name]) for name in ("beginners", "never_last", "may_be_last"))
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
    found = []
    for line in text.splitlines():
        start = 0
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
    if last in _NEVER_LAST:  # "no." abbreviates "number" if a number follows
        return last == "no" and not first.isdigit()
    if last in _MAY_BE_LAST or re.fullmatch(r"(?:[^\W\d_]\.)*[^\W\d_]", last):
        return (first + rest).lower() in BEGINNERS
    return True
