"""Settings of the trainers: where they come from, which goes before which, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.cli.train import CONFIGS
from alignbench.errors import AlignbenchError
from trainers.config import REQUIRED, StageConfig, check, describe, read_config, setting, to_yaml


@dataclass(frozen=True)
class Config:
    model: str = setting(REQUIRED, "checkpoint to start from")
    lr: float = setting(9e-6, "peak learning rate")
    batch: int = setting(64, "prompts a step")
    whiten: bool = setting(True, "whiten the rewards")
    target_kl: float | None = setting(None, "stop above it, in nats")
    reward: str | None = setting(None, "reward-model folder")
    trackers: tuple[str, ...] = setting(("tensorboard",), "where numbers go", free=True)


def read(*overrides, **options):
    return read_config(Config, overrides=overrides, **options)


def refusal(*overrides, **options) -> str:
    with pytest.raises(AlignbenchError) as caught:
        read(*overrides, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_go_before_the_file_and_the_file_before_the_preset(tmp_path):
    file = tmp_path / "ppo.yaml"
    file.write_text("model: from-file\nlr: 2e-6\nbatch: 2\n")
    config = read("lr=3e-6", file=file, preset={"lr": 1e-6, "batch": 1, "whiten": False})
    assert config == Config(model="from-file", lr=3e-6, batch=2, whiten=False)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("lr=9e-6", 9e-6),  # YAML 1.1 reads it as text
        ("lr=1", 1.0),
        ("target_kl=null", None),
        ("target_kl=0.5", 0.5),
        ("target_kl=inf", float("inf")),
        ("whiten=false", False),
        ("batch=1_000", 1000),
        ("reward=2024", "2024"),  # a folder may be called so
        ("reward=yes", "yes"),
        ("reward=null", None),
        ("reward=module:function", "module:function"),
        ("reward=a=b", "a=b"),
        ("trackers=tensorboard, wandb", ("tensorboard", "wandb")),
        ("trackers=[tensorboard, wandb]", ("tensorboard", "wandb")),
        ("trackers=[]", ()),
        ('trackers="\\n"', ("\n",)),  # as a stop string may be
    ],
)
def test_a_value_becomes_the_fields_type(override, value):
    found = getattr(read("model=m", override), override.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("batch=64.5", "int"),
        ("batch=true", "int"),
        ("batch=many", "int"),
        ("batch=null", "int"),
        ("lr=fast", "float"),
        ("lr=true", "float"),
        ("lr=nan", "float"),
        ("whiten=1", "bool"),
        ("trackers=[1]", "tuple"),
        ("trackers={a: 1}", "tuple"),
    ],
)
def test_a_wrong_type_is_refused_with_field_value_and_what_is_expected(override, expected):
    message = refusal("model=m", override)
    assert message.startswith(override.partition("=")[0] + ": ")
    assert expected in message


def test_a_misspelt_setting_is_refused_with_the_closest_name(tmp_path):
    assert "did you mean batch?" in refusal("model=m", "bacth=3")
    assert "there are model, lr" in refusal("model=m", "zzz=3")
    file = tmp_path / "c.yaml"
    file.write_text("model: m\nwhite: true\n")
    assert refusal(file=file).startswith(f"{file}: white: no such setting; did you mean whiten?")


def test_what_is_required_and_missing_is_named():
    assert "model must be given, as model=…" in refusal("lr=1e-5")


def test_a_setting_without_a_value_is_refused():
    assert "name=value" in refusal("model=m", "whiten")


@pytest.mark.parametrize("text", ["model: [", "- model", "\x00"])
def test_a_file_that_is_no_mapping_of_settings_is_refused(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert str(file) in refusal(file=file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "No such file" in refusal(file=tmp_path / "absent.yaml")


def test_an_empty_tag_cannot_run_code(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    refusal(file=file)
    assert not (tmp_path / "made").exists()


@given(
    lr=st.floats(allow_nan=False),
    reward=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    trackers=st.lists(st.sampled_from(["tensorboard", "wandb"])),
)
def test_written_settings_read_back_as_they_were(tmp_path_factory, lr, reward, trackers):
    config = replace(read("model=m"), lr=lr, reward=reward, trackers=tuple(trackers))
    file = tmp_path_factory.mktemp("yaml") / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(Config, file=file) == config


def test_the_table_names_type_value_and_meaning_of_every_setting():
    rows = {name: rest for name, *rest in describe(Config)}
    assert rows["model"] == ["str", "(required)", "checkpoint to start from"]
    assert rows["target_kl"] == ["float | None", "None", "stop above it, in nats"]
    assert {name: rest for name, *rest in describe(Config, {"lr": 1.0})}["lr"][1] == "1.0"


# What a value may be


@dataclass(frozen=True)
class Limited(StageConfig):
    share: float = setting(0.5, "of something", above=0, high=1)
    count: int | None = setting(None, "of things", low=2)
    mean: str = setting("token", "of what", choices=("token", "example"))


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("share", 0.0, "share: 0.0 is not above 0 and at most 1"),
        ("share", 1.01, "share: 1.01 is not above 0 and at most 1"),
        ("share", math.nan, "share: nan is not float"),
        ("share", math.inf, "share: inf is not finite and above 0 and at most 1"),
        ("count", 1, "count: 1 is not at least 2"),
        ("count", "3", "count: '3' is not int | None"),
        ("mean", "mode", "mean: 'mode' is not one of token, example"),
        ("mixed_precision", "fp16", "mixed_precision: 'fp16' is not one of no, bf16"),
        ("max_gradient_norm", 0.0, "max_gradient_norm: 0.0 is not above 0"),
        ("micro_tokens", 0, "micro_tokens: 0 is not at least 1"),
        ("save_every", 0, "save_every: 0 is not at least 1"),
        ("seed", -1, "seed: -1 is not at least 0"),
    ],
)
def test_a_value_outside_its_limits_is_one_line(name, value, line):
    with pytest.raises(AlignbenchError) as caught:
        check(Limited(out="o", **{name: value}))
    assert str(caught.value) == line


def test_limits_are_inclusive_and_none_has_none():
    check(Limited(out="o", share=1.0, count=2, mean="example", seed=0, max_gradient_norm=None))
    check(Limited(out="o", share=1e-9, count=None, trackers=("wandb",)))


@pytest.mark.parametrize("stage", CONFIGS)
def test_every_stage_checks_its_settings_before_anything_else(stage):
    module = import_module(f"trainers.{stage}")
    kind = getattr(module, CONFIGS[stage])
    given = {f.name: "absent" for f in fields(kind) if f.default is REQUIRED}
    check(kind(**given))  # the defaults are allowed
    with pytest.raises(AlignbenchError, match=r"^lr: nan is not float$"):
        module.train(kind(**given, lr=math.nan))


@pytest.mark.parametrize("stage", CONFIGS)
def test_a_preset_says_only_what_is_no_default(stage):
    module = import_module(f"trainers.{stage}")
    defaults = {f.name: f.default for f in fields(getattr(module, CONFIGS[stage]))}
    for preset in module.PRESETS.values():
        assert all(defaults[name] != value for name, value in preset.items())


def test_a_stages_own_settings_are_listed_first():
    names = [name for name, *_ in describe(Limited)]
    assert names[:4] == ["share", "count", "mean", "out"]
    assert len(set(names)) == len(names) == len(fields(Limited))
