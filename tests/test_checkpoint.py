"""Checkpoints: which are refused before they are loaded, and how they are identified."""

import dataclasses
import json
import shutil
import struct

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_engine import QUESTIONS, answers, assert_each_as_alone
from tiny import save_tiny_checkpoint, tiny_model
from transformers import AutoModelForCausalLM

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine, resolve_device
from alignbench.models.model import find_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(original, tmp_path / "model")


def edit_json(file, **fields):
    """Set fields of a JSON file; None removes a field."""
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def edit_weights(folder, edit):
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def load(folder):
    return load_engine(find_checkpoint(str(folder)), dtype="float32", device="cpu")


def refusal(folder):
    """The message that refuses a checkpoint: one line that names the folder."""
    with pytest.raises(AlignbenchError, match=rf"\A[^\n]*{folder.name}[^\n]*\Z") as caught:
        load(folder)
    return str(caught.value)


def test_a_checkpoint_is_described_and_scores_as_its_model_in_memory(tmp_path, tokenizer):
    checkpoint = find_checkpoint(str(save_tiny_checkpoint(tmp_path / "whole", "gpt2", seed=3)))
    assert (checkpoint.name, checkpoint.revision, checkpoint.model_type) == ("whole", None, "gpt2")
    assert (checkpoint.dtype, checkpoint.window, checkpoint.custom_code) == ("float32", 512, False)
    assert checkpoint.chat_template_sha256 is None
    engine = load_engine(checkpoint, dtype="float32", device="cpu", token_budget=128)
    assert (engine.window, engine.token_budget) == (512, 128)
    weights = engine.model.state_dict()
    assert checkpoint.parameters == sum(weights[name].numel() for name in weights if name != "lm_head.weight")
    model = tiny_model("gpt2", tokenizer, seed=3)
    assert_each_as_alone(answers(engine, QUESTIONS), model, tokenizer, QUESTIONS)


def test_a_checkpoint_in_several_files_is_one_and_a_whole_one_beside_it_comes_first(tmp_path, folder, tokenizer):
    """As transformers loads them: the hashed weights are the loaded ones."""
    tiny_model("llama", tokenizer, seed=1).save_pretrained(folder, max_shard_size="50KB")
    shards = sorted(set(folder.glob("*.safetensors")) - {folder / WEIGHTS})
    assert len(shards) > 1
    hashes, scores = [], []
    for seed in (2, 3):
        shutil.copy(save_tiny_checkpoint(tmp_path / str(seed), seed=seed) / WEIGHTS, folder)
        hashes.append(find_checkpoint(str(folder)).weights_sha256)
        scores.append(answers(load(folder), QUESTIONS[:1])[0].logprob)
    assert (hashes[0] == hashes[1]) == (scores[0] == scores[1])
    (folder / WEIGHTS).unlink()
    model = tiny_model("llama", tokenizer, seed=1)
    assert_each_as_alone(answers(load(folder), QUESTIONS), model, tokenizer, QUESTIONS)
    shards[1].unlink()
    assert f"names {shards[1].name}, which is not in" in refusal(folder)


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def set_config(**fields):
    return lambda folder: edit_json(folder / "config.json", **fields)


def cut(kept):
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:kept])


CODE = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
HEADERS = (b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"{{{{")
LOST = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        *((write("config.json", content), "config.json: not ") for content in (b"{", b"[1]", b"\xff\xfe")),
        (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "pickled (pytorch_model.bin)"),
        (lambda folder: (folder / WEIGHTS).unlink(), "no weights"),
        *((cut(kept), "truncated") for kept in (0, 5, 400, -1)),
        *((write(WEIGHTS, struct.pack("<Q", len(header)) + header), WEIGHTS) for header in HEADERS),
        (lambda folder: edit_weights(folder, lambda w: w.pop(LOST)), f"1 weights are not in its files (first: {LOST})"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "no tokenizer files"),
        (lambda folder: edit_json(folder / "config.json", **CODE), "--trust-remote-code"),
        (lambda folder: edit_json(folder / "tokenizer_config.json", **CODE), "--trust-remote-code"),
    ],
)
def test_a_damaged_or_unsafe_checkpoint_is_refused(damage, message, folder):
    assert not find_checkpoint(str(folder), trust_remote_code=True).custom_code
    damage(folder)
    assert message in refusal(folder)
    if "trust" in message:
        assert find_checkpoint(str(folder), trust_remote_code=True).custom_code


def test_a_model_that_is_not_a_causal_language_model_is_refused(tmp_path, tokenizer):
    config = transformers.T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    assert "does not load as a causal language model" in refusal(tmp_path / "t5")


@pytest.mark.parametrize("spec", ["./nowhere", "nowhere", "a/b/c", "~nobody/at/all"])
def test_what_is_neither_a_folder_nor_a_hub_id_and_an_unavailable_device_are_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AlignbenchError, match=f"{spec}: no such folder"):
        find_checkpoint(spec)
    with pytest.raises(AlignbenchError, match="device cuda:99: not on this machine"):
        resolve_device("cuda:99")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_found(dtype, folder, tokenizer):
    tiny_model("llama", tokenizer, dtype=getattr(torch, dtype)).save_pretrained(folder)
    assert find_checkpoint(str(folder)).dtype == dtype
    edit_json(folder / "config.json", dtype=None, torch_dtype=None)
    assert find_checkpoint(str(folder)).dtype == dtype


