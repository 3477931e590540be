"""Settings: one flat dataclass a stage, filled from defaults, a preset, a YAML file and `name=value`, in this order."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from alignbench.errors import AlignbenchError, first_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
REQUIRED: Any = MISSING


def setting(default: Any, meaning: str, *, free: bool = False) -> Any:
    """A field of a stage's settings; `default` may be REQUIRED.

    free: the results do not depend on it, so that a resumed run may change it
    """
    return field(default=default, kw_only=True, metadata={"meaning": meaning, "free": free})


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
    """A row a setting: name, type, value (`given`, or the default), meaning."""
    values = {f.name: f.default for f in fields(kind)} | dict(given or {})
    shown = {name: "(required)" if value is MISSING else str(value) for name, value in values.items()}
    return [[f.name, _type_name(f), shown[f.name], f.metadata["meaning"]] for f in fields(kind)]


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
