"""Generation: equal to transformers' own, and the same whatever is generated at the same time."""

from dataclasses import replace

import pytest
import torch
from cases import cases
from test_engine import DESCRIBED, answers, assert_each_as_alone
from tiny import PLAIN, SENTENCES, SOME, TREE, WITHOUT_BOS, Calls, engine_of, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.encode import Encoder
from alignbench.models.generate.decoding import Decoding, end_tokens
from alignbench.models.load import load_engine
from alignbench.types.engine import Prompt, Request, Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

SHOTS = "The following are questions.\n\nQuestion: What do bees make?\nAnswer: honey\n\n" * 2
QUESTIONS = [
    SHOTS + "Question: Which planet is red?\nAnswer:",
    SHOTS + "Question: Is it safe to mix bleach and vinegar?\nAnswer:",
    SHOTS + "The doctor",
    SHOTS + "Question: What gas do they give off when they are mixed, and is it toxic or not?\nAnswer:",
]
TEXTS = [*QUESTIONS, "The doctor told the nurse that", "A", "Größe 🐝", "", SENTENCES[2] * 2]
SAMPLED = Sampling(max_tokens=8, samples=3, temperature=1.0, top_p=0.95)


def model_of(architecture, **options):
    tokenizer = tiny_tokenizer(bos=architecture not in WITHOUT_BOS)
    return tiny_model(architecture, tokenizer, **options), tokenizer


def prompts_of(texts):
    return [Prompt(f"document {number}", text) for number, text in enumerate(texts)]


def completions(engine, texts, sampling, **options):
    """All completions by the index of their prompt; each prompt is answered once."""
    prompts = [text if isinstance(text, Prompt) else Prompt(f"document {i}", text) for i, text in enumerate(texts)]
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


def assert_greedy(engine, texts, count):
    """Each continuation is that of transformers, token for token."""
    tokenizer = engine.encoder.tokenizer
    for index, (found,) in completions(engine, texts, Sampling(count)).items():
        expected = greedy_by_transformers(engine.model, ids_of(tokenizer, texts[index]), count)
        assert found.tokens == expected
        assert found.finish == ("end" if expected[-1] == tokenizer.eos_token_id else "length")
        assert found.text == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("architecture", TREE + PLAIN)
def test_greedy_continuations_are_those_of_transformers_token_for_token(architecture):
    notes = []
    engine = engine_of(*model_of(architecture), notes)
    assert_greedy(engine, TEXTS, 14)
    assert engine.work()["layout"] == ("packed row" if architecture in TREE else "one prompt at a time")
    assert len(notes) == (architecture in PLAIN), "a fallback is reported once"


