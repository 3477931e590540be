"""The folder of a training run: what a kill, a full disk or another setting does to it; and a checkpoint's lineage."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny import save_tiny_checkpoint

import trainers
from alignbench.cli import train as train_command
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.models.checkpoint import find_checkpoint
from trainers.config import REQUIRED, setting
from trainers.recipe import identify, write_recipe
from trainers.run import make_accelerator, open_run


@dataclass(frozen=True)
class Config:
    out: str = setting(REQUIRED, "run folder")
    lr: float = setting(1e-5, "learning rate")
    save_every: int = setting(2, "steps between states", free=True)
    trackers: tuple[str, ...] | None = setting(None, "tensorboard, wandb", free=True)


IDENTITY = {"parent": {"weights_sha256": "ab"}, "data": [{"file": "a.jsonl", "sha256": "cd"}]}


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory):
    return make_accelerator("no", [], tmp_path_factory.mktemp("trackers"), cpu=True)


@pytest.fixture
def opened(tmp_path, accelerator):
    """Opens the run of a test as a first start or a resume would."""

    def open_(identity=IDENTITY, **changed):
        out = tmp_path / "ppo"
        return open_run(out, replace(Config(out=str(out)), **changed), identity, accelerator)

    return open_


def refusal(context) -> str:
    with pytest.raises(AlignbenchError) as caught, context:
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_weight(value: float):
    return lambda folder: (folder / "weight.txt").write_text(repr(value))


class Killed(BaseException):
    pass


def train(opened, steps: int = 7, kill_at: int | None = None, kill_in: str = "") -> None:
    """A made-up training of one number, which is killed at the given place of a step."""
    with opened() as run:
        newest, weight, first = run.resume(), 1.0, 1
        if newest is not None:
            weight, first = float((newest / "weight.txt").read_text()), run.state(newest)["step"] + 1
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
        run.save_checkpoint("final", write_weight(weight))


def files_of(out: Path) -> dict[str, bytes]:
    """Every file but the log, which carries the times, and the lock."""
    files = [f for f in sorted(out.rglob("*")) if f.is_file() and f.name not in ("log.jsonl", ".lock")]
    return {str(f.relative_to(out)): f.read_bytes() for f in files}


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
        *("config.yaml", "final/weight.txt", "identity.json", "metrics.jsonl", "samples.jsonl"),
        *("state/step-00000006/state.json", "state/step-00000006/weight.txt"),
    ]
    events = [json.loads(line)["event"] for line in (tmp_path / "ppo" / "log.jsonl").read_text().splitlines()]
    assert events == ["start", "stop", "resume", "end"]


def test_a_line_that_was_half_written_when_the_process_died_is_cut_off(tmp_path, opened):
    train(opened, steps=2)
    whole = files_of(tmp_path / "ppo")
    with (tmp_path / "ppo" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    train(opened, steps=2)
    assert files_of(tmp_path / "ppo") == whole


def test_a_half_written_state_is_removed_and_the_one_before_it_is_used(tmp_path, opened):
    with opened() as run:
        run.save_state(2, write_weight(1.0), {"beta": 0.1})
    half = tmp_path / "ppo" / "state" / "step-00000004.tmp"
    half.mkdir()
    (half / "weight.txt").write_text("0.")
    (tmp_path / "ppo" / "final.tmp").mkdir()
    with opened() as run:
        newest = run.resume()
        assert newest.name == "step-00000002"
        state = run.state(newest)
        assert (state["step"], state["beta"]) == (2, 0.1)
        assert not half.exists()
        assert not (tmp_path / "ppo" / "final.tmp").exists()
        assert run.result() is None


def test_only_the_newest_state_stays(tmp_path, opened):
    with opened() as run:
        for step in (8, 9, 10):
            run.save_state(step, write_weight(step), {})
        assert [path.name for path in (tmp_path / "ppo" / "state").iterdir()] == ["step-00000010"]


def test_a_checkpoint_is_replaced_and_final_says_that_the_run_is_finished(tmp_path, opened):
    with opened() as run:
        for value in (1.0, 2.0):
            folder = run.save_checkpoint("checkpoints/best", write_weight(value))
        assert (folder / "weight.txt").read_text() == "2.0"
        assert run.result() is None
        assert run.save_checkpoint("final", write_weight(3.0)) == tmp_path / "ppo" / "final"
        assert run.result() == (tmp_path / "ppo" / "final", {})


def test_a_finished_run_knows_its_metrics_and_its_trackers_forget_nothing(tmp_path, opened, accelerator):
    with opened() as run:
        run.log(1, {"loss": 0.5})
        recipe = json.dumps({"metrics": {"loss": 0.5, "kl": "inf"}})
        run.save_checkpoint("final", lambda folder: (folder / "recipe.json").write_text(recipe))
    starts = []
    accelerator.init_trackers, init = lambda *arguments: starts.append(arguments), accelerator.init_trackers
    try:
        with opened() as run:
            assert run.result() == (tmp_path / "ppo" / "final", {"loss": 0.5, "kl": float("inf")})
    finally:
        accelerator.init_trackers = init
    assert not starts
    assert (tmp_path / "ppo" / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_resume_with_other_settings_is_refused_naming_the_first(tmp_path, opened):
    with opened():
        pass
    begin = f"{tmp_path / 'ppo'}: "
    assert refusal(opened(lr=2e-5)).startswith(begin + "config.lr was 1e-05, now 2e-05; resume with the same settings")
    assert "parent.weights_sha256 was ab, now xy;" in refusal(opened(IDENTITY | {"parent": {"weights_sha256": "xy"}}))
    other = [{"file": "a.jsonl", "sha256": "ef"}]
    assert "data.0.sha256 was cd, now ef;" in refusal(opened(IDENTITY | {"data": other}))
    assert "data.1 was None, now" in refusal(opened(IDENTITY | {"data": IDENTITY["data"] + other}))
    assert "reward was None, now m:f;" in refusal(opened(IDENTITY | {"reward": "m:f"}))


def test_settings_that_change_no_result_may_change(tmp_path, opened):
    with opened():
        pass
    with opened(save_every=5):
        pass
    assert yaml.safe_load((tmp_path / "ppo" / "config.yaml").read_text())["save_every"] == 5


def test_a_moved_run_folder_can_be_resumed(tmp_path, opened, accelerator):
    with opened() as run:
        run.save_state(2, write_weight(1.0), {})
    moved = (tmp_path / "ppo").rename(tmp_path / "moved")
    with open_run(moved, Config(out=str(moved)), IDENTITY, accelerator) as run:
        assert run.resume() == moved / "state" / "step-00000002"


def test_two_processes_cannot_train_in_one_folder(opened):
    with opened():
        assert "another alignbench process" in refusal(opened())
    with opened():  # the lock goes with its holder
        pass


def test_numbers_that_json_cannot_hold_are_written_as_text(tmp_path, opened):
    with opened() as run:
        run.log(1, {"kl": float("nan"), "ratio": float("inf"), "low": -float("inf"), "loss": 0.5}, {"seconds": 9.0})
    (line,) = (tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        **{"step": 1, "kl": "nan", "ratio": "inf", "low": "-inf", "loss": 0.5}
    }


@contextmanager
def little_disk(size: int = 50_000):
    """No file of this process grows beyond `size` bytes: what a disk without room looks like to a writer."""
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
def test_where_the_disk_is_full_one_line_says_so_and_the_older_state_stays(tmp_path, opened, write):
    with opened() as run:
        run.log(2, {"loss": 0.5})
        run.save_state(2, write_weight(1.0), {})
        for save in (lambda: run.save_state(4, write, {}), lambda: run.save_checkpoint("final", write)):
            with (
                little_disk(),
                pytest.raises(AlignbenchError, match=r"cannot be written \(.*mend it and run") as caught,
            ):
                save()
            assert "\n" not in str(caught.value)
        assert [path.name for path in (tmp_path / "ppo" / "state").iterdir()] == ["step-00000002"]
        assert run.result() is None
        run.save_state(4, write, {})  # there is room again
    with opened() as run:
        assert run.resume().name == "step-00000004"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_while_logging_is_one_line(tmp_path, opened):
    with opened() as run:
        (tmp_path / "ppo" / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(AlignbenchError, match="No space left on device"):
            run.log(1, {"loss": 0.5})


def test_an_error_that_is_not_the_disks_stays_what_it_is(opened):
    def write(folder):
        raise RuntimeError("CUDA error")

    with opened() as run, pytest.raises(RuntimeError, match="CUDA error"):
        run.save_state(1, write, {})


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP1")]
)
def test_what_cannot_accumulate_our_gradients_is_refused(tmp_path, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(AlignbenchError, match=f"^{name}: not supported; start with FSDP2 or DDP instead$"):
        make_accelerator("no", [], tmp_path, cpu=True)


def test_trackers_that_are_unknown_or_not_installed_are_refused(tmp_path, monkeypatch):
    with pytest.raises(AlignbenchError, match="choose among tensorboard, wandb"):
        make_accelerator("no", ["tensorbored"], tmp_path, cpu=True)
    monkeypatch.setattr("trainers.run.find_spec", lambda name: None)
    with pytest.raises(AlignbenchError, match=r"pip install 'alignbench\[train\]'"):
        make_accelerator("no", ["tensorboard"], tmp_path, cpu=True)
    with pytest.raises(AlignbenchError, match=r"pip install 'alignbench\[wandb\]'"):
        make_accelerator("no", ["wandb"], tmp_path, cpu=True)
    said = []
    assert make_accelerator("no", None, tmp_path, cpu=True, notify=said.append).log_with == []
    assert len(said) == 1
    assert "metrics.jsonl" in said[0]


def test_tensorboard_gets_the_numbers_and_the_times(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "ppo"
    accelerator = make_accelerator("no", None, out, cpu=True)
    with open_run(out, Config(out=str(out)), IDENTITY, accelerator) as run:
        run.log(3, {"loss": 0.5}, {"seconds": 9.0})
    events = EventAccumulator(str(out / "tensorboard" / "alignbench")).Reload()
    assert [(e.step, e.value) for tag in ("loss", "seconds") for e in events.Scalars(tag)] == [(3, 0.5), (3, 9.0)]


def test_a_process_that_cannot_write_stops_all_with_the_same_line(tmp_path):
    (tmp_path / "work.py").write_text(
        textwrap.dedent("""
        import sys
        from dataclasses import dataclass
        from pathlib import Path
        from alignbench.errors import AlignbenchError
        from trainers.config import setting
        from trainers.run import Run, make_accelerator, open_run

        @dataclass(frozen=True)
        class Config:
            out: str = setting(sys.argv[1], "run folder")

        out = Path(sys.argv[1])
        accelerator = make_accelerator("no", [], out, cpu=True)
        rank = accelerator.process_index

        def write(folder):
            (folder / f"rank-{rank}").write_text("x")

        def fail(folder):
            write(folder)
            if rank == 1:
                raise OSError(28, "No space left on device")

        with open_run(out, Config(), {}, accelerator) as run:
            assert run.resume() is None
            run.log(1, {"loss": 0.5})
            run.sample(1, [{"prompt": "p"}])
            run.save_state(1, write, {})
            try:
                run.save_state(2, fail, {})
            except AlignbenchError as error:
                (out.parent / f"said-{rank}").write_text(str(error))
        try:
            with open_run(out, Config(), {"data": rank}, accelerator) as run:  # the main process's word counts
                pass
        except AlignbenchError as error:
            (out.parent / f"refused-{rank}").write_text(str(error))
        apart = Run(out.parent / str(rank), accelerator)  # folders that disagree: the main process's word counts
        if rank == 0:
            for name in ("state/step-00000003", "final"):
                (apart.out / name).mkdir(parents=True)
        accelerator.wait_for_everyone()
        (out.parent / f"found-{rank}").write_text(f"{apart.newest().name} {apart.result()[1]}")
        accelerator.end_training()
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "work.py", "ppo"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(trainers.__file__).parent.parent)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    (state,) = (tmp_path / "ppo" / "state").iterdir()
    assert sorted(file.name for file in state.iterdir()) == ["rank-0", "rank-1", "state.json"]
    assert (tmp_path / "ppo" / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'
    assert (tmp_path / "ppo" / "samples.jsonl").read_text() == '{"step": 1, "prompt": "p"}\n'
    for name, words in (
        ("said", "No space left on device"),
        ("refused", "data was None, now 0"),
        ("found", "step-00000003 {}"),
    ):
        first, second = ((tmp_path / f"{name}-{rank}").read_text() for rank in (0, 1))
        assert first == second
        assert words in first


def make_stage(folder: Path, stage: str, parent: Path, seed: int, **models: Path) -> Path:
    save_tiny_checkpoint(folder, seed=seed)
    write_recipe(
        folder,
        stage=stage,
        parent=str(parent),
        models={role: str(path) for role, path in models.items()},
        data=[{"file": "a.jsonl", "sha256": "cd"}],
        config=Config(out=str(folder.parent)),
        metrics={"loss": 0.5, "kl": float("nan")},
    )
    return folder


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, Path]:
    """base → sft → reward, and base → sft → ppo, each where a trainer would put it."""
    home = tmp_path_factory.mktemp("stages")
    base = save_tiny_checkpoint(home / "tiny-base", seed=0)
    sft = make_stage(home / "sft" / "final", "sft", base, 1)
    reward = make_stage(home / "rm" / "final", "reward", sft, 2)
    ppo = make_stage(home / "ppo" / "checkpoints" / "step-5", "ppo-ptx", sft, 3, reward=reward)
    return {"base": base, "sft": sft, "reward": reward, "ppo": ppo}