@pytest.mark.parametrize(
    ("flags", "dtype", "expected"),
    [
        ("fpu sse2 avx2", "auto", "float32"),
        ("fpu avx512_bf16", "auto", "bfloat16"),
        ("fp asimd bf16", "auto", "bfloat16"),
        ("fpu sse2 avx2", "bfloat16", "bfloat16"),
    ],
)
def test_auto_is_float32_where_the_cpu_has_no_bfloat16(
    flags, dtype, expected, folder, tokenizer, tmp_path, monkeypatch
):
    tiny_model("llama", tokenizer, dtype=torch.bfloat16).save_pretrained(folder)
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr("alignbench.models.model.CPU_FLAGS", tmp_path / "cpuinfo")
    notes = []
    found = find_model(str(folder), dtype=dtype, device="cpu", notify=notes.append)
    assert found.identity["engine"]["dtype"] == expected
    assert [("no bfloat16" in note) for note in notes] == [True] * (expected == "float32")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("weights_sha256", lambda folder: edit_weights(folder, lambda w: w["model.norm.weight"].add_(1e-3))),
        ("tokenizer_sha256", lambda folder: edit_json(folder / "tokenizer_config.json", bos_token="</s>")),
        ("chat_template_sha256", write("chat_template.jinja", b"{{ messages }}")),
        ("tokenizer_sha256", write("tokenizer.model", b"a")),
        *(("config_sha256", set_config(**fields)) for fields in ({"rms_norm_eps": 10.0}, {"rope_theta": 9.0})),
        ("config_sha256", write("quantize_config.json", b'{"bits": 4}')),
        ("generation_config_sha256", lambda folder: edit_json(folder / "generation_config.json", eos_token_id=[0, 5])),
        (None, set_config(transformers_version="4.0", _name_or_path="elsewhere", torch_dtype="bfloat16")),
        (None, lambda folder: None),
    ],
)
def test_a_change_of_one_part_changes_the_hash_of_that_part_only(field, change, folder, original):
    before = dataclasses.replace(find_checkpoint(str(original)), path=folder)
    change(folder)
    after = find_checkpoint(str(folder))
    fields = [f.name for f in dataclasses.fields(after) if getattr(after, f.name) != getattr(before, f.name)]
    assert set(fields) - {"quantization"} == {field} - {None}
    assert (after.sha256 == before.sha256) == (field is None)


def test_the_hashed_weights_are_those_that_the_configuration_names(folder, tmp_path):
    """Of three sets of weights in a folder, and as transformers loads them."""
    other = save_tiny_checkpoint(tmp_path / "other", seed=5)
    before = find_checkpoint(str(folder)).weights_sha256
    shutil.copy(other / WEIGHTS, folder / "better.safetensors")
    assert find_checkpoint(str(folder)).weights_sha256 == before
    edit_json(folder / "config.json", transformers_weights="better.safetensors")
    assert find_checkpoint(str(folder)).weights_sha256 != before
    assert answers(load(folder), QUESTIONS) == answers(load(other), QUESTIONS)
    for wrong in ("../other/model.safetensors", "none.safetensors", 3):
        edit_json(folder / "config.json", transformers_weights=wrong)
        assert "transformers_weights" in refusal(folder)


def test_an_adapter_beside_the_weights_is_applied_and_hashed_or_refused(folder, original, monkeypatch, tokenizer):
    peft = pytest.importorskip("peft", reason="the extra `train` is not installed")
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(folder)
    checkpoint = find_checkpoint(str(folder))
    assert checkpoint.base.weights_sha256 == find_checkpoint(str(original)).weights_sha256
    found = answers(load(folder), QUESTIONS)
    assert found[0].logprob != pytest.approx(answers(load(original), QUESTIONS)[0].logprob, abs=0.1)
    assert_each_as_alone(found, adapted.merge_and_unload().eval(), tokenizer, QUESTIONS)
    edit_json(folder / "adapter_config.json", lora_alpha=1)
    assert find_checkpoint(str(folder)).adapter_sha256 != checkpoint.adapter_sha256
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert "needs the package peft" in refusal(folder)
    half = load_engine(checkpoint, dtype="bfloat16", device="cpu").model
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    edit_weights(folder, lambda weights: weights.pop(LOST))
    assert f"1 weights are not in its files (first: {LOST})" in refusal(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickled (adapter_model.bin)" in refusal(folder)


def test_a_recipe_describes_the_last_stage_of_training(folder):
    rest = dict.fromkeys(("beta", "gamma", "episodes"))
    assert find_checkpoint(str(folder)).training is None
    recipe = {"stage": "ppo", "lineage": [], "models": {"reward": {"weights_sha256": "abc"}}, "metrics": {"kl": 4.5}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert find_checkpoint(str(folder)).training == {"rewards": ["abc"], "kl": 4.5} | rest
    edit_json(folder / "recipe.json", models={}, metrics={"kl": "nan"})
    assert find_checkpoint(str(folder)).training == {"rewards": [], "kl": None} | rest
    edit_json(folder / "recipe.json", models={"reward": "abc"})
    assert "recipe.json" in refusal(folder)


def test_a_tokenizer_that_was_saved_again_has_the_same_vocabulary(folder, original):
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=4))
    before, engine = load(original).vocabulary_sha256, load(folder)
    assert find_checkpoint(str(original)).tokenizer_sha256 != find_checkpoint(str(folder)).tokenizer_sha256
    assert engine.vocabulary_sha256 == before
    engine.encoder.tokenizer.add_tokens(["moo"])
    assert engine.vocabulary_sha256 != before