@pytest.mark.parametrize(
    ("architecture", "dtype", "close"),
    [(architecture, torch.float32, 1e-4) for architecture in ("llama", "gpt2", "gemma2", "bloom", "mamba")]
    + [(architecture, torch.float64, 1e-5) for architecture in ("llama", "gemma2")]
    + [(architecture, torch.bfloat16, 0.1) for architecture in ("llama", "gemma2")],
)
def test_log_probabilities_and_entropies_are_those_of_a_single_forward_pass(architecture, dtype, close):
    model, tokenizer = model_of(architecture, dtype=dtype)
    sampling = Sampling(max_tokens=8, samples=3, temperature=0.7, top_p=0.9, top_entropies=True)
    found = completions(engine_of(model, tokenizer), QUESTIONS[:3], sampling)
    without = completions(engine_of(model, tokenizer), QUESTIONS[:3], replace(sampling, top_entropies=False))
    for index, text in enumerate(QUESTIONS[:3]):
        ids = ids_of(tokenizer, text)
        for completion, plain in zip(found[index], without[index], strict=True):
            assert plain == replace(completion, top_entropies=())
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *completion.tokens]])).logits[0, len(ids) - 1 : -1].double()
            logprobs = torch.log_softmax(logits, -1)
            chosen = logprobs.gather(-1, torch.tensor(completion.tokens)[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(chosen.tolist(), abs=close)
            best = torch.log_softmax(logits.sort(-1, descending=True).values[:, :5], -1)
            for values, reference in ((completion.entropies, logprobs), (completion.top_entropies, best)):
                assert values == pytest.approx((-(reference.exp() * reference).sum(-1)).tolist(), abs=close)


def test_scores_are_bit_identical_before_during_and_after_generation(tokenizer, llama):
    requests = [Request(text, " yes") for text in QUESTIONS]
    expected = dict(engine_of(llama, tokenizer).loglikelihood(requests))
    engine = engine_of(llama, tokenizer)
    for _ in engine.generate(prompts_of(TEXTS), SAMPLED):
        assert dict(engine.loglikelihood(requests)) == expected
        assert llama.config._attn_implementation == "sdpa"
    assert dict(engine.loglikelihood(requests)) == expected


def test_a_prompt_is_computed_once_for_all_its_samples_and_a_shared_prefix_once_for_all_prompts(tokenizer, llama):
    tested = engine_of(llama, tokenizer, packs=True)
    found = completions(tested, [SENTENCES[2]], Sampling(max_tokens=9, samples=7, temperature=1.0))[0]
    prompt, new = len(ids_of(tokenizer, SENTENCES[2])), [len(completion.tokens) for completion in found]
    asked, computed = sum(prompt + count - 1 for count in new), prompt + sum(new) - len(new)
    counts = {"tokens_asked": asked, "tokens_computed": computed, "tokens_generated": sum(new)}
    assert counts.items() <= tested.work().items()
    completions(tested, QUESTIONS, Sampling(max_tokens=1))
    computed += sum(len(ids_of(tokenizer, text)) for text in QUESTIONS) - 3 * len(ids_of(tokenizer, SHOTS))
    # a token at the boundary may belong to either side
    assert tested.tokens_computed == pytest.approx(computed, abs=12)


def test_a_finished_sample_leaves_and_the_next_one_enters(tokenizer, llama):
    calls = Calls(llama)
    engine = engine_of(llama, tokenizer, most_rows=3, packs=True)
    found = completions(engine, [f"nurse {n}" for n in range(8)], Sampling(20, stop=("e",)))
    new = [len(found[index][0].tokens) for index in found]
    assert len(set(new)) > 2
    # fewer steps than batches of three that wait for their longest
    assert len(calls.sizes) < sum(max(new[at : at + 3]) for at in range(0, 8, 3))


def assert_same_in_any_schedule(model, tokenizer, texts, sampling, schedules):
    """Text, log-probabilities and entropies are bit-identical.

    schedules: (rows at once, tokens per step, the order of the prompts)
    """
    expected = completions(engine_of(model, tokenizer), prompts_of(texts), sampling)
    for rows, budget, order in schedules:
        engine = engine_of(model, tokenizer, most_rows=rows, token_budget=budget)
        found = completions(engine, [prompts_of(texts)[index] for index in order], sampling)
        assert [found[place] for place in range(len(order))] == [expected[index] for index in order]
    return expected


@pytest.mark.parametrize("architecture", SOME)
def test_samples_are_bit_identical_in_any_schedule(architecture):
    schedules = ((1, 512, [4, 0, 8]), (3, 40, list(range(len(TEXTS)))[::-1]), (7, 5, [1, 3]), (64, 100, [2]))
    assert_same_in_any_schedule(*model_of(architecture), TEXTS, SAMPLED, schedules)


def test_samples_over_many_pages_and_on_two_threads_are_bit_identical_in_any_schedule(tokenizer, llama):
    texts = [" ".join(SENTENCES) + " " + text * 4 for text in ("yes", "no", "The doctor", "nurse")]
    assert min(len(ids_of(tokenizer, text)) for text in texts) > 3 * 32
    sampling, schedules = Sampling(40, samples=3, temperature=1.0), ((2, 33, [3, 0, 2, 1]), (50, 500, [2]))
    assert_same_in_any_schedule(tiny_model("qwen2", tokenizer), tokenizer, texts, sampling, schedules)
    text = "The doctor"
    while len(ids_of(tokenizer, text)) % 32:  # its samples share all its pages, and their own begin empty
        text += "."
    sampling, schedules = replace(sampling, samples=9, stop=("e", "a")), ((4, 512, [0, 1, 2]), (128, 512, [0]))
    expected = assert_same_in_any_schedule(llama, tokenizer, [text, "A", text[:-1]], sampling, schedules)
    assert len({len(completion.tokens) for completion in expected[0]}) > 3
    torch.set_num_threads(2)
    sampling = Sampling(max_tokens=2, samples=3, temperature=1.0)
    assert_same_in_any_schedule(llama, tokenizer, ["The doctor", "A"], sampling, [(1, 40, [0])])
    torch.set_num_threads(1)


def test_samples_depend_on_the_seed_the_key_and_their_number(tokenizer, llama):
    engine = engine_of(llama, tokenizer)
    first = completions(engine, ["The doctor"], SAMPLED)[0]
    assert len({completion.tokens for completion in first}) == SAMPLED.samples
    assert completions(engine, ["The doctor"], SAMPLED)[0] == first
    assert completions(engine, ["The doctor"], SAMPLED, seed=1)[0] != first
    assert completions(engine, [Prompt("another", "The doctor")], SAMPLED)[0] != first
    assert completions(engine, ["The doctor"], replace(SAMPLED, samples=2))[0] == first[:2]


def test_a_stop_string_cuts_the_text_and_its_tokens_are_kept(tokenizer, llama):
    engine, prompt = engine_of(llama, tokenizer), ["The doctor told the nurse that"]
    whole = completions(engine, prompt, Sampling(max_tokens=20))[0][0]
    for at in (3, 7, 11):
        stop = whole.text[at : at + 4]
        # "nurse" is in the prompt, where it stops nothing
        found = completions(engine, prompt, Sampling(max_tokens=20, stop=("nurse", stop)))[0][0]
        assert (found.finish, found.text) == ("stop", whole.text[: whole.text.index(stop)])
        assert found.tokens == whole.tokens[: len(found.tokens)]
        assert len(found.logprobs) == len(found.entropies) == len(found.tokens)
        assert stop in tokenizer.decode(found.tokens)
        assert stop not in tokenizer.decode(found.tokens[:-1])


@pytest.fixture(scope="module")
def byte_tokenizer():
    """Every byte is a token; two or four z are one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["</s>", *alphabet, "zz", "zzzz"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("z", "z"), ("zz", "zz")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def ending(tokenizer, tokens, stop=(), ends=()):
    """How many tokens were read, one after the other, why the text ended, and the text."""
    decoding = Decoding(tokenizer, ends, Sampling(100, stop=tuple(stop)))
    found = ((count, decoding.end(tokens[:count])) for count in range(1, len(tokens) + 1))
    return next(([count, *end] for count, end in found if end), None)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(("text", "stop", "expected"), cases("replies")["stop_strings"])
def test_the_first_stop_string_cuts_a_text(text, stop, expected, byte_tokenizer):
    assert ending(byte_tokenizer, ids(byte_tokenizer, text), stop) == expected


def test_a_stop_string_may_surround_or_spell_special_tokens(byte_tokenizer, tokenizer):
    a, b = ids(byte_tokenizer, "ab")
    tokens = [a, *[byte_tokenizer.eos_token_id] * 30, b]
    assert ending(byte_tokenizer, tokens, ("ab",)) == [32, "stop", ""], "the text has no special tokens"
    tokens = [*ids(tokenizer, "yes"), tokenizer.pad_token_id, *ids(tokenizer, "no")]
    assert ending(tokenizer, tokens, ("<pad>",))[1:] == ["stop", "yes"]


def test_every_end_token_of_the_models_files_ends_a_text_and_is_not_in_it(tokenizer, llama):
    """Chat models end a turn with one token and a document with another."""
    whole = completions(engine_of(llama, tokenizer), ["The doctor"], Sampling(max_tokens=12))[0][0]
    at = next(i for i, token in enumerate(whole.tokens) if i > 2 and token not in whole.tokens[:i])
    llama.generation_config.eos_token_id = [7, whole.tokens[at]]
    llama.config.eos_token_id = 11
    ends = end_tokens(llama, tokenizer)
    assert ends == {7, 11, whole.tokens[at], tokenizer.eos_token_id}
    words = ids(tokenizer, "The doctor")
    for end in sorted(ends):
        assert ending(tokenizer, [*words, end, *words], ends=ends) == [len(words) + 1, "end", "The doctor"]
    found = completions(engine_of(llama, tokenizer), ["The doctor"], Sampling(max_tokens=12))[0][0]
    assert (found.finish, found.tokens) == ("end", whole.tokens[: at + 1])
    assert found.text == tokenizer.decode(whole.tokens[:at])


def test_a_chat_prompt_is_the_message_in_the_template_and_a_missing_or_failing_template_one_line(llama):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}[{{ messages[0].role }}] {{ messages[0].content }}\n[assistant]"
    engine = engine_of(llama, tokenizer)
    assert engine.chat_template
    prompt = "[user] Is it safe?\n[assistant]"
    found = completions(engine, ["Is it safe?"], Sampling(max_tokens=8), chat=True)[0][0]
    assert found.tokens == greedy_by_transformers(llama, ids_of(tokenizer, prompt), 8)
    assert found != completions(engine, ["Is it safe?"], Sampling(max_tokens=8))[0][0]
    for template, message in (
        (None, "the tokenizer has no chat template"),
        ("{{ raise_exception('system first\nplease') }}", r"^chat template: .*system first\)$"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(AlignbenchError, match=message):
            completions(engine_of(llama, tokenizer), ["yes"], Sampling(max_tokens=1), chat=True)


@pytest.mark.needs_models
def test_a_real_model_generates_what_transformers_generates(tinystories):
    engine = load_engine(find_checkpoint(str(tinystories)), dtype="float32", device="cpu")
    texts = ["Once upon a time, there was a little girl named Lily.", "Tom and his dog", "The sun was", "One day"]
    assert_greedy(engine, texts, 40)


@pytest.mark.needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_gpu_scores_and_generates_as_the_cpu(architecture, tokenizer):
    model = tiny_model(architecture, tokenizer)
    engine = engine_of(tiny_model(architecture, tokenizer).to("cuda"), tokenizer)
    assert_each_as_alone(answers(engine, DESCRIBED), model, tokenizer, DESCRIBED, 1e-3)
    assert (engine.layout, engine.budget.tokens >= 256) == ("prefix tree", True)
    expected, found = (completions(e, TEXTS, SAMPLED) for e in (engine_of(model, tokenizer), engine))
    assert engine.layout == "padded batch"
    pairs = [pair for index in expected for pair in zip(expected[index], found[index], strict=True)]
    assert sum(a.tokens == b.tokens for a, b in pairs) >= 0.9 * len(pairs)  # rounding may change a draw
    assert all(a.logprobs[0] == pytest.approx(b.logprobs[0], abs=1e-3) for a, b in pairs[:: SAMPLED.samples])
