"""FSDP2 in two processes on a CPU (gloo): models are sharded before they are loaded, and train as in one process."""

import json
import shutil
from pathlib import Path

import pytest
import sharded
import stages
import torch
from cases import read_lines
from processes import in_two_processes
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow
WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
RUNS = {  # with validation, a new value head, averaged weights, pretraining text, recomputed layers, a resume
    "sft": ("sft", {"epochs": 2, "dropout": 0.0, "validation": "one-sft.jsonl", "reward": "judge"}),
    "ppo": ("ppo", {}),  # extended from a state
    "head": ("ppo", {"episodes": 16, "reward": "training_rewards:length", "gradient_checkpointing": True}),
    "half": ("ppo", {"episodes": 8, "minibatch": 8, "mixed_precision": "bf16", "ptx": 0.0}),
    "rejection": ("rejection", {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = stages.prepare(tmp_path_factory)
    stages.checkpoint(folder / "tied", tie_word_embeddings=True, shard_size="20KB", **WIDE)
    stages.checkpoint(folder / "bare", **WIDE)  # as a model without a head is saved, such as the hub's gpt2
    weights = load_file(folder / "bare" / "model.safetensors")
    save_file({n.removeprefix("model."): w for n, w in weights.items()}, folder / "bare" / "model.safetensors")
    return folder


def in_two(folder: Path, *runs: str) -> None:
    for run in runs:
        stage, settings = RUNS[run]
        parts = [{"episodes": 16}, {}] if run == "ppo" else [{}]
        written = {"stage": stage, "settings": settings | {"micro_tokens": 64}, "parts": parts}
        (folder / f"{run}.json").write_text(json.dumps(written))
    in_two_processes(folder, sharded.main, folder, *runs)


def test_each_process_reads_its_shards_of_the_files_alone(folder):
    shutil.copytree(folder / "model", folder / "other")
    in_two(folder)
    for name in ("model", "tied", "bare", "judge", "other"):
        files = sorted((folder / name).glob("*.safetensors"))
        stored = {n: w for file in files for n, w in load_file(file).items()}
        for rank in (0, 1):
            found = json.loads((folder / f"shards-{rank}.json").read_text())
            assert found[name]["meta"] == (name != "other"), "no weights before they are sharded"
            assert (found[name]["trained"], found["frozen"][name]["trained"]) == (True, False)
            assert found[name]["held"] == pytest.approx(0.5, abs=0.02)
            whole = torch.load(folder / f"{name}-{rank}.pt", weights_only=True)  # the frozen ones, in bf16
            names = {n: n if n in stored else n.removeprefix("model.") for n in whole}
            assert whole.keys() >= {n for n in stored if not n.startswith("lm_head")} or name == "bare"
            for own, n in names.items():
                torch.testing.assert_close(whole[own], stored[n].bfloat16().float(), rtol=0, atol=0)
    assert len(list((folder / "tied").glob("*.safetensors"))) > 1


@pytest.fixture(scope="module")
def two(folder):
    in_two(folder, *RUNS)
    return folder / "two"


@pytest.mark.parametrize("name", [name for name in RUNS if name != "half"])
def test_two_sharded_processes_train_as_one(folder, two, tmp_path, monkeypatch, name):
    monkeypatch.chdir(folder)
    stage, settings = RUNS[name]
    one = stages.long(folder, stage, tmp_path / name, **settings)
    for a, b in zip(read_lines(one / "metrics.jsonl"), read_lines(two / name / "metrics.jsonl"), strict=True):
        a, b = ({key: float(x) for key, x in line.items()} for line in (a, b))
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    texts = [
        [(row["prompt"], row["response"]) for row in read_lines(run / "samples.jsonl")] for run in (one, two / name)
    ]
    assert texts[0] == texts[1]
    for part in ["final", "final/value"] if stage == "ppo" else ["final"]:
        found, expected = (stages.weights_of(run / part) for run in (two / name, one))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_under_bf16_the_first_ratio_is_1_and_log_probabilities_are_not_rounded(two):
    (line,) = read_lines(two / "half" / "metrics.jsonl")
    assert line["ratio"] == pytest.approx(1, abs=2e-3)
    assert line["kl"] == pytest.approx(0, abs=2e-2)
