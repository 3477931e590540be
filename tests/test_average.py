"""Weight averaging: exact at both ends, between them elsewhere, in bounded memory, and what is refused."""

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

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


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


# The weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_each_weight_is_interpolated(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(trainers.average, "SHARD", "8KB")
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
def test_the_ends_are_exact_and_a_mean_is_between_them(alpha, one, other):
    base, aligned = torch.tensor([one]), torch.tensor([other])
    assert mix(base, aligned, 0).numpy().tobytes() == base.numpy().tobytes()
    assert mix(base, aligned, 1).numpy().tobytes() == aligned.numpy().tobytes()
    if torch.isfinite(base):
        assert torch.equal(mix(base, base, alpha), base)
    if max(abs(one), abs(other)) < 1e4:
        slack = 1e-6 * max(abs(one), abs(other))
        assert min(one, other) - slack <= mix(base, aligned, alpha).item() <= max(one, other) + slack


def test_the_files_are_read_back_bit_for_bit_and_shards_give_the_same(base, aligned, tmp_path):
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    expected = {name: torch.lerp(weights(base)[name], tensor, 0.5) for name, tensor in weights(aligned).items()}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert same_bits({name: file.get_tensor(name) for name in file.keys()}, expected)  # noqa: SIM118
    assert same_bits(loaded(folder), expected)
    shards = [save(tmp_path / f"shards-{seed}", seed=seed, shard_size="50KB") for seed in (1, 2)]
    assert all((folder / "model.safetensors.index.json").is_file() for folder in shards)
    (sharded,) = average(*map(str, shards), [0.5], tmp_path / "sharded")
    assert same_bits(loaded(sharded), expected)


def test_memory_is_one_shard(base, aligned, tmp_path, monkeypatch):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the resident memory is read from Linux's /proc")

    class Memory(Progress):
        def __init__(self):
            self.mebibytes = []

        def advance(self):  # without the pages of mapped files, which the system can drop
            self.mebibytes.append(int(re.search(r"RssAnon:\s+(\d+) kB", status.read_text())[1]) / 1024)

    def add(tensors, value):
        tensors.update({f"large.{i}": torch.full((2**20,), value) for i in range(20)})

    monkeypatch.setattr(trainers.average, "SHARD", "9MB")
    average(str(base), str(aligned), [0.5], tmp_path / "before")  # what is allocated once
    for folder, value in ((base, 1.0), (aligned, 2.0)):
        edit(folder, lambda tensors, value=value: add(tensors, value))
    memory = Memory()
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out", progress=memory)
    assert max(memory.mebibytes) - memory.mebibytes[0] < 30  # the tensors have 80, a shard 8
    assert all((tensor == 1.5).all() for name, tensor in weights(folder).items() if "large" in name)


def test_different_number_formats_are_stored_as_aligneds(base, tmp_path):
    aligned, progress = save(tmp_path / "half", seed=2, dtype=torch.bfloat16), Lines()
    nothing, half = average(str(base), str(aligned), [0, 0.5], tmp_path / "out", progress=progress)
    assert progress.lines == [
        "BASE has torch.float32, ALIGNED torch.bfloat16: the averages are stored in ALIGNED's format"
    ]
    ours, theirs = weights(base), weights(aligned)
    assert same_bits(weights(nothing), {name: tensor.bfloat16() for name, tensor in ours.items()})
    expected = {name: torch.lerp(ours[name], tensor.float(), 0.5).bfloat16() for name, tensor in theirs.items()}
    assert same_bits(weights(half), expected)


