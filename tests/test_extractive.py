"""Signs of hallucination: numbers by value, names by their capitals, and sentences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.scorers import extractive
from alignbench.scorers.extractive import numerals
from alignbench.scorers.sentences import sentences


def test_rouge2_precision_is_that_of_rouge_score_without_a_stemmer() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    output, source = "The owl saw the owl hunt; it hunted.", "An owl hunts. The owl saw it, and the owl hunted."
    expected = RougeScorer(["rouge2"], use_stemmer=False).score(source, output)["rouge2"].precision
    assert extractive.rouge2_precision(output, source) == pytest.approx(expected)
    assert extractive.rouge2_precision(source, source) == 1
    assert math.isnan(extractive.rouge2_precision("Owl!", source))
    assert extractive.rouge2_precision("été passé", "L’été passé") == 1


@pytest.mark.parametrize(
    "writings",
    [
        ["1,000", "1000", "1000.0", "one thousand", "1k", "a thousand", "$1,000"],
        ["5%", "5 %", "five per cent", "5.0 percent"],
        ["1.5 million", "1.50m", "1,500,000", "1.5-million"],
        ["ninety-nine", "ninety nine", "99"],
        ["two hundred and five", "205"],
        ["three million two hundred thousand and six", "3,200,006"],
        ["1990s", "1990"],
    ],
)
def test_numbers_are_compared_by_value(writings: list[str]) -> None:
    for output in writings:
        for source in writings:
            assert extractive.numbers_not_in(f"It was {output} then.", f"They said {source}, or so.") == []


@pytest.mark.parametrize(
    ("output", "source", "missing"),
    [
        ("12 owls, 7 hawks and 12 kites", "7 kites", ["12"]),
        ("one of them saw one hundred", "nobody", ["100"]),  # a lone "one" is a pronoun
        ("the third owl, the 4th hawk", "nobody", []),
        ("3 owls", "the third owl", []),
        ("1.5 million", "1.5 percent", ["1500000"]),
        ("1.5 percent", "1.5 million", ["1.5"]),
        ("a 5m pole", "a pole of 5 metres", []),  # million or metres
        ("G20 leaders and COVID-19", "nothing", []),  # names, not amounts
        ("two and three", "twenty-three", ["2", "3"]),
        ("2019-20", "2019", ["20"]),
        ("9" * 5000, "9" * 4999, ["9" * 5000]),
        ("1e400", "1", []),
    ],
)
def test_numbers_not_in_the_source(output: str, source: str, missing: list[str]) -> None:
    assert extractive.numbers_not_in(output, source) == missing


@given(st.integers(0, 999_999))
def test_any_number_in_words_equals_the_number_in_digits(number: int) -> None:
    (found,) = numerals(_in_words(number))
    assert found.readings == (number,)
    assert extractive.numbers_not_in(f"{number:,} owls", f"{_in_words(number)} owls") == []


BELOW_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety"


def _in_words(number: int) -> str:
    below, tens = BELOW_TWENTY.split(), TENS.split()
    if number >= 1000:
        rest = number % 1000
        return f"{_in_words(number // 1000)} thousand" + (f" {_in_words(rest)}" if rest else "")
    if number >= 100:
        return f"{below[number // 100]} hundred" + (f" and {_in_words(number % 100)}" if number % 100 else "")
    if number >= 20:
        return tens[number // 10] + (f"-{below[number % 10]}" if number % 10 else "")
    return below[number]


@pytest.mark.parametrize(
    ("output", "source", "missing"),
    [
        ("Mr Odell met Ada Quill in Zurich.", "ada quill met mr. ODELL", ["Zurich"]),
        ("Owls hunt. Police said so.", "nothing", []),  # a capital at the beginning of a sentence
        ("Zurich is old. They love Zurich.", "nothing", ["Zurich"]),  # unless it is also capitalised within one
        ("Ada Quill spoke.", "Quill spoke", ["Ada Quill"]),  # the first name is new
        ("The Prime Minister spoke.", "a minister, the prime one", []),
        ("In Zurich's centre", "Zurich", []),
        ("He joined the NHS.", "the National Health Service", []),
        ("He joined the National Health Service.", "the NHS", []),
        ("He lives in the U.S. now.", "the US", []),
        ("He met Jörg Agüero.", "Jorg Aguero", []),
        ('She said: "We know." I agree.', "nothing", []),
        ("He saw J. R. Odell.", "nothing", ["J R Odell"]),
        ("He met Swedes.", "a Swede", []),
    ],
)
def test_names_not_in_the_source(output: str, source: str, missing: list[str]) -> None:
    assert extractive.spans_not_in(output, source) == missing


def test_a_new_number_or_name_flags_a_text() -> None:
    source = "On Monday Ada Quill counted twelve owls in the barn."
    same = {"rouge2_precision": 1.0, "novel_numbers": 0.0, "novel_spans": 0.0, "flagged": 0.0}
    assert extractive.flags(source, source) == same
    assert extractive.flags("She counted 13 owls.", source)["flagged"] == 1
    assert extractive.flags("She met Odell.", source)["flagged"] == 1
    assert extractive.flags("a dozen birds were seen by a lady", source)["flagged"] == 0  # abstraction is not flagged
    nothing = extractive.flags("", source)
    assert nothing["flagged"] == 0
    assert math.isnan(nothing["rouge2_precision"])


@given(
    st.lists(st.sampled_from(["Ada", "owl", "Zurich.", "The", "12", "five", "“Quill”", "U.S.", "it's"])).map(" ".join)
)
def test_no_text_is_flagged_against_itself(text: str) -> None:
    assert extractive.flags(text, text)["flagged"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Odell paid 3.5 dollars. He left.", ["Mr. Odell paid 3.5 dollars.", "He left."]),
        ("He left the U.S. Army. It rained.", ["He left the U.S. Army.", "It rained."]),
        ("He lives in the U.S. The owl does too.", ["He lives in the U.S.", "The owl does too."]),
        ("J. R. Odell of Quill Inc. spoke!", ["J. R. Odell of Quill Inc. spoke!"]),
        ('"Why not?" She left. (It rained.) 12 came.', ['"Why not?"', "She left.", "(It rained.)", "12 came."]),
        ("Wait... what? Yes!", ["Wait... what?", "Yes!"]),
        ("See No. 5. He said no. Then he left.", ["See No. 5.", "He said no.", "Then he left."]),
        ("the owl left . it was 3.5 miles .", ["the owl left .", "it was 3.5 miles ."]),
        ("First line\n\nSecond. Third", ["First line", "Second.", "Third"]),
        ("梟が来た。雪が降る！", ["梟が来た。", "雪が降る！"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text())
def test_sentences_keep_all_text_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
