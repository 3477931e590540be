"""Weight averaging: exact at both ends, between them elsewhere, and what is refused."""

import json
import shutil

import commands
import pytest
import torch
from cases import update
from commands import refusal
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from stages import weights_of
from tiny import save_tiny_checkpoint as save
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM

from alignbench.models.checkpoint import find_checkpoint
from alignbench.progress import Progress
from trainers.average import average, mix
from trainers.run import identity

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


def edit(folder, change):
    """Apply `change` to the tensors of a checkpoint in one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def assert_same_bits(one, other):
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


def half(base, aligned, out):
    (folder,) = average(str(base), str(aligned), [0.5], out)
    return folder


def refused(base, aligned, out, alphas=(0.5,)):
    """The one line with which two checkpoints are refused; nothing is left in `out`."""
    line = refusal(lambda: average(str(base), str(aligned), alphas, out))
    assert not list(out.glob(".partial*"))
    return line


@pytest.fixture
def base(tmp_path):
    return save(tmp_path / "base", seed=1)


@pytest.fixture
def aligned(tmp_path):
    return save(tmp_path / "aligned", seed=2)


@given(st.floats(0, 1), st.floats(width=32), st.floats(width=32))
def test_the_ends_are_exact_and_a_mean_is_between_them(alpha, one, other):
    base, aligned = torch.tensor([one]), torch.tensor([other])
    for end, expected in ((0, base), (1, aligned)):
        assert mix(base, aligned, end).numpy().tobytes() == expected.numpy().tobytes()
    if torch.isfinite(base):
        assert torch.equal(mix(base, base, alpha), base)
    if abs(one) < 1e4 and abs(other) < 1e4:  # false for NaN
        slack = 1e-6 * max(abs(one), abs(other))
        assert min(one, other) - slack <= mix(base, aligned, alpha).item() <= max(one, other) + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_each_weight_is_interpolated(dtype, tmp_path):
    base, aligned = (save(tmp_path / name, seed=n, dtype=dtype) for n, name in enumerate(("base", "aligned")))
    ours, theirs = weights_of(base), weights_of(aligned)
    folders = average(str(base), str(aligned), [0, 0.25, 0.7, 1], tmp_path / "out")
    assert [folder.name for folder in folders] == ["alpha-0", "alpha-0.25", "alpha-0.7", "alpha-1"]
    for alpha, found in zip((0, 0.25, 0.7, 1), map(weights_of, folders), strict=True):
        assert found.keys() == theirs.keys()
        for name, tensor in found.items():
            expected = (1 - alpha) * ours[name].double() + alpha * theirs[name].double()
            assert (tensor.dtype, tensor.shape) == (dtype, theirs[name].shape)
            # half a unit in the last place of the stored format, and the rounding of the sum before
            units = torch.finfo(dtype).eps / 2 * expected.abs() + torch.finfo(dtype).tiny
            error = (3e-7 if dtype != torch.float64 else 1e-15) * (0 < alpha < 1)
            assert ((tensor.double() - expected).abs() <= units * (0 < alpha < 1) + error).all(), name


def test_shards_and_other_number_formats_give_the_same_in_aligneds_format(base, aligned, tmp_path):
    expected = {name: torch.lerp(weights_of(base)[name], tensor, 0.5) for name, tensor in weights_of(aligned).items()}
    assert_same_bits(loaded(half(base, aligned, tmp_path / "out")), expected)
    shards = [save(tmp_path / f"shards-{seed}", seed=seed, shard_size="50KB") for seed in (1, 2)]
    assert all((folder / "model.safetensors.index.json").is_file() for folder in shards)
    assert_same_bits(loaded(half(*shards, tmp_path / "sharded")), expected)
    bfloat16 = save(tmp_path / "bfloat16", seed=2, dtype=torch.bfloat16)
    ours, theirs = weights_of(base), weights_of(bfloat16)
    mixed = {name: torch.lerp(ours[name], tensor.float(), 0.5).bfloat16() for name, tensor in theirs.items()}
    assert_same_bits(weights_of(half(base, bfloat16, tmp_path / "mixed")), mixed)


def test_a_tied_head_may_be_stored_or_not_and_one_separate_head_gives_a_separate_head(aligned, tmp_path):
    pair = [save(tmp_path / name, seed=seed, tie_word_embeddings=True) for seed, name in enumerate(("tied", "b"))]
    bare = loaded(half(*pair, tmp_path / "bare"))
    found = loaded(half(pair[0], aligned, tmp_path / "separate"))
    assert torch.equal(found[HEAD], torch.lerp(weights_of(pair[0])[EMBEDDINGS], weights_of(aligned)[HEAD], 0.5))
    assert not torch.equal(found[HEAD], found[EMBEDDINGS])
    # the other way round, ALIGNED's configuration has no separate head
    line = refused(aligned, pair[0], tmp_path / "other")
    assert f"{HEAD} has separate values in aligned, but is tied to {EMBEDDINGS} in tied" in line
    for folder in pair:  # stored in one, then in both
        edit(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDINGS].clone()}))
        assert_same_bits(loaded(half(*pair, tmp_path / f"stored-{folder.name}")), bare)


def test_tensors_are_matched_by_their_names_in_transformers(tmp_path):
    """GPT-2's original file has no prefix, and has attention masks; a checkpoint trained from it has neither."""
    base, aligned = (save(tmp_path / name, "gpt2", seed=n) for n, name in enumerate(("base", "aligned")))
    pairs = {"out": (base, aligned), "back": (aligned, base)}
    expected = {name: loaded(half(*pair, tmp_path / "expected" / name)) for name, pair in pairs.items()}

    def as_first_published(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()

    edit(base, as_first_published)
    for name, pair in pairs.items():
        assert_same_bits(loaded(half(*pair, tmp_path / name)), expected[name])


def test_an_average_is_used_like_the_aligned_model_and_records_its_origin(base, aligned, tmp_path):
    reward = {"name": "rm", "path": "/rm", "weights_sha256": "7" * 64}
    before = [{"stage": "base", "name": "llama", "weights_sha256": "1" * 64}]
    recipe = {"stage": "ppo", "lineage": before, "models": {"reward": reward, "value": reward}}
    (aligned / "recipe.json").write_text(json.dumps(recipe))
    (aligned / "chat_template.jinja").write_text("{{ messages[0].content }}")
    folder = half(base, aligned, tmp_path / "helpful")
    found = find_checkpoint(str(folder))
    copied = {file.name for file in aligned.iterdir()} - {"model.safetensors", "recipe.json"}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= copied
    assert all((folder / name).read_bytes() == (aligned / name).read_bytes() for name in copied)
    lineage = [(a.stage, a.name) for a in found.lineage]
    assert lineage == [("base", "llama"), ("ppo", "aligned"), ("average", "helpful-alpha-0.5")]
    assert found.lineage[-1].weights_sha256 == found.weights_sha256
    recipe = json.loads((folder / "recipe.json").read_text())
    ours, theirs = (identity(find_checkpoint(str(each))) for each in (base, aligned))
    assert (recipe["config"], recipe["parent"]) == ({"alpha": 0.5}, theirs)
    # a judge that the policy was trained against is not neutral
    assert recipe["models"] == {"base": ours, "reward": reward}
    (aligned / "recipe.json").unlink()
    plain = find_checkpoint(str(half(base, aligned, tmp_path / "out")))
    assert [(a.stage, a.name) for a in plain.lineage] == [("base", "base"), ("average", "out-alpha-0.5")]


def test_the_command_prints_the_folders_and_keeps_complete_averages(base, aligned, tmp_path):
    out = tmp_path / "out"
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in half(base, aligned, out).iterdir()}
    done = commands.run("average", base, aligned, "--out", out, "--alpha", "0.25, .5,0.50")
    assert done.stdout.splitlines() == [str(folder) for folder in sorted(out.iterdir())]
    assert f"{out}/alpha-0.5: already complete" in done.stderr
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in before} == before
    failed = commands.run("average", base, aligned, "--out", out, "--alpha", "0.25;0.5")
    commands.assert_one_line_error(failed, "--alpha 0.25;0.5: numbers separated by commas")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder, aligned: save(aligned, seed=3),
        lambda folder, aligned: (aligned / "chat_template.jinja").write_text("{{ messages }}"),
        lambda folder, aligned: (folder / "recipe.json").write_text('{"models": []}'),
        lambda folder, aligned: (folder / "model.safetensors").unlink(),
        lambda folder, aligned: [file.unlink() for file in folder.iterdir()],
        lambda folder, aligned: (shutil.rmtree(folder), folder.touch()),
    ],
)
def test_a_folder_with_anything_else_is_not_touched(change, base, aligned, tmp_path):
    out, folder = tmp_path / "out", tmp_path / "out" / "alpha-0.5"
    half(base, aligned, out)
    change(folder, aligned)
    words = "recipe.json: cannot be read" if folder.is_file() else "does not hold this average"
    assert words in refused(base, aligned, out, [0.25, 0.5])
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
        assert "No space left on device" in refused(base, aligned, out)
    assert list(out.iterdir()) == []
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(base, aligned, tmp_path / "file")


