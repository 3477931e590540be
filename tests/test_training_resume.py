"""A run that is killed and resumed equals an uninterrupted one, bit for bit; two processes equal one, to rounding."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
import training_runs
from stages import lines_of, refusal, weights_of

from alignbench.cli.app import main
from trainers import run as run_module
from trainers.run import Run

STAGES = ["sft", "reward", "ppo"]
folder = pytest.fixture(scope="module")(training_runs.prepare)


@pytest.fixture(scope="module")
def whole(folder):
    """An uninterrupted run of a stage, trained once."""
    runs: dict[str, Path] = {}

    def get(stage: str) -> Path:
        if stage not in runs:
            runs[stage] = training_runs.long(folder, stage, folder / f"whole-{stage}")
        return runs[stage]

    return get


def assert_same_bytes(found: Path, expected: Path) -> None:
    names = ["metrics.jsonl", "samples.jsonl", "final/config.json"]  # the latter has a reward model's bias
    for part in ("checkpoints", "final"):
        names += [str(file.relative_to(expected)) for file in (expected / part).rglob("model.safetensors")]
    assert len(names) == {"sft": 7, "rew": 4, "ppo": 5}[expected.name.removeprefix("whole-")[:3]]
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    one, other = (json.loads((run / "final" / "recipe.json").read_text()) for run in (found, expected))
    assert one["metrics"] == other["metrics"]
    assert not list(found.rglob("*.tmp"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_interrupted_while_logging_and_while_saving_resumes_to_the_same_bytes(
    folder, whole, tmp_path, monkeypatch, stage
):
    for owner, name, calls in ((Run, "log", 2), (run_module, "sync", 5), (Run, "log", 1)):
        function, left = getattr(owner, name), iter(range(calls))

        def dying(*arguments, function=function, left=left):
            if next(left, None) is None:
                raise Killed
            return function(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, dying)
            with pytest.raises(Killed):
                training_runs.long(folder, stage, tmp_path / "run")
    assert_same_bytes(training_runs.long(folder, stage, tmp_path / "run"), whole(stage))
    events = [line["event"] for line in lines_of(tmp_path / "run" / "log.jsonl")]
    assert events.count("resume") == 3


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_random_moments_resumes_to_the_same_bytes(folder, whole, tmp_path, stage):
    """In processes that are killed, often in the middle of saving a state."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_runs", "trainers.sft", "trainers.reward", "trainers.ppo", "transformers"])
    moment, kills, run, code = random.Random(stage), 0, tmp_path / "run", None
    lines = run / "metrics.jsonl"
    while code != 0:
        worker = context.Process(target=training_runs.long, args=(folder, stage, run))
        worker.start()
        size = moment.choice([1, 1, 400]) + (lines.stat().st_size if lines.exists() else 0)
        while worker.is_alive() and kills < 3:
            grown = lines.exists() and lines.stat().st_size >= size
            if grown and (kills % 2 or any((run / "state").glob("*.tmp"))):
                time.sleep(moment.random() * 0.02)
                worker.kill()
                kills += 1
                break
            time.sleep(0.0005)
        worker.join()
        code = worker.exitcode
        assert code in (0, -9)
    assert kills == 3, "it ended before it was killed"
    assert_same_bytes(run, whole(stage))


def test_a_resume_with_other_settings_data_or_processes_is_refused(folder, tmp_path, monkeypatch, capsys):
    data = Path(shutil.copy(folder / "sft.jsonl", tmp_path))

    def again(**changed):
        return training_runs.train(folder, "sft", tmp_path / "run", data=str(data), **changed)

    again()
    assert "config.lr was 0.01, now 0.5" in refusal(lambda: again(lr=0.5))
    assert "config.epochs was 1, now 3" in refusal(lambda: again(epochs=3))
    again(save_every=7)  # does not change results
    data.write_text(data.read_text().replace("honey", "money"))
    assert "data.0.sha256 was" in refusal(again)
    shutil.copy(folder / "sft.jsonl", data)
    monkeypatch.setattr(sys, "argv", ["alignbench", "train", "sft", str(tmp_path / "run" / "config.yaml"), "lr=0.5"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "config.lr was 0.01, now 0.5" in capsys.readouterr().err
    identity = tmp_path / "run" / "identity.json"
    identity.write_text(identity.read_text().replace('"processes": 1', '"processes": 2'))
    assert "processes was 2, now 1" in refusal(again)


# Two processes


@pytest.fixture(scope="module")
def two(folder) -> Path:
    return training_runs.two_processes(folder)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_as_one_to_rounding(folder, two, tmp_path, stage):
    """Also with a single validation row for two processes: each computes it."""
    one, both = training_runs.long(folder, stage, tmp_path / stage, **training_runs.TWO[stage]), two / stage
    assert json.loads((both / "identity.json").read_text())["processes"] == 2
    for a, b in zip(lines_of(one / "metrics.jsonl"), lines_of(both / "metrics.jsonl"), strict=True):
        a, b = ({name: float(x) for name, x in line.items()} for line in (a, b))  # a single pair has no interval: nan
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4, nan_ok=True)
    for a, b in zip(lines_of(one / "samples.jsonl"), lines_of(both / "samples.jsonl"), strict=True):
        assert (a["prompt"], a["response"]) == (b["prompt"], b["response"])
    for part in ["final", "final/value"] if stage == "ppo" else ["final"]:
        a, b = weights_of(one / part), weights_of(both / part)
        for name, weight in a.items():
            torch.testing.assert_close(weight, b[name], rtol=1e-3, atol=5e-4)


def test_an_error_of_one_process_stops_both_with_the_same_line(two):
    first, second = (json.loads((two / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    for line, words in zip(
        first, ("a score is not a number", "No space left on device", "data.0 was None, now"), strict=True
    ):
        assert words in line
    (state,) = (two / "run" / "state").iterdir()
    assert sorted(file.name for file in state.iterdir()) == ["rank-0", "rank-1", "state.json"]
    assert (two / "run" / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'
    assert (two / "run" / "samples.jsonl").read_text() == '{"step": 1, "prompt": "p"}\n'
