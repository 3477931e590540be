"""A run that is killed and resumed equals an uninterrupted one, bit for bit; two processes equal one, to rounding."""

import json
import random
import shutil
import time
from importlib import import_module
from pathlib import Path

import commands
import pytest
import stages
import torch
from cases import read_lines
from commands import refusal
from processes import fork

from trainers import run as run_module
from trainers.run import Run

STAGES = {"sft": 7, "reward": 4, "dpo": 4, "ppo": 5, "rloo": 4}  # files to compare
folder = pytest.fixture(scope="module")(stages.prepare)
two = pytest.fixture(scope="module")(lambda folder: stages.two_processes(folder, *STAGES, "rejection"))


@pytest.fixture(scope="module", params=STAGES)
def whole(folder, request):
    """An uninterrupted run of a stage."""
    return stages.long(folder, request.param, folder / f"whole-{request.param}")


def assert_same_bytes(found: Path, expected: Path, stage: str) -> None:
    names = ["metrics.jsonl", "samples.jsonl", "final/config.json"]  # the latter has a reward model's bias
    for part in ("checkpoints", "final"):
        names += [str(file.relative_to(expected)) for file in (expected / part).rglob("model.safetensors")]
    assert len(names) == STAGES[stage]
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert stages.recipe_of(found)["metrics"] == stages.recipe_of(expected)["metrics"]
    assert not list(found.rglob("*.tmp"))


class Killed(BaseException):
    pass


def test_a_run_interrupted_while_logging_and_while_saving_resumes_to_the_same_bytes(
    folder, whole, tmp_path, monkeypatch
):
    stage, run = whole.name.removeprefix("whole-"), tmp_path / "run"
    for owner, name, calls in ((Run, "log", 2), (run_module, "sync", 5), (Run, "log", 1)):
        function, left = getattr(owner, name), iter(range(calls))

        def dying(*arguments, function=function, left=left):
            if next(left, None) is None:
                raise Killed
            return function(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, dying)
            with pytest.raises(Killed):
                stages.long(folder, stage, run)
        # a killed process may leave part of a line, and of a folder
        for file in run.glob("metrics.jsonl"):
            file.write_text(file.read_text() + '{"step": 3, "lo')
        (run / "state" / "step-00000009.tmp").mkdir(parents=True, exist_ok=True)
        (run / "final.tmp").mkdir(exist_ok=True)
    assert_same_bytes(stages.long(folder, stage, run), whole, stage)
    files = {file: file.stat().st_mtime_ns for file in run.glob("*/*") if file.parent.name != "tensorboard"}
    stages.long(folder, stage, run)  # a finished run is not trained again
    assert {file: file.stat().st_mtime_ns for file in files} == files
    events = [e for line in read_lines(run / "log.jsonl") if (e := line["event"]) not in ("warning", "iteration")]
    assert events == ["start", "stop", *["resume", "stop"] * 2, *["resume", "end"] * 2]
    assert len(list((run / "state").iterdir())) == 1  # only the newest state is kept


@pytest.mark.slow
def test_a_run_killed_at_random_moments_resumes_to_the_same_bytes(folder, whole, tmp_path):
    """In processes that are killed, often in the middle of saving a state."""
    stage = whole.name.removeprefix("whole-")
    moment, kills, run, code = random.Random(stage), 0, tmp_path / "run", None
    lines = run / "metrics.jsonl"
    while code != 0:
        worker = fork(stages.long, folder, stage, run)
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
    assert_same_bytes(run, whole, stage)


def test_a_resume_with_other_settings_data_or_processes_is_refused(folder, tmp_path):
    data, run = Path(shutil.copy(folder / "sft.jsonl", tmp_path)), tmp_path / "run"

    def again(**changed):
        return stages.train(folder, "sft", run, data=str(data), **changed)

    again()
    assert "config.epochs was 1, now 3" in refusal(lambda: again(epochs=3))
    again(save_every=7)  # does not change results
    data.write_text(data.read_text().replace("honey", "money"))
    assert "data.0.sha256 was" in refusal(again)
    shutil.copy(folder / "sft.jsonl", data)
    done = commands.run("train", "sft", run / "config.yaml", "lr=0.5")
    commands.assert_one_line_error(done, f"{run}: config.lr was 0.01, now 0.5; resume with the same settings")
    identity = run / "identity.json"
    identity.write_text(identity.read_text().replace('"processes": 1', '"processes": 2'))
    assert "processes was 2, now 1" in refusal(again)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "rejection"])
def test_two_processes_train_as_one_to_rounding(folder, two, tmp_path, stage):
    """Also with a single validation row for two processes: each computes it."""
    one, both = stages.long(folder, stage, tmp_path / stage, **stages.TWO[stage]), two / stage
    assert json.loads((both / "identity.json").read_text())["processes"] == 2
    for a, b in zip(read_lines(one / "metrics.jsonl"), read_lines(both / "metrics.jsonl"), strict=True):
        a, b = ({name: float(x) for name, x in line.items()} for line in (a, b))  # a single pair has no interval: nan
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4, nan_ok=True)
    texts = [[(row["prompt"], row["response"]) for row in read_lines(run / "samples.jsonl")] for run in (one, both)]
    assert texts[0] == texts[1]
    for part in ["final", "final/value"] if stage == "ppo" else ["final"]:
        torch.testing.assert_close(stages.weights_of(one / part), stages.weights_of(both / part), rtol=1e-3, atol=5e-4)


def test_an_error_of_one_process_stops_both_with_the_same_line(folder):
    two = stages.two_processes(folder)
    first, second = (json.loads((two / f"said-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    words = ("reward mine: ValueError: could not convert", "No space left on device", "data.0 was None, now")
    assert [word in line for word, line in zip(words, first, strict=True)] == [True] * 3
    (state,) = (two / "run" / "state").iterdir()
    assert sorted(file.name for file in state.iterdir()) == ["rank-0", "rank-1", "state.json"]
    assert (two / "run" / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'
    assert (two / "run" / "samples.jsonl").read_text() == '{"step": 1, "prompt": "p"}\n'


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "rejection"])
def test_a_callback_sees_each_line_and_stops_a_training_which_saves_what_it_has(folder, tmp_path, monkeypatch, stage):
    monkeypatch.chdir(folder)
    module, seen = import_module(f"trainers.{stage}"), []
    config = stages.config_of(folder, stage, tmp_path / "run", epochs=3, batch=4)

    def callback(metrics):
        seen.append((metrics["step"], "epoch" in metrics))
        return metrics["step"] == 2

    found = module.train(config, callback=callback)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert seen == [(line["step"], "epoch" in line) for line in lines] == [(1, False), (2, False), (2, True)]
    assert found[1]["epoch"] == 1
    assert module.train(config)[1] == pytest.approx(found[1], nan_ok=True)  # a finished run
