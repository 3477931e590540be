"""Models of the recipe: heads, loading, dropout, adapters, and texts as token ids."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from cases import cases, update
from commands import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from stages import logprobs_alone, tiny_classifier
from tiny import SENTENCES, save_tiny_checkpoint, tiny_model, tiny_tokenizer
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from alignbench.models.encode import Encoder
from alignbench.types.engine import Prompt, Sampling
from trainers.config import StageConfig
from trainers.loop import make_accelerator
from trainers.models import Policy, Scalar, Texts, add_lora, load, place, residual_dropout, save_model
from trainers.packing import Example, pack
from trainers.sampler import Sampler

EXAMPLES = [Example([1, 9, 30, 4], [[50, 61, 7], [8]]), Example([1, 5], [[70, 12, 13, 14, 90]])]


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("causal"))


def test_a_checkpoint_that_cannot_be_trained_is_refused(causal, tmp_path):
    folder, line = Path(shutil.copytree(causal, tmp_path / "broken")), "1 weights are not in its files (first: "
    assert line + "score.weight)" in refusal(lambda: load(str(folder), "reward"))
    (folder / "tokenizer.json").write_text("{}")
    assert "its tokenizer does not load" in refusal(lambda: load(str(folder), "causal"))
    shutil.copy(causal / "tokenizer.json", folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert line + "model.layers.1.mlp.up_proj.weight)" in refusal(lambda: load(str(folder), "causal"))
    update(folder / "config.json", hidden_size=64)
    assert "does not load as a causal model" in refusal(lambda: load(str(folder), "causal"))
    update(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.Model"})
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert "custom Python code, which is run for" in refusal(lambda: load(str(folder), "causal"))
    assert not (folder / "ran").exists()
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=400, num_labels=1, **small)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    assert "give the reward as a function, module:function" in refusal(lambda: load(str(folder), "reward"))


def test_a_sliding_window_limits_the_sequence_length(tmp_path):
    """Packed rows attend to all earlier tokens; the model would not beyond its window."""
    save_tiny_checkpoint(tmp_path, "mistral", sliding_window=24)
    model, _, checkpoint = load(str(tmp_path), "causal")
    assert checkpoint.window == 24
    tokens, off = np.random.default_rng(0).integers(3, 300, 40).tolist(), []
    for response in (tokens[4:24], tokens[4:]):
        with torch.no_grad():
            found = Policy(copy.deepcopy(model))(pack([Example(tokens[:4], [response])]))[0]
            off.append(float((found - logprobs_alone(model, tokens[:4], response)).abs().max()))
    assert off[0] < 1e-4 < off[1]


def test_the_head_runs_only_where_it_is_needed_and_a_model_that_cannot_do_so_is_refused(causal, monkeypatch):
    model, _, _ = load(str(causal), "causal")
    packed, shapes = pack(EXAMPLES), []
    hook = model.lm_head.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape)))
    with torch.no_grad():
        Policy(model)(packed)
    hook.remove()
    assert shapes == [(1, len(packed.targets), model.config.vocab_size)]
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, input_ids=None, **rest: forward(self, input_ids, **rest))
    line = refusal(lambda: load(str(causal), "causal"))
    assert "cannot be trained packed (its forward does not take logits_to_keep)" in line


BLOCKS = cases("training")["dropout"]


@pytest.mark.parametrize("architecture", BLOCKS)
def test_residual_dropout_drops_its_rate_of_each_blocks_output_in_training_only(architecture):
    layer, *blocks, own = BLOCKS[architecture]
    model, tokens = tiny_model(architecture, tiny_tokenizer(), **dict.fromkeys(own, 0.1)).eval(), torch.arange(3, 203)
    with torch.no_grad():
        expected = model(tokens[None]).logits
        residual_dropout(model, 0.0)
        assert torch.equal(model.train()(tokens[None]).logits, expected)  # the model's own dropout is off
        residual_dropout(model.eval(), 0.2)
        assert torch.equal(model(tokens[None]).logits, expected)
        for name in blocks:
            block, seen = model.get_submodule(f"{layer}.{name}"), []
            # registered after the dropout's own hook; earlier blocks stay in evaluation mode
            block.register_forward_hook(
                lambda module, given, out, seen=seen: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            model(tokens[None])
            block.train()
            torch.manual_seed(0)
            model(tokens[None])
            model.eval()
            whole, dropped = seen[0].flatten(), seen[1].flatten()
            kept = dropped != 0
            assert float((~kept).float().mean()) == pytest.approx(0.2, abs=0.03)  # of 6,400: 6 standard errors
            torch.testing.assert_close(dropped[kept], whole[kept] / 0.8, rtol=1e-4, atol=1e-5)
    unknown = nn.Sequential(nn.Linear(2, 2))
    residual_dropout(unknown, 0.0)
    assert "dropout=0" in refusal(lambda: residual_dropout(unknown, 0.2))


pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")


def adapted(model, seed=0):
    """With LoRA whose second matrices are not 0."""
    model = add_lora(model, 4, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_disabled_adapter_leaves_the_base_model_and_a_merged_one_the_adapted_model(architecture, tmp_path):
    tokenizer, packed = tiny_tokenizer(), pack(EXAMPLES)
    base = tiny_model(architecture, tokenizer)
    with torch.no_grad():
        plain = Policy(copy.deepcopy(base))(packed)[0]
        fresh = Policy(add_lora(copy.deepcopy(base), 4, 0).eval())(packed)[0]
        torch.testing.assert_close(fresh, plain, rtol=0, atol=5e-5)  # a new adapter changes nothing
        policy = Policy(adapted(base).eval())
        expected = policy(packed)[0]
        assert float((expected - plain).abs().max()) > 0.1
        with policy.model.disable_adapter():
            assert torch.equal(policy(packed)[0], plain)
        save_model(tmp_path, make_accelerator(StageConfig(out="", cpu=True)), policy, tokenizer)
        merged = Policy(load(str(tmp_path), "causal")[0])(packed)[0]
        torch.testing.assert_close(merged, expected, rtol=0, atol=2e-4)
        assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
        assert torch.equal(policy(packed)[0], expected)  # training continues with the adapter


def test_with_lora_a_scalar_head_is_trained_in_full_and_saved(tmp_path):
    tokenizer, packed = tiny_tokenizer(), pack(EXAMPLES)
    model = adapted(tiny_classifier("llama", tokenizer))
    (head,) = [p for name, p in model.named_parameters() if p.requires_grad and "score" in name]
    assert tuple(head.shape) == (1, 32)
    with torch.no_grad():
        head.add_(1.0)
        expected = Scalar(model)(packed, packed.last)
        save_model(tmp_path, make_accelerator(StageConfig(out="", cpu=True)), Scalar(model), tokenizer)
        found = Scalar(load(str(tmp_path), "reward")[0])(packed, packed.last)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


WORDS = st.lists(st.sampled_from(" ".join(SENTENCES).split(" ")), max_size=6).map(" ".join)
TOKENIZERS = [tiny_tokenizer(), tiny_tokenizer(bos=False), tiny_tokenizer(ends=True)]


@given(WORDS, WORDS, st.integers(0, 12), st.sampled_from(TOKENIZERS))
@settings(deadline=None)
def test_a_response_is_the_tokens_after_the_prompt_as_the_engine_encodes_it(prompt, response, cut, tokenizer):
    """For any cut, also within words: the prompt's tokens are always those that a rollout starts with."""
    prompt, response = prompt + response[:cut], response[cut:]
    texts = Texts(tokenizer)
    (ids,) = texts.prompts([prompt])
    found = texts.response(prompt, ids, response)
    assert ids == Encoder(tokenizer).contexts([Prompt("key", prompt).text])[0].tolist()
    assert found[-1] == tokenizer.eos_token_id
    assert found.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(found[:-1]) == response