def test_equal_tensors_of_other_formats_are_copied_and_all_are_aligned_in_the_file(base, aligned, tmp_path):
    """A memory map can be read in place: each tensor starts at a multiple of its item size."""
    mask = torch.tensor([[True, False], [True, True]])
    odd = {"mask": mask, "step": torch.tensor(3), "none": torch.empty(0), "c": torch.ones(5).bfloat16()}
    for folder in (base, aligned):
        edit(folder, lambda tensors: tensors.update(odd | {"b": torch.ones(7).double()}))
    for length in range(1, 9):  # of a name, and so of the header
        for folder in (base, aligned):
            edit(folder, lambda tensors, length=length: tensors.update({"d" * length: torch.ones(1)}))
        (folder,) = average(str(base), str(aligned), [0.5], tmp_path / str(length))
        content = (folder / "model.safetensors").read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        sizes = {"BOOL": 1, "BF16": 2, "F32": 4, "F64": 8, "I64": 8}
        header = json.loads(content[8:begin])
        del header["__metadata__"], header["none"]
        assert {entry["dtype"] for entry in header.values()} == sizes.keys()
        assert all((begin + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0 for entry in header.values())
    found = weights(folder)
    assert torch.equal(found["mask"], mask)
    assert (found["step"].item(), found["step"].dtype, found["none"].shape) == (3, torch.int64, (0,))
    edit(base, lambda tensors: tensors.update(step=torch.tensor(4)))
    assert "step (torch.int64 and torch.int64) differs" in refusal(base, aligned, tmp_path / "other")


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


def test_a_tied_and_a_separate_head_give_a_separate_head(aligned, tmp_path):
    base = save(tmp_path / "tied", seed=1, tie_word_embeddings=True)
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    expected = torch.lerp(weights(base)[EMBEDDINGS], weights(aligned)[HEAD], 0.5)
    assert torch.equal(loaded(folder)[HEAD], expected)
    assert not torch.equal(loaded(folder)[EMBEDDINGS], expected)
    # the other way round, ALIGNED's configuration has no separate head
    line = refusal(aligned, base, tmp_path / "other")
    assert f"{HEAD} has separate values in aligned, but is tied to {EMBEDDINGS} in tied" in line


def test_tensors_are_matched_by_their_names_in_transformers(tmp_path):
    """GPT-2's original file has no prefix, and has attention masks; a checkpoint trained from it has neither."""
    base, aligned = save(tmp_path / "base", "gpt2", seed=1), save(tmp_path / "aligned", "gpt2", seed=2)
    expected, expected_back = (
        average(*map(str, pair), [0.5], tmp_path / pair[0].name / "out")[0]
        for pair in ((base, aligned), (aligned, base))
    )

    def as_first_published(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()

    edit(base, as_first_published)
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    assert same_bits(loaded(folder), loaded(expected))
    (back,) = average(str(aligned), str(base), [0.5], tmp_path / "back")
    assert same_bits(loaded(back), loaded(expected_back))


# The checkpoint


def test_an_average_is_used_like_the_aligned_model_and_records_its_origin(base, aligned, tmp_path):
    reward = {"name": "rm", "path": "/rm", "weights_sha256": "7" * 64}
    before = [{"stage": "base", "name": "llama", "weights_sha256": "1" * 64}]
    recipe = {"stage": "ppo", "lineage": before, "models": {"reward": reward, "value": reward}}
    (aligned / "recipe.json").write_text(json.dumps(recipe))
    (aligned / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder,) = average(str(base), str(aligned), [0.5], tmp_path / "helpful")
    found, ours, theirs = (find_checkpoint(str(each)) for each in (folder, base, aligned))
    assert found.tokenizer_sha256 == theirs.tokenizer_sha256
    assert found.chat_template_sha256 == theirs.chat_template_sha256 is not None
    for name in ("config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (aligned / name).read_bytes()
    engine, tokenizer = load_engine(found, dtype="float32", device="cpu"), tiny_tokenizer()
    model = tiny_model("llama", tokenizer, seed=1)
    model.load_state_dict(weights(folder))
    assert_each_as_alone(answers(engine, QUESTIONS), model, tokenizer, QUESTIONS)
    assert [(a.stage, a.name) for a in found.lineage] == [
        *(("base", "llama"), ("ppo", "aligned"), ("average", "helpful-alpha-0.5")),
    ]
    assert found.lineage[-1].weights_sha256 == found.weights_sha256
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["config"] == {"alpha": 0.5}
    assert recipe["parent"] == {"name": "aligned", "path": str(aligned), "weights_sha256": theirs.weights_sha256}
    assert recipe["models"] == {
        "base": {"name": "base", "path": str(base), "weights_sha256": ours.weights_sha256},
        "reward": reward,  # a judge that the policy was trained against is not neutral
    }
    (aligned / "recipe.json").unlink()
    (plain,) = average(str(base), str(aligned), [0.5], tmp_path / "out")
    stages = [(a.stage, a.name) for a in find_checkpoint(str(plain)).lineage]
    assert stages == [("base", "base"), ("average", "out-alpha-0.5")]


def test_the_same_command_keeps_complete_averages(base, aligned, tmp_path):
    out, progress = tmp_path / "out", Lines()
    (folder,) = average(str(base), str(aligned), [0.5], out)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    folders = average(str(base), str(aligned), [0.5, 0.75, 0.50], out, progress=progress)
    assert folders == [folder, out / "alpha-0.75"]
    assert progress.lines == [f"{folder}: already complete"]
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()} == before
    assert sorted(out.iterdir()) == folders


@pytest.mark.parametrize("change", ["other weights", "other template", "other recipe", "empty", "no weights", "a file"])
def test_a_folder_with_anything_else_is_not_touched(change, base, aligned, tmp_path):
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
        elif change == "other recipe":
            (folder / "recipe.json").write_text('{"models": []}')
        else:
            (folder / "model.safetensors").unlink()
    assert "does not hold this average" in refusal(base, aligned, out, [0.25, 0.5])
    assert list(out.iterdir()) == [folder]


def test_an_interrupted_average_or_a_full_disk_leaves_nothing(base, aligned, tmp_path, monkeypatch):
    class Interrupted(Progress):
        def advance(self):
            raise KeyboardInterrupt

    def full(descriptor):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        average(str(base), str(aligned), [0.5], out, progress=Interrupted())
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert "No space left on device" in refusal(base, aligned, out)
    usage = shutil._ntuple_diskusage(10**9, 0, 2 * (aligned / "model.safetensors").stat().st_size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "3 averages take" in refusal(base, aligned, out, [0.2, 0.4, 0.6])
    assert list(out.iterdir()) == []
    assert len(average(str(base), str(aligned), [0.2], out)) == 1
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(base, aligned, tmp_path / "file")


# What is refused


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), float("inf")])
def test_an_alpha_outside_0_to_1_is_refused(alpha, tmp_path):
    line = refusal(tmp_path / "base", tmp_path / "aligned", tmp_path / "out", [0.5, alpha])
    assert f"alpha {alpha}: it must be a number from 0" in line