def test_a_checkpoint_knows_its_lineage_from_the_base_to_itself(stages):
    found = {name: find_checkpoint(str(path)) for name, path in stages.items()}
    assert found["base"].lineage == ()
    assert [(a.stage, a.name) for a in found["reward"].lineage] == [
        ("base", "tiny-base"),
        ("sft", "sft"),
        ("reward", "rm"),
    ]
    ppo = found["ppo"].lineage
    assert [(a.stage, a.name) for a in ppo] == [("base", "tiny-base"), ("sft", "sft"), ("ppo-ptx", "ppo-step-5")]
    assert [a.weights_sha256 for a in ppo] == [found[name].weights_sha256 for name in ("base", "sft", "ppo")]


def test_a_recipe_says_from_what_with_what_and_how_a_checkpoint_was_made(stages):
    recipe = json.loads((stages["ppo"] / "recipe.json").read_text())
    assert recipe["stage"] == "ppo-ptx"
    assert recipe["parent"] == identify(str(stages["sft"]))
    assert recipe["models"] == {"reward": identify(str(stages["reward"]))}
    assert recipe["data"] == [{"file": "a.jsonl", "sha256": "cd"}]
    assert recipe["config"]["lr"] == 1e-5
    assert recipe["metrics"] == {"loss": 0.5, "kl": "nan"}
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