def test_checkpoints_that_cannot_be_averaged_are_refused(base, aligned, tmp_path):
    out, size, name = tmp_path / "out", len(tiny_tokenizer()), "model.layers.0.mlp.up_proj.weight"
    for alpha in (-0.1, 1.5, float("nan"), float("inf")):
        assert f"alpha {alpha}: it must be a number from 0" in refused("base", "aligned", out, [0.5, alpha])
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    save(tmp_path / "gpt2", "gpt2")
    save(tmp_path / "larger", vocab_size=size + 3)
    save(tmp_path / "deeper", num_hidden_layers=3)
    for other, words in (
        ("copy", "the same weights"),
        ("adapter", "a LoRA adapter; merge it"),
        ("gpt2", "a llama and a gpt2; only checkpoints of one architecture"),
        ("larger", f"{EMBEDDINGS} is [{size}, 32] in one and [{size + 3}, 32] in the other; if training added tokens"),
        ("deeper", "only deeper has model.layers.2."),
    ):
        assert words in refused(base, tmp_path / other, out)
    for change, words in (
        (lambda tensors: tensors.update({name: tensors[name][:-1].clone()}), "it does not load as a causal"),
        (lambda tensors: tensors.update({name: torch.ones(48, 32), "score": torch.ones(1)}), "score is missing, or"),
        (lambda tensors: tensors.pop(name), f"{name} is missing"),
    ):
        edit(aligned, change)
        assert words in refused(base, aligned, out)
    update(aligned / "config.json", auto_map={"AutoModelForCausalLM": "own.Model"})
    assert "custom Python code" in refused(base, aligned, out)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "pickled (pytorch_model.bin)" in refused(base, aligned, out)
