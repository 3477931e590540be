"""Settings: one flat dataclass a stage, filled from defaults, a preset, a YAML file and `name=value`, in this order."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from operator import ge, gt, le
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from alignbench.errors import AlignbenchError, first_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
REQUIRED: Any = MISSING
LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "above": gt,
    "at least": ge,
    "at most": le,
    "one of": lambda value, choices: value in choices,
}


def setting(
    default: Any,
    meaning: str,
    *,
    free: bool = False,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """A field of a stage's settings; `default` may be REQUIRED.

    free: the results do not depend on it, so that a resumed run may change it
    low, high, above: a value is at least, at most, above this, and finite; choices: it is one of these
    """
    limits = {k: v for k, v in zip(LIMITS, (above, low, high, choices), strict=True) if v is not None}
    return field(default=default, kw_only=True, metadata={"meaning": meaning, "free": free, "limits": limits})


@dataclass(frozen=True)
class StageConfig:
    """Settings that all stages have."""

    out: str = setting(REQUIRED, "folder of the run", free=True)
    template: bool = setting(False, "put prompts into the model's chat template")
    max_gradient_norm: float | None = setting(None, "clip the gradient to this norm (not in the paper)", above=0)
    mixed_precision: str = setting(
        "no", "no, or bf16 (autocast, and sampling in bf16; the weights stay fp32)", choices=("no", "bf16")
    )
    micro_tokens: int = setting(4096, "tokens that go through the model at once", low=1)
    seed: int = setting(0, "of all that is random", low=0)
    save_every: int = setting(100, "steps between resumable states", free=True, low=1)
    trackers: tuple[str, ...] | None = setting(None, "tensorboard, wandb; none: tensorboard if installed", free=True)
    cpu: bool = setting(False, "train on the CPU even where there is a GPU")


def check(config: DataclassInstance) -> None:
    """Raise AlignbenchError for a value of the wrong type, not a number, or outside its setting's limits."""
    types_of = get_type_hints(type(config))
    for f in fields(config):
        value, limits = getattr(config, f.name), f.metadata["limits"]
        try:
            _convert(value, types_of[f.name])
        except (TypeError, ValueError):
            raise AlignbenchError(f"{f.name}: {value!r} is not {_type_name(f)}") from None
        infinite = isinstance(value, float) and math.isinf(value)
        if value is not None and limits and (infinite or not all(LIMITS[k](value, v) for k, v in limits.items())):
            allowed = [f"{word} {', '.join(v) if word == 'one of' else v}" for word, v in limits.items()]
            raise AlignbenchError(f"{f.name}: {value!r} is not {' and '.join(['finite'] * infinite + allowed)}")


def read_config(
    kind: type[T], *, file: Path | None = None, preset: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> T:
    """The settings: defaults < preset < YAML file < overrides. Raises AlignbenchError for what is no setting, has the
    wrong type, or is required and missing."""
    given = read_settings(kind, file=file, preset=preset, overrides=overrides)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in given]
    if missing:
        raise AlignbenchError(
            f"{kind.__name__}: {', '.join(missing)} must be given, as {missing[0]}=… or in the YAML file"
        )
    return kind(**given)


def read_settings(
    kind: type[DataclassInstance],
    *,
    file: Path | None = None,
    preset: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """What was given, checked and converted; without the defaults."""
    import yaml

    types_of, expected = get_type_hints(kind), {f.name: _type_name(f) for f in fields(kind)}
    named = [(f"preset: {name}", name, value) for name, value in (preset or {}).items()]
    if file is not None:
        named += [(f"{file}: {name}", str(name), value) for name, value in _read_yaml(file).items()]
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise AlignbenchError(f"{override!r}: settings are given as name=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        # what is meant as text stays as it was typed: model=2024, name=yes
        as_typed = value is not None and not isinstance(value, list) and str in _options(types_of.get(name))
        named.append((name, name, text if as_typed else value))
    given = {}
    for where, name, value in named:
        if name not in types_of:
            near = difflib.get_close_matches(name, types_of, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(types_of)}"
            raise AlignbenchError(f"{where}: no such setting; {hint}")
        try:
            given[name] = _convert(value, types_of[name])
        except (TypeError, ValueError):
            raise AlignbenchError(f"{where}: {value!r} is not {expected[name]}") from None
    return given


def describe(kind: type[DataclassInstance], given: Mapping[str, Any] | None = None) -> list[list[str]]:
    """A row a setting: name, type, value (`given`, or the default), meaning. A stage's own stand first."""
    known = {f.name: f for f in fields(kind)}
    order = dict.fromkeys(name for base in kind.__mro__ for name in inspect.get_annotations(base))
    values = {name: known[name].default for name in order} | dict(given or {})
    shown = {name: "(required)" if value is MISSING else str(value) for name, value in values.items()}
    return [[name, _type_name(known[name]), shown[name], known[name].metadata["meaning"]] for name in order]


def to_yaml(config: DataclassInstance) -> str:
    """The settings as a file that `read_config` reads."""
    import yaml

    return str(yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False, allow_unicode=True))


def _type_name(of: Field[Any]) -> str:
    return getattr(of.type, "__name__", str(of.type))


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


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _convert(value: Any, kind: Any) -> Any:
    options = _options(kind)
    if value is None and type(None) in options:
        return None
    (kind,) = [option for option in options if option is not type(None)]
    if get_origin(kind) is tuple:
        items = value
        if isinstance(value, str):  # one string may be white space: stop="\n"
            items = [part.strip() for part in value.split(",")] if "," in value else [value]
        if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
            return tuple(items)
    elif kind is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        # YAML 1.1 reads 9e-6 as text
        if (number := float(value)) == number:
            return number
    elif type(value) is kind:
        return value
    raise TypeError
