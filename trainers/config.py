"""Settings of a stage: a flat dataclass, filled from defaults, a preset, a YAML file and NAME=VALUE, in this order."""

from __future__ import annotations

import difflib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from operator import ge, gt, le
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from alignbench.errors import AlignbenchError, first_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
REQUIRED: Any = "(required)"
LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "above": ("above", gt),
    "low": ("at least", ge),
    "high": ("at most", le),
    "choices": ("one of", lambda value, choices: value in choices),
}


def setting(default: Any, meaning: str, *, free: bool = False, **limits: Any) -> Any:
    """A field of a stage's settings. `check` raises AlignbenchError if the value is still REQUIRED.

    free: results do not depend on it, so a resumed run may change it
    limits: above (exclusive minimum), low and high (inclusive), choices (the allowed values)
    """
    return field(default=default, kw_only=True, metadata={"meaning": meaning, "free": free, "limits": limits})


@dataclass(frozen=True)
class StageConfig:
    """Settings of every stage."""

    out: str = setting(REQUIRED, "run folder", free=True)
    template: bool = setting(False, "apply the model's chat template to prompts")
    max_gradient_norm: float | None = setting(None, "clip the gradient to this norm; none: no clipping", above=0)
    mixed_precision: str = setting("no", "no, or bf16 for autocast and sampling; weights: fp32", choices=("no", "bf16"))
    micro_tokens: int = setting(4096, "tokens per micro-batch; changes memory and speed only", low=1)
    seed: int = setting(0, "random seed", low=0)
    save_every: int = setting(100, "steps between resumable states", free=True, low=1)
    trackers: tuple[str, ...] | None = setting(None, "tensorboard, wandb; none: tensorboard if installed", free=True)
    cpu: bool = setting(False, "train on the CPU even if there is a GPU")


def check(config: DataclassInstance) -> None:
    """Raise AlignbenchError for a missing setting, a wrong type, NaN, or a value outside the limits of its setting."""
    hints = get_type_hints(type(config))
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    if missing := [name for name, value in values.items() if value == REQUIRED]:
        raise AlignbenchError(
            f"{type(config).__name__}: {', '.join(missing)} must be given, as {missing[0]}=… or in the YAML file"
        )
    for f in fields(config):
        value, limits = values[f.name], f.metadata["limits"]
        _convert(value, hints[f.name], f"{f.name}: {value!r} is not {f.type}")
        infinite = isinstance(value, float) and math.isinf(value)
        if value is not None and limits and (infinite or not all(LIMITS[k][1](value, v) for k, v in limits.items())):
            allowed = [f"{LIMITS[k][0]} {', '.join(v) if k == 'choices' else v}" for k, v in limits.items()]
            raise AlignbenchError(f"{f.name}: {value!r} is not {' and '.join(['finite'] * infinite + allowed)}")


def read_config(
    kind: type[T], *, file: Path | None = None, preset: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> T:
    """Settings from the defaults < preset < YAML file < overrides (NAME=VALUE); required ones may be unset (REQUIRED).

    Raises AlignbenchError for an unknown setting or a value of a wrong type.
    """
    hints, declared = get_type_hints(kind), {f.name: f.type for f in fields(kind)}
    named = [(f"preset: {name}", name, value) for name, value in (preset or {}).items()]
    if file is not None:
        named += [(f"{file}: {name}", str(name), value) for name, value in _read_yaml(file).items()]
    named += [_parse_override(override, hints) for override in overrides]
    given = {}
    for where, name, value in named:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(hints)}"
            raise AlignbenchError(f"{where}: no such setting; {hint}")
        given[name] = _convert(value, hints[name], f"{where}: {value!r} is not {declared[name]}")
    return kind(**given)


def describe(config: DataclassInstance) -> list[list[str]]:
    """One row per setting: name, type, value, meaning. Settings of the stage itself come before those of its bases."""
    known = {f.name: f for f in fields(config)}
    order = dict.fromkeys(name for base in type(config).__mro__ for name in inspect.get_annotations(base))
    return [[n, str(known[n].type), str(getattr(config, n)), known[n].metadata["meaning"]] for n in order]


def to_yaml(config: DataclassInstance) -> str:
    """The settings as a YAML file for `read_config`."""
    import yaml

    return str(yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False, allow_unicode=True))


def _parse_override(override: str, hints: Mapping[str, Any]) -> tuple[str, str, Any]:
    import yaml

    name, equals, text = override.partition("=")
    if not equals:
        raise AlignbenchError(f"{override!r}: settings are given as NAME=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    # text settings keep the text as typed: model=2024, name=yes
    as_typed = hints.get(name) in (str, str | None) and value is not None and not isinstance(value, list)
    return name, name, text if as_typed else value


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "strerror", None) or first_line(error)
        raise AlignbenchError(f"{file}: cannot be read as YAML ({problem})") from error
    if not isinstance(found, dict):
        raise AlignbenchError(f"{file}: not a mapping of settings (lines of `name: value`)")
    return found


def _convert(value: Any, kind: Any, problem: str) -> Any:
    """The value as a setting of type `kind`. Raises AlignbenchError with the text `problem` if it is none."""
    if value is None and kind == kind | None:
        return None
    if kind in (tuple[str, ...], tuple[str, ...] | None):
        items = value
        if isinstance(value, str):  # a single string may be whitespace: stop="\n"
            items = [part.strip() for part in value.split(",")] if "," in value else [value]
        if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
            return tuple(items)
    elif kind in (float, float | None) and isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # float() also of text: YAML 1.1 reads 9e-6 as a string
            if not math.isnan(number := float(value)):
                return number
    elif kind in (type(value), type(value) | None):
        return value
    raise AlignbenchError(problem)
