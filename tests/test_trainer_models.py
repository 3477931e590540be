"""Models of the recipe: heads, dropout, adapters, texts as token ids, and what is refused."""

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
from tiny import SENTENCES, save_tiny_checkpoint, tiny_model, tiny_tokenizer
from torch import nn
from training_models import logprobs_alone, score_alone, tiny_classifier

from alignbench.errors import AlignbenchError
from alignbench.models.encode import Encoder
from alignbench.types.engine import Prompt
from trainers import reward
from trainers.models import (
    BIAS,
    Policy,
    Scalar,
    Texts,
    add_lora,
    load,
    part,
    residual_dropout,
    save_model,
    scalar_padding,
)
from trainers.packing import Example, pack
from trainers.rewards import load_reward
from trainers.run import make_accelerator

EXAMPLES = [Example([1, 9, 30, 4], [[50, 61, 7], [8]]), Example([1, 5], [[70, 12, 13, 14, 90]])]
PAIRS = [
    ("Is it safe to mix bleach and vinegar?", " No. Never mix them."),
    ("Is it safe to mix bleach and vinegar?", " Yes"),
    ("What do bees make?", " honey, and wax for the hive"),
    ("What do bees make?", ""),
]


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory):
    return make_accelerator("no", [], tmp_path_factory.mktemp("trackers"), cpu=True)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("causal"))


def refusal(call, *arguments, **options):
    with pytest.raises(AlignbenchError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The scalar head


def test_the_score_is_read_at_the_last_real_token_even_where_pad_is_the_end_token():
    """Detail 1: transformers itself would step back over end tokens that equal the pad token."""
    tokenizer = tiny_tokenizer(pad=False)
    end = tokenizer.eos_token_id
    model = tiny_classifier("llama", tokenizer, pad_token_id=end)
    ends = [Example([1, 9, 30], [[50, 61, end], [end]])]
    packed = pack(ends)
    with torch.no_grad():
        found = Scalar(model)(packed, packed.last)
        expected = torch.stack([score_alone(model, [1, 9, 30], r) for r in ends[0].responses])
        stock = model(torch.tensor([[1, 9, 30, 50, 61, end]])).logits[0, 0]
    assert torch.allclose(found, expected, atol=1e-5)
    assert abs(float(stock - found[0])) > 0.01


def test_values_are_read_before_each_response_token():
    model = tiny_classifier("llama", tiny_tokenizer())
    packed = pack(EXAMPLES)
    with torch.no_grad():
        found = Scalar(model)(packed, packed.before)
        expected = [score_alone(model, e.prompt, r[:at]) for e in EXAMPLES for r in e.responses for at in range(len(r))]
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def trained_reward(folder, tokenizer, **config):
    """A reward model of one step, from a causal model that was saved with this tokenizer, and its metrics."""
    tiny_model("llama", tokenizer, **config).save_pretrained(folder / "sft")
    tokenizer.save_pretrained(folder / "sft")
    rows = [{"prompt": p, "responses": [r, " I do not know", " maybe"], "ranks": [1, 2, 2]} for p, r in PAIRS[::2]]
    shown = [{"prompt": p, "response": r} for p, r in PAIRS[::2]]
    for name, lines in (("rankings", rows * 2), ("demonstrations", shown)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return reward.train(
        reward.RewardConfig(
            model=str(folder / "sft"),
            data=str(folder / "rankings.jsonl"),
            validation=str(folder / "rankings.jsonl"),
            demonstrations=str(folder / "demonstrations.jsonl"),
            out=str(folder / "rm"),
            lr=1e-3,
            trackers=(),
            cpu=True,
        )
    )


@pytest.mark.parametrize("pad_is_end", [False, True])
def test_a_saved_reward_model_gives_stock_transformers_our_scores_less_the_bias(pad_is_end, tmp_path, accelerator):
    tokenizer = tiny_tokenizer(pad=not pad_is_end)
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    folder, metrics = trained_reward(tmp_path, tokenizer, pad_token_id=tokenizer.pad_token_id)

    model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    own = transformers.AutoTokenizer.from_pretrained(folder)
    assert not loading["missing_keys"]
    assert getattr(model.config, BIAS) == metrics["bias"]
    texts = [prompt + response + own.eos_token for prompt, response in PAIRS]
    batch = own(texts, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        stock = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]

    scorer = load_reward(str(folder), accelerator, micro_tokens=64)
    found = scorer(*zip(*PAIRS, strict=True))
    assert found == pytest.approx((stock + metrics["bias"]).tolist(), abs=1e-5)
    assert len({round(score, 3) for score in found}) == len(found)
    shown = scorer(*zip(*PAIRS[::2], strict=True))  # the bias brings demonstrations to 0
    assert sum(shown) == pytest.approx(0, abs=1e-5)


def test_the_pad_token_of_a_reward_model_is_never_its_end_token():
    with_pad, with_start, with_nothing = (
        tiny_tokenizer(),
        tiny_tokenizer(pad=False),
        tiny_tokenizer(bos=False, pad=False),
    )
    with_start.pad_token = with_start.eos_token
    assert scalar_padding(with_pad) == with_pad.pad_token_id
    assert scalar_padding(with_start) == with_start.bos_token_id
    assert scalar_padding(with_nothing) is None


# Loading


def test_a_new_head_follows_from_its_seed_and_has_the_papers_spread(causal):
    heads = [load(str(causal), "reward", new_head=seed)[0].score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(33**-0.5, rel=0.4)
    assert "score.weight" in refusal(load, str(causal), "reward")


def test_weights_that_are_not_in_the_files_are_named(causal, tmp_path):
    folder = shutil.copytree(causal, tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    line = refusal(load, str(folder), "causal")
    assert "1 weights are not in its files" in line
    assert "model.layers.1.mlp.up_proj.weight" in line


def test_an_encoder_has_no_scalar_head_over_a_causal_model(tmp_path):
    config = transformers.BertConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, num_labels=1
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert "module:function" in refusal(load, str(tmp_path), "reward")


def test_a_folder_that_does_not_load_is_one_line(causal, tmp_path):
    folder = shutil.copytree(causal, tmp_path / "broken")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert "does not load as a causal model" in refusal(load, str(folder), "causal")


def test_a_sliding_window_bounds_what_may_be_trained_on(tmp_path):
    """Packed rows see all that is before; the model would not, beyond its window."""
    tokenizer = tiny_tokenizer()
    tiny_model("mistral", tokenizer, sliding_window=24).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _, checkpoint = load(str(tmp_path), "causal")
    assert checkpoint.window == 24
    generator = np.random.default_rng(0)
    off = []
    for length in (24, 40):
        tokens = generator.integers(3, 300, length).tolist()
        with torch.no_grad():
            found = Policy(copy.deepcopy(model))(pack([Example(tokens[:4], [tokens[4:]])]))[0]
            off.append(float((found - logprobs_alone(model, tokens[:4], tokens[4:])).abs().max()))
    assert off[0] < 1e-4 < off[1]


def test_a_model_that_computes_all_logits_is_refused_and_no_hook_is_left_behind(causal, monkeypatch):
    """The head is asked for the columns before response tokens alone, in the way that transformers has for it."""
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
    assert "cannot be trained packed (its forward does not take logits_to_keep)" in refusal(load, str(causal), "causal")


def test_a_checkpoints_own_code_is_refused_and_no_option_is_named_that_there_is_not(causal, tmp_path):
    folder = shutil.copytree(causal, tmp_path / "code")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "own.Model"}}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    line = refusal(load, str(folder), "causal")
    assert "Python code of its own, which the trainers do not run" in line
    assert "trust" not in line
    assert not (tmp_path / "ran").exists()


# Dropout


def with_dropout(architecture):
    """A model whose own dropouts are on."""
    if architecture == "gpt_neo":  # its attention lies in another
        config = transformers.GPTNeoConfig(
            hidden_size=32, num_layers=2, attention_types=[[["global"], 2]], num_heads=4, vocab_size=300,
            resid_dropout=0.1, embed_dropout=0.1, attention_dropout=0.1,
        )  # fmt: skip
        return transformers.GPTNeoForCausalLM(config)
    names = {
        "llama": ["attention_dropout"],
        "gpt2": ["attn_pdrop", "resid_pdrop", "embd_pdrop"],
        "gpt_neox": ["attention_dropout", "hidden_dropout"],
        "opt": ["dropout", "attention_dropout", "layerdrop"],
    }
    return tiny_model(architecture, tiny_tokenizer(), **dict.fromkeys(names[architecture], 0.1))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "opt"])
