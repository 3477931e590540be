"""The folder of a training run: a full disk, other settings; and a checkpoint's lineage."""

import json
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from commands import full_disk, refusal
from safetensors.torch import save_file
from stages import an_accelerator
from tiny import save_tiny_checkpoint

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
def out(tmp_path) -> Path:
    return tmp_path / "ppo"


@pytest.fixture
def opened(out, accelerator, origin):
    """Opens the run of a test as a first start or a resume does."""
    return lambda origin=origin, **changed: open_run(replace(Config(out=str(out)), **changed), origin, accelerator)


def write_weight(value: float):
    return lambda folder: (folder / "weight.txt").write_text(repr(value))


def test_a_checkpoint_is_replaced_and_final_marks_the_run_as_finished(out, opened, accelerator, monkeypatch):
    with opened() as run:
        run.log(1, {"kl": float("nan"), "ratio": float("inf"), "low": -float("inf"), "loss": 0.5})
        for value in (1.0, 2.0):
            folder = run.save_checkpoint("checkpoints/best", write_weight(value), {})
        assert (folder / "weight.txt").read_text() == "2.0"
        assert run.result() is None
        assert run.save_checkpoint("final", write_weight(3.0), {"kl": float("inf")}) == out / "final"
    monkeypatch.setattr(accelerator, "init_trackers", pytest.fail)  # it would remove points of a finished run
    with opened() as run:
        assert run.result() == (out / "final", {"kl": float("inf")})
    (line,) = (out / "metrics.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=pytest.fail)  # JSON has no such numbers
    assert found == {"step": 1, "kl": "nan", "ratio": "inf", "low": "-inf", "loss": 0.5}


def test_a_resume_with_another_origin_and_a_second_process_are_refused(out, opened, origin):
    with opened():
        assert "another alignbench process" in refusal(opened().__enter__)
    other = [{"file": "a.jsonl", "sha256": "ef"}]
    for changed, words in (
        ({"parent": replace(origin.parent, weights_sha256="xy")}, f"was {origin.parent.weights_sha256}, now xy;"),
        ({"data": other}, "data.0.sha256 was cd, now ef;"),
        ({"data": [*origin.data, *other]}, "data.1 was None, now"),
        ({"models": {"reward": identity(origin.parent)}}, "reward was None, now"),
    ):
        assert words in refusal(opened(replace(origin, **changed)).__enter__)
    with opened(save_every=5):  # does not change results
        pass
    assert yaml.safe_load((out / "config.yaml").read_text())["save_every"] == 5


LARGE = {"weight": torch.zeros(100_000)}


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: save_file(LARGE, folder / "model.safetensors"),
        lambda folder: torch.save(LARGE, folder / "optimizer.pt"),
        lambda folder: (folder / "text").write_text("x" * 400_000),
    ],
)
def test_a_full_disk_is_one_line_and_the_older_state_is_kept(out, opened, write):
    def broken(folder):
        raise RuntimeError("CUDA error")

    with opened() as run:
        run.log(2, {"loss": 0.5})
        run.save_state(2, write_weight(1.0), {})
        for save in (lambda: run.save_state(4, write, {}), lambda: run.save_checkpoint("final", write, {})):
            with full_disk(50_000):
                line = refusal(save)
            assert "cannot be written (" in line
            assert "fix the cause and run the same command again" in line
        assert [path.name for path in (out / "state").iterdir()] == ["step-00000002"]
        assert run.result() is None
        with pytest.raises(RuntimeError, match="CUDA error"):
            run.save_state(4, broken, {})
        run.save_state(4, write, {})  # there is room again
    with opened() as run:
        assert run.resume().folder.name == "step-00000004"
        if Path("/dev/full").exists():
            (out / "metrics.jsonl").unlink()
            (out / "metrics.jsonl").symlink_to("/dev/full")
            assert "No space left on device" in refusal(run.log, 5, {"loss": 0.5})


