"""Weight averaging: exact at both ends, between them elsewhere, in bounded memory, and one clear line for the rest."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_engine import QUESTIONS, answers, assert_each_as_alone
from tiny import save_tiny_checkpoint, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM
from typer import Typer
from typer.testing import CliRunner

import trainers.average
from alignbench.cli.average import average_command
from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint, load_engine
from alignbench.progress import Progress
from trainers.average import average, mix


def save(folder, architecture="llama", *, shard_size="1GB", **settings):
    """A tiny checkpoint; settings as of tiny_model."""
    tokenizer = tiny_tokenizer()
    tiny_model(architecture, tokenizer, **settings).save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def edit(folder, change):
    """Apply `change` to the tensors of a checkpoint in one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def weights(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def same_bits(one, other):
    def bits(tensors):
        return {name: (t.dtype, t.shape, t.reshape(-1).view(torch.uint8).tolist()) for name, t in tensors.items()}

    return bits(one) == bits(other)


def refusal(base, aligned, out, alphas=(0.5,)):
    """The one line with which two checkpoints are refused; nothing is left in `out`."""
    with pytest.raises(AlignbenchError) as caught:
        average(str(base), str(aligned), alphas, out)
    assert "\n" not in str(caught.value)
    assert not list(out.glob(".partial*"))
    return str(caught.value)


@pytest.fixture
def base(tmp_path):
    return save_tiny_checkpoint(tmp_path / "base", seed=1)


@pytest.fixture
def aligned(tmp_path):
    return save_tiny_checkpoint(tmp_path / "aligned", seed=2)


class Lines(Progress):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_each_weight_lies_at_its_share_of_the_way(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(trainers.average, "PIECE", 100)  # so that tensors end within a piece
    base, aligned = save(tmp_path / "base", seed=1, dtype=dtype), save(tmp_path / "aligned", seed=2, dtype=dtype)
    ours, theirs = weights(base), weights(aligned)
    folders = average(str(base), str(aligned), [0, 0.25, 0.7, 1], tmp_path / "out")
    assert [folder.name for folder in folders] == ["alpha-0", "alpha-0.25", "alpha-0.7", "alpha-1"]
    first, quarter, seven_tenths, last = map(weights, folders)
    assert same_bits(first, ours)
    assert same_bits(last, theirs)
    for alpha, found in ((0.25, quarter), (0.7, seven_tenths)):
        assert found.keys() == theirs.keys()
        for name, tensor in found.items():
            expected = (1 - alpha) * ours[name].double() + alpha * theirs[name].double()
            assert (tensor.dtype, tensor.shape) == (dtype, theirs[name].shape)
            # half a unit in the last place of the stored format, and the rounding of the sum before
            units = torch.finfo(dtype).eps / 2 * expected.abs() + torch.finfo(dtype).tiny
            error = 3e-7 if dtype != torch.float64 else 1e-15
            assert ((tensor.double() - expected).abs() <= units + error).all(), name


@given(st.floats(0, 1), st.floats(width=32), st.floats(width=32))
def test_a_mean_of_equals_is_the_same_and_the_ends_are_exact(alpha, one, other):
    base, aligned = torch.tensor([one]), torch.tensor([other])
    assert mix(base, aligned, 0).numpy().tobytes() == base.numpy().tobytes()
    assert mix(base, aligned, 1).numpy().tobytes() == aligned.numpy().tobytes()
    if torch.isfinite(base):
        assert torch.equal(mix(base, base, alpha), base)


@given(st.floats(0, 1), st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32))
def test_a_mean_lies_between(alpha, one, other):
    mean = mix(torch.tensor([one]), torch.tensor([other]), alpha).item()
    slack = 1e-6 * max(abs(one), abs(other))
    assert min(one, other) - slack <= mean <= max(one, other) + slack


def test_the_files_read_back_bit_for_bit(base, aligned, tmp_path):
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    expected = {name: torch.lerp(weights(base)[name], tensor, 0.5) for name, tensor in weights(aligned).items()}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert same_bits({name: file.get_tensor(name) for name in file.keys()}, expected)  # noqa: SIM118
    assert same_bits(loaded(folder), expected)


def test_sharded_checkpoints_and_single_files_give_the_same(tmp_path, base, aligned):
    shards = [save(tmp_path / f"shards-{seed}", seed=seed, shard_size="50KB") for seed in (1, 2)]
    assert all((folder / "model.safetensors.index.json").is_file() for folder in shards)
    (whole,) = average(str(base), str(aligned), [0.3], tmp_path / "whole")
    (sharded,) = average(*map(str, shards), [0.3], tmp_path / "sharded")
    assert same_bits(weights(sharded), weights(whole))
    assert same_bits(loaded(sharded), weights(whole))


def test_memory_does_not_grow_with_the_tensors(base, aligned, tmp_path):
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        pytest.skip("the peak of resident memory is read from Linux's /proc")

    def mebibytes(field):
        return int(re.search(rf"{field}:\s+(\d+) kB", status.read_text())[1]) / 1024

    average(str(base), str(aligned), [0.5], tmp_path / "before")  # what is imported and allocated once
    for folder, value in ((base, 1.0), (aligned, 2.0)):
        edit(folder, lambda tensors, value=value: tensors.update(large=torch.full((20, 2**20), value)))
    clear.write_text("5")  # the peak is now what is resident
    before = mebibytes("VmRSS")
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    grown = mebibytes("VmHWM") - before
    assert grown < 70  # the tensor has 80, and a sum needs three of it
    assert (weights(folder)["large"] == 1.5).all()


def test_an_average_is_used_like_the_aligned_model(base, aligned, tmp_path):
    (aligned / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "mixed")
    found, theirs = find_checkpoint(str(folder)), find_checkpoint(str(aligned))
    assert found.tokenizer_sha256 == theirs.tokenizer_sha256
    assert found.chat_template_sha256 == theirs.chat_template_sha256 is not None
    for name in ("config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (aligned / name).read_bytes()
    engine = load_engine(found, dtype="float32", device="cpu")
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", tokenizer, seed=1)
    model.load_state_dict(weights(folder))
    assert_each_as_alone(answers(engine, QUESTIONS), model, tokenizer, QUESTIONS)


def test_an_average_says_what_it_is_and_whence_it_came(base, aligned, tmp_path):
    reward = {"name": "rm", "path": "/rm", "weights_sha256": "7" * 64}
    before = [{"stage": "base", "name": "llama", "weights_sha256": "1" * 64}]
    (aligned / "recipe.json").write_text(
        json.dumps({"stage": "ppo", "lineage": before, "models": {"reward": reward, "value": reward}})
    )
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "helpful")
    found, ours, theirs = (find_checkpoint(str(each)) for each in (folder, base, aligned))
    assert found.name == "helpful-alpha-0.5"
    assert [(a.stage, a.name) for a in found.lineage] == [
        ("base", "llama"),
        ("ppo", "aligned"),
        ("average", "helpful-alpha-0.5"),
    ]
    assert found.lineage[-1].weights_sha256 == found.weights_sha256
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["config"] == {"alpha": 0.5}
    assert recipe["parent"] == {"name": "aligned", "path": str(aligned), "weights_sha256": theirs.weights_sha256}
    assert recipe["models"] == {
        "base": {"name": "base", "path": str(base), "weights_sha256": ours.weights_sha256},
        "reward": reward,  # a judge that the policy was trained against, in part, is still no neutral judge
    }


def test_without_a_recipe_the_lineage_begins_with_base(base, aligned, tmp_path):
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    stages = [(a.stage, a.name) for a in find_checkpoint(str(folder)).lineage]
    assert stages == [("base", "base"), ("average", "out-alpha-0.5")]


def test_the_same_command_again_does_nothing_and_says_so(base, aligned, tmp_path):
    out, progress = tmp_path / "out", Lines()
    (folder,) = average(str(base), str(aligned), [0.5], out)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    folders = average(str(base), str(aligned), [0.5, 0.75, 0.50], out, progress=progress)
    assert folders == [folder, out / "alpha-0.75"]
    assert progress.lines == [f"{folder}: there already, nothing to do"]
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()} == before
    assert sorted(out.iterdir()) == folders


