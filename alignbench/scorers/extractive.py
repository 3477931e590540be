"""Signs of hallucination without a model: numbers and names in an output that its source does not have. English.

Both are compared by rules on the surface: a wrong statement in the source's own words is not flagged, and a correct
inference may be. ROUGE-2 precision is reported beside them: one minus it is the proportion of new bigrams. New wording
alone is abstraction and not flagged.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from alignbench.scorers.sentences import BEGINNERS, sentences, word_set
from alignbench.types.scorer import Item

_TOKEN = re.compile(r"[^\W_]+")

# Numerals
_BELOW_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_MULTIPLES_OF_TEN = "twenty thirty forty fifty sixty seventy eighty ninety"
_FIRST_TO_TWELFTH = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_SMALL = {word: value for value, word in enumerate(_BELOW_TWENTY.split())}
_TENS = {word: 10 * value for value, word in enumerate(_MULTIPLES_OF_TEN.split(), 2)}
_ORDINALS = {word: value for value, word in enumerate(_FIRST_TO_TWELFTH.split(), 1)}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SUFFIXES = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "b": 10**9, "tn": 10**12}
_DIGITS = re.compile(
    # not within a word: G20 and COVID-19 are names
    r"(?<![^\W_])(?<!(?-i:[A-Z])-)(?P<number>(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?)"
    rf"(?:(?P<ordinal>st|nd|rd|th)\b|[ -]?(?P<scale>{'|'.join(_SCALES)})\b|(?P<suffix>bn|mn|tn|k|m|b)\b)?",
    re.IGNORECASE,
)
_ANY_WORD = "|".join([*_SMALL, *_TENS, *_SCALES])
# not "million" in "1.5 million"
_WORDS = re.compile(rf"(?<!\d[ -])\b(?:{_ANY_WORD})(?:(?:[ -]+|[ -]and[ -])(?:{_ANY_WORD}))*\b", re.IGNORECASE)
_ORDINAL_WORDS = re.compile(rf"\b(?:{'|'.join(_ORDINALS)})\b", re.IGNORECASE)

# Names
# dotted letters (U.S.), or a word with inner signs (O'Brien, AT&T, Jean-Luc) but without a possessive 's
_WORD = re.compile(r"(?<!\w)(?:[^\W\d_]\.)+[^\W\d_](?!\w)\.?|[^\W_]+(?:(?!['’]s\b)['’&-][^\W_]+)*")
# capitalised anywhere, but not names; without titles "Mr Hill" is "Hill"
_NO_NAMES = word_set("i i'm i've i'd i'll ok mr mrs ms miss dr sir mx")
_BEGINNERS = BEGINNERS | word_set(
    "also is are was were do does did has have had can could will would may might should must once now then yes "
    "nor yet until though whose whom let there's it's that's"
)
# after these a word is capitalised as at the beginning of a sentence
_OPENING = re.compile(r"[\"“‘«:]|(?<!\w)'")
_LINKS = word_set("of and the for de")


class Extractive:
    """Numbers: those of `flags` (rouge2_precision only if there are two words), and "flagged_share", the proportion of
    flagged sentences, of "sentences". Without a source there are no numbers."""

    kind = "entailment"
    name = "extractive"
    revision = "1"

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        return [{} if item.source is None else self._score(item.output, item.source) for item in items]

    def _score(self, output: str, source: str) -> dict[str, float]:
        each = [flags(sentence, source)["flagged"] for sentence in sentences(output)]
        whole = {key: value for key, value in flags(output, source).items() if not math.isnan(value)}
        share = sum(each) / len(each) if each else 0.0
        return whole | {"flagged_share": share, "sentences": float(len(each))}


def flags(output: str, source: str) -> dict[str, float]:
    """rouge2_precision (0..1 or NaN), novel_numbers and novel_spans (counts), and flagged: 1 if there is any such
    number or name, else 0. An empty output is not flagged, so the answer rate must be read beside the rate."""
    numbers, spans = len(numbers_not_in(output, source)), len(spans_not_in(output, source))
    return {
        "rouge2_precision": rouge2_precision(output, source),
        "novel_numbers": float(numbers),
        "novel_spans": float(spans),
        "flagged": float(numbers + spans > 0),
    }


def rouge2_precision(output: str, source: str) -> float:
    """Proportion of the output's bigrams that the source has (clipped counts), 0..1; NaN with fewer than two words.

    rouge-score's precision without a stemmer, except that letters outside ASCII are kept.
    """
    first, second = _bigrams(output), _bigrams(source)
    return (first & second).total() / first.total() if first else math.nan


def _bigrams(text: str) -> Counter[tuple[str, str]]:
    tokens = _TOKEN.findall(text.lower())
    return Counter(pairwise(tokens))


def numbers_not_in(output: str, source: str) -> list[str]:
    """The output's numbers that the source does not have, each once, in order, in digits.

    Compared by value: 1,000, 1000.0, "one thousand" and 1k are equal, and so are 5 %, "five per cent" and 5. A lone
    "one" in the output is a pronoun; ordinals ("first", 3rd) count in the source only.
    """
    given = {value for found in numerals(source) for value in found.readings}
    stated = (found.readings for found in numerals(output) if not found.ordinal and not found.pronoun)
    return list(dict.fromkeys(format(values[0], "f") for values in stated if given.isdisjoint(values)))


@dataclass(frozen=True)
class Numeral:
    """A number in a text.

    readings: its value, and for an ambiguous one (5m: million, metres) the other value
    ordinal: 3rd, "third"; pronoun: a lone "one"
    """

    readings: tuple[Decimal, ...]
    ordinal: bool = False
    pronoun: bool = False


def numerals(text: str) -> list[Numeral]:
    """All numbers of an English text, those in digits first. Percent and currency signs, minus signs and units are
    ignored; "1.5 million", 1.5m and 1,500,000 are one number each."""
    found = []
    for match in _DIGITS.finditer(text):
        value, scale = Decimal(match["number"].replace(",", "")), match["scale"]
        values = [value * _SCALES[scale.lower()] if scale else value]
        if match["suffix"]:
            values.insert(0, value * _SUFFIXES[match["suffix"].lower()])
        found.append(Numeral(tuple(map(_plain, values)), ordinal=bool(match["ordinal"])))
    for match in _WORDS.finditer(text):
        words = re.split("[ -]+", match[0].lower())
        found += [Numeral((Decimal(value),), pronoun=words == ["one"]) for value in _values(words)]
    for match in _ORDINAL_WORDS.finditer(text):
        found.append(Numeral((Decimal(_ORDINALS[match[0].lower()]),), ordinal=True))
    return found


def _values(words: Sequence[str]) -> Iterator[int]:
    """The numbers in a sequence of number words: "two hundred and five" 205, "two and three" 2 and 3.

    thousands: the value up to the last "thousand" or larger scale; rest: of the words after it, below a thousand.
    """
    thousands, rest = 0, 0
    begun = False
    for word in words:
        value, scale = _SMALL.get(word, _TENS.get(word, 0)), _SCALES.get(word, 0)
        if word == "and":
            fits = begun and rest % 100 == 0
        elif begun and rest == 0 and thousands == 0:  # nothing follows "zero"
            fits = False
        elif scale == 100:
            fits = not begun or 0 < rest < 100
        elif scale:
            fits = not begun or (rest > 0 and thousands % (1000 * scale) == 0)
        elif value < 10:
            fits = not begun or (value > 0 and (rest % 100 == 0 or (rest % 100 >= 20 and rest % 10 == 0)))
        else:
            fits = not begun or rest % 100 == 0
        if not fits:
            yield thousands + rest
            thousands, rest, begun = 0, 0, False
        if word == "and":
            continue
        if scale == 100:
            rest = (rest or 1) * 100
        elif scale:
            thousands, rest = thousands + (rest or 1) * scale, 0
        else:
            rest += value
        begun = True
    if begun:
        yield thousands + rest


def _plain(value: Decimal) -> Decimal:
    """The value without trailing zeros and without an exponent."""
    return Decimal(int(value)) if value == value.to_integral_value() else value.normalize()


def spans_not_in(output: str, source: str) -> list[str]:
    """The output's names that the source does not have, each once, in order.

    A name is in the source if each of its words is, in any case and place ("Prime Minister Hill" and "Hill, the prime
    minister"), ignoring punctuation, possessives and plurals; or if its abbreviation is ("NHS", "National Health
    Service").
    """
    given = Names(source)
    return list(dict.fromkeys(" ".join(name) for name in names(output) if not given.has(name)))


@dataclass(frozen=True)
class _Word:
    """named: it has a capital letter; first: it is capitalised as the first word of a sentence; joined: only white
    space (or the dot of an initial) separates it from the previous word."""

    text: str
    named: bool
    first: bool
    joined: bool


def names(text: str) -> list[tuple[str, ...]]:
    """The names of a text as tuples of words, in order and with repetitions.

    A name is a longest run of capitalised words, without leading articles and the like. The first word of a sentence
    belongs to a name if another capitalised word follows, or if it is also capitalised within a sentence.
    """
    lines = [_words(sentence) for sentence in sentences(text)]
    within = {word.text.lower() for words in lines for word in words if word.named and not word.first}
    found = []
    for run in (run for words in lines for run in _runs(words)):
        while run and run[0].text.lower() in _BEGINNERS:
            run = run[1:]
        if len(run) > 1 or (run and (not run[0].first or run[0].text.lower() in within)):
            found.append(tuple(word.text for word in run))
    return found


class Names:
    """The names and words of a source."""

    def __init__(self, source: str) -> None:
        words = [match[0] for match in _WORD.finditer(source)]
        self._words = {part for word in words for part in _fold(word)}
        self._capitals = {word.replace(".", "") for word in words if word.isupper()}
        self._initials = {initials for sentence in sentences(source) for initials in _initials_of(_words(sentence))}

    def has(self, name: Sequence[str]) -> bool:
        """Return True if the source has every word of the name, its abbreviation, or what it abbreviates."""
        if all(part in self._words for word in name for part in _fold(word)):
            return True
        if len(name) > 1:
            return "".join(word[0] for word in name) in self._capitals
        short = name[0].replace(".", "")
        return len(short) > 1 and short.isupper() and any(short in initials for initials in self._initials)


def _words(sentence: str) -> list[_Word]:
    found: list[_Word] = []
    end = 0
    for match in _WORD.finditer(sentence):
        text, gap = match[0], sentence[end : match.start()]
        initial = bool(found) and len(found[-1].text) == 1 and gap.strip() == "."
        named = text != text.lower() and text.lower().replace("’", "'") not in _NO_NAMES
        first = not found or bool(_OPENING.search(gap))
        found.append(_Word(text, named, first, bool(found) and (not gap.strip() or initial)))
        end = match.end()
    return found


def _runs(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    run: list[_Word] = []
    for word in words:
        if run and not (word.named and word.joined):
            yield run
            run = []
        if word.named:
            run.append(word)
    if run:
        yield run


def _initials_of(words: Sequence[_Word]) -> Iterator[str]:
    """Initials of each run of capitalised words; "of" and the like do not break a run."""
    linked = [word for word in words if word.named or word.text not in _LINKS]
    for run in _runs([_Word(word.text, word.named, word.first, True) for word in linked]):
        if len(run) > 1:
            yield "".join(word.text[0] for word in run)


def _fold(word: str) -> list[str]:
    """The parts of a word as they are compared: without case, accents, dots, and plural or possessive s."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign))
    if re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]?", plain):
        plain = plain.replace(".", "")
    parts = _TOKEN.findall(plain.casefold())
    return [part[:-1] if len(part) > 3 and part.endswith("s") else part for part in parts]