def test_tensorboard_gets_the_metrics_and_launchers_and_trackers_that_cannot_be_used_are_refused(
    out, origin, monkeypatch
):
    def make(trackers=(), **options):
        return make_accelerator(Config(out=str(out), trackers=trackers, cpu=True), **options)

    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_run(Config(out=str(out), cpu=True), origin, make(("tensorboard",))) as run:
        run.log(3, {"loss": 0.5})
    events = accumulator.EventAccumulator(str(out / "tensorboard" / "alignbench")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.5)]
    for variable, name in (("DEEPSPEED", "DeepSpeed"), ("FSDP", "FSDP1")):
        with monkeypatch.context() as patched:
            patched.setenv(f"ACCELERATE_USE_{variable}", "true")
            assert refusal(make) == f"{name}: not supported; start with FSDP2 or DDP instead"
            if variable == "FSDP":
                patched.setenv("FSDP_VERSION", "2")
                patched.setenv("FSDP_OFFLOAD_PARAMS", "true")
                assert refusal(make).startswith("FSDP_OFFLOAD_PARAMS: not supported")
    assert "choose among tensorboard, wandb" in refusal(make, ("tensorbored",))
    monkeypatch.setattr("trainers.loop.find_spec", lambda name: None)
    assert "pip install 'alignbench[train]'" in refusal(make, ("tensorboard",))
    assert "pip install 'alignbench[wandb]'" in refusal(make, ("wandb",))
    lines = []
    assert make(None, notify=lines.append).log_with == []
    assert ["metrics.jsonl" in line for line in lines] == [True]


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, Path]:
    """base → sft → reward and base → sft → ppo, in the folders of the trainers."""
    home = tmp_path_factory.mktemp("stages")
    found = {"base": save_tiny_checkpoint(home / "tiny-base", seed=0)}
    table = (("sft", "sft/final", "base"), ("reward", "rm/final", "sft"), ("ppo", "ppo/checkpoints/step-5", "sft"))
    for seed, (name, path, parent) in enumerate(table):
        found[name] = save_tiny_checkpoint(home / path, seed=seed + 1)
        models = {"reward": str(found["reward"]) if name == "ppo" else "builtins:len", "value": None}
        recipe = Origin.find(name, str(found[parent]), models, []).recipe({"lr": 1e-5}, {"kl": float("nan")})
        (found[name] / "recipe.json").write_text(json.dumps(recipe))
    return found


def test_a_recipe_and_a_lineage_name_the_checkpoints_from_the_base_on(stages):
    found = {name: find_checkpoint(str(path)) for name, path in stages.items()}
    lineages = {name: [(a.stage, a.name) for a in each.lineage] for name, each in found.items()}
    before = [("base", "tiny-base"), ("sft", "sft")]
    ours = {"base": [], "sft": before, "reward": [*before, ("reward", "rm")]}
    assert lineages == ours | {"ppo": [*before, ("ppo", "ppo-step-5")]}
    hashes = [found[name].weights_sha256 for name in ("base", "sft", "ppo")]
    assert [a.weights_sha256 for a in found["ppo"].lineage] == hashes
    recipe = json.loads((stages["ppo"] / "recipe.json").read_text())
    expected = {"stage": "ppo", "data": [], "config": {"lr": 1e-5}, "metrics": {"kl": "nan"}}
    expected |= {"parent": identity(found["sft"]), "models": {"reward": identity(found["reward"])}}
    assert expected.items() <= recipe.items()
    assert recipe["versions"]["torch"] == version("torch")


def test_only_the_weights_determine_an_evaluations_folder_and_a_broken_recipe_is_one_line(stages, world, tmp_path):
    found, plain = [], shutil.copytree(stages["sft"], tmp_path / "sft")
    (plain / "recipe.json").unlink()
    for path in (stages["sft"], plain):
        (run,) = evaluate([str(path)], ["truthfulqa_mc"], tmp_path / path.parent.name, limit=2, data_dir=world)
        found.append((run.folder.name, json.loads((run.folder / "run.json").read_text())))
    assert found[0][0] == found[1][0]
    assert [entry["stage"] for entry in found[0][1]["lineage"]] == ["base", "sft"]
    for content in ('{"stage": "sft"', '{"stage": "sft"}', '{"stage": "s", "lineage": [{"x": 1}]}', "[]"):
        (plain / "recipe.json").write_text(content)
        assert "recipe.json" in refusal(find_checkpoint, str(plain))