def test_checkpoints_that_cannot_be_averaged_are_refused(base, aligned, tmp_path):
    out, size = tmp_path / "out", len(tiny_tokenizer())
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    save(tmp_path / "gpt2", "gpt2")
    save(tmp_path / "larger", vocab_size=size + 3)
    for name, words in (
        ("copy", "the same weights"),
        ("adapter", "a LoRA adapter; merge it"),
        ("gpt2", "a llama and a gpt2; only one architecture"),
        ("larger", f"vocabularies of {size} and {size + 3} tokens"),
    ):
        assert words in refusal(base, tmp_path / name, out)
    name = "model.layers.0.mlp.up_proj.weight"
    edit(aligned, lambda tensors: tensors.update({name: tensors[name][:-1].clone()}))
    assert "layers.0.mlp.up_proj.weight is [48, 32] in one and [47, 32] in the other" in refusal(base, aligned, out)
    edit(aligned, lambda tensors: tensors.pop(name))
    assert "only base has layers.0.mlp.up_proj.weight" in refusal(base, aligned, out)
    assert "only base has layers.0.mlp.up_proj.weight" in refusal(aligned, base, out)
    edit(aligned, lambda tensors: tensors.update({name: torch.ones(48, 32)}) or tensors.pop(HEAD))
    assert f"only base has {HEAD}" in refusal(base, aligned, out)  # nothing ties it
    configure(aligned, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    assert "custom Python code" in refusal(base, aligned, out)
    for folder in (base, tmp_path / "larger"):
        configure(folder, model_type="teapot")
    assert "checkpoint base: its config.json" in refusal(base, tmp_path / "larger", out)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "pickled (pytorch_model.bin)" in refusal(base, aligned, out)


def test_the_command_prints_the_folders(base, aligned, tmp_path):
    app, out = Typer(), tmp_path / "out"
    app.command()(average_command)
    arguments = [str(base), str(aligned), "--out", str(out), "--alpha"]
    done = CliRunner().invoke(app, [*arguments, "0.25, .5"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(out / "alpha-0.25"), str(out / "alpha-0.5")]
    failed = CliRunner().invoke(app, [*arguments, "0.25;0.5"])
    assert isinstance(failed.exception, AlignbenchError)
    assert "--alpha 0.25;0.5: numbers separated by commas" in str(failed.exception)
