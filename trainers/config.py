"""Settings of a stage: a flat dataclass, filled from defaults, a preset, a YAML file and NAME=VALUE, in this order."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from inspect import formatannotation, get_annotations
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import yaml

from alignbench.data.cards import did_you_mean
from alignbench.errors import AlignbenchError
from alignbench.parse import parse_yaml, read_yaml
from alignbench.progress import Progress
from alignbench.provenance import function_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Function = Callable[..., Any]
STAGES = ("sft", "reward", "dpo", "rejection", "ppo", "rloo")
REQUIRED: Any = "(required)"
# limit -> how a message names it, and whether a value keeps it
LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "above": ("finite and above", lambda value, limit: limit < value < math.inf),
    "low": ("finite and at least", lambda value, limit: limit <= value < math.inf),
    "high": ("at most", lambda value, limit: value <= limit),
    "choices": ("one of", lambda value, choices: value in choices),
}


def setting(default: Any, meaning: str, *, free: bool = False, ends: bool = False, **limits: Any) -> Any:
    """A field of a stage's settings. `check` raises AlignbenchError if the value is still REQUIRED.

    free: results do not depend on it, so a resumed run may change it
    ends: only decides when training ends, so a finished run continues if it is changed
    limits: above (exclusive minimum), low and high (inclusive), choices (the allowed values)
    """
    return field(default=default, kw_only=True, metadata={"meaning": meaning, "free": free or ends, "ends": ends,
                                                          "limits": limits})  # fmt: skip


@dataclass(frozen=True)
class StageConfig:
    """Settings of every stage."""

    out: str = setting(REQUIRED, "run folder", free=True)
    template: bool = setting(False, "apply the model's chat template to prompts")
    chat_template: str | None = setting(None, "chatml, plain or a file: instead of the model's own chat template")
    long: str = setting("error", "rows longer than the model's window", choices=("error", "drop", "truncate"))
    max_gradient_norm: float | None = setting(None, "clip the gradient to this norm; none: no clipping", above=0)
    mixed_precision: str = setting("no", "no, or bf16 for autocast and sampling; weights: fp32", choices=("no", "bf16"))
    micro_tokens: int = setting(4096, "tokens per micro-batch; changes memory and speed only", low=1)
    optimizer: str = setting("adam", "adam, or adam-8bit (torchao)", choices=("adam", "adam-8bit"))
    gradient_checkpointing: bool = setting(False, "compute activations again in the backward pass: less memory, slower")
    offload: bool = setting(False, "frozen models and averaged weights stay in CPU memory")
    seed: int = setting(0, "random seed", low=0)
    save_every: int = setting(100, "steps between resumable states", free=True, low=1)
    trackers: tuple[str, ...] | None = setting(None, "tensorboard, wandb; none: tensorboard if installed", free=True)
    cpu: bool = setting(False, "train on the CPU even if there is a GPU")


def check(config: T) -> T:
    """The settings with each value as its type (a number that is given as text, a Path).

    Raises AlignbenchError for a missing setting, a wrong type, NaN, or a value outside the limits of its setting.
    """
    hints = get_type_hints(type(config))
    if missing := [f.name for f in fields(config) if getattr(config, f.name) == REQUIRED]:
        raise AlignbenchError(f"{', '.join(missing)} must be given, as NAME=… or in the YAML file")
    config = replace(
        config, **{f.name: _convert(getattr(config, f.name), hints[f.name], f.name) for f in fields(config)}
    )
    for f in fields(config):
        value, limits = getattr(config, f.name), f.metadata["limits"]
        for name in limits if value is not None else ():
            words, keeps = LIMITS[name]
            if not keeps(value, limits[name]):
                raise AlignbenchError(f"{f.name}: {value!r} is not {words} {limits[name]}")
    return config


def train(
    stage: str, *, config: str | Path | None = None, preset: str | None = None, progress: Progress | None = None,
    callback: Callable[[Mapping[str, float]], bool | None] | None = None, **settings: Any,
) -> tuple[Path, Mapping[str, float]]:  # fmt: skip
    """Train a model: the folder of the final checkpoint, and its metrics. An interrupted training is resumed.

    stage: one of STAGES; config: YAML file of settings; preset: a published recipe
    callback: called with the metrics of each step, iteration and epoch; training stops, and saves, if it returns True
    settings: the fields of the stage's `Config` (`alignbench train STAGE --show`)

    Raises AlignbenchError for an unknown stage or preset, and for wrong settings.
    """
    module, recipe = find_stage(stage, preset)
    file = None if config is None else Path(config)
    read = read_config(module.Config, file=file, preset=recipe, settings=settings)
    found: tuple[Path, Mapping[str, float]] = module.train(read, progress=progress, callback=callback)
    return found


def find_stage(stage: str, preset: str | None) -> tuple[Any, Mapping[str, Any]]:
    """The module of a stage, with `Config` and `train`, and the settings of a preset. Raises AlignbenchError."""
    if stage not in STAGES:
        raise AlignbenchError(f"stage {stage!r}: choose {', '.join(STAGES)}")
    module = import_module(f"trainers.{stage}")
    presets = getattr(module, "PRESETS", {})
    if preset is not None and preset not in presets:
        raise AlignbenchError(f"preset {preset}: {stage} has {', '.join(presets) or 'no presets'}")
    return module, presets.get(preset, {})


def read_config(
    kind: type[T], *, file: Path | None = None, preset: Mapping[str, Any] | None = None, overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> T:  # fmt: skip
    """Settings from defaults < preset < YAML file < overrides (NAME=VALUE) < settings. Required ones may be missing.

    Raises AlignbenchError for an unknown setting or a value of a wrong type.
    """
    hints = get_type_hints(kind)
    named = [(f"preset: {name}", name, value) for name, value in (preset or {}).items()]
    if file is not None:
        try:
            found = read_yaml(file)
        except FileNotFoundError:
            raise AlignbenchError(f"{file}: no such file") from None
        named += [(f"{file}: {name}", name, value) for name, value in found.items()]
    for override in overrides:
        name, equals, text = override.partition("=")
        if not (name and equals):
            raise AlignbenchError(f"{override!r}: settings are given as NAME=VALUE")
        value: Any = text
        with suppress(ValueError):
            value = parse_yaml(text)
        kinds = _kinds(hints.get(name))
        if text in ("none", "None") and NoneType in kinds:  # as `--show` has it; YAML's is null
            value = None
        if value == text and tuple[str, ...] in kinds:  # a shell does not read the escapes of stop="\n"
            value = text.replace("\\n", "\n").replace("\\t", "\t")
        # text settings keep the text as typed: model=2024, name=yes
        as_typed = str in kinds and value is not None and not isinstance(value, list)
        named.append((name, name, text if as_typed else value))
    named += [(name, name, value) for name, value in (settings or {}).items()]
    given = {}
    for where, name, value in named:
        if name not in hints:
            raise AlignbenchError(f"{where}: no such setting; {did_you_mean(name, list(hints))}")
        given[name] = _convert(value, hints[name], where)
    return kind(**given)


def describe(config: "DataclassInstance") -> list[list[str]]:
    """One row per setting: name, type, value, meaning. Required ones come first, then those of the stage itself."""
    known = {f.name: f for f in fields(config)}
    order = dict.fromkeys(name for base in type(config).__mro__ for name in get_annotations(base))
    required_first = sorted(order, key=lambda name: getattr(config, name) != REQUIRED)
    return [[n, _name(known[n].type), str(getattr(config, n)), _meaning(known[n])] for n in required_first]


def to_json(config: "DataclassInstance") -> dict[str, Any]:
    """The settings as JSON values; a function is its name."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: function_name(v) if callable(v) else v for name, v in values.items()}


