"""The scoring engine against a loop that scores one text at a time."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PLAIN, TREE, WITHOUT_BOS, Calls, engine_of, tiny_model, tiny_tokenizer

from alignbench.errors import AlignbenchError
from alignbench.types.engine import Request

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = 1e-4  # nats, for totals of up to a few hundred: a wrong mask changes them by tenths and more

SHOTS = "The following are questions.\n\nQuestion: What do bees make?\nAnswer: honey\n\n"
RED, SAFE = SHOTS + "Question: Which planet is red?\nAnswer:", SHOTS + "Question: Is bleach safe?\nAnswer:"
QUESTIONS = [
    *(Request(RED, choice) for choice in (" Mars", " Mars, which is smaller than the Earth", " the Moon", " Venus")),
    *(Request(SAFE, choice) for choice in (" yes", " no", " no, never mix them", " maybe")),
    *(Request(RED.replace("red", "small"), choice) for choice in (" Mars", " the Moon")),
]
REQUESTS = [*QUESTIONS, *(Request(*texts) for texts in cases("requests"))]
DESCRIBED = [replace(request, entropies=True) for request in REQUESTS]
EARLY, LATE = Request("The doctor", " told the nurse that"), Request("The doctor told the nurse", " that")  # one text


def answers(engine, requests, only=None):
    """Every answer by the index of its request; each is given once."""
    found = list(engine.loglikelihood(requests, only))
    assert len(dict(found)) == len(found)
    return dict(found)


def spelled(tokenizer, request):
    """The tokens that lm-evaluation-harness 0.4 feeds to the model, and the length of their context."""
    context = request.context.rstrip()
    continuation = request.context[len(context) :] + request.continuation
    if context:
        return tokenizer(context + continuation).input_ids, len(tokenizer(context).input_ids)
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    tokens = tokenizer(continuation, add_special_tokens=False).input_ids
    return (tokens, 1) if tokens[:1] == [start] else ([start, *tokens], 1)


@torch.no_grad()
def alone(model, tokenizer, request):
    """The reference, in double precision from the logits of one sequence: log-probability, and both entropies."""
    tokens, context = spelled(tokenizer, request)
    logits = model(input_ids=torch.tensor([tokens])).logits[0, context - 1 : -1].double()
    logprobs = torch.log_softmax(logits, -1)
    parts = (logits, logits.sort(-1, descending=True).values[:, :5])
    entropies = [torch.special.entr(torch.softmax(part, -1)).sum(-1).tolist() for part in parts]
    return logprobs[range(len(logits)), tokens[context:]].sum().item(), *entropies


def assert_each_as_alone(found, model, tokenizer, requests, within=CLOSE):
    assert sorted(found) == list(range(len(requests)))
    for index, request in enumerate(requests):
        logprob, *entropies = alone(model, tokenizer, request)
        assert found[index].unscored is None
        assert found[index].logprob == pytest.approx(logprob, abs=within)
        assert found[index].tokens == len(entropies[0])
        for values, expected in zip((found[index].entropies, found[index].top_entropies), entropies, strict=True):
            assert values == pytest.approx(expected if request.entropies else (), abs=within)


def trie_size(tokenizer, requests):
    """Distinct prefixes. The last token of a sequence is predicted and not computed."""
    sequences = [spelled(tokenizer, request)[0] for request in requests]
    return len({tuple(tokens[:end]) for tokens in sequences for end in range(1, len(tokens))})


@pytest.mark.parametrize(
    ("architecture", "options", "trees", "pad"),
    [(architecture, {}, None, True) for architecture in TREE + PLAIN]
    + [(architecture, {}, False, True) for architecture in TREE]
    + [(architecture, {"dtype": torch.float64}, None, True) for architecture in ("llama", "gpt2", "gemma2")]
    + [(architecture, {}, None, False) for architecture in ("llama", "mamba")],
)
def test_log_probabilities_and_entropies_are_those_of_each_sequence_alone(architecture, options, trees, pad):
    tokenizer, notes = tiny_tokenizer(bos=architecture not in WITHOUT_BOS, pad=pad), []
    model = tiny_model(architecture, tokenizer, **options)
    engine, calls = engine_of(model, tokenizer, notes, trees=trees, token_budget=64), Calls(model)
    found = answers(engine, DESCRIBED)
    layout = "prefix tree" if trees is None and architecture in TREE else "padded rows"
    assert engine.layout == layout
    assert calls.arguments[-1]["attention_mask"].ndim == (4 if layout == "prefix tree" else 2)
    assert len(notes) == (architecture in PLAIN)
    assert all(architecture in note and "padded rows" in note for note in notes)
    assert engine.tokens_computed < engine.tokens_asked or layout == "padded rows"
    assert all(rows * width <= 64 or rows == 1 for rows, width in calls.sizes)
    assert_each_as_alone(found, model, tokenizer, DESCRIBED, CLOSE / 5 if options else CLOSE)


@pytest.mark.parametrize("architecture", TREE + PLAIN)
def test_the_beginning_of_a_context_a_softcap_and_a_sliding_window_change_the_score(architecture, tokenizer):
    """Without this, the test above would pass with a wrong mask too."""
    model, near = tiny_model(architecture, tokenizer), QUESTIONS[1]
    far = replace(near, context=near.context.replace("bees make", "doctors honey"))
    scores = [alone(model, tokenizer, request)[0] for request in (near, far)]
    changes = {"gemma2": {"attn_logit_softcapping": None}, "mistral": {"sliding_window": 20}}
    if options := changes.get(architecture):
        scores.append(alone(tiny_model(architecture, tokenizer, **options), tokenizer, near)[0])
    assert all(abs(scores[0] - other) > 100 * CLOSE for other in scores[1:])


@pytest.mark.parametrize("architecture", TREE)
def test_trees_on_a_cached_prefix_score_as_each_sequence_alone_and_the_prefix_is_computed_once(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model = tiny_model(architecture, tokenizer)
    requests = [replace(request, context="🐝" + request.context) for request in QUESTIONS]
    engine = engine_of(model, tokenizer, token_budget=32, trees=True)
    calls = Calls(model)
    found = answers(engine, requests)
    cached = [arguments["past_key_values"].get_seq_length() for arguments in calls.arguments[1:]]
    assert min(cached) > len(tokenizer(SHOTS).input_ids) - 3
    rare = tokenizer("🐝", add_special_tokens=False).input_ids[-1]
    assert sum(int((arguments["input_ids"] == rare).sum()) for arguments in calls.arguments) == 1
    assert_each_as_alone(found, model, tokenizer, requests)


# Three letters and a space: texts share beginnings, begin one another, end in white space, or are empty.
texts = st.text("ab ", max_size=8)


@pytest.mark.parametrize("token_budget", [8, 24, 512])
def test_any_texts_score_as_each_alone_one_call_after_the_other(token_budget, tokenizer):
    """One engine, whose cached prefix has to be replaced by that of the next call."""
    model = tiny_model("llama", tokenizer)
    engine = engine_of(model, tokenizer, token_budget=token_budget)

    @settings(max_examples=20, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.builds(Request, texts, texts), min_size=1, max_size=10), st.sampled_from(["", "aaaa", "bbbb"]))
    def check(requests, prefix):
        requests = [replace(request, context=prefix + request.context) for request in requests]
        found = answers(engine, requests)
        assert sorted(found) == list(range(len(requests)))
        for index, request in enumerate(requests):
            tokens, context = spelled(tokenizer, request)
            if len(tokens) > context:
                assert found[index].logprob == pytest.approx(alone(model, tokenizer, request)[0], abs=CLOSE)
            else:
                assert found[index].unscored

    check()


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_ignores_mask_or_positions_is_scored_on_padded_rows(ignored, tokenizer, llama):
    forward, notes = llama.forward, []

    @functools.wraps(forward)
    def ignoring(**arguments):
        if arguments.get("attention_mask") is not None and arguments["attention_mask"].ndim == 4:
            arguments.pop(ignored)
        return forward(**arguments)

    llama.forward = ignoring
    assert_each_as_alone(answers(engine_of(llama, tokenizer, notes), REQUESTS), llama, tokenizer, REQUESTS)
    assert len(notes) == 1
    assert "log-probabilities differ" in notes[0]


@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_only_sequences_longer_than_the_sliding_window_are_scored_on_padded_rows(architecture, tokenizer):
    model, notes = tiny_model(architecture, tokenizer, sliding_window=20), []
    engine = engine_of(model, tokenizer, notes)
    short = [Request("The doctor told the nurse that", choice) for choice in (" she", " he", " she would")]
    for requests, layout in ((short, "prefix tree"), (QUESTIONS, "padded rows")):
        assert_each_as_alone(answers(engine, requests), model, tokenizer, requests)
        assert engine.layout == layout
    assert len(notes) == 1
    assert "longer than the attention window of 20" in notes[0]


def test_a_local_attention_that_counts_nodes_does_not_cut_a_tree(tokenizer):
    """GPT-Neo's local layers attend to a number of keys, whatever their positions: a tree has more than a sequence."""
    model = tiny_model("gpt_neo", tokenizer, attention_types=[[["global", "local"], 1]], window_size=64)
    assert max(len(spelled(tokenizer, request)[0]) for request in QUESTIONS) <= 64 < trie_size(tokenizer, QUESTIONS)
    assert_each_as_alone(answers(engine_of(model, tokenizer), QUESTIONS), model, tokenizer, QUESTIONS)


