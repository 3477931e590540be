"""Quantised checkpoints score as transformers' own forward of them, and are refused where their package is missing."""

import importlib.util

import pytest
import torch
from test_checkpoint import edit_json, load, refusal
from test_engine import QUESTIONS, answers, assert_each_as_alone
from tiny import save_tiny_checkpoint
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from alignbench.models.checkpoint import find_checkpoint

METHODS = [  # as config.json has it, and the package that transformers needs for it
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed_tensors"),
    ({"quant_method": "gptq", "bits": 4}, "optimum"),
    ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
]


def bitsandbytes(folder, base):
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(base, quantization_config=settings, device_map="cpu").save_pretrained(folder)


def compressed_tensors(folder, base):
    """Weights of eight bits with a scale for each row, as llm-compressor saves them."""
    from compressed_tensors import quantization as q
    from compressed_tensors.compressors import ModelCompressor

    model = AutoModelForCausalLM.from_pretrained(base)
    scheme = q.QuantizationScheme(targets=["Linear"], weights=q.QuantizationArgs(num_bits=8, strategy="channel"))
    groups = {"group_0": scheme}
    config = q.QuantizationConfig(config_groups=groups, ignore=["lm_head"], format="pack-quantized")
    q.apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data.copy_(module.weight.abs().amax(-1, keepdim=True) / 127)
            module.quantization_status = q.QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)


@pytest.mark.parametrize("quantise", [bitsandbytes, compressed_tensors])
def test_scores_are_those_of_transformers(quantise, tmp_path, tokenizer):
    method = quantise.__name__
    pytest.importorskip(method, reason="the extra `quantized` is not installed")
    # bitsandbytes packs rows by 64 values
    base = save_tiny_checkpoint(tmp_path / "base", hidden_size=64, intermediate_size=128, tokenizer=tokenizer)
    quantise(tmp_path / "quantised", base)
    tokenizer.save_pretrained(tmp_path / "quantised")
    assert find_checkpoint(str(tmp_path / "quantised")).quantization == method.replace("_", "-")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "quantised", device_map="cpu", dtype=torch.float32)
    found = answers(load(tmp_path / "quantised"), QUESTIONS)
    assert_each_as_alone(found, theirs.eval(), tokenizer, QUESTIONS)
    plain = answers(load(base), QUESTIONS)
    assert any(abs(own.logprob - plain[i].logprob) > 1e-3 for i, own in found.items())


@pytest.mark.parametrize(("settings", "package"), METHODS)
def test_a_missing_package_is_named(settings, package, tmp_path):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    folder = save_tiny_checkpoint(tmp_path / "quantised")
    edit_json(folder / "config.json", quantization_config=settings)
    message = f"its weights are quantised ({settings['quant_method']}): pip install 'alignbench[quantized]'"
    assert message in refusal(folder)
