"""Replies of an endpoint: why a text ended, and the alignment of tokens with the text that was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.models.remote.replies import completion, continuation_start, read_choices, spans


@pytest.mark.parametrize(
    ("choice", "finish"),
    [
        ({"finish_reason": "stop", "stop_reason": "\n"}, "stop"),
        ({"finish_reason": "stop", "stop_reason": None}, "end"),
        ({"finish_reason": "stop", "stop_reason": 128001}, "end"),
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "length", "text": "a\nb"}, "stop"),
    ],
)
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


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        # tokens that share a character
        (["a", "\ufffd", "\ufffd", "b"], "a🐝b", [(0, 1), (1, 2), (1, 2), (2, 3)]),
        (["a", " \ufffd", "\ufffd"], "a 🐝", [(0, 1), (1, 3), (1, 3)]),
        (["bytes:\\xf0\\x9f", "bytes:\\x90\\x9d", "!"], "🐝!", [(0, 1), (0, 1), (1, 2)]),
        # SentencePiece; a space that is its own token decodes to nothing
        (["<s>", "▁The", "▁hive"], "The hive", [None, (0, 3), (3, 8)]),
        (["<s>", "The", "hive", "s"], "The hives", [None, (0, 3), (3, 8), (8, 9)]),
        (["<s>", "The", "", "hive"], "The  hive", [None, (0, 3), (3, 3), (3, 9)]),
    ],
)
def test_each_token_gets_the_characters_that_it_spells(tokens, text, expected):
    assert spans(tokens, text) == expected


def test_a_boundary_is_found_among_tokens_that_share_characters_or_refused():
    assert continuation_start(["a", "\ufffd", "\ufffd", "b"], "a🐝b", 1) == 1
    assert continuation_start(["a", "\ufffd", "\ufffd", "b"], "a🐝b", 2) == 3
    assert continuation_start(["<s>", "The", "", "hive"], "The  hive", 3) == 2
    with pytest.raises(ValueError, match="share"):
        continuation_start(["a", "\ufffd", "\ufffd", "\ufffd", "b"], "a🐝🍯b", 2)


@pytest.mark.parametrize("tokens", [["The"], ["The", " hive", " hums"], ["The", " bee"], [], ["\ufffd"]])
def test_tokens_that_do_not_spell_the_text_are_refused(tokens):
    with pytest.raises(ValueError, match=r"reply"):
        spans(tokens, "The hive")