@pytest.mark.parametrize("change", ["other weights", "other template", "empty", "no weights", "a file"])
def test_a_folder_with_anything_else_is_left_alone(change, base, aligned, tmp_path):
    out = tmp_path / "out"
    folder = out / "alpha-0.5"
    if change in ("empty", "a file"):
        out.mkdir()
        folder.mkdir() if change == "empty" else folder.touch()
    else:
        average(str(base), str(aligned), [0.5], out)
        if change == "other weights":
            aligned = save_tiny_checkpoint(tmp_path / "other", seed=3)
        elif change == "other template":
            (aligned / "chat_template.jinja").write_text("{{ messages }}")
        else:
            (folder / "model.safetensors").unlink()
    assert "holds something else" in refusal(base, aligned, out, [0.25, 0.5])
    assert list(out.iterdir()) == [folder]


def test_an_interrupted_average_leaves_nothing(base, aligned, tmp_path):
    class Interrupted(Progress):
        def advance(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        average(str(base), str(aligned), [0.5], tmp_path / "out", progress=Interrupted())
    assert list((tmp_path / "out").iterdir()) == []


def test_number_formats_that_differ_are_stored_as_aligned_is(base, tmp_path):
    aligned, progress = save(tmp_path / "half", seed=2, dtype=torch.bfloat16), Lines()
    nothing, half = average(str(base), str(aligned), [0, 0.5], tmp_path / "out", progress=progress)
    assert progress.lines == ["BASE has F32, ALIGNED BF16: the averages are stored as ALIGNED is"]
    ours, theirs = weights(base), weights(aligned)
    assert same_bits(weights(nothing), {name: tensor.bfloat16() for name, tensor in ours.items()})
    expected = {name: torch.lerp(ours[name], tensor.float(), 0.5).bfloat16() for name, tensor in theirs.items()}
    assert same_bits(weights(half), expected)


def test_buffers_that_are_no_floating_point_are_copied_where_they_agree(base, aligned, tmp_path):
    mask = torch.tensor([[True, False], [True, True]])
    for folder in (base, aligned):
        edit(folder, lambda tensors: tensors.update({"mask": mask, "step": torch.tensor(3), "none": torch.empty(0)}))
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    found = weights(folder)
    assert torch.equal(found["mask"], mask)
    assert (found["step"].item(), found["step"].dtype) == (3, torch.int64)
    assert found["none"].shape == (0,)
    edit(base, lambda tensors: tensors.update(step=torch.tensor(4)))
    assert "step (I64 and I64) differs" in refusal(base, aligned, tmp_path / "other")


def test_tensors_of_all_formats_lie_aligned(base, aligned, tmp_path):
    """So that a memory map can be read in place: each begins at a multiple of its format's size in the file."""
    odd = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(5).bfloat16(), "c": torch.ones(7).double()}
    for folder in (base, aligned):
        edit(folder, lambda tensors: tensors.update(odd))
    for length in range(1, 9):  # of a name, and so of the header
        for folder in (base, aligned):
            edit(folder, lambda tensors, length=length: tensors.update({"d" * length: torch.ones(1)}))
        (folder,) = average(str(base), str(aligned), [0.5], tmp_path / str(length))
        content = (folder / "model.safetensors").read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        sizes = {"BOOL": 1, "BF16": 2, "F32": 4, "F64": 8}
        header = json.loads(content[8:begin])
        del header["__metadata__"]
        assert {entry["dtype"] for entry in header.values()} == sizes.keys()
        assert all((begin + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0 for entry in header.values())


HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize("stored_in", ["base", "aligned", "both"])
def test_a_tied_head_may_be_stored_or_not(stored_in, tmp_path):
    base, aligned = (
        save(tmp_path / name, seed=seed, tie_word_embeddings=True) for seed, name in enumerate(("base", "aligned"))
    )
    (bare,) = average(str(base), str(aligned), [0.3], tmp_path / "bare")
    for folder in (base, aligned):
        if stored_in in (folder.name, "both"):
            edit(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDINGS].clone()}))
    (folder,) = average(str(base), str(aligned), [0.3], tmp_path / "out")
    assert (HEAD in weights(folder)) == (stored_in != "base")
    assert same_bits(loaded(folder), loaded(bare))


