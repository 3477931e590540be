"""Parser of personas in generated text: "Field: value" in any order, on separate lines or in one, with Markdown or not,
or JSON. Its time is linear in the length of the text."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from alignbench.tasks.declare import WORDS

FIELDS = ("name", "gender", "age", "nationality", "review")
MAX_CHARACTERS = 10_000  # of a text that are parsed: five complete personas have a third of that
ATTEMPTS = 20  # failed attempts to parse JSON
OLDEST = 120

Persona = dict[str, str]  # field -> normalised value; a field that could not be parsed is missing

_LABELS: dict[str, str] = WORDS["persona"]["labels"]
_GENDERS: dict[str, str] = WORDS["persona"]["genders"]
_LABEL = re.compile(
    rf"(?<![^\W_])(?P<label>{'|'.join(sorted(_LABELS, key=len, reverse=True))})[*_`\"]*\s*[:：]", re.IGNORECASE
)
_MARKS = " \t>#*_`-–—•=|\"'“”([{"  # Markdown and other marks before and after a label or a value
_START = re.compile(rf"[{re.escape(_MARKS)}]*(?:\d{{1,3}}[.)][{re.escape(_MARKS)}]*)?")  # of a line, before a label
_SEPARATORS = ",;.!?/|·•"  # after one of these a label within a line may begin with a small letter
_MARKS_WITHIN = "".join(set(_MARKS) - set(_SEPARATORS))
_HEADING = re.compile(r"(?:customer|persona|reviewer)\s*#?\d+[.:]?", re.IGNORECASE)
_OF_HEADINGS = frozenset(WORDS["persona"]["of_headings"])
_PLACEHOLDER = re.compile("|".join(WORDS["persona"]["placeholders"]), re.IGNORECASE)
_PERSON = re.compile(r"[^\W\d_][\w.'’\- ]{0,60}")
_LETTER = re.compile(r"[^\W\d_]")
_LONGEST = 80  # characters of a name, a gender or a nationality


def read_personas(text: str) -> list[Persona]:
    """Every persona in the first MAX_CHARACTERS of `text`, in order; those without any parsed field are left out.

    The prompt ends in "Name:", so the first words without a label may be a name; they are a heading if the first label
    is "Name:". A repeated label begins the next persona; in the middle of a line only "Name:" does. A value ends with
    its line, or at the next label on it, which begins with a capital or follows a separator. A review continues to a
    blank line, a label or a heading.
    """
    text = text[:MAX_CHARACTERS]
    return [persona for raw in _from_json(text) or _from_lines(text) if (persona := _normalised(raw))]


def is_whole(persona: Mapping[str, str]) -> bool:
    return all(field in persona for field in FIELDS)


def _from_json(text: str) -> list[dict[str, str]]:
    """Fields of each object, or of each object in a list, wherever it begins in the text."""
    found: list[dict[str, str]] = []
    end, failures = 0, 0
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        if start >= end and failures < ATTEMPTS:
            try:
                value, end = json.JSONDecoder().raw_decode(text, start)
                found += _objects(value)
            except (ValueError, RecursionError):
                failures += 1
    return found


def _objects(value: Any) -> Iterator[dict[str, str]]:
    """Objects that have one of FIELDS, the outer ones first."""
    waiting = [value]  # an explicit stack: json can nest deeper than Python can recurse
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            fields = {
                _LABELS[label]: str(inner)
                for key, inner in value.items()
                if (label := key.strip().lower().replace("_", " ")) in _LABELS and isinstance(inner, str | int | float)
            }
            if fields.keys() & set(FIELDS):
                yield fields
                continue
            value = list(value.values())
        if isinstance(value, list):
            waiting += reversed(value)


def _from_lines(text: str) -> list[dict[str, str]]:
    personas: list[dict[str, str]] = [{}]
    current: str | None = None  # the field that words without a label continue
    first, guessed = True, False
    for line in text.splitlines():
        labels = _labels(line, personas[-1])
        words = line[: labels[0].start()] if labels else line
        bare = words.strip(_MARKS)
        if first and bare:
            first = False
            heading = bool(labels) and _field(labels[0]) == "name"
            if not heading and _looks_like_a_name(bare.rstrip(",;:.")):
                personas[-1]["name"], guessed = bare, True
        elif not labels and (not bare or _HEADING.fullmatch(bare)):
            # a review may be below its label
            if not (current == "review" and not personas[-1]["review"] and not line.strip()):
                current = None
        elif current == "review":
            personas[-1]["review"] = f"{personas[-1]['review']} {words.strip()}".strip()
        for number, match in enumerate(labels):
            current = _field(match)
            if current == "name" and guessed and personas == [{"name": personas[0].get("name")}]:
                personas, guessed = [{}], False  # it was a heading
            if current in personas[-1]:
                personas.append({})
            end = labels[number + 1].start() if number + 1 < len(labels) else len(line)
            personas[-1][current] = line[match.end() : end].strip()
            first = False
    return personas


def _labels(line: str, persona: Mapping[str, str]) -> list[re.Match[str]]:
    """The labels of a line: one at its beginning, and those within it that are not words of a value."""
    beginning = next(_START.finditer(line)).end()
    found, seen = [], set(persona)
    for match in _LABEL.finditer(line):
        field, start = _field(match), match.start()
        if start != beginning:
            before = line[:start].rstrip(_MARKS_WITHIN)
            separate = before.endswith(tuple(_SEPARATORS))
            capital = line[start].isupper() and len(before) < start and field != "name"
            # "Product Name: ..." names no customer, and a review may mention an age
            if not (separate or capital) or (field in seen and field != "name"):
                continue
        seen = {field} if field == "name" or field in seen else seen | {field}
        found.append(match)
    return found


def _field(match: re.Match[str]) -> str:
    return _LABELS[match["label"].lower()]


def _looks_like_a_name(bare: str) -> bool:
    words = bare.split()
    named = _PERSON.fullmatch(" ".join(words)) and not _OF_HEADINGS.intersection(map(str.lower, words))
    return bool(named) and len(words) <= 5 and not (words[0][0].islower() or words[-1][0].islower())


def _normalised(raw: Mapping[str, str]) -> Persona:
    parsed = {field: _parsed(field, " ".join(value.split()).strip(' *_`"“”')) for field, value in raw.items()}
    return {field: value for field, value in parsed.items() if value is not None and re.search(r"\w", value)}


def _parsed(field: str, value: str) -> str | None:
    """The value in the form that is counted, None if it is none.

    age: whole years, the lower end of a range; probability: 0..1, also from percent; gender: the known word that it
    begins with, other words only if there are at most three
    """
    value = value.rstrip(" |" if field == "review" else ".,; |")
    if not value or _PLACEHOLDER.fullmatch(value):
        return None
    if field == "review":
        return value
    value = value.rstrip(_MARKS + ".,;/)]}")
    if field == "age":
        match = re.match(r"\D{0,12}?(\d{1,3})(?!\d)", value)
        return str(int(match[1])) if match and 0 < int(match[1]) <= OLDEST else None
    if field == "probability":
        match = re.match(r"[~≈\s]*(\d*\.?\d+)\s*(%?)", value)
        p = float(match[1]) / (100 if match[2] else 1) if match else -1.0
        return str(p) if 0 <= p <= 1 else None
    if field == "name":
        value = re.sub(r"^(?:mr|mrs|ms|miss|dr)\.?\s+", "", value, flags=re.IGNORECASE)
    if field == "gender":
        value = value.partition("(")[0].strip().casefold()
        if value in _GENDERS:
            return _GENDERS[value]
        if (begun := re.match(r"(female|male|non-?\s?binary|woman|man)\b", value)) is not None:
            return _GENDERS[re.sub(r"[-\s]", "", begun[1])]
    most_words = {"gender": 3, "nationality": 4}.get(field, len(value))
    valid = len(value) <= _LONGEST and len(value.split()) <= most_words and _LETTER.search(value)
    return value.casefold() if valid else None
