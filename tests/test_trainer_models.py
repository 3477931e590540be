"""Models, rewards and steps of the recipe: heads, dropout, adapters, texts as token ids, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

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
from alignbench.models.engine import Prompt
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
from trainers.optimisation import adam
from trainers.packing import Example, pack
from trainers.rewards import RewardModel, checked, load_reward
from trainers.run import make_accelerator
from trainers.steps import (
    NotFiniteError,
    accumulate,
    by_example,
    check_lengths,
    endless,
    look,
    share,
    shuffled,
    take_step,
    total,
)  # fmt: skip

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


# Rewards


def raising(prompts, responses):
    raise RuntimeError("no server\nat that address")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda p, r: [1.0, math.nan], "nan for the response ' no'"),
        (lambda p, r: [math.inf, 0.0], "inf for the response ' yes'"),
        (lambda p, r: [1.0], "1 scores for 2 responses"),
        (lambda p, r: [1.0, 2.0, 3.0], "3 scores for 2 responses"),
        (lambda p, r: [1.0, "good"], "a score is no number"),
        (lambda p, r: [1.0, None], "a score is no number"),
        (lambda p, r: 1.0, "it raised TypeError"),
        (lambda p, r: None, "it raised TypeError"),
        (lambda p: [1.0, 2.0], "it raised TypeError"),
        (raising, "it raised RuntimeError (no server"),
    ],
)
def test_a_reward_that_misbehaves_is_named_in_one_line(function, said):
    line = refusal(checked, function, "my:score", ["a", "b"], [" yes", " no"])
    assert line.startswith("reward my:score: ")
    assert said in line


def test_numbers_of_any_library_are_scores():
    for scores in ([1, 2.5], np.array([1, 2.5], np.float32), torch.tensor([1, 2.5]), (float(n) for n in (1, 2.5))):
        assert checked(lambda p, r, scores=scores: scores, "my:score", ["a", "b"], ["c", "d"]) == [1.0, 2.5]


def test_a_function_is_found_in_the_working_folder(tmp_path, monkeypatch, accelerator):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "length_reward.py").write_text(
        "limit = 3\ndef score(prompts, responses):\n    return [len(r) - len(p) for p, r in zip(prompts, responses)]\n"
    )
    (tmp_path / "broken_reward.py").write_text("def score(prompts, responses:\n")
    assert load_reward("length_reward:score", accelerator, 64)(["ab"], ["abc"]) == [1]
    for spec, said in (
        ("length_reward:scores", "no such function"),
        ("length_reward:", "no such function"),
        ("absent_reward:score", "no such function"),
        ("broken_reward:score", "no such function"),
        ("length_reward:limit", "not a function"),
    ):
        assert said in refusal(load_reward, spec, accelerator, 64)


def test_a_reward_model_reads_texts_with_its_own_tokenizer():
    """Detail 20."""
    own, policys = tiny_tokenizer(bos=False), tiny_tokenizer()
    model = tiny_classifier("gpt2", own)
    found = RewardModel(Scalar(model), own, 512, 64)(*zip(*PAIRS, strict=True))
    expected = []
    for prompt, response in PAIRS:
        ids = own(prompt + response)["input_ids"]
        assert ids != policys(prompt + response)["input_ids"]
        with torch.no_grad():
            expected.append(float(score_alone(model, ids, [own.eos_token_id])))
    assert found == pytest.approx(expected, abs=1e-5)


def test_responses_of_one_prompt_cost_the_prompt_once():
    tokenizer = tiny_tokenizer()
    model = tiny_classifier("llama", tokenizer)
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    prompt = SENTENCES[0]
    responses = [" yes", " no", " maybe", " none of the above"]
    texts = Texts(tokenizer)
    (ids,) = texts.prompts([prompt])
    own = sum(len(texts.response(prompt, ids, response)) for response in responses)
    RewardModel(Scalar(model), tokenizer, None, 4096)([prompt] * 4, responses)
    assert sum(seen) == len(ids) + own
    seen.clear()
    RewardModel(Scalar(model), tokenizer, None, 16)([prompt] * 4, responses)  # even where the budget is smaller
    assert sum(seen) == len(ids) + own


def test_scores_come_in_the_order_asked_whatever_the_budget():
    tokenizer = tiny_tokenizer()
    model = Scalar(tiny_classifier("llama", tokenizer))
    prompts, responses = zip(*PAIRS, *PAIRS[::-1], strict=True)
    scores = [RewardModel(model, tokenizer, None, budget)(prompts, responses) for budget in (1, 50, 10**6)]
    assert scores[0] == pytest.approx(scores[0][::-1], abs=1e-5)
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert scores[2] == pytest.approx(scores[0], abs=1e-5)


def test_a_text_beyond_the_reward_models_window_is_refused():
    tokenizer = tiny_tokenizer()
    scorer = RewardModel(Scalar(tiny_classifier("llama", tokenizer)), tokenizer, 12, 64)
    assert "window of 12" in refusal(scorer, [SENTENCES[0]], [" yes"])


# Steps


def layer_and_optimizer():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    return layer, adam([(layer.parameters(), 0.1)])


def test_accumulated_micro_batches_take_the_step_of_the_whole_batch(accelerator):
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    moved = []
    for batches in ([rows], [rows[:2], rows[2:3], rows[3:]]):
        layer, optimizer = layer_and_optimizer()
        loss = accumulate(accelerator, layer, batches, lambda some, layer=layer: (layer(some) ** 2).sum() / 7)
        norm = take_step(layer, optimizer, None)
        assert all(p.grad is None for p in layer.parameters())
        moved.append((loss, norm, *layer.parameters()))
    assert moved[1][0] == pytest.approx(moved[0][0])
    assert moved[1][1] == pytest.approx(moved[0][1])
    assert torch.allclose(moved[1][2], moved[0][2], atol=1e-6)
    assert not torch.equal(moved[0][2], layer_and_optimizer()[0].weight)


def test_the_norm_is_clipped_only_where_asked_and_reported_as_it_was():
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    for largest, moved in ((None, [3.0, 4.0]), (10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])):
        with torch.no_grad():
            layer.weight.copy_(before)
        layer.weight.grad = torch.tensor([[3.0, 4.0]])
        assert take_step(layer, torch.optim.SGD(layer.parameters(), lr=1.0), largest) == pytest.approx(5)
        assert torch.allclose(before - layer.weight, torch.tensor([moved]), atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_weights_and_moments_untouched(bad):
    layer, optimizer = layer_and_optimizer()
    layer(torch.ones(1, 3)).sum().backward()
    take_step(layer, optimizer, None)
    weights, moments = copy.deepcopy(layer.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    layer(torch.ones(1, 3)).sum().backward()
    layer.bias.grad[1] = bad
    with pytest.raises(NotFiniteError):
        take_step(layer, optimizer, 1.0)
    assert all(torch.equal(found, weights[name]) for name, found in layer.state_dict().items())
    for number, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(found, moments[number][name]) for name, found in state.items())
    assert all(p.grad is None for p in layer.parameters())  # the next step starts clean


@given(st.integers(0, 200), st.lists(st.integers(0, 2**32), min_size=1, max_size=3))
def test_an_order_is_a_permutation_that_its_key_decides(count, key):
    order = shuffled(count, "epoch", *key)
    assert sorted(order) == list(range(count))
    shuffled.cache_clear()
    assert shuffled(count, "epoch", *key) == order


def test_other_purposes_and_keys_give_other_orders():
    keys = ((0,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 1))  # numpy's seeds (0,) and (0, 0) are one
    assert len({shuffled(50, purpose, *key) for key in keys for purpose in ("prompts", "text")}) == 12


@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 40), st.integers(0, 3))
def test_endless_passes_take_everything_once_before_anything_again_from_wherever_they_go_on(count, start, number, key):
    whole = endless(count, 0, start + number, "text", key)
    assert endless(count, start, number, "text", key) == whole[start:]
    for lap in range((start + number) // count):
        assert sorted(whole[lap * count : (lap + 1) * count]) == [(lap, thing) for thing in range(count)]


def test_each_pass_has_an_order_of_its_own():
    passes = endless(30, 0, 90, "text", 7)
    assert len({tuple(thing for _, thing in passes[at : at + 30]) for at in (0, 30, 60)}) == 3


def test_one_process_computes_its_share_in_order(accelerator):
    assert share(accelerator, 5, lambda places: [place * 2 for place in places]) == [0, 2, 4, 6, 8]
    assert share(accelerator, 0, lambda places: places) == []
    assert total(accelerator, 2.5) == 2.5


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), max_size=9), st.integers(1, 40))
def test_looking_gives_a_result_an_example_in_order(accelerator, lengths, budget):
    examples = [Example([7] * (1 + i), [[i] * length for length in some]) for i, some in enumerate(lengths)]

    def compute(packed):
        tokens = by_example(packed, packed.before, torch.stack([packed.targets, packed.targets + 1]))
        last = by_example(packed, packed.last, packed.tokens[0, packed.last])
        return [(t.tolist(), found.tolist()) for t, found in zip(tokens, last, strict=True)]

    found = look(accelerator, examples, budget, compute)
    assert found == [([[i] * sum(some), [i + 1] * sum(some)], [i] * len(some)) for i, some in enumerate(lengths)]


def test_processes_look_equally_often_and_raise_together(tmp_path):
    """A sharded model would wait for ever for a process that has one row less."""
    (tmp_path / "work.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        import torch
        from tiny import tiny_tokenizer
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from training_models import tiny_classifier
        from alignbench.errors import AlignbenchError
        from trainers.models import Scalar
        from trainers.rewards import RewardModel, score_all
        from trainers.run import make_accelerator

        accelerator = make_accelerator("no", [], Path("out"), cpu=True)
        rank, tokenizer = accelerator.process_index, tiny_tokenizer()
        whole, sharded = (
            RewardModel(Scalar(tiny_classifier("llama", tokenizer)), tokenizer, None, 12) for _ in range(2)
        )
        fully_shard(sharded.scalar, mesh=init_device_mesh("cpu", (2,)))
        for count in (1, 3, 5):
            prompts = [f"{i} bees" for i in range(count)]
            responses = [" and bees" * (1 + 5 * (i % 2)) for i in range(count)]
            found = score_all(accelerator, sharded, "judge", prompts, responses)
            torch.testing.assert_close(found, whole(prompts, responses))

        def reward(prompts, responses):
            return ["good" if rank else 1.0 for _ in responses]

        try:
            score_all(accelerator, reward, "mine", ["a", "b"], [" c", " d"])
        except AlignbenchError as error:
            Path(f"said-{rank}").write_text(str(error))
        accelerator.end_training()
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "work.py"]
    paths = f"{Path(__file__).parent}:{Path(__file__).parent.parent}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"said-{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert "a score is no number" in first


def test_a_row_longer_than_the_window_is_named():
    check_lengths([3, 8], 8, "ranking", "data.jsonl")
    check_lengths([3, 9], None, "ranking", "data.jsonl")
    assert refusal(check_lengths, [3, 9], 8, "ranking", "data.jsonl").startswith("data.jsonl: ranking 2 has 9 tokens")