def to_yaml(config: "DataclassInstance") -> str:
    """The settings as a YAML file for `read_config`."""
    return str(yaml.safe_dump(json.loads(json.dumps(to_json(config))), sort_keys=False, allow_unicode=True))


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _meaning(known: Any) -> str:
    """What a setting means, with its choices unless the meaning names them."""
    meaning, choices = known.metadata["meaning"], known.metadata["limits"].get("choices", ())
    return meaning if all(choice in meaning for choice in choices) else f"{meaning}: {', '.join(choices)}"


def _name(kind: Any) -> str:
    return formatannotation(kind).replace(formatannotation(Function), "function")


def _convert(value: Any, kind: Any, where: str) -> Any:
    """The value as a setting of type `kind`. Raises AlignbenchError, which begins with `where`, if it is none."""
    kinds = _kinds(kind)
    if tuple[str, ...] in kinds and value is not None:
        if isinstance(value, str):  # a single string may be whitespace: stop="\n"
            value = [part.strip(" ") for part in value.split(",")] if "," in value else [value]
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif float in kinds and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # float() also of text: YAML 1.1 reads 9e-6 as a string
            if not math.isnan(number := float(value)):
                return number
    elif isinstance(value, Path) and str in kinds:
        return str(value)
    elif type(value) in kinds or (callable(value) and Function in kinds):
        return value
    raise AlignbenchError(f"{where}: {value!r} is not {_name(kind)}")
