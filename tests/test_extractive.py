"""Signs of hallucination: numbers by value, names by their capitals, and sentences."""

import math
from itertools import product

import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st

from alignbench.scorers import extractive
from alignbench.scorers.sentences import sentences

CASES = cases("extractive")


def test_rouge2_precision_is_that_of_rouge_score_without_a_stemmer() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    output, source = "The owl saw the owl hunt; it hunted.", "An owl hunts. The owl saw it, and the owl hunted."
    expected = RougeScorer(["rouge2"], use_stemmer=False).score(source, output)["rouge2"].precision
    assert extractive.rouge2_precision(output, source) == pytest.approx(expected)
    assert extractive.rouge2_precision(source, source) == 1
    assert math.isnan(extractive.rouge2_precision("Owl!", source))
    assert extractive.rouge2_precision("été passé", "L’été passé") == 1


def test_numbers_are_compared_by_value() -> None:
    for output, source in (pair for writings in CASES["equal_numbers"] for pair in product(writings, repeat=2)):
        assert extractive.numbers_not_in(f"It was {output} then.", f"They said {source}, or so.") == []
    for output, source, new in [*CASES["new_numbers"], ("9" * 5000, "9" * 4999, ["9" * 5000])]:
        assert extractive.numbers_not_in(output, source) == new, output


@given(st.integers(0, 999_999))
def test_any_number_in_words_equals_the_number_in_digits(number: int) -> None:
    ((readings, _),) = extractive.numerals(in_words(number))
    assert readings == [number]
    assert extractive.numbers_not_in(f"{number:,} owls", f"{in_words(number)} owls") == []


def in_words(number: int) -> str:
    if number >= 1000:
        rest = number % 1000
        return f"{in_words(number // 1000)} thousand" + (f" {in_words(rest)}" if rest else "")
    if number >= 100:
        return f"{in_words(number // 100)} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    if number >= 20:
        return CASES["tens"].split()[number // 10 - 2] + (f"-{in_words(number % 10)}" if number % 10 else "")
    return CASES["below_twenty"].split()[number]


@pytest.mark.parametrize(("output", "source", "missing"), CASES["new_names"])
def test_names_not_in_the_source(output: str, source: str, missing: list[str]) -> None:
    assert extractive.spans_not_in(output, source) == missing


def test_a_new_number_or_name_flags_a_text() -> None:
    source = "On Monday Ada Quill counted twelve owls in the barn."
    same = {"rouge2_precision": 1.0, "novel_numbers": 0.0, "novel_spans": 0.0, "flagged": 0.0}
    assert extractive.flags(source, source) == same
    # abstraction is not flagged
    texts = "She counted 13 owls.", "She met Odell.", "a dozen birds were seen by a lady", ""
    assert [extractive.flags(text, source)["flagged"] for text in texts] == [1, 1, 0, 0]


@given(st.lists(st.sampled_from(CASES["words"])).map(" ".join))
def test_no_text_is_flagged_against_itself(text: str) -> None:
    assert extractive.flags(text, text)["flagged"] == 0


@pytest.mark.parametrize(("text", "expected"), CASES["sentences"])
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text())
def test_sentences_keep_all_text_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
