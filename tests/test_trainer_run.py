"""The folder of a training run: interruption, a full disk, other settings; and a checkpoint's lineage."""

from __future__ import annotations

import json
import resource
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from stages import lines_of, refusal
from tiny import save_tiny_checkpoint
from training_models import an_accelerator

from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.models.checkpoint import find_checkpoint
from trainers.config import StageConfig, setting
from trainers.loop import make_accelerator
from trainers.run import Origin, identity, open_run

accelerator = pytest.fixture(scope="module")(an_accelerator)


@dataclass(frozen=True)
class Config(StageConfig):
    lr: float = setting(1e-5, "learning rate")


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Origin:
    parent = find_checkpoint(str(save_tiny_checkpoint(tmp_path_factory.mktemp("parent") / "tiny")))
    return Origin("sft", parent, {}, [{"file": "a.jsonl", "sha256": "cd"}])


@pytest.fixture
def opened(tmp_path, accelerator, origin):
    """Opens the run of a test as a first start or a resume does."""

    def open_(origin=origin, **changed):
        return open_run(replace(Config(out=str(tmp_path / "ppo")), **changed), origin, accelerator)

    return open_


def refused(context) -> str:
    def enter():
        with context:
            pass

    return refusal(enter)


def write_weight(value: float):
    return lambda folder: (folder / "weight.txt").write_text(repr(value))


class Killed(BaseException):
    pass


def train(opened, steps: int = 7, kill_at: int | None = None, kill_in: str = "") -> None:
    """Training of one number, interrupted at a given place of a step."""
    with opened() as run:
        state, weight, first = run.resume(), 1.0, 1
        if state is not None:
            weight, first = float((state.folder / "weight.txt").read_text()), state.values["step"] + 1
            assert state.values["beta"] == weight
        for step in range(first, steps + 1):
            weight = weight * 0.9 + step

            def write(folder, step=step, weight=weight):
                write_weight(weight)(folder)
                if (step, "writing") == (kill_at, kill_in):
                    raise Killed

            run.log(step, {"loss": 1 / weight})
            run.sample(step, [{"prompt": f"p{i}", "response": "é\ud800"} for i in range(2)])
            if (step, "logged") == (kill_at, kill_in):
                raise Killed
            if step % 2 == 0:
                run.save_state(step, write, {"beta": weight})
            if (step, "saved") == (kill_at, kill_in):
                raise Killed
        run.save_checkpoint("final", write_weight(weight), {"loss": 1 / weight})


def files_of(out: Path) -> dict[str, bytes]:
    """Every file but the log, which has times, and the lock."""
    files = [f for f in sorted(out.rglob("*")) if f.is_file() and f.name not in ("log.jsonl", ".lock")]
    return {str(f.relative_to(out)): f.read_bytes() for f in files}


# Resuming


@pytest.mark.parametrize("place", ["logged", "writing", "saved"])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_resumed_runs_files_equal_an_uninterrupted_ones(tmp_path, opened, step, place):
    train(opened)
    whole = files_of(tmp_path / "ppo")
    shutil.rmtree(tmp_path / "ppo")
    if place == "writing" and step % 2:
        step += 1
    with pytest.raises(Killed):
        train(opened, kill_at=step, kill_in=place)
    train(opened)
    assert files_of(tmp_path / "ppo") == whole
    assert sorted(whole) == [
        *("config.yaml", "final/recipe.json", "final/weight.txt", "identity.json", "metrics.jsonl", "samples.jsonl"),
        *("state/step-00000006/state.json", "state/step-00000006/weight.txt"),
    ]
    events = [line["event"] for line in lines_of(tmp_path / "ppo" / "log.jsonl")]
    assert events == ["start", "stop", "resume", "end"]


