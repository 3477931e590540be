"""The scoring engine against a loop that scores one text at a time, and what it does when something is wrong."""

import dataclasses
import functools
import random

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.models.local import LocalEngine
from alignbench.types.engine import Request

CLOSE = 1e-4  # nats, on totals of up to a few hundred: a wrong mask moves them by tenths and more
FOLLOWERS = ["llama", "gpt2", "gpt_neox", "qwen2", "mistral", "gemma", "gemma2", "opt"]
OTHERS = ["bloom", "mpt", "falcon", "mamba"]
WITHOUT_BOS = {"gpt2", "gpt_neox", "qwen2"}  # as their own tokenizers

SHOTS = "The following are questions.\n\nQuestion: What do bees make?\nAnswer: honey\n\n"
RED, SAFE = SHOTS + "Question: Which planet is red?\nAnswer:", SHOTS + "Question: Is bleach safe?\nAnswer:"
QUESTIONS = [
    *(Request(RED, choice) for choice in (" Mars", " Mars, which is smaller than the Earth", " the Moon", " Venus")),
    *(Request(SAFE, choice) for choice in (" yes", " no", " no, never mix them", " maybe")),
    *(Request(RED.replace("red", "small"), choice) for choice in (" Mars", " the Moon")),
]
REQUESTS = [
    *QUESTIONS,
    Request("The doctor told the nurse that", " she would be late"),
    Request("The doctor told the nurse that", " he would be late"),
    Request("The doctor", " told the nurse"),  # both together begin two others
    Request("Answer: ", "yes"),  # white space that moves
    Request("A.", "\n\n"),
    Request("", "Never mix them."),
    Request("Größe", " 🐝🍯"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The models are too small to share between threads, which would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def llama(tokenizer):
    return tiny_model("llama", tokenizer)


class Calls:
    """Stands before a model's forward: keeps the arguments of each call, and runs out of memory when asked to."""

    def __init__(self, model, most_tokens=None):
        self.arguments, forward = [], model.forward

        @functools.wraps(forward)  # the engine reads the signature
        def recording(**arguments):
            if most_tokens is not None and arguments["input_ids"].numel() > most_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory (as if)")
            self.arguments.append(arguments)
            return forward(**arguments)

        model.forward = recording

    @property
    def masks(self):
        """The dimensions of each call's mask: four in a tree, two on padded rows, none in a prefix alone."""
        return [arguments["attention_mask"].ndim for arguments in self.arguments if "attention_mask" in arguments]

    def count_of_token(self, token):
        return sum(int((arguments["input_ids"] == token).sum()) for arguments in self.arguments)


def spelled(tokenizer, request):
    """What lm-evaluation-harness 0.4 feeds to the model for a request, and how much of it is context."""
    spaces = len(request.context) - len(request.context.rstrip())
    context = request.context[: len(request.context) - spaces]
    continuation = request.context[len(context) :] + request.continuation
    if context:
        return tokenizer(context + continuation).input_ids, len(tokenizer(context).input_ids)
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    tokens = tokenizer(continuation, add_special_tokens=False).input_ids
    return (tokens, 1) if tokens[:1] == [start] else ([start, *tokens], 1)


@torch.no_grad()
def alone(model, tokenizer, request):
    """The reference: one sequence in a batch of its own, every logit, log_softmax in double precision."""
    tokens, context = spelled(tokenizer, request)
    logprobs = torch.log_softmax(model(input_ids=torch.tensor([tokens])).logits[0].double(), -1)
    return sum(logprobs[at - 1, tokens[at]].item() for at in range(context, len(tokens)))


def engine_of(model, tokenizer, notes=None, **options):
    return LocalEngine(model, Encoder(tokenizer), notify=[].append if notes is None else notes.append, **options)


def answers(engine, requests, wanted=None):
    """Every answer, by the index of its request; each is given once."""
    given_answers = list(engine.loglikelihood(requests, wanted))
    assert len({index for index, _ in given_answers}) == len(given_answers)
    return dict(given_answers)


def assert_each_as_alone(found, model, tokenizer, requests, within=CLOSE):
    assert sorted(found) == list(range(len(requests)))
    for index, request in enumerate(requests):
        assert found[index].unscored is None
        assert found[index].logprob == pytest.approx(alone(model, tokenizer, request), abs=within)
        tokens, context = spelled(tokenizer, request)
        assert found[index].tokens == len(tokens) - context


def trie_size(tokenizer, requests):
    sequences = [spelled(tokenizer, request)[0] for request in requests]
    # a sequence's last token is predicted and predicts nothing: it is not computed
    return len({tuple(tokens[:end]) for tokens in sequences for end in range(1, len(tokens))})


# ---- the tree and the loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", FOLLOWERS + OTHERS)
def test_the_tiny_models_hear_the_far_end_of_their_context(architecture, tokenizer):
    """Without this, the equalities below would hold for a wrong mask too."""
    model = tiny_model(architecture, tokenizer)
    near = Request(RED, " Mars, which is smaller")
    far = Request(RED.replace("bees make", "doctors honey"), near.continuation)
    assert abs(alone(model, tokenizer, near) - alone(model, tokenizer, far)) > 100 * CLOSE


@pytest.mark.parametrize(
    ("architecture", "dtype", "within"),
    [(architecture, torch.float32, CLOSE) for architecture in FOLLOWERS]
    + [(architecture, torch.float64, CLOSE / 5) for architecture in ("llama", "gpt2", "gemma2")],
)
def test_a_prefix_tree_scores_as_each_sequence_alone(architecture, dtype, within):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model, notes = tiny_model(architecture, tokenizer, dtype=dtype), []
    engine = engine_of(model, tokenizer, notes)
    assert_each_as_alone(answers(engine, REQUESTS), model, tokenizer, REQUESTS, within)
    assert (engine.layout, notes) == ("prefix tree", [])
    assert engine.tokens_computed < engine.tokens_asked


@pytest.mark.parametrize("architecture", FOLLOWERS)
def test_a_cached_prefix_with_trees_on_it_scores_as_each_sequence_alone(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model = tiny_model(architecture, tokenizer)
    engine, calls = engine_of(model, tokenizer, token_budget=96), Calls(model)
    found = answers(engine, QUESTIONS)
    cached = [arguments["past_key_values"].get_seq_length() for arguments in calls.arguments[-2:]]
    assert min(cached) > len(tokenizer(SHOTS).input_ids) - 3
    assert_each_as_alone(found, model, tokenizer, QUESTIONS)


@pytest.mark.parametrize("architecture", FOLLOWERS)
def test_padded_rows_score_as_each_sequence_alone(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model = tiny_model(architecture, tokenizer)
    engine, calls = engine_of(model, tokenizer, follow_tree=False), Calls(model)
    found = answers(engine, REQUESTS)
    assert (engine.layout, set(calls.masks)) == ("padded rows", {2})
    assert_each_as_alone(found, model, tokenizer, REQUESTS)


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_a_tokenizer_without_a_padding_token_scores_the_same(architecture):
    tokenizer = tiny_tokenizer(pad=False)
    assert tokenizer.pad_token_id is None
    model = tiny_model(architecture, tokenizer)
    assert_each_as_alone(answers(engine_of(model, tokenizer), REQUESTS), model, tokenizer, REQUESTS)


# Three letters and a space: texts share beginnings, begin one another, end in white space, or are empty.
texts = st.text("ab ", max_size=8)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.lists(st.builds(Request, texts, texts), min_size=1, max_size=10), st.sampled_from([8, 24, 512]))
def test_any_texts_score_as_each_alone(requests, token_budget):
    tokenizer, model = _letters()
    found = answers(engine_of(model, tokenizer, token_budget=token_budget), requests)
    assert sorted(found) == list(range(len(requests)))
    for index, request in enumerate(requests):
        tokens, context = spelled(tokenizer, request)
        if len(tokens) > context:
            assert found[index].logprob == pytest.approx(alone(model, tokenizer, request), abs=CLOSE)
        else:
            assert found[index].unscored


@functools.cache
def _letters():
    tokenizer = tiny_tokenizer()
    return tokenizer, tiny_model("llama", tokenizer)


def test_the_softcap_of_a_score_is_part_of_what_is_computed(tokenizer):
    capped, plain = (
        tiny_model("gemma2", tokenizer, attn_logit_softcapping=cap, final_logit_softcapping=None) for cap in (2.0, None)
    )
    assert abs(alone(capped, tokenizer, QUESTIONS[0]) - alone(plain, tokenizer, QUESTIONS[0])) > 100 * CLOSE


# ---- models that a tree would mislead ----------------------------------------------------------------------


@pytest.mark.parametrize("architecture", OTHERS)
def test_a_model_without_positions_or_attention_is_scored_on_padded_rows(architecture, tokenizer):
    model, notes = tiny_model(architecture, tokenizer), []
    engine = engine_of(model, tokenizer, notes)
    assert_each_as_alone(answers(engine, REQUESTS), model, tokenizer, REQUESTS)
    assert engine.layout == "padded rows"
    assert len(notes) == 1
    assert architecture in notes[0]
    assert "padded rows" in notes[0]


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_ignores_mask_or_positions_is_found_out(ignored, tokenizer, llama):
    forward, notes = llama.forward, []

    @functools.wraps(forward)
    def ignoring(**arguments):
        if arguments.get("attention_mask") is not None and arguments["attention_mask"].ndim == 4:
            arguments.pop(ignored)
        return forward(**arguments)

    llama.forward = ignoring
    engine = engine_of(llama, tokenizer, notes)
    assert_each_as_alone(answers(engine, REQUESTS), llama, tokenizer, REQUESTS)
    assert engine.layout == "padded rows"
    assert len(notes) == 1
    assert "log-probabilities differ" in notes[0]


@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_sequences_longer_than_the_sliding_window_leave_the_tree_and_short_ones_use_it(architecture, tokenizer):
    model, notes = tiny_model(architecture, tokenizer, sliding_window=20), []
    engine, calls = engine_of(model, tokenizer, notes), Calls(model)
    assert max(len(spelled(tokenizer, request)[0]) for request in QUESTIONS) > 30
    short = [Request("The doctor told the nurse that", choice) for choice in (" she", " he", " she would")]

    found = answers(engine, short)
    assert calls.masks[-1] == 4
    assert (engine.layout, notes) == ("prefix tree", [])
    assert_each_as_alone(found, model, tokenizer, short)

    calls.arguments.clear()
    found = answers(engine, QUESTIONS)
    assert set(calls.masks) == {2}
    assert len(notes) == 1
    assert "longer than the attention window of 20" in notes[0]
    assert_each_as_alone(found, model, tokenizer, QUESTIONS)


def test_a_sliding_window_changes_the_scores_of_longer_sequences(tokenizer):
    narrow, wide = (tiny_model("mistral", tokenizer, sliding_window=window) for window in (20, None))
    assert abs(alone(narrow, tokenizer, QUESTIONS[0]) - alone(wide, tokenizer, QUESTIONS[0])) > 100 * CLOSE


def test_the_layout_says_padded_rows_where_the_sliding_window_forbade_the_tree(tokenizer):
    engine = engine_of(tiny_model("mistral", tokenizer, sliding_window=20), tokenizer)
    answers(engine, QUESTIONS)
    assert engine.layout == "padded rows"


def test_a_local_attention_that_counts_nodes_does_not_cut_a_tree(tokenizer):
    """GPT-Neo's local layers look back so many keys, whatever their positions: a tree has more than a sequence."""
    config = transformers.GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_layers=2, num_heads=4, window_size=64,
        attention_types=[[["global", "local"], 1]],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPTNeoForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data *= 6 if parameter.ndim > 1 else 1
    assert max(len(spelled(tokenizer, request)[0]) for request in QUESTIONS) <= 64
    assert trie_size(tokenizer, QUESTIONS) > 64
    assert_each_as_alone(answers(engine_of(model, tokenizer), QUESTIONS), model, tokenizer, QUESTIONS)


# ---- each token once ---------------------------------------------------------------------------------------


def test_each_distinct_prefix_of_a_question_is_computed_once(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    answers(engine, [Request("A.", " yes")])  # the model's mask has been tried out
    asked, computed = engine.tokens_asked, engine.tokens_computed
    answers(engine, QUESTIONS)
    assert engine.tokens_asked - asked == sum(len(spelled(tokenizer, request)[0]) - 1 for request in QUESTIONS)
    assert engine.tokens_computed - computed == trie_size(tokenizer, QUESTIONS)


def test_a_shared_prefix_reaches_the_model_once_whatever_the_batches(tokenizer, llama):
    rare = tokenizer("🐝", add_special_tokens=False).input_ids[-1]
    requests = [Request("🐝" + request.context, request.continuation) for request in QUESTIONS]
    engine = engine_of(llama, tokenizer, token_budget=32)
    answers(engine, [Request("A.", " yes")])
    calls = Calls(llama)
    answers(engine, requests)
    assert len(calls.arguments) > 3
    assert calls.count_of_token(rare) == 1


def test_a_prefix_in_the_cache_is_not_computed_for_the_next_window_either(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    answers(engine, QUESTIONS)
    first = engine.tokens_computed
    again = answers(engine, QUESTIONS)
    prefix = 0
    sequences = [spelled(tokenizer, request)[0] for request in QUESTIONS]
    while len({tokens[prefix] for tokens in sequences}) == 1:
        prefix += 1
    assert engine.tokens_computed - first == trie_size(tokenizer, QUESTIONS) - prefix
    assert_each_as_alone(again, llama, tokenizer, QUESTIONS)


def test_another_prefix_replaces_the_one_in_the_cache(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    for letter in "ABA":  # as many tokens each, so that the tokens have to be compared
        requests = [Request(letter + question.context, question.continuation) for question in QUESTIONS]
        assert_each_as_alone(answers(engine, requests), llama, tokenizer, requests)


def test_duplicates_are_computed_once_and_answered_each(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    answers(engine, QUESTIONS[:2])
    computed = engine.tokens_computed
    once = answers(engine, REQUESTS)
    single = engine.tokens_computed - computed
    thrice = answers(engine, REQUESTS * 3)
    assert engine.tokens_computed - computed == 2 * single
    assert [thrice[i] for i in range(3 * len(REQUESTS))] == [once[i] for i in range(len(REQUESTS))] * 3


def test_one_text_cut_at_two_places_is_computed_once_and_scored_from_each(tokenizer, llama):
    early, late = Request("The doctor", " told the nurse that"), Request("The doctor told the nurse", " that")
    engine, calls = engine_of(llama, tokenizer), Calls(llama)
    found = answers(engine, [late, early])
    assert calls.arguments[-1]["input_ids"].numel() == len(tokenizer("The doctor told the nurse that").input_ids) - 1
    assert_each_as_alone(found, llama, tokenizer, [late, early])
    assert found[1].logprob < found[0].logprob - 1


# ---- entropies -----------------------------------------------------------------------------------------------

DESCRIBED = [dataclasses.replace(request, entropies=True) for request in REQUESTS]


@torch.no_grad()
def entropies_alone(model, tokenizer, request):
    """The reference: a sequence in a batch of its own, −Σ p log p in double precision, of all tokens and of five."""
    tokens, context = spelled(tokenizer, request)
    logits = model(input_ids=torch.tensor([tokens])).logits[0, context - 1 : -1].double()
    parts = (logits, logits.sort(-1, descending=True).values[:, :5])
    return [torch.special.entr(torch.softmax(part, -1)).sum(-1).tolist() for part in parts]


def assert_entropies_as_alone(found, model, tokenizer, requests):
    for index, request in enumerate(requests):
        assert len(found[index].entropies) == len(found[index].top_entropies) == found[index].tokens
        whole, top = entropies_alone(model, tokenizer, request)
        assert found[index].entropies == pytest.approx(whole, abs=CLOSE)
        assert found[index].top_entropies == pytest.approx(top, abs=CLOSE)


@pytest.mark.parametrize("architecture", FOLLOWERS + OTHERS)
def test_entropies_are_those_of_a_plain_forward_pass_in_either_layout(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model = tiny_model(architecture, tokenizer)
    engine = engine_of(model, tokenizer, token_budget=64)
    found = answers(engine, DESCRIBED)
    assert engine.layout == ("prefix tree" if architecture in FOLLOWERS else "padded rows")
    assert_each_as_alone(found, model, tokenizer, DESCRIBED)
    assert_entropies_as_alone(found, model, tokenizer, DESCRIBED)


def test_only_those_that_ask_for_entropies_get_them_and_no_log_probability_changes_a_bit(tokenizer, llama):
    plain = answers(engine_of(llama, tokenizer), REQUESTS)
    mixed = [DESCRIBED[index] if index % 2 else request for index, request in enumerate(REQUESTS)]
    engine, calls = engine_of(llama, tokenizer), Calls(llama)
    found = answers(engine, mixed)
    assert {index: answer.logprob for index, answer in found.items()} == {
        index: answer.logprob for index, answer in plain.items()
    }
    assert all(bool(answer.entropies) == bool(index % 2) for index, answer in found.items())
    assert all(bool(answer.top_entropies) == bool(index % 2) for index, answer in found.items())
    without = len(calls.arguments)
    answers(engine_of(llama, tokenizer), REQUESTS)
    assert len(calls.arguments) == 2 * without, "no second pass"


def test_one_text_asked_about_several_times_gives_each_what_it_asked_for(tokenizer, llama):
    early, late = Request("The doctor", " told the nurse that"), Request("The doctor told the nurse", " that")
    asking = [dataclasses.replace(request, entropies=True) for request in (early, late)]
    for requests in ([late, early, *asking], [asking[1], early, late], [asking[0], asking[0], late]):
        found = answers(engine_of(llama, tokenizer), requests)
        for index, request in enumerate(requests):
            if request.entropies:
                assert_entropies_as_alone({0: found[index]}, llama, tokenizer, [request])
            else:
                assert found[index].entropies == found[index].top_entropies == ()


@pytest.mark.parametrize("follow_tree", [True, False])
def test_entropies_of_a_resumed_run_are_those_of_the_whole_one_to_the_last_bit(follow_tree, tokenizer, llama):
    options = {"token_budget": 48, "follow_tree": follow_tree}
    whole = answers(engine_of(llama, tokenizer, **options), DESCRIBED)
    for wanted in ({0}, {1, 16}, {3, 4, 5, 9}):
        found = answers(engine_of(llama, tokenizer, **options), DESCRIBED, wanted)
        assert found == {index: whole[index] for index in wanted}
        assert all(answer.entropies for answer in found.values())


@pytest.mark.parametrize("seed", [0, 1])
def test_order_and_token_budget_do_not_change_the_entropies(seed, tokenizer, llama):
    shuffled = random.Random(seed).sample(DESCRIBED, len(DESCRIBED))
    found = answers(engine_of(llama, tokenizer, token_budget=64), shuffled)
    assert_entropies_as_alone(found, llama, tokenizer, shuffled)


def test_a_model_whose_weights_are_not_numbers_has_no_entropies(tokenizer, llama):
    llama.get_output_embeddings().weight.data[3] = float("nan")
    found = answers(engine_of(llama, tokenizer), DESCRIBED)
    assert all(answer.unscored and answer.entropies == answer.top_entropies == () for answer in found.values())


def test_a_token_that_the_model_rules_out_leaves_the_entropies_finite(tokenizer, llama):
    """As some models do with the unused end of a padded vocabulary: −∞ as logit."""
    head, forbidden = llama.get_output_embeddings(), tokenizer("🐝", add_special_tokens=False).input_ids[-1]
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    head.bias.data[[0, forbidden]] = -torch.inf
    request = Request("The doctor", " told the nurse", entropies=True)
    found = answers(engine_of(llama, tokenizer), [request, Request("Größe", " 🐝", entropies=True)])
    assert_entropies_as_alone({0: found[0]}, llama, tokenizer, [request])
    assert np.isfinite(found[0].entropies).all()
    assert found[1].unscored == "the log-probability is -inf"


# ---- order, batches and resumed runs -----------------------------------------------------------------------


@pytest.mark.parametrize("token_budget", [64, 512])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_order_and_token_budget_do_not_change_the_answers(seed, token_budget, tokenizer, llama):
    order = random.Random(seed).sample(range(len(REQUESTS)), len(REQUESTS))
    engine = engine_of(llama, tokenizer, token_budget=token_budget)
    found = answers(engine, [REQUESTS[index] for index in order])
    assert_each_as_alone(found, llama, tokenizer, [REQUESTS[index] for index in order])


@pytest.mark.parametrize("follow_tree", [True, False])
@pytest.mark.parametrize("token_budget", [64, 512])
def test_batches_keep_the_token_budget(token_budget, follow_tree, tokenizer, llama):
    engine, calls = engine_of(llama, tokenizer, token_budget=token_budget, follow_tree=follow_tree), Calls(llama)
    answers(engine, REQUESTS * 2)
    shapes = [tuple(arguments["input_ids"].shape) for arguments in calls.arguments]
    assert max(rows for rows, _ in shapes) > 1
    assert all(rows * width <= token_budget or rows == 1 for rows, width in shapes)


@pytest.mark.parametrize("follow_tree", [True, False])
def test_a_resumed_run_computes_the_batches_of_what_is_wanted_alone_and_bit_for_bit(follow_tree, tokenizer, llama):
    calls = Calls(llama)
    options = {"token_budget": 48, "follow_tree": follow_tree}
    full, batch_of = {}, {}
    for index, answer in engine_of(llama, tokenizer, **options).loglikelihood(REQUESTS):
        full[index], batch_of[index] = answer, len(calls.arguments)
    whole = calls.arguments[:]
    assert len(set(batch_of.values())) > 3
    beginning = min(batch_of.values()) - 1  # calls before the first batch: the trial of the mask, the prefix
    for wanted in ({0}, {1, 16}, {3, 4, 5, 9}, set(range(0, len(REQUESTS), 2))):
        del calls.arguments[:]
        found = answers(engine_of(llama, tokenizer, **options), REQUESTS, wanted)
        assert found == {index: full[index] for index in wanted}
        batches = sorted({batch_of[index] for index in wanted})
        expected = [whole[batch - 1]["input_ids"].tolist() for batch in batches]
        assert [call["input_ids"].tolist() for call in calls.arguments[beginning:]] == expected


# ---- texts to tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bos", "start"), [(True, "<s>"), (False, "</s>")])
def test_an_empty_context_is_the_start_token(bos, start):
    tokenizer = tiny_tokenizer(bos=bos)
    model = tiny_model("llama", tokenizer)
    found = answers(engine_of(model, tokenizer), [Request("", "honey")])[0]
    tokens = [tokenizer.convert_tokens_to_ids(start), *tokenizer("honey", add_special_tokens=False).input_ids]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)
    expected = sum(logprobs[at, token].item() for at, token in enumerate(tokens[1:]))
    assert found.logprob == pytest.approx(expected, abs=CLOSE)
    assert found.tokens == len(tokens) - 1


def test_a_continuation_that_begins_with_the_start_token_does_not_get_another(tokenizer, llama):
    found = answers(engine_of(llama, tokenizer), [Request("", "<s>honey"), Request("", "honey")])
    assert found[0] == found[1]


def test_a_context_that_spells_the_start_token_out_does_not_get_another(tokenizer, llama):
    found = answers(engine_of(llama, tokenizer), [Request("<s>The doctor", " told"), Request("The doctor", " told")])
    assert found[0] == found[1]


def test_without_any_start_token_an_empty_context_is_unscored_and_others_are_not():
    tokenizer = tiny_tokenizer(bos=False)
    model = tiny_model("llama", tokenizer)
    tokenizer.eos_token = None
    found = answers(engine_of(model, tokenizer), [Request("", "honey"), Request("bees", " make")])
    assert "no token that could begin" in found[0].unscored
    assert np.isnan(found[0].logprob)
    assert_each_as_alone({0: found[1]}, model, tokenizer, [Request("bees", " make")])


@pytest.mark.parametrize("space", [" ", "\n\n", " \t "])
def test_white_space_at_the_end_of_a_context_belongs_to_the_continuation(space, tokenizer, llama):
    requests = [Request("The doctor told" + space, "the nurse"), Request("The doctor told", space + "the nurse")]
    found = answers(engine_of(llama, tokenizer), requests)
    assert found[0] == found[1]
    assert found[0].tokens == len(tokenizer("The doctor told" + space + "the nurse").input_ids) - len(
        tokenizer("The doctor told").input_ids
    )


@pytest.mark.parametrize("request_", [Request("The doctor", ""), Request("", ""), Request("", "<s>")])
def test_a_continuation_without_tokens_is_unscored(request_, tokenizer, llama):
    found = answers(engine_of(llama, tokenizer), [request_, *QUESTIONS])
    assert found[0].unscored == "the continuation has no tokens"
    assert np.isnan(found[0].logprob)
    rest = {index - 1: answer for index, answer in found.items() if index}
    assert_each_as_alone(rest, llama, tokenizer, QUESTIONS)


@pytest.mark.parametrize("follow_tree", [True, False])
def test_a_context_that_the_tokenizer_drops_is_an_empty_one_or_unscored(follow_tree):
    tokenizer = tiny_tokenizer(bos=False)
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Replace("\u200b", "")
    model = tiny_model("gpt2", tokenizer)
    requests = [Request("\u200b", "honey bees make"), Request("\u200b", "honey and wax")]
    found = answers(engine_of(model, tokenizer, follow_tree=follow_tree), requests)
    for index, request in enumerate(requests):
        empty = alone(model, tokenizer, dataclasses.replace(request, context=""))
        assert found[index].unscored or found[index].logprob == pytest.approx(empty, abs=CLOSE)


# ---- what does not fit, and what is not a number -----------------------------------------------------------


def test_a_request_longer_than_the_window_is_unscored_and_the_others_are_scored(tokenizer, llama):
    lengths = [len(spelled(tokenizer, request)[0]) - 1 for request in REQUESTS]  # what the model reads
    window = sorted(lengths)[-4]
    found = answers(engine_of(llama, tokenizer, window=window), REQUESTS)
    fitting = [index for index, length in enumerate(lengths) if length <= window]
    for index in set(range(len(REQUESTS))) - set(fitting):
        assert found[index].unscored == f"{lengths[index]} tokens do not fit the model's window of {window}"
        assert np.isnan(found[index].logprob)
    assert 0 < len(fitting) < len(REQUESTS)
    scored = {at: found[index] for at, index in enumerate(fitting)}
    assert_each_as_alone(scored, llama, tokenizer, [REQUESTS[index] for index in fitting])


def test_reasons_are_given_for_wanted_requests_alone(tokenizer, llama):
    requests = [Request("a", ""), Request("b", ""), Request("a", "b")]
    found = answers(engine_of(llama, tokenizer), requests, {1})
    assert list(found) == [1]


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_a_model_whose_weights_are_not_numbers_scores_nothing(architecture, tokenizer):
    model = tiny_model(architecture, tokenizer)
    model.get_output_embeddings().weight.data[3] = float("nan")
    found = answers(engine_of(model, tokenizer), REQUESTS)
    assert sorted(found) == list(range(len(REQUESTS)))
    assert all("nan" in answer.unscored and np.isnan(answer.logprob) for answer in found.values())


def test_a_batch_that_memory_does_not_hold_is_halved_and_its_answers_are_the_same(tokenizer, llama):
    notes = []
    engine, calls = engine_of(llama, tokenizer, notes, token_budget=512), Calls(llama, most_tokens=60)
    found = answers(engine, REQUESTS)
    assert engine.token_budget < 512
    assert notes[0] == "out of memory: token budget halved to 256"
    assert len(calls.arguments) > 3
    assert_each_as_alone(found, llama, tokenizer, REQUESTS)


def test_a_tree_that_memory_does_not_hold_is_split_and_its_answers_are_the_same(tokenizer, llama):
    choices = ("Mars", "Venus", "honey", "wax", "the Moon", "toxic gas", "flowers", "the nurse", "vinegar")
    choices += tuple(f"{choice} and flowers" for choice in choices)
    requests = [Request("Which planet is red?", " " + choice) for choice in choices]
    requests.append(Request("A.", " yes"))  # so that the question is no shared prefix, but the trunk of a tree
    assert max(len(spelled(tokenizer, request)[0]) for request in requests) < 30
    calls = Calls(llama)
    answers(engine_of(llama, tokenizer), requests)
    assert max(arguments["input_ids"].shape[1] for arguments in calls.arguments) > 30  # one tree, not rows
    notes, calls = [], Calls(llama, most_tokens=30)
    found = answers(engine_of(llama, tokenizer, notes), requests)
    assert "out of memory" in notes[0]
    assert_each_as_alone(found, llama, tokenizer, requests)


def test_a_budget_that_fits_after_one_halving_is_halved_once(tokenizer, llama):
    """The other batches of the call were planned before; that they are too large as well says nothing new."""
    requests = [
        Request(f"{letter}{letter} planet" + f" nurse {letter} honey" * 12, choice)
        for letter in "abcdefghijklmnopqrst"
        for choice in (" yes", " no")
    ]
    notes, calls = [], Calls(llama, most_tokens=256)
    engine = engine_of(llama, tokenizer, notes, token_budget=512)
    found = answers(engine, requests)
    assert_each_as_alone(found, llama, tokenizer, requests)
    assert len(calls.arguments) > 4
    assert engine.token_budget == 256
    assert notes == ["out of memory: token budget halved to 256"]


def test_a_sequence_that_memory_never_holds_is_unscored_and_the_others_are_scored(tokenizer, llama):
    notes, large = [], Request("bleach " * 60, "and vinegar")
    Calls(llama, most_tokens=60)
    found = answers(engine_of(llama, tokenizer, notes), [*REQUESTS, large])
    last = found.pop(len(REQUESTS))
    assert "memory" in last.unscored
    assert np.isnan(last.logprob)
    assert any("too long for the device's memory" in note for note in notes)
    assert_each_as_alone(found, llama, tokenizer, REQUESTS)


def test_a_shared_prefix_that_memory_does_not_hold_ends_no_run(tokenizer, llama):
    requests = [Request("bleach " * 60, choice) for choice in ("and vinegar", "and wax")]
    Calls(llama, most_tokens=60)
    found = answers(engine_of(llama, tokenizer), requests)
    assert ["memory" in found[index].unscored for index in (0, 1)] == [True, True]


# ---- the next token ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mamba"])
def test_next_token_logprobs_are_the_softmax_of_each_context_alone(architecture, tokenizer):
    model = tiny_model(architecture, tokenizer)
    contexts = [RED, SAFE, SHOTS, RED, "", "The doctor", "<s>The doctor"]
    found = dict(engine_of(model, tokenizer, token_budget=64).next_token_logprobs(contexts))
    assert sorted(found) == list(range(len(contexts)))
    for index, context in enumerate(contexts):
        tokens = tokenizer(context, add_special_tokens=not context.startswith("<s>")).input_ids
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.tensor([tokens])).logits[0, -1].double(), -1).numpy()
        assert found[index].dtype == np.float32
        np.testing.assert_allclose(found[index], expected, rtol=0, atol=CLOSE)
        assert np.exp(found[index].astype(float)).sum() == pytest.approx(1, abs=1e-5)


def test_a_next_token_after_too_long_a_context_is_an_error_that_says_which(tokenizer, llama):
    engine = engine_of(llama, tokenizer, window=10)
    with pytest.raises(ValueError, match=r"context 1: \d+ tokens do not fit the model's window of 10"):
        list(engine.next_token_logprobs(["The doctor", RED]))


def test_a_next_token_that_memory_does_not_allow_is_an_error_and_no_none(tokenizer, llama):
    Calls(llama, most_tokens=60)
    with pytest.raises((ValueError, AlignbenchError, torch.OutOfMemoryError), match="memory"):
        list(engine_of(llama, tokenizer).next_token_logprobs(["The doctor", "bleach " * 60]))


def test_a_model_that_sees_the_answer_is_refused(tokenizer):
    """BERT loads as a causal language model and attends to what follows: its log-probabilities mean nothing."""
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertLMHeadModel(config).eval()
    with pytest.raises(AlignbenchError, match="no causal language model"):
        answers(engine_of(model, tokenizer), QUESTIONS)


def test_a_token_outside_the_models_vocabulary_is_unscored(tokenizer):
    model = tiny_model("llama", tokenizer)
    highest = max(max(spelled(tokenizer, request)[0]) for request in QUESTIONS)
    model.resize_token_embeddings(highest, mean_resizing=False)
    found = answers(engine_of(model, tokenizer), QUESTIONS)
    assert any("not in the model's vocabulary" in (answer.unscored or "") for answer in found.values())


@pytest.mark.needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_gpu_gives_the_log_probabilities_of_the_cpu(tokenizer, architecture):
    model = tiny_model(architecture, tokenizer)
    expected = answers(engine_of(model, tokenizer), DESCRIBED)
    engine = engine_of(model.to("cuda"), tokenizer)
    found = answers(engine, DESCRIBED)
    assert engine.layout == "prefix tree"
    assert engine.token_budget >= 256
    for index, answer in expected.items():
        assert found[index].logprob == pytest.approx(answer.logprob, abs=1e-3)
        assert found[index].entropies == pytest.approx(answer.entropies, abs=1e-3)
        assert found[index].top_entropies == pytest.approx(answer.top_entropies, abs=1e-3)
