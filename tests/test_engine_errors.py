"""The local engine: invalid settings, requests and prompts that do not fit, weights that are not finite, and memory."""

import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engine import DESCRIBED, QUESTIONS, REQUESTS, answers, assert_each_as_alone, spelled
from test_generate import QUESTIONS as PROMPTS
from test_generate import SAMPLED, TEXTS, assert_greedy, completions, ids_of, prompts_of
from tiny import Calls, engine_of, tiny_model

from alignbench.types.engine import Request, Sampling

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_cannot_be_scored_has_a_reason_and_the_rest_is_scored(tokenizer, llama):
    """Continuations without tokens, sequences that are too long, tokens outside the vocabulary."""
    empty = [Request("The doctor", ""), Request("", ""), Request("", "<s>")]
    lengths = [len(spelled(tokenizer, request)[0]) - 1 for request in REQUESTS]  # tokens that the model reads
    window = sorted(lengths)[-4]
    found = answers(engine_of(llama, tokenizer, window=window), [*REQUESTS, *empty])
    reasons = [f"{n} tokens do not fit the model's window of {window}" if n > window else None for n in lengths]
    reasons += ["the continuation has no tokens"] * 3
    assert [found[index].unscored for index in range(len(reasons))] == reasons
    assert all(np.isnan(answer.logprob) for answer in found.values() if answer.unscored)
    fitting = [index for index, reason in enumerate(reasons) if reason is None]
    scored = {at: found[index] for at, index in enumerate(fitting)}
    assert_each_as_alone(scored, llama, tokenizer, [REQUESTS[index] for index in fitting])
    assert list(answers(engine_of(llama, tokenizer), empty, {1})) == [1]
    llama.resize_token_embeddings(max(max(spelled(tokenizer, request)[0]) for request in QUESTIONS))
    found = answers(engine_of(llama, tokenizer), QUESTIONS)
    assert any("not in the model's vocabulary" in (answer.unscored or "") for answer in found.values())


@pytest.mark.parametrize("fast", [None, False])
def test_a_model_with_nan_weights_scores_and_generates_nothing(fast, tokenizer, llama):
    with torch.no_grad():
        llama.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    found = answers(engine_of(llama, tokenizer, trees=fast), DESCRIBED)
    assert sorted(found) == list(range(len(REQUESTS)))
    assert all("nan" in answer.unscored and np.isnan(answer.logprob) for answer in found.values())
    assert all(answer.entropies == answer.top_entropies == () for answer in found.values())
    written = completions(engine_of(llama, tokenizer, packs=fast), TEXTS, SAMPLED)
    assert {c.unscored for answers in written.values() for c in answers} == {"the logits are not finite"}


def test_a_token_of_probability_zero_leaves_the_entropies_finite(tokenizer, llama):
    """Some models give the unused end of a padded vocabulary a logit of −∞."""
    head = llama.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    head.bias.data[[0, tokenizer("🐝", add_special_tokens=False).input_ids[-1]]] = -torch.inf
    requests = [Request("The doctor", " told the nurse", True), Request("Größe", " 🐝", True)]
    found = answers(engine_of(llama, tokenizer), requests)
    assert found.pop(1).unscored == "the log-probability is -inf"
    assert_each_as_alone(found, llama, tokenizer, requests[:1])
    assert np.isfinite(found[0].entropies).all()


CHOICES = ["Mars", "Venus", "honey", "wax", "the Moon", "toxic gas", "flowers", "the nurse", "vinegar"]
ONE_TREE = [Request("Which planet is red?", f" {c}{end}") for c in CHOICES for end in ("", " and flowers")]
ONE_TREE.append(Request("A.", " yes"))  # so that the question is the trunk of a tree and not a shared prefix
ROWS = [f"{letter}{letter} planet" + f" nurse {letter} honey" * 12 for letter in "abcdefghijklmnopqrst"]
MANY_ROWS = [Request(context, choice) for context in ROWS for choice in (" yes", " no")]


