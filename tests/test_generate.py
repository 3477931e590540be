"""Continuing prompts: equal to transformers' own generation, and the same whatever is generated beside it."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from tiny import SENTENCES, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.models.local import LocalEngine
from alignbench.models.stopping import Ending, end_tokens
from alignbench.types.engine import Prompt, Request, Sampling

PACKED = ["llama", "gpt2", "gpt_neox", "qwen2", "mistral", "gemma", "gemma2", "opt"]
OTHERS = ["bloom", "mpt", "falcon", "mamba"]
WITHOUT_BOS = {"gpt2", "gpt_neox", "qwen2"}  # as their own tokenizers

SHOTS = "The following are questions.\n\nQuestion: What do bees make?\nAnswer: honey\n\n" * 2
QUESTIONS = [
    SHOTS + "Question: Which planet is red?\nAnswer:",
    SHOTS + "Question: Is it safe to mix bleach and vinegar?\nAnswer:",
    SHOTS + "The doctor",
    SHOTS + "Question: What gas do they give off when they are mixed, and is it toxic or not?\nAnswer:",
]
TEXTS = [*QUESTIONS, "The doctor told the nurse that", "A", "Größe 🐝", "", SENTENCES[2] * 2]
SAMPLED = Sampling(max_tokens=8, samples=3, temperature=1.0, top_p=0.95)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
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


def engine_of(model, tokenizer, notes=None, *, page=32, **options):
    """Small pages, so that short texts fill several."""
    engine = LocalEngine(model, Encoder(tokenizer), notify=[].append if notes is None else notes.append, **options)
    engine._writer.generator.page = page
    return engine


def prompts_of(texts):
    return [Prompt(f"document {number}", text) for number, text in enumerate(texts)]


def completions(engine, prompts, sampling, **options):
    """All completions, by their prompt's place; each prompt is answered once."""
    answers = list(engine.generate(prompts, sampling, **options))
    assert sorted(index for index, _ in answers) == list(range(len(prompts)))
    assert all(len(found) == sampling.samples for _, found in answers)
    return dict(answers)


def ids_of(tokenizer, text):
    return Encoder(tokenizer).contexts([text])[0].tolist()


def greedy_by_transformers(model, ids, count):
    prompt = torch.tensor([ids])
    found = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False)
    return tuple(found[0, len(ids) :].tolist())


class Calls:
    """Stands before a model's forward: counts tokens, and runs out of memory when asked to."""

    def __init__(self, model, most_tokens=None):
        self.sizes, self.tokens, forward = [], [], model.forward

        @functools.wraps(forward)  # the engine reads the signature
        def recording(**arguments):
            ids = arguments["input_ids"]
            if most_tokens is not None and ids.numel() > most_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory (as if)")
            self.sizes.append(ids.numel())
            self.tokens += ids.flatten().tolist()
            return forward(**arguments)

        model.forward = recording


# ---- equal to transformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", PACKED + OTHERS)
def test_greedy_continuations_are_those_of_transformers_token_for_token(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model, notes = tiny_model(architecture, tokenizer), []
    engine = engine_of(model, tokenizer, notes)
    found = completions(engine, prompts_of(TEXTS), Sampling(max_tokens=14))
    for index, text in enumerate(TEXTS):
        expected = greedy_by_transformers(model, ids_of(tokenizer, text), 14)
        assert found[index][0].tokens == expected
        assert found[index][0].finish == ("end" if expected[-1] == tokenizer.eos_token_id else "length")
        assert found[index][0].text == tokenizer.decode(expected, skip_special_tokens=True)
    assert engine.work()["layout"] == ("packed row" if architecture in PACKED else "one prompt at a time")
    assert len(notes) == (architecture in OTHERS), "a fallback is said once"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "bloom", "mamba"])