def test_a_tied_head_and_one_of_its_own_meet_in_one_of_its_own(aligned, tmp_path):
    base = save(tmp_path / "tied", seed=1, tie_word_embeddings=True)
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    expected = torch.lerp(weights(base)[EMBEDDINGS], weights(aligned)[HEAD], 0.5)
    assert torch.equal(loaded(folder)[HEAD], expected)
    assert not torch.equal(loaded(folder)[EMBEDDINGS], expected)
    # the other way round the average would need a head that ALIGNED's configuration does not have
    assert f"{HEAD} has values of its own in aligned, and is tied to {EMBEDDINGS}" in refusal(
        aligned, base, tmp_path / "other"
    )


def test_names_are_compared_as_transformers_reads_them(tmp_path):
    """GPT-2's own file has no prefix, and holds attention masks: a checkpoint trained from it has neither."""
    base, aligned = save(tmp_path / "base", "gpt2", seed=1), save(tmp_path / "aligned", "gpt2", seed=2)
    (expected,) = average(str(base), str(aligned), [0.5], tmp_path / "expected")
    (expected_back,) = average(str(aligned), str(base), [0.5], tmp_path / "expected-back")

    def as_first_published(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()

    edit(base, as_first_published)
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    assert same_bits(loaded(folder), loaded(expected))
    (back,) = average(str(aligned), str(base), [0.5], tmp_path / "back")
    assert same_bits(loaded(back), loaded(expected_back))


def test_other_architectures_are_refused(base, tmp_path):
    other = save(tmp_path / "gpt2", "gpt2")
    assert "a llama and a gpt2; only one architecture" in refusal(base, other, tmp_path / "out")


def test_added_tokens_are_named(base, tmp_path):
    larger = save(tmp_path / "larger", vocab_size=len(tiny_tokenizer()) + 3)
    size = len(tiny_tokenizer())
    assert f"vocabularies of {size} and {size + 3} tokens" in refusal(base, larger, tmp_path / "out")


def test_the_first_tensor_that_differs_in_name_or_shape_is_named(base, aligned, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    edit(aligned, lambda tensors: tensors.update({name: tensors[name][:-1].clone()}))
    assert "layers.0.mlp.up_proj.weight is [48, 32] in one and [47, 32] in the other" in refusal(
        base, aligned, tmp_path / "out"
    )
    edit(aligned, lambda tensors: tensors.pop(name))
    assert "layers.0.mlp.up_proj.weight is in base alone" in refusal(base, aligned, tmp_path / "out")
    assert "layers.0.mlp.up_proj.weight is in base alone" in refusal(aligned, base, tmp_path / "out")


def test_a_head_that_only_one_stores_is_refused_where_nothing_ties_it(base, aligned, tmp_path):
    edit(aligned, lambda tensors: tensors.pop(HEAD))
    assert f"{HEAD} is in base alone" in refusal(base, aligned, tmp_path / "out")


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), float("inf")])
def test_shares_outside_the_line_are_refused(alpha, base, aligned, tmp_path):
    assert f"alpha {alpha}: it must be a number from 0" in refusal(base, aligned, tmp_path / "out", [0.5, alpha])
    assert not (tmp_path / "out").exists()


