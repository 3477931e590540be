"""Replies of an endpoint: why a text ended, and the alignment of tokens with the text that was sent."""

import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st

from alignbench.models.remote.replies import completion, continuation_start, read_choices, spans

CASES = cases("replies")


@pytest.mark.parametrize(("choice", "finish"), CASES["finish"])
def test_why_a_text_ended(choice, finish):
    (read,) = read_choices({"choices": [{"text": "a"} | choice]})
    assert completion(read, ("\n",)).finish == finish


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=12), st.integers(0, 40))
def test_tokens_that_spell_a_text_split_it_at_the_boundary(pieces, boundary):
    pieces = [piece.replace("\ufffd", "x").replace("bytes:", "") for piece in pieces]
    text = "".join(pieces)
    boundary = min(boundary, len(text))
    start = continuation_start(pieces, text, boundary)
    assert len("".join(pieces[:start])) <= boundary
    assert start == len(pieces) or len("".join(pieces[: start + 1])) > boundary or not pieces[start]


@pytest.mark.parametrize(("tokens", "text", "expected"), CASES["spans"])
def test_each_token_gets_the_characters_that_it_spells(tokens, text, expected):
    assert [span and list(span) for span in spans(tokens, text)] == expected


@pytest.mark.parametrize(("tokens", "text", "boundary", "start"), CASES["boundaries"])
def test_a_boundary_is_found_among_tokens_that_share_characters_or_refused(tokens, text, boundary, start):
    if start is None:
        with pytest.raises(ValueError, match=r"share|reply"):
            continuation_start(tokens, text, boundary)
    else:
        assert continuation_start(tokens, text, boundary) == start