def test_log_probabilities_and_entropies_are_those_of_a_plain_forward_pass(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model = tiny_model(architecture, tokenizer)
    sampling = Sampling(max_tokens=8, samples=3, temperature=0.7, top_p=0.9)
    found = completions(engine_of(model, tokenizer), prompts_of(QUESTIONS[:3]), sampling)
    for index, text in enumerate(QUESTIONS[:3]):
        ids = ids_of(tokenizer, text)
        for completion in found[index]:
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *completion.tokens]])).logits[0, len(ids) - 1 : -1]
            logprobs = torch.log_softmax(logits.double(), -1)
            chosen = logprobs.gather(-1, torch.tensor(completion.tokens)[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(chosen.tolist(), abs=1e-4)
            entropies = -(logprobs.exp() * logprobs).sum(-1)
            assert completion.entropies == pytest.approx(entropies.tolist(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "bloom", "mamba"])
def test_entropies_of_the_likeliest_five_are_those_of_a_plain_forward_pass(architecture):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model = tiny_model(architecture, tokenizer)
    sampling = Sampling(max_tokens=8, samples=3, temperature=0.7, top_p=0.9, top_entropies=True)
    found = completions(engine_of(model, tokenizer), prompts_of(QUESTIONS[:3]), sampling)
    without = completions(
        engine_of(model, tokenizer), prompts_of(QUESTIONS[:3]), dataclasses.replace(sampling, top_entropies=False)
    )
    for index, text in enumerate(QUESTIONS[:3]):
        ids = ids_of(tokenizer, text)
        for completion, plain in zip(found[index], without[index], strict=True):
            assert plain == dataclasses.replace(completion, top_entropies=())
            assert len(completion.top_entropies) == len(completion.tokens)
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *completion.tokens]])).logits[0, len(ids) - 1 : -1]
            best = torch.log_softmax(logits.double().sort(-1, descending=True).values[:, :5], -1)
            expected = -(best.exp() * best).sum(-1)
            assert completion.top_entropies == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats_are_packed_too(architecture, dtype, tokenizer):
    model = tiny_model(architecture, tokenizer, dtype=dtype)
    found = completions(engine_of(model, tokenizer), prompts_of(QUESTIONS), Sampling(max_tokens=6))
    plain = completions(engine_of(model, tokenizer, pack=False), prompts_of(QUESTIONS), Sampling(max_tokens=6))
    close = 0.1 if dtype == torch.bfloat16 else 1e-6
    for index in range(len(QUESTIONS)):
        assert found[index][0].logprobs[0] == pytest.approx(plain[index][0].logprobs[0], abs=close)
        assert dtype == torch.bfloat16 or found[index][0].tokens == plain[index][0].tokens


def test_scoring_is_the_same_to_the_last_bit_before_during_and_after_generating(tokenizer, llama):
    requests = [Request(text, " yes") for text in QUESTIONS]
    expected = dict(engine_of(llama, tokenizer).loglikelihood(requests))
    engine = engine_of(llama, tokenizer)
    for _ in engine.generate(prompts_of(TEXTS), SAMPLED):
        assert dict(engine.loglikelihood(requests)) == expected
        assert llama.config._attn_implementation == "sdpa"
    assert dict(engine.loglikelihood(requests)) == expected


# ---- each token once ---------------------------------------------------------------------------------------