def test_the_same_weights_twice_are_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "copy")
    assert "the same weights twice" in refusal(base, tmp_path / "copy", tmp_path / "out")


def test_adapters_pickles_and_code_are_refused(base, aligned, tmp_path):
    out = tmp_path / "out"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "a LoRA adapter; merge it" in refusal(base, adapter, out)
    configure(aligned, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    assert "Python code of its own" in refusal(base, aligned, out)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "pickled (pytorch_model.bin)" in refusal(base, aligned, out)


def test_a_configuration_that_transformers_does_not_know_is_refused(base, aligned, tmp_path):
    for folder in (base, aligned):
        configure(folder, model_type="teapot")
    assert "checkpoint base: its config.json" in refusal(base, aligned, tmp_path / "out")


def test_a_full_disk_is_told_before_the_work(base, aligned, tmp_path, monkeypatch):
    size = (aligned / "model.safetensors").stat().st_size
    usage = shutil._ntuple_diskusage(10**9, 0, 2 * size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "3 averages take" in refusal(base, aligned, tmp_path / "out", [0.2, 0.4, 0.6])
    assert list((tmp_path / "out").iterdir()) == []
    assert len(average(str(base), str(aligned), [0.2], tmp_path / "out")) == 1


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(base, aligned, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in refusal(base, aligned, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(base, aligned, tmp_path / "file")


def test_the_command_prints_the_folders(base, aligned, tmp_path):
    app, out = Typer(), tmp_path / "out"
    app.command()(average_command)
    arguments = [str(base), str(aligned), "--out", str(out), "--alpha"]
    done = CliRunner().invoke(app, [*arguments, "0.25, .5"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(out / "alpha-0.25"), str(out / "alpha-0.5")]
    failed = CliRunner().invoke(app, [*arguments, "0.25;0.5"])
    assert isinstance(failed.exception, AlignbenchError)
    assert "--alpha 0.25;0.5: numbers with commas" in str(failed.exception)