def test_without_residual_dropout_training_mode_equals_evaluation_mode(architecture):
    model = with_dropout(architecture)
    packed = pack(EXAMPLES)
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
def test_residual_dropout_drops_its_share_of_each_blocks_output_in_training_alone(architecture, blocks):
    model = with_dropout(architecture).eval()
    tokens = torch.arange(3, 203)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        residual_dropout(model, 0.2)
        assert torch.equal(model(tokens).logits, expected)
        for name in blocks:
            seen = []
            # after the dropout's own hook; its input comes through blocks in evaluation mode
            model.get_submodule(name).register_forward_hook(
                lambda module, given, out, seen=seen: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            model(tokens)
            for module in model.get_submodule(name).modules():
                module.train()
            torch.manual_seed(0)
            model(tokens)
            model.eval()
            whole, dropped = seen[0].flatten(), seen[1].flatten()
            kept = dropped != 0
            assert float((~kept).float().mean()) == pytest.approx(0.2, abs=0.03)  # of 6,400: 6 standard errors
            assert torch.allclose(dropped[kept], whole[kept] / 0.8, rtol=1e-4, atol=1e-6)


def test_dropout_that_would_do_nothing_is_refused():
    assert "dropout=0" in refusal(residual_dropout, nn.Sequential(nn.Linear(2, 2)), 0.2)
    residual_dropout(nn.Sequential(nn.Linear(2, 2)), 0.0)


# LoRA


def adapted(model, seed=0):
    """With LoRA, its second matrices no longer 0."""
    model = add_lora(model, 4, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_switched_off_leaves_exactly_the_base_model(architecture):
    base = tiny_model(architecture, tiny_tokenizer())
    packed = pack(EXAMPLES)
    with torch.no_grad():
        expected = Policy(copy.deepcopy(base))(packed)[0]
        fresh = Policy(add_lora(copy.deepcopy(base), 4, 0).eval())(packed)[0]
        policy = Policy(adapted(base).eval())
        assert float((policy(packed)[0] - expected).abs().max()) > 0.1
        with policy.as_reference():
            assert torch.equal(policy(packed)[0], expected)
    assert torch.allclose(fresh, expected, atol=1e-5)  # an adapter begins as nothing


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("gathered", [False, True])
def test_a_merged_save_equals_the_adapted_model(architecture, gathered, tmp_path):
    """Also where the state dict is handed over, as the trainers do: it names adapters, the merged folder has none."""
    tokenizer = tiny_tokenizer()
    policy = Policy(adapted(tiny_model(architecture, tokenizer)).eval())
    packed = pack(EXAMPLES)
    weights = part(policy.state_dict(), "model.") if gathered else None
    with torch.no_grad():
        expected = policy(packed)[0]
        save_model(tmp_path, policy.model, tokenizer, weights)
        assert torch.allclose(Policy(load(str(tmp_path), "causal")[0])(packed)[0], expected, atol=1e-4)
        assert torch.equal(policy(packed)[0], expected)  # training goes on with the adapter
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_with_lora_a_scalar_head_is_trained_whole_and_saved(tmp_path):
    tokenizer = tiny_tokenizer()
    model = adapted(tiny_classifier("llama", tokenizer))
    trained = [p for name, p in model.named_parameters() if p.requires_grad and "score" in name]
    assert [tuple(p.shape) for p in trained] == [(1, 32)]
    packed = pack(EXAMPLES)
    with torch.no_grad():
        trained[0].add_(1.0)
        expected = Scalar(model)(packed, packed.last)
        save_model(tmp_path, model, tokenizer, model.state_dict())
        assert torch.allclose(Scalar(load(str(tmp_path), "reward")[0])(packed, packed.last), expected, atol=1e-4)


# Texts as token ids

WORDS = st.lists(st.sampled_from(" ".join(SENTENCES).split(" ")), max_size=6).map(" ".join)
TOKENIZERS = [tiny_tokenizer(), tiny_tokenizer(bos=False)]


@given(WORDS, WORDS, st.integers(0, 12), st.sampled_from(TOKENIZERS))
@settings(deadline=None)
def test_a_response_is_the_tokens_after_the_prompt_that_the_engine_encodes(prompt, response, cut, tokenizer):
    """Cut anywhere, within words too: the prompt's tokens are always those that a rollout begins with."""
    prompt, response = prompt + response[:cut], response[cut:]
    texts = Texts(tokenizer)
    (ids,) = texts.prompts([prompt])
    found = texts.response(prompt, ids, response)
    assert ids == Encoder(tokenizer).contexts([Prompt("key", prompt).text])[0].tolist()
    assert found[-1] == tokenizer.eos_token_id
    assert found.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(found[:-1]) == response


def test_a_merge_across_the_border_leaves_the_prompts_tokens_alone():
    tokenizer = tiny_tokenizer()
    whole = tokenizer("The doctor")["input_ids"]
    (ids,) = Texts(tokenizer).prompts(["The doc"])
    assert whole[: len(ids)] != ids  # else this shows nothing
    found = Texts(tokenizer).response("The doc", ids, "tor")
    assert tokenizer.decode(found) == "tor</s>"


def test_without_a_merge_the_response_has_the_tokens_that_it_has_in_the_whole_text():
    tokenizer = tiny_tokenizer()
    (ids,) = Texts(tokenizer).prompts(["Answer:"])
    found = Texts(tokenizer).response("Answer:", ids, " honey")
    assert [*ids, *found] == [*tokenizer("Answer: honey")["input_ids"], tokenizer.eos_token_id]


def test_an_end_token_that_is_there_is_not_added_again():
    texts = Texts(tiny_tokenizer())
    (ids,) = texts.prompts(["Answer:"])
    assert texts.response("Answer:", ids, " yes</s>") == texts.response("Answer:", ids, " yes")
    assert texts.response("Answer:", ids, "") == [texts.tokenizer.eos_token_id]


def test_an_empty_prompt_is_the_start_token_alone():
    for tokenizer in TOKENIZERS:
        texts = Texts(tokenizer)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        assert texts.prompts([""]) == [[start]]
        assert tokenizer.decode(texts.response("", [start], "Mars")[:-1]) == "Mars"
    bare = tiny_tokenizer(bos=False)
    bare.eos_token = None
    assert "empty prompt" in refusal(Texts(bare).prompts, [""])