def test_a_prompt_is_computed_once_for_all_its_samples(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    list(engine.generate(prompts_of(["A"]), Sampling(max_tokens=1)))  # what is tried at first is not counted below
    before = engine.work()
    ((_, found),) = engine.generate(prompts_of([SENTENCES[2]]), Sampling(max_tokens=9, samples=7, temperature=1.0))
    prompt, after = len(ids_of(tokenizer, SENTENCES[2])), engine.work()
    new = [len(completion.tokens) for completion in found]
    assert after["tokens_computed"] - before["tokens_computed"] == prompt + sum(new) - len(new)
    assert after["tokens_generated"] - before["tokens_generated"] == sum(new)
    assert after["tokens_asked"] - before["tokens_asked"] == sum(prompt + count - 1 for count in new)


def test_a_prefix_that_all_prompts_share_is_computed_once_for_this_call_and_the_next(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    list(engine.generate(prompts_of(["A"]), Sampling(max_tokens=1)))
    lengths = [len(ids_of(tokenizer, text)) for text in QUESTIONS]
    shared = len(ids_of(tokenizer, SHOTS))
    own = sum(lengths) - 4 * shared
    for expected, texts in ((shared + own, QUESTIONS), (own, QUESTIONS), (lengths[1] - shared, QUESTIONS[1:2])):
        before = engine.tokens_computed
        list(engine.generate(prompts_of(texts), Sampling(max_tokens=1)))
        # a token at the seam may belong to either side
        assert engine.tokens_computed - before == pytest.approx(expected, abs=3 * len(texts))


def test_a_finished_sample_leaves_and_the_next_one_enters(tokenizer, llama):
    engine, calls = engine_of(llama, tokenizer, most_rows=3), None
    list(engine.generate(prompts_of(["A"]), Sampling(max_tokens=1)))
    calls = Calls(llama)
    found = completions(engine, prompts_of([f"nurse {n}" for n in range(8)]), Sampling(20, stop=("e",)))
    new = [len(found[index][0].tokens) for index in found]
    assert len(set(new)) > 2
    # three at a time, all the time: fewer steps than batches of three that wait for their longest
    waves = sum(max(new[at : at + 3]) for at in range(0, 8, 3))
    assert len(calls.sizes) < waves


# ---- the same whatever stands beside it --------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*PACKED, "bloom"])
def test_samples_are_the_same_to_the_last_bit_whatever_is_asked_for_beside_them(architecture):
    """Rows at once, tokens of a step, order, and what was finished before: text, log-probabilities and entropies."""
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    model, prompts = tiny_model(architecture, tokenizer), prompts_of(TEXTS)
    expected = completions(engine_of(model, tokenizer), prompts, SAMPLED)
    everything = list(range(len(TEXTS)))
    for rows, budget, asked in ((1, 512, everything), (3, 40, everything[::-1]), (7, 5, [1, 3]), (64, 100, [2])):
        engine = engine_of(model, tokenizer, most_rows=rows, token_budget=budget)
        found = completions(engine, [prompts[index] for index in asked], SAMPLED)
        assert [found[place] for place in range(len(asked))] == [expected[index] for index in asked]


def test_long_prompts_over_many_pages_too(tokenizer):
    model = tiny_model("qwen2", tokenizer)
    texts = [" ".join(SENTENCES) + " " + text * 4 for text in ("yes", "no", "The doctor", "nurse")]
    sampling = Sampling(max_tokens=40, samples=3, temperature=1.0)
    expected = completions(engine_of(model, tokenizer), prompts_of(texts), sampling)
    assert min(len(ids_of(tokenizer, text)) for text in texts) > 3 * 32
    for rows, budget, asked in ((2, 33, [3, 0, 2, 1]), (50, 500, [2])):
        engine = engine_of(model, tokenizer, most_rows=rows, token_budget=budget)
        found = completions(engine, [prompts_of(texts)[index] for index in asked], sampling)
        assert [found[place] for place in range(len(asked))] == [expected[index] for index in asked]


def test_a_prompt_that_ends_with_its_page_too(tokenizer, llama):
    """Its samples share all of its pages, and their own begin empty."""
    text, end = "The doctor", tokens_of(tokenizer, ".")
    while len(ids_of(tokenizer, text)) % 32:
        text += "."
    assert len(end) == 1
    texts, sampling = [text, "A", text[:-1]], Sampling(max_tokens=40, samples=9, temperature=1.0, stop=("e", "a"))
    expected = completions(engine_of(llama, tokenizer), prompts_of(texts), sampling)
    assert len({len(completion.tokens) for completion in expected[0]}) > 3
    found = completions(engine_of(llama, tokenizer, most_rows=4), prompts_of(texts), sampling)
    alone = completions(engine_of(llama, tokenizer), prompts_of(texts[:1]), sampling)
    assert found == expected
    assert alone[0] == expected[0]


def test_on_two_threads_too(tokenizer, llama):
    torch.set_num_threads(2)
    prompts, sampling = prompts_of(["The doctor", "A"]), Sampling(max_tokens=2, samples=3, temperature=1.0)
    expected = completions(engine_of(llama, tokenizer), prompts, sampling)
    found = completions(engine_of(llama, tokenizer, most_rows=1, token_budget=40), prompts[:1], sampling)
    torch.set_num_threads(1)
    assert found[0] == expected[0]


def test_the_seed_the_key_and_the_samples_number_make_the_difference(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    first = completions(engine, prompts_of(["The doctor"]), SAMPLED)[0]
    assert len({completion.tokens for completion in first}) == SAMPLED.samples
    assert completions(engine, prompts_of(["The doctor"]), SAMPLED)[0] == first
    assert completions(engine, prompts_of(["The doctor"]), SAMPLED, seed=1)[0] != first
    assert completions(engine, [Prompt("another", "The doctor")], SAMPLED)[0] != first
    fewer = Sampling(max_tokens=8, samples=2, temperature=1.0, top_p=0.95)
    assert completions(engine, prompts_of(["The doctor"]), fewer)[0] == first[:2]


# ---- where it ends -----------------------------------------------------------------------------------------


def test_a_stop_string_cuts_the_text_and_its_tokens_stay(tokenizer, llama):
    engine, prompt = engine_of(llama, tokenizer), prompts_of(["The doctor told the nurse that"])
    whole = completions(engine, prompt, Sampling(max_tokens=20))[0][0]
    for at in (3, 7, 11):
        stop = whole.text[at : at + 4]
        found = completions(engine, prompt, Sampling(max_tokens=20, stop=("never there", stop)))[0][0]
        assert found.finish == "stop"
        assert found.text == whole.text[: whole.text.index(stop)]
        assert found.tokens == whole.tokens[: len(found.tokens)]
        assert len(found.logprobs) == len(found.entropies) == len(found.tokens)
        assert stop in tokenizer.decode(found.tokens)
        assert stop not in tokenizer.decode(found.tokens[:-1])


def test_a_stop_string_in_the_prompt_alone_stops_nothing(tokenizer, llama):
    engine, prompt = engine_of(llama, tokenizer), prompts_of([QUESTIONS[0]])
    whole = completions(engine, prompt, Sampling(max_tokens=10))[0][0]
    assert "Answer:" not in whole.text
    assert completions(engine, prompt, Sampling(max_tokens=10, stop=("Answer:",)))[0][0] == whole


def tokens_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def ended(ending, tokens):
    """Feed one token after the other: how many were read, and what came of it."""
    for count in range(1, len(tokens) + 1):
        if found := ending.of(tokens[:count]):
            return count, *found
    return None


@pytest.fixture(scope="module")
def byte_tokenizer():
    """Every byte is a token, so that every character beyond ASCII is split; four z are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["</s>", *alphabet, "zz", "zzzz"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("z", "z"), ("zz", "zz")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def test_a_stop_string_of_characters_that_tokens_split(byte_tokenizer):
    tokens = tokens_of(byte_tokenizer, "ein 🐝🍯 Glas")
    assert len(tokens) == len("ein 🐝🍯 Glas".encode())
    ending = Ending(byte_tokenizer, [0], ("🐝🍯",), 100)
    assert ended(ending, tokens) == (12, "stop", "ein ")
    assert ended(Ending(byte_tokenizer, [0], ("🍯🐝",), 100), tokens) is None


def test_the_first_of_several_stop_strings_cuts_even_if_another_was_seen_first(tokenizer):
    text = "one\n\nQuestion: two"
    tokens = tokens_of(tokenizer, text)
    _, finish, cut = ended(Ending(tokenizer, [], ("Question:", "\n\nQ"), 100), tokens)
    assert (finish, cut) == ("stop", "one")
    _, finish, cut = ended(Ending(tokenizer, [], ("Question:", "two"), 100), tokens)
    assert (finish, cut) == ("stop", "one\n\n")


def test_a_stop_string_that_repeats_itself_cuts_at_its_first_place(byte_tokenizer):
    count, _, cut = ended(Ending(byte_tokenizer, [0], ("aab",), 100), tokens_of(byte_tokenizer, "xaaaab"))
    assert (count, cut) == (6, "xaa")
    count, _, cut = ended(Ending(byte_tokenizer, [0], ("zz",), 100), tokens_of(byte_tokenizer, "xzzzzz"))
    assert (count, cut) == (2, "x")


def test_a_stop_string_around_special_tokens_is_seen_since_the_text_has_none(byte_tokenizer):
    a, b = tokens_of(byte_tokenizer, "ab")
    tokens = [a, *[byte_tokenizer.eos_token_id] * 30, b]
    assert ended(Ending(byte_tokenizer, [], ("ab",), 100), tokens) == (32, "stop", "")


def test_a_stop_string_that_spells_a_special_token_stops_at_it(tokenizer):
    tokens = [*tokens_of(tokenizer, "yes"), tokenizer.pad_token_id, *tokens_of(tokenizer, "no")]
    assert ended(Ending(tokenizer, [], ("<pad>",), 100), tokens)[1:] == ("stop", "yes")


def test_every_end_token_of_the_models_files_ends_a_text(tokenizer, llama):
    """Chat models end a turn with one token and a document with another."""
    llama.generation_config.eos_token_id = [7, 9]
    llama.config.eos_token_id = 11
    ends = end_tokens(llama, tokenizer)
    assert ends == {7, 9, 11, tokenizer.eos_token_id}
    words = tokens_of(tokenizer, "The doctor")
    for end in sorted(ends):
        count, finish, text = ended(Ending(tokenizer, ends, (), 100), [*words, end, *words])
        assert (count, finish, text) == (len(words) + 1, "end", "The doctor")


def test_the_end_token_counts_among_the_tokens_and_not_in_the_text(tokenizer, llama):
    engine, prompt = engine_of(llama, tokenizer), prompts_of(["The doctor"])
    whole = completions(engine, prompt, Sampling(max_tokens=12))[0][0]
    at = next(i for i, token in enumerate(whole.tokens) if i > 2 and token not in whole.tokens[:i])
    llama.generation_config.eos_token_id = whole.tokens[at]
    found = completions(engine_of(llama, tokenizer), prompt, Sampling(max_tokens=12))[0][0]
    assert (found.finish, found.tokens) == ("end", whole.tokens[: at + 1])
    assert found.text == tokenizer.decode(whole.tokens[:at])


# ---- chat --------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_chat_prompt_is_what_the_template_makes_of_it_with_one_start_token(llama):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    engine = engine_of(llama, tokenizer)
    assert engine.chat_template
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Is it safe?"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert expected.count(tokenizer.bos_token_id) == 1
    found = completions(engine, prompts_of(["Is it safe?"]), Sampling(max_tokens=8), chat=True)[0][0]
    assert found.tokens == greedy_by_transformers(llama, expected, 8)
    assert found != completions(engine, prompts_of(["Is it safe?"]), Sampling(max_tokens=8))[0][0]


def test_a_chat_without_a_template_is_an_error(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    assert not engine.chat_template
    with pytest.raises(AlignbenchError, match="no chat template"):
        list(engine.generate(prompts_of(["yes"]), Sampling(max_tokens=1), chat=True))


def test_a_template_that_refuses_the_message_is_an_error_of_one_line(llama):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('system first\nplease') }}"
    with pytest.raises(AlignbenchError, match=r"^chat template: .*system first\)$"):
        list(engine_of(llama, tokenizer).generate(prompts_of(["yes"]), Sampling(max_tokens=1), chat=True))


# ---- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        (Sampling(max_tokens=3, samples=2), "temperature 0 would be the same"),
        (Sampling(max_tokens=0), "at least one"),
        (Sampling(max_tokens=3, samples=0, temperature=1.0), "at least one"),
        (Sampling(max_tokens=3, temperature=-1.0), "temperature -1"),
        (Sampling(max_tokens=3, temperature=1.0, top_p=0.0), "top_p 0"),
        (Sampling(max_tokens=3, temperature=1.0, top_p=1.1), "top_p 1.1"),
        (Sampling(max_tokens=3, stop=("",)), "empty stop string"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused(sampling, reason, tokenizer, llama):
    with pytest.raises(ValueError, match=reason):
        list(engine_of(llama, tokenizer).generate(prompts_of(["yes"]), sampling))


def test_a_prompt_that_leaves_no_room_in_the_window_is_unscored_and_the_others_are_written(tokenizer, llama):
    longest = len(ids_of(tokenizer, QUESTIONS[3]))
    sampling = Sampling(max_tokens=10, samples=2, temperature=1.0)
    fits = completions(engine_of(llama, tokenizer, window=longest + 10), prompts_of(QUESTIONS), sampling)
    found = completions(engine_of(llama, tokenizer, window=longest + 9), prompts_of(QUESTIONS), sampling)
    assert all(c.unscored is None for answers in fits.values() for c in answers)
    assert all(f"window of {longest + 9}" in completion.unscored for completion in found[3])
    assert (found[3][0].text, found[3][0].tokens) == ("", ())
    assert [found[index] for index in range(3)] == [fits[index] for index in range(3)]


def test_an_empty_prompt_is_the_start_token_alone(tokenizer, llama):
    found = completions(engine_of(llama, tokenizer), prompts_of([""]), Sampling(max_tokens=6))[0][0]
    assert found.tokens == greedy_by_transformers(llama, [tokenizer.bos_token_id], 6)


@pytest.mark.parametrize("pack", [True, False])
def test_a_model_of_no_numbers_writes_nothing_and_says_so(pack, tokenizer, llama):
    with torch.no_grad():
        llama.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    found = completions(engine_of(llama, tokenizer, pack=pack), prompts_of(TEXTS), SAMPLED)
    assert {c.unscored for answers in found.values() for c in answers} == {"the logits are not finite"}


def test_one_sample_of_no_numbers_does_not_touch_the_others(tokenizer, llama):
    """One token is broken: samples that come to it end, and what they leave behind is clean for the next."""
    prompts = prompts_of([*TEXTS, *TEXTS[::-1]])
    expected = completions(engine_of(llama, tokenizer), prompts, SAMPLED)
    read = {token for prompt in prompts for token in ids_of(tokenizer, prompt.text)}
    written = [token for found in expected.values() for c in found for token in c.tokens[:-1] if token not in read]
    broken = max(written, key=written.count)
    with torch.no_grad():
        llama.model.embed_tokens.weight[broken] = torch.nan
    found = completions(engine_of(llama, tokenizer, most_rows=1), prompts, SAMPLED)
    for index in expected:
        for before, after in zip(expected[index], found[index], strict=True):
            if broken in before.tokens[:-1]:
                assert (after.unscored, after.tokens) == ("the logits are not finite", ())
            else:
                assert after == before
    assert 0 < written.count(broken) < SAMPLED.samples * len(prompts)


def test_out_of_memory_means_fewer_rows_and_the_same_samples(tokenizer, llama):
    prompts = prompts_of(TEXTS)
    expected = completions(engine_of(llama, tokenizer), prompts, SAMPLED)
    notes, calls = [], Calls(llama, most_tokens=16)
    found = completions(engine_of(llama, tokenizer, notes, token_budget=200), prompts, SAMPLED)
    assert found == expected
    assert any("samples at once" in note for note in notes)
    assert any("tokens a step" in note for note in notes)
    assert max(calls.sizes) <= 16


def test_a_prompt_that_memory_never_holds_is_unscored_on_the_plain_way(tokenizer):
    model, notes = tiny_model("bloom", tokenizer), []
    Calls(model, most_tokens=60)
    found = completions(engine_of(model, tokenizer, notes), prompts_of([*QUESTIONS[:1], "A"]), Sampling(max_tokens=5))
    assert "memory" in found[0][0].unscored
    assert found[1][0].unscored is None


def test_memory_that_never_suffices_ends_in_unscored_prompts_and_no_crash(tokenizer, llama):
    Calls(llama, most_tokens=0)
    with pytest.raises(torch.OutOfMemoryError):
        llama(input_ids=torch.tensor([[1]]))
    engine = engine_of(llama, tokenizer)
    engine._writer._packs = True  # tried when there was memory
    found = completions(engine, prompts_of(TEXTS), SAMPLED)
    assert {c.unscored for answers in found.values() for c in answers} == {"out of the device's memory"}


def test_a_token_outside_the_models_vocabulary_is_unscored(tokenizer, llama):
    llama.resize_token_embeddings(max(ids_of(tokenizer, TEXTS[0])), mean_resizing=False)
    found = completions(engine_of(llama, tokenizer), prompts_of([TEXTS[0], "A"]), Sampling(max_tokens=2))
    assert "vocabulary" in found[0][0].unscored


def test_beyond_a_sliding_window_a_prompt_takes_the_plain_way(tokenizer):
    model, notes = tiny_model("mistral", tokenizer, sliding_window=48), []
    texts = ["The doctor", QUESTIONS[0]]
    assert len(ids_of(tokenizer, texts[1])) > 48
    engine = engine_of(model, tokenizer, notes)
    found = completions(engine, prompts_of(texts), Sampling(max_tokens=10))
    for index, text in enumerate(texts):
        assert found[index][0].tokens == greedy_by_transformers(model, ids_of(tokenizer, text), 10)
    assert any("attention window of 48" in note for note in notes)
    assert engine.work()["layout"] == "packed row"


def test_a_model_whose_attention_is_not_what_it_says_takes_the_plain_way(tokenizer, llama):
    """Attention sinks, for one, which ours does not know: the numbers of the trial differ."""
    for layer in llama.model.layers:
        attention = layer.self_attn
        forward = attention.forward

        def doubled(*arguments, _forward=forward, _attention=attention, **keywords):
            out, weights = _forward(*arguments, **keywords)
            return (out if _attention.config._attn_implementation == "sdpa" else 2 * out), weights

        attention.forward = doubled
    notes = []
    found = completions(engine_of(llama, tokenizer, notes), prompts_of(TEXTS[:2]), Sampling(max_tokens=5))
    assert "log-probabilities differ" in notes[0]
    for index in (0, 1):
        assert found[index][0].tokens == greedy_by_transformers(llama, ids_of(tokenizer, TEXTS[index]), 5)


@pytest.mark.needs_models
def test_a_real_model_writes_what_transformers_writes(tinystories):
    from alignbench.models.checkpoint import find_checkpoint, load_engine

    engine = load_engine(find_checkpoint(str(tinystories)), dtype="float32", device="cpu")
    texts = ["Once upon a time, there was a little girl named Lily.", "Tom and his dog", "The sun was", "One day"]
    found = completions(engine, prompts_of(texts), Sampling(max_tokens=40))
    for index, text in enumerate(texts):
        ids = ids_of(engine.encoder.tokenizer, text)
        assert found[index][0].tokens == greedy_by_transformers(engine.model, ids, 40)


@pytest.mark.needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_gpu_writes_what_the_cpu_writes(architecture, tokenizer):
    model = tiny_model(architecture, tokenizer)
    expected = completions(engine_of(model, tokenizer), prompts_of(TEXTS), SAMPLED)
    engine = engine_of(model.to("cuda"), tokenizer)
    found = completions(engine, prompts_of(TEXTS), SAMPLED)
    assert engine.work()["layout"] == "packed row"
    same = sum(a.tokens == b.tokens for i in expected for a, b in zip(expected[i], found[i], strict=True))
    assert same >= 0.9 * sum(map(len, expected.values()))  # a draw may fall on the other side of a rounding
    for index in expected:
        assert found[index][0].logprobs[0] == pytest.approx(expected[index][0].logprobs[0], abs=1e-3)
    assert np.isfinite([value for c in found[0] for value in c.entropies]).all()
