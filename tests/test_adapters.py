"""LoRA adapters without full weights: found with their base, identified with it, loaded, merged, and refused."""

import dataclasses
import json
import shutil

import pytest
import torch
from commands import assert_one_line_error, run
from test_checkpoint import edit_json, load, refusal
from test_engine import QUESTIONS, answers, assert_each_as_alone
from tiny import save_tiny_checkpoint
from transformers import AutoModelForCausalLM

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import load_engine
from alignbench.models.model import find_model
from alignbench.types.engine import Prompt, Sampling

peft = pytest.importorskip("peft", reason="the extra `adapters` is not installed")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(base, folder, seed=1, **settings):
    torch.manual_seed(seed)
    settings = {"target_modules": "all-linear", "init_lora_weights": False} | settings
    model = AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(**settings)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    save_adapter(save_tiny_checkpoint(folder / "base"), folder / "tuned")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of both that a test may damage."""
    shutil.copytree(saved, tmp_path / "both")
    edit_json(tmp_path / "both" / "tuned" / CONFIG, base_model_name_or_path=str(tmp_path / "both" / "base"))
    return tmp_path / "both" / "tuned"


def test_an_adapter_scores_and_continues_as_its_merged_model(saved, tokenizer):
    merged = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved / "base"), saved / "tuned")
    merged = merged.merge_and_unload().eval()
    checkpoint = find_checkpoint(str(saved / "tuned"))
    notes = []
    for merge in (False, True):
        engine = load_engine(checkpoint, dtype="float32", device="cpu", merge=merge, notify=notes.append)
        assert any("lora" in name for name, _ in engine.model.named_parameters()) is not merge
        assert_each_as_alone(answers(engine, QUESTIONS), merged, tokenizer, QUESTIONS)
        ((_, (found,)),) = engine.generate([Prompt("a", "The doctor")], Sampling(8))
        prompt = torch.tensor([engine.encoder.contexts(["The doctor"])[0].tolist()])
        expected = merged.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert list(found.tokens) == expected
    assert notes == []


def test_identity_covers_base_and_adapter_and_the_base_is_an_ancestor(folder, saved):
    checkpoint, base = find_checkpoint(str(folder)), find_checkpoint(str(folder.parent / "base"))
    assert [(a.stage, a.name, a.weights_sha256) for a in checkpoint.lineage] == [
        ("base", "base", base.weights_sha256),
        ("adapter", "tuned", checkpoint.weights_sha256),
    ]
    assert checkpoint.weights_sha256 == find_checkpoint(str(saved / "tuned")).weights_sha256, "wherever the base lies"
    own = {"weights_sha256", "adapter_sha256", "name", "path", "parameters", "lineage", "base"}
    changed = {f.name for f in dataclasses.fields(base) if getattr(base, f.name) != getattr(checkpoint, f.name)}
    assert changed == own
    edit_json(folder / CONFIG, lora_alpha=3)
    other = find_checkpoint(str(folder))
    assert other.adapter_sha256 != checkpoint.adapter_sha256
    assert other.weights_sha256 != checkpoint.weights_sha256
    shutil.copytree(save_tiny_checkpoint(folder.parent / "new", seed=9), folder.parent / "base", dirs_exist_ok=True)
    assert find_checkpoint(str(folder)).weights_sha256 != other.weights_sha256
    plain, merged = (find_model(str(folder), device="cpu", merge_adapter=merge).identity for merge in (False, True))
    assert (plain["model"], plain["engine"] | {"merge_adapter": True}) == (merged["model"], merged["engine"])
    json.dumps(find_model(str(folder), device="cpu").about["base"])


def test_a_relative_base_and_the_adapters_own_tokenizer(folder, tokenizer):
    edit_json(folder / CONFIG, base_model_name_or_path="../base")
    plain = find_checkpoint(str(folder))
    tokenizer.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    checkpoint = find_checkpoint(str(folder))
    assert checkpoint.weights_sha256 == plain.weights_sha256
    assert checkpoint.tokenizer_sha256 != plain.tokenizer_sha256
    assert (plain.chat_template_sha256 is None, checkpoint.chat_template_sha256 is None) == (True, False)
    engine = load(folder)
    assert engine.chat_template
    assert answers(engine, QUESTIONS)[0].unscored is None


def drop_base(folder):
    shutil.rmtree(folder.parent / "base")


def other_base(architecture, **overrides):
    def damage(folder):
        from tiny import tiny_model, tiny_tokenizer

        drop_base(folder)
        tokenizer = tiny_tokenizer()
        tiny_model(architecture, tokenizer, **overrides).save_pretrained(folder.parent / "base")
        tokenizer.save_pretrained(folder.parent / "base")

    return damage


def other_tokens(folder):
    shutil.copy(folder.parent / "base" / "tokenizer_config.json", folder)
    content = json.loads((folder.parent / "base" / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_base, ["base of this adapter cannot be used", "no such folder", "set base_model_name_or_path"]),
        (lambda folder: edit_json(folder / CONFIG, base_model_name_or_path=None), ["names no base"]),
        (lambda folder: edit_json(folder / CONFIG, base_model_name_or_path=str(folder)), ["it is an adapter itself"]),
        (lambda folder: (folder.parent / "base" / "config.json").unlink(), ["cannot be used", "no config.json"]),
        (lambda folder: edit_json(folder / CONFIG, peft_type="IA3"), ["of type IA3, not LORA"]),
        (lambda folder: edit_json(folder / CONFIG, base_model_name_or_path="x" * 5000), ["not the name of a file"]),
        (lambda folder: (folder / CONFIG).write_text("{"), ["adapter_config.json: not valid JSON"]),
        (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), ["pickled (adapter_model.bin)"]),
        (lambda folder: (folder / WEIGHTS).unlink(), ["adapter_model.safetensors", "are not in"]),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"abc"), ["truncated"]),
        (other_base("gpt2"), ["does not fit its base base"]),
        (other_base("llama", intermediate_size=20), ["does not fit its base base", "has the shape"]),
        (other_base("llama", num_hidden_layers=1), ["does not fit its base base", "no layer for"]),
        (other_tokens, ["its base base has another vocabulary than its tokenizer (first: 'a')"]),
    ],
)
def test_what_does_not_fit_is_refused(damage, words, folder):
    damage(folder)
    message = refusal(folder)
    assert all(word in message for word in words), message


def test_the_base_is_the_reference_of_an_audit(saved, world, tmp_path):
    out = tmp_path / "runs"
    options = ("--tasks", "hellaswag", "--limit", "6", "--data-dir", world, "--device", "cpu", "--out", out)
    for order in ("tuned", "base"):
        done = run("evaluate", saved / order, *options)
        assert done.returncode == 0, done.stderr
    done = run("compare", "tuned", "base", "--runs", out, "--json")
    assert done.returncode == 0, done.stderr
    assert '"pretrained"' in done.stdout
    assert_one_line_error(run("evaluate", saved / "base", *options, "--merge-adapter"), "no adapter", "--merge-adapter")


def test_an_adapter_is_no_embedder_and_cannot_be_trained(saved):
    from trainers.models import find_plain

    with pytest.raises(AlignbenchError, match="merge it into its model first"):
        find_plain(str(saved / "tuned"))