def test_a_model_that_attends_to_later_tokens_is_refused(tokenizer):
    """BERT loads as a causal language model, but its log-probabilities mean nothing."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)
    with pytest.raises(AlignbenchError, match="not a causal language model"):
        answers(engine_of(transformers.BertLMHeadModel(config).eval(), tokenizer), QUESTIONS)


def test_each_distinct_prefix_is_computed_once_and_the_shared_one_not_again_for_the_next_call(tokenizer, llama):
    engine = engine_of(llama, tokenizer, trees=True)
    sequences = [spelled(tokenizer, request)[0] for request in QUESTIONS]
    prefix = next(at for at in range(99) if len({tokens[at] for tokens in sequences}) > 1)
    for cached, times in ((0, 1), (prefix, 1), (prefix, 3)):
        asked, computed = engine.tokens_asked, engine.tokens_computed
        found = answers(engine, QUESTIONS * times)
        assert engine.tokens_asked - asked == times * sum(len(tokens) - 1 for tokens in sequences)
        assert engine.tokens_computed - computed == trie_size(tokenizer, QUESTIONS) - cached
        assert_each_as_alone(found, llama, tokenizer, QUESTIONS * times)


@pytest.mark.parametrize("entropies", [(), (0,), (1,), (2, 3), (0, 1, 2, 3)])
def test_one_text_split_at_two_places_is_computed_once_and_answers_each_request(entropies, tokenizer, llama):
    requests = [replace(r, entropies=i in entropies) for i, r in enumerate([LATE, EARLY, EARLY, LATE])]
    engine, calls = engine_of(llama, tokenizer), Calls(llama)
    found = answers(engine, requests)
    assert calls.arguments[-1]["input_ids"].numel() == len(tokenizer("The doctor told the nurse that").input_ids) - 1
    assert_each_as_alone(found, llama, tokenizer, requests)


def test_entropies_change_no_bit_of_a_log_probability(tokenizer, llama):
    plain = answers(engine_of(llama, tokenizer), REQUESTS)
    mixed = [DESCRIBED[index] if index % 2 else request for index, request in enumerate(REQUESTS)]
    found = answers(engine_of(llama, tokenizer), mixed)
    assert {i: replace(found[i], entropies=(), top_entropies=()) for i in found} == plain
    assert all(bool(a.entropies) == bool(a.top_entropies) == bool(index % 2) for index, a in found.items())


@pytest.mark.parametrize("trees", [True, False])
def test_a_resumed_run_computes_only_the_batches_it_needs_bit_for_bit(trees, tokenizer, llama):
    calls, full, batch_of = Calls(llama), {}, {}
    options = {"token_budget": 48, "trees": trees}
    for index, answer in engine_of(llama, tokenizer, **options).loglikelihood(DESCRIBED):
        full[index], batch_of[index] = answer, len(calls.arguments)
    whole = calls.arguments[:]
    assert len(set(batch_of.values())) > 3
    before = min(batch_of.values()) - 1  # calls before the first batch: the prefix
    for only in ({0}, {1, 16}, {3, 4, 5, 9}, set(range(0, len(DESCRIBED), 2))):
        del calls.arguments[:]
        found = answers(engine_of(llama, tokenizer, **options), DESCRIBED, only)
        assert found == {index: full[index] for index in only}
        batches = sorted({batch_of[index] for index in only})
        expected = [whole[batch - 1]["input_ids"].tolist() for batch in batches]
        assert [call["input_ids"].tolist() for call in calls.arguments[before:]] == expected


def test_a_start_token_is_not_added_twice_and_white_space_belongs_to_the_continuation(tokenizer, llama):
    for one, same in (
        (Request("", "<s>honey"), Request("", "honey")),
        (Request("<s>The doctor", " told"), Request("The doctor", " told")),
        *((Request("The doctor told" + s, "the nurse"), Request("The doctor told", s + "the nurse")) for s in " \t\n"),
    ):
        found = answers(engine_of(llama, tokenizer), [one, same])
        assert found[0] == found[1]
        assert_each_as_alone({0: found[1]}, llama, tokenizer, [same])


def test_a_context_without_tokens_is_unscored():
    """The tokenizer has no start token for an empty context, and drops a character."""
    tokenizer = tiny_tokenizer(bos=False)
    model = tiny_model("gpt2", tokenizer)
    tokenizer.eos_token = None
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Replace("\u200b", "")
    requests = [Request("bees", " make"), Request("", "honey"), Request("\u200b", "honey bees make")]
    found = answers(engine_of(model, tokenizer), requests)
    assert "no token that could begin" in found[1].unscored
    assert found[2].unscored == "the context has no tokens"
    assert np.isnan(found.pop(1).logprob + found.pop(2).logprob)
    assert_each_as_alone(found, model, tokenizer, requests[:1])