@pytest.mark.parametrize(
    ("requests", "most_tokens", "budgets"),
    [(REQUESTS, 60, [256, 128, 64]), (ONE_TREE, 30, [256]), (MANY_ROWS, 256, [256])],
    ids=["rows", "one tree", "fits after one halving"],
)
def test_a_batch_that_does_not_fit_is_split(requests, most_tokens, budgets, tokenizer, llama):
    """Batches planned before the budget was halved are split without halving it again."""
    notes, calls = [], Calls(llama, most_tokens)
    found = answers(engine_of(llama, tokenizer, notes, token_budget=512), requests)
    halvings = [f"out of memory: token budget halved to {budget}" for budget in budgets]
    assert notes[: len(budgets)] == halvings
    assert notes == halvings or requests is not MANY_ROWS
    assert len(calls.arguments) > 3
    assert_each_as_alone(found, llama, tokenizer, requests)


def test_a_sequence_that_never_fits_is_unscored_and_the_others_are_scored(tokenizer, llama):
    notes, large = [], Request("bleach " * 60, "and vinegar")
    Calls(llama, most_tokens=60)
    found = answers(engine_of(llama, tokenizer, notes), [*REQUESTS, large])
    assert "memory" in found.pop(len(REQUESTS)).unscored
    assert any("a single sequence does not fit" in note for note in notes)
    assert_each_as_alone(found, llama, tokenizer, REQUESTS)
    both = answers(engine_of(llama, tokenizer), [large, replace(large, continuation="and wax")])  # a shared prefix
    assert all("memory" in answer.unscored and np.isnan(answer.logprob) for answer in both.values())


def test_a_prompt_that_does_not_fit_window_or_vocabulary_is_unscored_and_the_others_are_continued(tokenizer, llama):
    longest = len(ids_of(tokenizer, PROMPTS[3]))
    sampling = Sampling(max_tokens=10, samples=2, temperature=1.0)
    fits, found = (completions(engine_of(llama, tokenizer, window=longest + n), PROMPTS, sampling) for n in (10, 9))
    assert all(c.unscored is None for answers in fits.values() for c in answers)
    assert all(f"window of {longest + 9}" in c.unscored and c.tokens == () for c in found[3])
    assert [found[index] for index in range(3)] == [fits[index] for index in range(3)]
    with pytest.raises(ValueError, match="empty stop string"):
        completions(engine_of(llama, tokenizer), ["yes"], Sampling(3, stop=("",)))
    llama.resize_token_embeddings(max(ids_of(tokenizer, TEXTS[0])), mean_resizing=False)
    assert "vocabulary" in completions(engine_of(llama, tokenizer), [TEXTS[0], "A"], Sampling(2))[0][0].unscored


def test_a_sample_with_nan_logits_does_not_affect_the_others(tokenizer, llama):
    """One token is broken: samples that reach it end, and the pages that they leave are clean for the next."""
    prompts = prompts_of([*TEXTS, *TEXTS[::-1]])
    expected = completions(engine_of(llama, tokenizer), prompts, SAMPLED)
    read = {token for prompt in prompts for token in ids_of(tokenizer, prompt.text)}
    written = [token for found in expected.values() for c in found for token in c.tokens[:-1] if token not in read]
    broken = max(written, key=written.count)
    with torch.no_grad():
        llama.model.embed_tokens.weight[broken] = torch.nan
    found = completions(engine_of(llama, tokenizer, most_rows=1), prompts, SAMPLED)
    for before, after in ((b, a) for index in expected for b, a in zip(expected[index], found[index], strict=True)):
        reached = broken in before.tokens[:-1]
        assert (after.unscored == "the logits are not finite" and not after.tokens) if reached else after == before
    assert 0 < written.count(broken) < SAMPLED.samples * len(prompts)