def test_an_evaluation_records_the_lineage_but_the_weights_alone_decide_its_folder(stages, world, tmp_path):
    def run_json(spec: Path):
        (run,) = evaluate([str(spec)], ["truthfulqa_mc"], tmp_path / "runs", limit=2, data_dir=world, device="cpu")
        return run.folder.name, json.loads((run.folder / "run.json").read_text())

    name, described = run_json(stages["sft"])
    assert [entry["stage"] for entry in described["lineage"]] == ["base", "sft"]
    assert "lineage" not in described["model"]
    plain = shutil.copytree(stages["sft"], tmp_path / "sft")
    (plain / "recipe.json").unlink()
    shutil.rmtree(tmp_path / "runs")
    name_without, described_without = run_json(plain)
    assert name_without == name
    assert described_without["lineage"] == []


STAGE = """
from dataclasses import dataclass
from pathlib import Path
from alignbench.errors import AlignbenchError
from trainers.config import REQUIRED, setting

@dataclass(frozen=True)
class PPOConfig:
    model: str = setting(REQUIRED, "checkpoint to start from")
    out: str = setting("out", "run folder")
    lr: float = setting(9e-6, "peak learning rate")

PRESETS = {"instructgpt-1.3b": {"lr": 1.5}}

def train(config, progress):
    final = Path(config.out) / "final"
    final.mkdir(parents=True)
    return final, {"lr": config.lr}
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`alignbench train ppo …` with a made-up stage in the place of the real one."""
    import types

    module = types.ModuleType("trainers.ppo")
    monkeypatch.setitem(sys.modules, "trainers.ppo", module)
    exec(STAGE, module.__dict__)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["ppo.py", *arguments])
        with pytest.raises(SystemExit) as caught:
            train_command.main("ppo")
        said = capsys.readouterr()
        return caught.value.code or 0, said.out.splitlines(), said.err

    return run