def test_merged_tokens_are_separated_and_an_existing_end_token_is_not_added_again():
    tokenizer, bare = tiny_tokenizer(), tiny_tokenizer(bos=False)
    texts, end = Texts(tokenizer), tokenizer.eos_token_id
    short, whole = texts.prompts(["The doc", "Answer:"])
    assert tokenizer("The doctor")["input_ids"][: len(short)] != short  # there is a merge
    assert tokenizer.decode(texts.response("The doc", short, "tor")) == "tor</s>"
    for response in (" honey", " honey</s>"):
        assert [*whole, *texts.response("Answer:", whole, response)] == [*tokenizer("Answer: honey")["input_ids"], end]
    # an empty prompt is the start token, or else the end token
    starts = [Texts(each).prompts([""]) for each in (tokenizer, bare)]
    assert starts == [[[tokenizer.bos_token_id]], [[bare.eos_token_id]]]
    bare.eos_token = None
    assert "empty prompt" in refusal(lambda: Texts(bare).prompts([""]))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_sampler_follows_the_policy_and_holds_no_weights_between_calls(precision):
    tokenizer = tiny_tokenizer()
    model, drawn = tiny_model("llama", tokenizer), Sampling(max_tokens=6, temperature=1.0)
    config = StageConfig(out="", mixed_precision=precision, cpu=True)
    sampler = Sampler(Policy(model), tokenizer, 64, make_accelerator(config, print))
    keys, prompts = [f"0:{k}" for k in range(3)], ["The doctor"] * 3
    first, again = (sampler.sample(keys, prompts, drawn, 1) for _ in range(2))
    assert first == again
    assert len({completion.tokens for completion in first}) > 1, "one prompt under several keys"
    if precision == "bf16":
        parameters = list(sampler.copy.parameters())
        assert {p.untyped_storage().nbytes() for p in parameters} == {2}, "one number, of all"
        assert [p.shape for p in parameters] == [p.shape for p in model.parameters()]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    assert [c.tokens for c in sampler.sample(keys, prompts, drawn, 1)] != [c.tokens for c in first]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_recomputed_layers_give_the_same_gradients_with_the_attention_of_packed_rows(architecture):
    tokenizer, packed, calls = tiny_tokenizer(), pack(EXAMPLES), []
    model = tiny_model(architecture, tokenizer).eval()
    plain, changed = Policy(model), place(Policy(copy.deepcopy(model)), Accelerator(cpu=True), recompute=True)
    block = next(m for m in changed.modules() if isinstance(m, GradientCheckpointingLayer))
    next(block.children()).register_forward_hook(lambda *_: calls.append(1))
    for policy in (plain, changed):
        policy(packed)[0].sum().backward()
    assert len(calls) == 2, "forward pass, and again in the backward pass"
    for one, other in zip(plain.parameters(), changed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("offload", [False, True])
def test_frozen_models_are_in_bf16_with_fp32_rotary_frequencies_and_may_stay_in_cpu_memory(offload):
    model, packed = tiny_model("llama", tiny_tokenizer()), pack(EXAMPLES)
    with torch.no_grad():
        expected = Policy(model)(packed)[0]
        half = SimpleNamespace(mixed_precision="bf16", device=torch.device("cpu"), distributed_type="NO")
        frozen = place(Policy(copy.deepcopy(model)), half, frozen=True, offload=offload)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(frozen(packed)[0], expected, rtol=0, atol=0.1)
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in frozen.parameters()} == {"meta" if offload else "cpu"}
    assert all(b.dtype == torch.float32 for n, b in frozen.named_buffers() if "inv_freq" in n)


def test_with_lora_only_adapters_and_heads_have_four_bytes():
    policy = Policy(add_lora(tiny_classifier("llama", tiny_tokenizer()), 4, 0))
    place(policy, SimpleNamespace(mixed_precision="bf16", device=torch.device("cpu"), distributed_type="NO"))
    assert {(p.dtype, p.requires_grad) for p in policy.parameters()} == {(torch.bfloat16, False), (torch.float32, True)}
