"""Settings of the trainers: their sources and precedence, what is refused, and the command `alignbench train`."""

import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path

import commands
import pytest
from cases import cases
from commands import refusal
from hypothesis import given
from hypothesis import strategies as st

from trainers.config import REQUIRED, STAGES, StageConfig, check, describe, read_config, setting, to_yaml

CASES = cases("trainer_settings")


@dataclass(frozen=True)
class Config:
    model: str = setting(REQUIRED, "checkpoint to start from")
    lr: float = setting(9e-6, "peak learning rate")
    batch: int = setting(64, "prompts per step")
    whiten: bool = setting(True, "whiten the rewards")
    target_kl: float | None = setting(None, "stop above it, in nats")
    reward: str | None = setting(None, "reward model")
    trackers: tuple[str, ...] = setting(("tensorboard",), "trackers", free=True)


def read(*overrides, **options):
    return read_config(Config, overrides=overrides, **options)


def test_overrides_take_precedence_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "ppo.yaml"
    file.write_text("model: from-file\nlr: 2e-6\nbatch: 2\n")
    config = read("lr=3e-6", file=file, preset={"lr": 1e-6, "batch": 1, "whiten": False})
    assert config == Config(model="from-file", lr=3e-6, batch=2, whiten=False)


@pytest.mark.parametrize(("override", "value"), CASES["overrides"])
def test_a_value_is_converted_to_the_type_of_its_field(override, value):
    value = tuple(value) if isinstance(value, list) else value
    found = getattr(read("model=m", override), override.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("override", "line"), CASES["wrong_overrides"])
def test_a_wrong_setting_is_refused(override, line):
    assert refusal(lambda: read("model=m", override)) == line


@pytest.mark.parametrize(("text", "words"), CASES["wrong_files"])
def test_a_wrong_file_is_refused(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    line = refusal(read, file=file)
    assert (line.startswith(f"{file}: "), words in line, Path("made").exists()) == (True, True, False)


@given(
    lr=st.floats(allow_nan=False),
    reward=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    trackers=st.lists(st.sampled_from(["tensorboard", "wandb"])),
)
def test_settings_written_as_yaml_are_read_back(tmp_path_factory, lr, reward, trackers):
    config = replace(read("model=m"), lr=lr, reward=reward, trackers=tuple(trackers))
    file = tmp_path_factory.mktemp("yaml") / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(Config, file=file) == config


@dataclass(frozen=True)
class Limited(StageConfig):
    share: float = setting(0.5, "a proportion", above=0, high=1)
    count: int | None = setting(None, "a count", low=2)
    mean: str = setting("token", "a choice", choices=("token", "example"))


@pytest.mark.parametrize(("name", "value", "line"), CASES["limits"])
def test_a_value_outside_its_limits_is_refused(name, value, line):
    assert refusal(lambda: check(Limited(**{"out": "o", name: value}))) == line


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_checks_its_settings_first_lists_them_first_and_its_presets_differ_from_the_defaults(stage):
    module = import_module(f"trainers.{stage}")
    kind = module.Config
    given = {f.name: "absent" for f in fields(kind) if f.default == REQUIRED}
    check(kind(**given))  # the defaults are allowed, also those equal to a limit
    assert refusal(module.train, kind(**given, lr=math.nan)) == "lr: nan is not float"
    defaults = {f.name: f.default for f in fields(kind)}
    for preset in getattr(module, "PRESETS", {}).values():
        assert all(defaults[name] != value for name, value in preset.items())
    names = [name for name, *_ in describe(kind(**given))]
    assert sorted(names) == sorted(defaults)
    assert names[: len(kind.__annotations__)] == list(kind.__annotations__)


def test_the_command_trains_and_prints_metrics_and_checkpoint_or_lists_all_settings(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.sft.train", lambda config, progress: (Path(config.out) / "final", {"lr": config.lr}))
    (tmp_path / "c.yaml").write_text("model: m\nlr: 2.5\n")
    done = commands.run("train", "sft", tmp_path / "c.yaml", "out=o")
    assert (done.returncode, done.stdout) == (0, "metric\tvalue\nlr\t2.5\ncheckpoint: o/final\n")
    assert "lr\t5.03e-06\n" in commands.run("train", "sft", "model=m", "--preset", "instructgpt-175b").stdout
    shown = commands.run("train", "sft", "lr=1e-3", "--show").stdout
    assert "lr\tfloat\t0.001\tpeak learning rate" in shown
    assert "checkpoint:" not in shown
    assert "alignbench train ppo --show" in " ".join(commands.run("train", "ppo", "--help").stdout.split())


@pytest.mark.parametrize(("arguments", "words"), cases("training")["rejected"])
def test_a_user_error_is_one_line_with_exit_code_2(arguments, words):
    commands.assert_one_line_error(commands.run("train", "ppo", *arguments), words)


PLAIN = "-m alignbench report absent"  # it imports no torch
ACCELERATE = "-m accelerate.commands.launch --cpu --num_processes=1 -m alignbench train sft model=absent data=d out=o"


@pytest.mark.parametrize("command", [PLAIN, pytest.param(ACCELERATE, marks=pytest.mark.slow)])
def test_packages_of_the_current_folder_do_not_replace_ours(tmp_path, command):
    for name in ("reports", "trainers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a package of the current folder')")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert re.search(r"error: .*absent: ", done.stderr), done.stderr
    assert "a package of the current folder" not in done.stdout + done.stderr
