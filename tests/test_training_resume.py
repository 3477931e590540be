"""A run that is killed and resumed equals one that was not, bit for bit; several processes equal one, to rounding."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_runs
from stages import lines_of, refusal, weights_of

from alignbench.errors import AlignbenchError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("training")
    training_runs.prepare(found)
    return found


@pytest.fixture(scope="module")
def processes():
    """Processes with the libraries loaded already, so that each begins to train within a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_runs", "trainers.sft", "trainers.reward", "trainers.ppo", "transformers"])
    return context


def killed_and_resumed(processes, folder: Path, stage: str, out: str, kills: int) -> Path:
    """Train in processes that are killed at random moments, often in the middle of saving a state."""
    moment, done = random.Random(stage), 0
    run = folder / out
    for _ in range(100):
        worker = processes.Process(target=training_runs.train, args=(folder, stage, out))
        worker.start()
        lines = run / "metrics.jsonl"
        before = lines.stat().st_size if lines.exists() else 0
        growth = moment.choice([1, 1, 400])
        while worker.is_alive() and done < kills:
            grown = lines.exists() and lines.stat().st_size >= before + growth
            if grown and (done % 2 or any((run / "state").glob("*.tmp"))):
                time.sleep(moment.random() * 0.02)
                worker.kill()
                done += 1
                break
            time.sleep(0.0005)
        worker.join()
        if worker.exitcode == 0:
            assert done == kills, "it ended before it was killed"
            return run
        assert worker.exitcode == -9
    raise AssertionError("it never ended")


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_run_that_was_killed_and_resumed_leaves_the_bytes_of_one_that_was_not(folder, processes, stage):
    whole = processes.Process(target=training_runs.train, args=(folder, stage, f"whole-{stage}"))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    found, expected = killed_and_resumed(processes, folder, stage, f"killed-{stage}", 3), folder / f"whole-{stage}"
    events = [line["event"] for line in lines_of(found / "log.jsonl")]
    assert events.count("resume") == 3
    names = ["metrics.jsonl", "samples.jsonl", "final/config.json"]  # of a reward model: with its bias
    for part in ("checkpoints", "final"):
        names += [str(file.relative_to(expected)) for file in (expected / part).rglob("model.safetensors")]
    assert ("final/value/model.safetensors" in names) == (stage == "ppo")
    assert ("checkpoints/epoch-3/model.safetensors" in names) == (stage == "sft")
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    one, other = (json.loads((run / "final" / "recipe.json").read_text()) for run in (found, expected))
    assert one["metrics"] == other["metrics"]
    assert not list(found.rglob("*.tmp"))


def test_a_resume_with_another_setting_or_other_data_is_refused_naming_it(folder, tmp_path):
    train = training_runs.train
    train(folder, "sft", "refused", epochs=1)
    assert "config.lr was 0.01, now 0.5" in refusal(lambda: train(folder, "sft", "refused", epochs=1, lr=0.5))
    assert "config.epochs was 1, now 3" in refusal(lambda: train(folder, "sft", "refused"))
    train(folder, "sft", "refused", epochs=1, save_every=7)  # changes no result
    data = folder / "sft.jsonl"
    before = data.read_text()
    try:
        data.write_text(before.replace("honey", "money"))
        line = refusal(lambda: train(folder, "sft", "refused", epochs=1))
    finally:
        data.write_text(before)
    assert "data.0.sha256 was" in line


def test_on_the_command_line_a_refused_resume_has_code_2(folder):
    out = folder / "command"
    training_runs.train(folder, "reward", "command", epochs=1)
    arguments = [str(out / "config.yaml"), "lr=0.5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-m", "alignbench", "train", "reward", *arguments],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "config.lr was 0.01, now 0.5" in found.stderr
    assert "Traceback" not in found.stderr


def test_two_processes_train_as_one_to_rounding(folder):
    here = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}:{here.parent}"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = subprocess.run(
        [*launch, str(here / "training_runs.py"), str(folder)], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr[-3000:]
    for stage, changed in (("sft", {"dropout": 0.0}), ("reward", {}), ("ppo", {})):
        one = training_runs.train(folder, stage, f"one-{stage}", **changed)
        two = folder / f"two-{stage}"
        assert json.loads((two / "identity.json").read_text())["processes"] == 2
        for a, b in zip(lines_of(one / "metrics.jsonl"), lines_of(two / "metrics.jsonl"), strict=True):
            assert a == pytest.approx(b, rel=2e-3, abs=2e-4), stage
        for a, b in zip(lines_of(one / "samples.jsonl"), lines_of(two / "samples.jsonl"), strict=True):
            assert (a["prompt"], a["response"]) == (b["prompt"], b["response"])
        parts = ["final", "final/value"] if stage == "ppo" else ["final"]
        for part in parts:
            a, b = weights_of(one / part), weights_of(two / part)
            for name, weight in a.items():
                torch.testing.assert_close(weight, b[name], rtol=1e-3, atol=5e-4)


def test_a_state_of_other_processes_is_refused(folder):
    training_runs.train(folder, "sft", "alone", epochs=1)
    identity = folder / "alone" / "identity.json"
    identity.write_text(identity.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(AlignbenchError, match="processes was 2, now 1"):
        training_runs.train(folder, "sft", "alone", epochs=1)
