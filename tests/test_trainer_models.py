"""Models of the recipe: heads, loading, dropout, adapters, and texts as token ids."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from stages import refusal
from tiny import SENTENCES, save_tiny_checkpoint, tiny_model, tiny_tokenizer
from torch import nn
from training_models import exact, logprobs_alone, score_alone, tiny_classifier

from alignbench.models.encode import Encoder
from alignbench.types.engine import Prompt
from trainers.models import Policy, Scalar, Texts, add_lora, load, residual_dropout, save_model, scalar_padding
from trainers.packing import Example, pack

EXAMPLES = [Example([1, 9, 30, 4], [[50, 61, 7], [8]]), Example([1, 5], [[70, 12, 13, 14, 90]])]


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("causal"))


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# The scalar head


def test_the_score_is_read_at_the_last_token_even_if_the_pad_token_is_the_end_token():
    """Detail 1: stock transformers would step back over end tokens that equal the pad token."""
    tokenizer = tiny_tokenizer(pad=False)
    end = tokenizer.eos_token_id
    model = tiny_classifier("llama", tokenizer, pad_token_id=end)
    ends = Example([1, 9, 30], [[50, 61, end], [end]])
    packed = pack([ends])
    with torch.no_grad():
        found = Scalar(model)(packed, packed.last)
        expected = torch.stack([score_alone(exact(model), ends.prompt, r) for r in ends.responses])
        stock = model(torch.tensor([[1, 9, 30, 50, 61, end]])).logits[0, 0]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-5)
    assert abs(float(stock - found[0])) > 0.01


def test_values_are_read_before_each_response_token():
    model = tiny_classifier("llama", tiny_tokenizer())
    packed, reference = pack(EXAMPLES), exact(model)
    prefixes = [(e.prompt, r[:at]) for e in EXAMPLES for r in e.responses for at in range(len(r))]
    with torch.no_grad():
        found = Scalar(model)(packed, packed.before)
        expected = torch.stack([score_alone(reference, prompt, response) for prompt, response in prefixes])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-5)


def test_the_pad_token_of_a_reward_model_is_never_its_end_token():
    with_pad, with_start = tiny_tokenizer(), tiny_tokenizer(pad=False)
    with_start.pad_token = with_start.eos_token
    assert scalar_padding(with_pad) == with_pad.pad_token_id
    assert scalar_padding(with_start) == with_start.bos_token_id
    assert scalar_padding(tiny_tokenizer(bos=False, pad=False)) is None


# Loading


def test_a_new_head_is_determined_by_its_seed_and_has_the_papers_variance(causal):
    heads = [load(str(causal), "reward", new_head=seed)[0].score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(33**-0.5, rel=0.4)


def break_checkpoint(causal, folder, what):
    """A checkpoint that must be refused."""
    if what == "encoder":
        small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
        config = transformers.BertConfig(vocab_size=400, num_labels=1, **small)
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder
    shutil.copytree(causal, folder)
    if what == "weights":
        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif what == "config":
        edit_json(folder / "config.json", hidden_size=64)
    elif what == "code":
        edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.Model"})
        (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    return folder


@pytest.mark.parametrize(
    ("what", "kind", "line"),
    [
        ("no head", "reward", "1 weights are not in its files (first: score.weight)"),
        ("weights", "causal", "1 weights are not in its files (first: model.layers.1.mlp.up_proj.weight)"),
        ("encoder", "reward", "has no scalar head over a causal model; give the reward as a function, module:function"),
        ("config", "causal", "does not load as a causal model"),
        ("code", "causal", "custom Python code, which the trainers do not run"),
    ],
)
def test_a_checkpoint_that_cannot_be_trained_is_refused(causal, tmp_path, what, kind, line):
    folder = break_checkpoint(causal, tmp_path / "broken", what)
    found = refusal(lambda: load(str(folder), kind))
    assert line in found
    assert "trust" not in found  # the trainers have no option to allow code
    assert not (folder / "ran").exists()


def test_a_sliding_window_limits_the_sequence_length(tmp_path):
    """Packed rows attend to all earlier tokens; the model would not beyond its window."""
    tokenizer = tiny_tokenizer()
    tiny_model("mistral", tokenizer, sliding_window=24).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _, checkpoint = load(str(tmp_path), "causal")
    assert checkpoint.window == 24
    draw, off = np.random.default_rng(0), []
    for length in (24, 40):
        tokens = draw.integers(3, 300, length).tolist()
        with torch.no_grad():
            found = Policy(copy.deepcopy(model))(pack([Example(tokens[:4], [tokens[4:]])]))[0]
            off.append(float((found - logprobs_alone(model, tokens[:4], tokens[4:])).abs().max()))
    assert off[0] < 1e-4 < off[1]


def test_the_head_runs_only_where_it_is_needed_and_a_model_that_cannot_do_so_is_refused(causal, monkeypatch):
    model, _, _ = load(str(causal), "causal")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
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


# Dropout

DROPOUT = {
    "llama": ["attention_dropout"],
    "gpt2": ["attn_pdrop", "resid_pdrop", "embd_pdrop"],
    "gpt_neox": ["attention_dropout", "hidden_dropout"],
    "opt": ["dropout", "attention_dropout", "layerdrop"],
}


def with_dropout(architecture):
    """A model with its own dropout switched on."""
    if architecture == "gpt_neo":  # its attention is a submodule of another attention module
        config = transformers.GPTNeoConfig(
            hidden_size=32, num_layers=2, attention_types=[[["global"], 2]], num_heads=4, vocab_size=300,
            resid_dropout=0.1, embed_dropout=0.1, attention_dropout=0.1,
        )  # fmt: skip
        return transformers.GPTNeoForCausalLM(config)
    return tiny_model(architecture, tiny_tokenizer(), **dict.fromkeys(DROPOUT[architecture], 0.1))


@pytest.mark.parametrize("architecture", DROPOUT)
def test_without_residual_dropout_training_mode_equals_evaluation_mode(architecture):
    model, packed = with_dropout(architecture), pack(EXAMPLES)
    with torch.no_grad():
        expected = Policy(copy.deepcopy(model).eval())(packed)[0]
        residual_dropout(model, 0.0)
        assert torch.equal(Policy(model.train())(packed)[0], expected)


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [
        ("llama", ["model.layers.0.self_attn", "model.layers.0.mlp"]),
        ("gpt2", ["transformer.h.0.attn", "transformer.h.0.mlp"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention", "gpt_neox.layers.0.mlp"]),
        ("opt", ["model.decoder.layers.0.self_attn", "model.decoder.layers.0.fc2"]),
        ("gpt_neo", ["transformer.h.0.attn", "transformer.h.0.mlp"]),
    ],
)
def test_residual_dropout_drops_its_rate_of_each_blocks_output_in_training_only(architecture, blocks):
    model = with_dropout(architecture).eval()
    tokens = torch.arange(3, 203)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        residual_dropout(model, 0.2)
        assert torch.equal(model(tokens).logits, expected)
        for name in blocks:
            block, seen = model.get_submodule(name), []
            # registered after the dropout's own hook; earlier blocks stay in evaluation mode
            block.register_forward_hook(
                lambda module, given, out, seen=seen: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            model(tokens)
            block.train()
            torch.manual_seed(0)
            model(tokens)
            model.eval()
            whole, dropped = seen[0].flatten(), seen[1].flatten()
            kept = dropped != 0
            assert float((~kept).float().mean()) == pytest.approx(0.2, abs=0.03)  # of 6,400: 6 standard errors
            torch.testing.assert_close(dropped[kept], whole[kept] / 0.8, rtol=1e-4, atol=1e-5)


def test_dropout_without_known_blocks_is_refused():
    assert "dropout=0" in refusal(lambda: residual_dropout(nn.Sequential(nn.Linear(2, 2)), 0.2))
    residual_dropout(nn.Sequential(nn.Linear(2, 2)), 0.0)


# LoRA

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
        for name, weights in (("own", None), ("gathered", policy.state_dict())):
            save_model(tmp_path / name, policy.model, tokenizer, weights, "model.")
            merged = Policy(load(str(tmp_path / name), "causal")[0])(packed)[0]
            torch.testing.assert_close(merged, expected, rtol=0, atol=2e-4)
            assert (tmp_path / name / "adapter" / "adapter_model.safetensors").exists()
        assert torch.equal(policy(packed)[0], expected)  # training continues with the adapter


def test_with_lora_a_scalar_head_is_trained_in_full_and_saved(tmp_path):
    tokenizer, packed = tiny_tokenizer(), pack(EXAMPLES)
    model = adapted(tiny_classifier("llama", tokenizer))
    (head,) = [p for name, p in model.named_parameters() if p.requires_grad and "score" in name]
    assert tuple(head.shape) == (1, 32)
    with torch.no_grad():
        head.add_(1.0)
        expected = Scalar(model)(packed, packed.last)
        save_model(tmp_path, model, tokenizer, model.state_dict())
        found = Scalar(load(str(tmp_path), "reward")[0])(packed, packed.last)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


# Texts as token ids

WORDS = st.lists(st.sampled_from(" ".join(SENTENCES).split(" ")), max_size=6).map(" ".join)
TOKENIZERS = [tiny_tokenizer(), tiny_tokenizer(bos=False)]


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


def test_tokens_that_merge_across_the_boundary_are_separated_and_others_are_kept():
    tokenizer = tiny_tokenizer()
    (ids,) = Texts(tokenizer).prompts(["The doc"])
    assert tokenizer("The doctor")["input_ids"][: len(ids)] != ids  # there is a merge
    assert tokenizer.decode(Texts(tokenizer).response("The doc", ids, "tor")) == "tor</s>"
    (ids,) = Texts(tokenizer).prompts(["Answer:"])
    found = Texts(tokenizer).response("Answer:", ids, " honey")
    assert [*ids, *found] == [*tokenizer("Answer: honey")["input_ids"], tokenizer.eos_token_id]


def test_an_existing_end_token_is_not_added_again():
    texts = Texts(tiny_tokenizer())
    (ids,) = texts.prompts(["Answer:"])
    assert texts.response("Answer:", ids, " yes</s>") == texts.response("Answer:", ids, " yes")
    assert texts.response("Answer:", ids, "") == [texts.tokenizer.eos_token_id]


def test_an_empty_prompt_is_the_start_token():
    for tokenizer in TOKENIZERS:
        texts = Texts(tokenizer)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        assert texts.prompts([""]) == [[start]]
        assert tokenizer.decode(texts.response("", [start], "Mars")[:-1]) == "Mars"
    bare = tiny_tokenizer(bos=False)
    bare.eos_token = None
    assert "empty prompt" in refusal(lambda: Texts(bare).prompts([""]))