def test_partial_lines_and_folders_of_a_killed_process_are_removed(tmp_path, opened):
    train(opened, steps=2)
    whole = files_of(tmp_path / "ppo")
    with (tmp_path / "ppo" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    partial = tmp_path / "ppo" / "state" / "step-00000004.tmp"
    partial.mkdir()
    (partial / "weight.txt").write_text("0.")
    shutil.rmtree(tmp_path / "ppo" / "final")
    (tmp_path / "ppo" / "final.tmp").mkdir()
    with opened() as run:
        assert run.result() is None
        assert run.resume().folder.name == "step-00000002"
    assert not list((tmp_path / "ppo").rglob("*.tmp"))
    train(opened, steps=2)
    assert files_of(tmp_path / "ppo") == whole


def test_only_the_newest_state_is_kept_and_a_moved_run_can_be_resumed(tmp_path, opened, accelerator, origin):
    with opened() as run:
        for step in (8, 9, 10):
            run.save_state(step, write_weight(step), {})
    moved = (tmp_path / "ppo").rename(tmp_path / "moved")
    assert [path.name for path in (moved / "state").iterdir()] == ["step-00000010"]
    with open_run(Config(out=str(moved)), origin, accelerator) as run:
        assert run.resume().folder == moved / "state" / "step-00000010"


def test_a_checkpoint_is_replaced_and_final_marks_the_run_as_finished(tmp_path, opened, accelerator, monkeypatch):
    with opened() as run:
        run.log(1, {"loss": 0.5})
        for value in (1.0, 2.0):
            folder = run.save_checkpoint("checkpoints/best", write_weight(value), {})
        assert (folder / "weight.txt").read_text() == "2.0"
        assert run.result() is None
        assert run.save_checkpoint("final", write_weight(3.0), {"kl": float("inf")}) == tmp_path / "ppo" / "final"
    monkeypatch.setattr(accelerator, "init_trackers", pytest.fail)  # it would remove points of a finished run
    with opened() as run:
        assert run.result() == (tmp_path / "ppo" / "final", {"kl": float("inf")})
    assert (tmp_path / "ppo" / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_resume_with_other_settings_is_refused_with_the_first_difference(tmp_path, opened, origin):
    with opened():
        pass
    line = refused(opened(lr=2e-5))
    assert line.startswith(f"{tmp_path / 'ppo'}: config.lr was 1e-05, now 2e-05; resume with the same settings")
    other = [{"file": "a.jsonl", "sha256": "ef"}]
    for changed, words in (
        ({"parent": replace(origin.parent, weights_sha256="xy")}, f"was {origin.parent.weights_sha256}, now xy;"),
        ({"data": other}, "data.0.sha256 was cd, now ef;"),
        ({"data": [*origin.data, *other]}, "data.1 was None, now"),
        ({"models": {"reward": identity(origin.parent)}}, "reward was None, now"),
    ):
        assert words in refused(opened(replace(origin, **changed)))
    with opened(save_every=5):  # does not change results
        pass
    assert yaml.safe_load((tmp_path / "ppo" / "config.yaml").read_text())["save_every"] == 5


def test_two_processes_cannot_train_in_one_folder(opened):
    with opened():
        assert "another alignbench process" in refused(opened())
    with opened():
        pass


def test_numbers_that_json_cannot_hold_are_written_as_text(tmp_path, opened):
    with opened() as run:
        run.log(1, {"kl": float("nan"), "ratio": float("inf"), "low": -float("inf"), "loss": 0.5})
    (line,) = (tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found == {"step": 1, "kl": "nan", "ratio": "inf", "low": "-inf", "loss": 0.5}


# A full disk


@contextmanager
def little_disk(size: int = 50_000):
    """No file of this process grows beyond `size` bytes, which a writer sees as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LARGE = {"weight": torch.zeros(100_000)}


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: save_file(LARGE, folder / "model.safetensors"),
        lambda folder: torch.save(LARGE, folder / "optimizer.pt"),
        lambda folder: (folder / "text").write_text("x" * 400_000),
    ],
    ids=["safetensors", "torch.save", "text"],
)
def test_a_full_disk_is_one_line_and_the_older_state_is_kept(tmp_path, opened, write):
    with opened() as run:
        run.log(2, {"loss": 0.5})
        run.save_state(2, write_weight(1.0), {})
        for save in (lambda: run.save_state(4, write, {}), lambda: run.save_checkpoint("final", write, {})):
            with little_disk():
                line = refusal(save)
            assert "cannot be written (" in line
            assert "fix it and run the same command again" in line
        assert [path.name for path in (tmp_path / "ppo" / "state").iterdir()] == ["step-00000002"]
        assert run.result() is None
        run.save_state(4, write, {})  # there is room again
    with opened() as run:
        assert run.resume().folder.name == "step-00000004"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_while_logging_is_one_line_and_other_errors_are_unchanged(tmp_path, opened):
    def write(folder):
        raise RuntimeError("CUDA error")

    with opened() as run:
        with pytest.raises(RuntimeError, match="CUDA error"):
            run.save_state(1, write, {})
        (tmp_path / "ppo" / "metrics.jsonl").symlink_to("/dev/full")
        assert "No space left on device" in refusal(lambda: run.log(1, {"loss": 0.5}))


# The accelerator and the trackers


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP1")]
)
def test_launchers_that_cannot_accumulate_gradients_are_refused(tmp_path, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "true")
    line = refusal(lambda: make_accelerator(Config(out=str(tmp_path), trackers=(), cpu=True)))
    assert line == f"{name}: not supported; start with FSDP2 or DDP instead"


def test_trackers_that_are_unknown_or_not_installed_are_refused(tmp_path, monkeypatch):
    def make(trackers, **options):
        return make_accelerator(Config(out=str(tmp_path), trackers=trackers, cpu=True), **options)

    assert "choose among tensorboard, wandb" in refusal(lambda: make(("tensorbored",)))
    monkeypatch.setattr("trainers.loop.find_spec", lambda name: None)
    assert "pip install 'alignbench[train]'" in refusal(lambda: make(("tensorboard",)))
    assert "pip install 'alignbench[wandb]'" in refusal(lambda: make(("wandb",)))
    lines = []
    assert make(None, notify=lines.append).log_with == []
    assert len(lines) == 1
    assert "metrics.jsonl" in lines[0]


def test_tensorboard_gets_the_metrics(tmp_path, origin):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = Config(out=str(tmp_path / "ppo"), cpu=True)
    with open_run(config, origin, make_accelerator(config)) as run:
        run.log(3, {"loss": 0.5})
    events = EventAccumulator(str(tmp_path / "ppo" / "tensorboard" / "alignbench")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.5)]


# Lineage


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, Path]:
    """base → sft → reward and base → sft → ppo, in the folders of the trainers."""
    home = tmp_path_factory.mktemp("stages")
    found = {"base": save_tiny_checkpoint(home / "tiny-base", seed=0)}
    for seed, (name, stage, parent, path, roles) in enumerate(
        [
            ("sft", "sft", "base", "sft/final", []),
            ("reward", "reward", "sft", "rm/final", []),
            ("ppo", "ppo-ptx", "sft", "ppo/checkpoints/step-5", ["reward"]),
        ]
    ):
        found[name] = save_tiny_checkpoint(home / path, seed=seed + 1)
        models = {role: str(found[role]) for role in roles}
        origin = Origin.find(stage, str(found[parent]), models, [{"file": "a.jsonl", "sha256": "cd"}])
        origin.write_recipe(found[name], {"lr": 1e-5}, {"loss": 0.5, "kl": float("nan")})
    return found


def test_a_recipe_and_a_lineage_name_the_checkpoints_from_the_base_on(stages):
    found = {name: find_checkpoint(str(path)) for name, path in stages.items()}
    assert found["base"].lineage == ()
    assert [(a.stage, a.name) for a in found["reward"].lineage] == [
        *(("base", "tiny-base"), ("sft", "sft"), ("reward", "rm")),
    ]
    ppo = found["ppo"].lineage
    assert [(a.stage, a.name) for a in ppo] == [("base", "tiny-base"), ("sft", "sft"), ("ppo-ptx", "ppo-step-5")]
    assert [a.weights_sha256 for a in ppo] == [found[name].weights_sha256 for name in ("base", "sft", "ppo")]
    recipe = json.loads((stages["ppo"] / "recipe.json").read_text())
    expected = {"stage": "ppo-ptx", "data": [{"file": "a.jsonl", "sha256": "cd"}], "config": {"lr": 1e-5}}
    expected |= {"metrics": {"loss": 0.5, "kl": "nan"}, "parent": identity(found["sft"])}
    assert expected.items() <= recipe.items()
    assert recipe["models"] == {"reward": identity(found["reward"])}
    assert recipe["versions"]["torch"] == version("torch")
    assert [entry["stage"] for entry in recipe["lineage"]] == ["base", "sft"]


@pytest.mark.parametrize(
    "content", ['{"stage": "sft"', '{"stage": "sft"}', '{"stage": "s", "lineage": [{"x": 1}]}', "[]"]
)
def test_a_broken_recipe_is_one_line(tmp_path, content):
    folder = save_tiny_checkpoint(tmp_path / "broken")
    (folder / "recipe.json").write_text(content)
    with pytest.raises(AlignbenchError, match=r"broken.*recipe\.json") as caught:
        find_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


def test_an_evaluation_records_the_lineage_but_only_the_weights_determine_its_folder(stages, world, tmp_path):
    def run_json(spec: Path):
        (run,) = evaluate([str(spec)], ["truthfulqa_mc"], tmp_path / "runs", limit=2, data_dir=world, device="cpu")
        return run.folder.name, json.loads((run.folder / "run.json").read_text())

    name, described = run_json(stages["sft"])
    assert [entry["stage"] for entry in described["lineage"]] == ["base", "sft"]
    assert "lineage" not in described["model"]
    plain = shutil.copytree(stages["sft"], tmp_path / "sft")
    (plain / "recipe.json").unlink()
    shutil.rmtree(tmp_path / "runs")
    assert run_json(plain)[0] == name
