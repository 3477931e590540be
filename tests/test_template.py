"""Chat templates: the token that ends a turn, the date, and templates that never end."""

import resource
import time

import pytest
from cases import cases
from tiny import engine_of, tiny_tokenizer

from alignbench.errors import AlignbenchError
from alignbench.models import template
from alignbench.models.encode import Encoder
from alignbench.models.template import end_of_turn, render
from alignbench.types.engine import Prompt, Sampling

CASES = cases("templates")


def tokenizer_with(chat_template):
    """In which <|im_end|> is a special token, <|end|> an added one, and </s> the end of the sequence."""
    tokenizer = tiny_tokenizer(pad=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["<|end|>"])
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.mark.parametrize(("chat_template", "expected"), CASES["end_of_turn"])
def test_the_token_that_ends_a_turn_is_found_in_the_template(chat_template, expected):
    tokenizer = tokenizer_with(chat_template)
    found = end_of_turn(tokenizer)
    assert found == (None if expected is None else tokenizer.convert_tokens_to_ids(expected))
    assert Encoder(tokenizer).describe() == {"end_of_turn": expected, "template_date": None}


def test_generation_in_a_chat_ends_at_the_end_of_turn_and_nowhere_else(llama):
    tokenizer = tokenizer_with(CASES["end_of_turn"][0][0])
    llama.resize_token_embeddings(len(tokenizer))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chosen = end_at_third_token(llama, tokenizer, end)
    for chat in (True, False):
        ((_, (found,)),) = engine_of(llama, tokenizer).generate([Prompt("a", "Is it safe?")], GREEDY, chat=chat)
        assert (found.finish == "end" and len(found.tokens) == 3) == chat
        if chat:
            assert found.tokens == (*chosen, end)
            assert found.text == tokenizer.decode(chosen)


GREEDY = Sampling(max_tokens=6)


def end_at_third_token(model, tokenizer, end):
    """Give the third greedy token of a chat, and no other one, a twin: the end of turn. Returns the two before it."""
    ((_, (found,)),) = engine_of(model, tokenizer).generate([Prompt("a", "Is it safe?")], GREEDY, chat=True)
    first, second, third = found.tokens[:3]
    assert third not in (first, second)
    head = model.get_output_embeddings().weight
    head.data[end] = head.data[third] * 1.001 if third != end else head.data[end]
    return first, second


def test_the_date_is_the_same_on_every_day():
    tokenizer = tokenizer_with("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}")
    assert render(tokenizer, [{"role": "user", "content": "hi"}], add_generation_prompt=True) == "01 Jan 2026 hi"
    assert Encoder(tokenizer).describe()["template_date"] == "2026-01-01"


def test_a_template_that_never_ends_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr(template, "SECONDS", 0.3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    begun = time.monotonic()
    with pytest.raises(AlignbenchError, match=r"\Achat template: [^\n]*takes more than 0.3 s[^\n]*\Z"):
        Encoder(tokenizer_with(loop)).prompts(["yes"], chat=True)
    assert time.monotonic() - begun < 3


BOMBS = (
    "{{ 'x' * 10**10 }}",
    "{% set ns = namespace(a='xy' * 1000) %}{% for i in range(40) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a=[1]) %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "{{ '%2000000000d' % 1 }}",
    "{{ 'x'.center(10**10) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set ns = namespace(a=9) %}{% for i in range(99) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_needs_gigabytes_is_an_error_of_one_line(bomb):
    tokenizer, before = tokenizer_with(bomb), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AlignbenchError, match=r"\Achat template: [^\n]*(more than \d+ (MiB|bits))[^\n]*\Z"):
        Encoder(tokenizer).prompts(["yes"], chat=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == LIMIT  # as it was


LIMIT = resource.getrlimit(resource.RLIMIT_DATA)[0]