def test_out_of_memory_means_fewer_rows_and_the_same_samples_or_none(tokenizer, llama):
    def compute(notes, **options):
        found = completions(engine_of(llama, tokenizer, notes, gpu=True, **options), TEXTS, SAMPLED)
        return [[(c.tokens, c.unscored) for c in found[index]] for index in range(len(TEXTS))]

    expected = compute([])
    longest = max(len(ids_of(tokenizer, text)) for text in TEXTS)
    notes, calls = [], Calls(llama, most_tokens=longest)
    assert compute(notes) == expected
    limits = [int(re.fullmatch("out of memory: at most ([0-9]+) samples at once from now on", n)[1]) for n in notes]
    assert limits
    assert all(2 * after <= before for before, after in itertools.pairwise(limits))
    assert max(rows * columns for rows, columns in calls.sizes) <= longest
    Calls(llama, most_tokens=0)
    assert {unscored for found in compute([], packs=True) for _, unscored in found} == {"out of the device's memory"}
    model, sampling = tiny_model("bloom", tokenizer), Sampling(max_tokens=5, samples=8, temperature=1.0)
    expected = completions(engine_of(model, tokenizer), ["A"], sampling)  # one prompt at a time
    Calls(model, most_tokens=60)
    found = completions(engine_of(model, tokenizer, notes), ["A", PROMPTS[0]], sampling)
    assert found[0] == expected[0]
    assert all("memory" in completion.unscored for completion in found[1])
    assert "out of memory: at most 4 samples at once from now on" in notes


def test_samples_that_begin_later_for_want_of_memory_replace_no_running_ones(tokenizer):
    model, sampling = tiny_model("bloom", tokenizer), Sampling(max_tokens=12, samples=5, temperature=1.0, stop=("e",))

    def tokens():
        found = completions(engine_of(model, tokenizer), list("ABCDEFGH"), sampling)
        return {index: [completion.tokens for completion in own] for index, own in found.items()}

    expected = tokens()
    Calls(model, most_tokens=4)  # two, two and one sample of a prompt
    assert tokens() == expected


def test_beyond_a_sliding_window_or_with_another_attention_than_ours_generation_is_sequential(tokenizer, llama):
    model, notes = tiny_model("mistral", tokenizer, sliding_window=48), []
    assert len(ids_of(tokenizer, PROMPTS[0])) > 48
    engine = engine_of(model, tokenizer, notes)
    assert_greedy(engine, ["The doctor", PROMPTS[0]], 10)
    assert any("attention window of 48" in note for note in notes)
    assert engine.work()["layout"] == "packed row"

    def doubled(module, arguments, found):
        return (found[0] if module.config._attn_implementation == "sdpa" else 2 * found[0]), found[1]

    for layer in llama.model.layers:
        layer.self_attn.register_forward_hook(doubled)
    notes = []
    assert_greedy(engine_of(llama, tokenizer, notes), TEXTS[:2], 5)
    assert "log-probabilities differ" in notes[0]


def test_a_prompt_that_does_not_fit_beside_running_samples_is_generated_later(tokenizer, llama):
    texts, forward, failed = [f"nurse {n}" for n in range(6)], llama.forward, []
    sampling = Sampling(9, temperature=1.0, stop=("e",))
    expected = completions(engine_of(llama, tokenizer, gpu=True, packs=True), texts, sampling)

    @functools.wraps(forward)
    def failing(**arguments):
        rows, columns = arguments["input_ids"].shape
        if rows == 1 and columns > 1 and not failed:  # one of two samples has ended, and the next prompt enters
            failed.append(columns)
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return forward(**arguments)

    llama.forward, notes = failing, []
    found = completions(engine_of(llama, tokenizer, notes, gpu=True, packs=True, most_rows=2), texts, sampling)
    assert notes == ["out of memory: at most 1 samples at once from now on"]
    assert [found[index][0].tokens for index in range(6)] == [expected[index][0].tokens for index in range(6)]