def test_the_command_trains_and_says_where_the_checkpoint_is(command, tmp_path):
    (tmp_path / "c.yaml").write_text("model: m\nlr: 2.5\n")
    assert command("c.yaml", "out=o") == (0, ["metric\tvalue", "lr\t2.5", "checkpoint: o/final"], "")
    assert command("model=m", "--preset", "instructgpt-1.3b", "out=p")[1][1] == "lr\t1.5"


def test_show_lists_all_settings_without_training(command, tmp_path):
    code, lines, _ = command("lr=1e-3", "--show")
    assert code == 0
    assert lines[1:] == [
        *("model\tstr\t(required)\tcheckpoint to start from", "out\tstr\tout\trun folder"),
        "lr\tfloat\t0.001\tpeak learning rate",
    ]
    assert not (tmp_path / "out").exists()


def test_the_commands_help_says_how_to_see_all_settings(command):
    code, lines, _ = command("--help")
    assert code == 0
    assert "alignbench train ppo --show" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "model must be given"),
        (("model=m", "lrr=1"), "did you mean lr?"),
        (("model=m", "--preset", "gpt"), "instructgpt-1.3b"),
        (("absent.yaml",), "No such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_code_2(command, arguments, words):
    code, lines, error = command(*arguments)
    assert (code, lines) == (2, [])
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
