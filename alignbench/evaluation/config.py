"""The settings of an evaluation: of a YAML file and of the caller, combined; and what they change in a task.

A file has the fields of `Settings` as its keys. `tasks` is a list of names (also patterns and abilities), or name ->
the settings of that task alone. What the caller gives takes precedence over both.
"""

import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from alignbench.data.cards import did_you_mean
from alignbench.errors import AlignbenchError, first_line
from alignbench.parse import find_path, read_yaml
from alignbench.plugins import include
from alignbench.tasks import LM_EVAL, find_names
from alignbench.tasks.samples import with_samples
from alignbench.types.settings import Settings, TaskSettings, combined
from alignbench.types.task import Task

Mappings = dict[str, dict[str, Any]]
LISTS = {"checkpoints", "tasks", "scorers", "include_path"}  # the caller may give a single name alone
PATHS = ("out", "prompts", "data_dir")


def resolve(config: str | Path | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a file, if there is one, and of the caller, who takes precedence. Raises AlignbenchError."""
    _refuse_unknown("", given, Settings)
    general, tasks = ({}, {}) if config is None else read_config(find_path(config))
    own = dict(given)
    for name in LISTS & own.keys():
        value = own[name] or ()
        own[name] = (str(value),) if isinstance(value, str | Path) else tuple(map(str, value))
    own |= {name: str(own[name]) for name in PATHS if own.get(name) is not None}
    listed = own.pop("tasks", ())
    found = combined(general, own)
    for path in found.get("include_path", ()):
        include(path)
    expanded: Mappings = {name: {} for name in find_names(listed)}
    for pattern, settings in tasks.items():
        settings = combined(settings, {key: own[key] for key in own.keys() & settings.keys()})
        # the index of lm-eval's tasks takes long to read
        indexed = not listed or pattern in listed or not pattern.startswith(LM_EVAL)
        for name in find_names([pattern]) if indexed else fnmatch.filter(expanded, pattern):
            if name in expanded or not listed:
                expanded[name] = combined(expanded.get(name, {}), settings)
    found |= {name: dict(found.get(name) or {}) for name in ("gen_kwargs", "template_kwargs")}
    found |= {"system": system_message(found.get("system")), "tasks": expanded}
    return Settings(**found)


def read_config(file: Path) -> tuple[dict[str, Any], Mappings]:
    """The common settings in a YAML file, and those of its tasks. Raises AlignbenchError with file and key."""
    try:
        found = read_yaml(file)
    except FileNotFoundError:
        raise AlignbenchError(f"{file}: cannot be read (no such file)") from None
    tasks = found.pop("tasks", None) or {}
    if not isinstance(tasks, dict | list) or not all(isinstance(name, str) for name in tasks):
        raise AlignbenchError(f"{file}: tasks: write a list of names, or NAME: {{SETTING: VALUE}} for each")
    own = tasks if isinstance(tasks, dict) else dict.fromkeys(tasks)
    checked = {name: _checked(f"{file}: tasks: {name}: ", mine or {}, TaskSettings) for name, mine in own.items()}
    return _checked(f"{file}: ", found, Settings), checked


def _checked(where: str, found: Any, kind: type[TaskSettings]) -> dict[str, Any]:
    """Settings of these names and types; only those that are given."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import to_json

    if not isinstance(found, dict):
        raise AlignbenchError(f"{where}{found!r} is not a mapping of settings")
    _refuse_unknown(where, found, kind)
    try:
        checked = TypeAdapter(kind).validate_json(to_json(found, fallback=str), strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(str(part) for part in wrong["loc"])
        raise AlignbenchError(f"{where}{place}: {wrong['input']!r}: {wrong['msg']}") from None
    return {name: getattr(checked, name) for name in found}


def _refuse_unknown(where: str, found: Mapping[Any, Any], kind: type[TaskSettings]) -> None:
    known = [f.name for f in fields(kind)]
    for name in found:
        if name not in known:
            only = "" if kind is Settings else " for a single task"
            raise AlignbenchError(f"{where}{name}: no such setting{only}; {did_you_mean(str(name), known)}")


def system_message(text: str | None) -> str | None:
    """The content of a file of that name, if there is one, or else the text itself. Raises AlignbenchError."""
    if text is None:
        return None
    file = Path(text)
    try:
        if "\n" not in text and len(text) < 1000 and file.is_file():
            text = file.read_text(encoding="utf-8").strip()
        elif file.suffix in (".txt", ".md") and " " not in text:
            raise AlignbenchError(f"--system {text}: no such file")
    except (OSError, UnicodeDecodeError) as error:
        raise AlignbenchError(f"--system {text}: cannot be read ({first_line(error)})") from None
    if not text.strip():
        raise AlignbenchError("--system: the message is empty")
    return text


def to_yaml(settings: Settings) -> str:
    """The settings as a file for `--config`, without the folder of the results."""
    found = asdict(settings)
    del found["out"]
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


# parameter -> what it must be, its type, and whether a value is in its range
GEN_KWARGS: dict[str, tuple[str, Any, Callable[[Any], bool]]] = {
    "temperature": ("a number from 0", int | float, lambda value: 0 <= value < math.inf),
    "top_p": ("a number above 0, at most 1", int | float, lambda value: 0 < value <= 1),
    "top_k": ("a whole number from 1, or 0 for all tokens", int, lambda value: value >= 0),
    "max_tokens": ("a whole number from 1", int, lambda value: value >= 1),
    "stop": (
        "a text or a list of texts, none of them empty",
        list | tuple,
        lambda value: all(isinstance(text, str) and text for text in value),
    ),
}


def with_sampling(task: Task, gen_kwargs: Mapping[str, Any], samples: int | None = None) -> Task:
    """The task with these sampling parameters instead of its own, and this number of samples if it takes several.

    Raises AlignbenchError for a parameter or a value that there is not, and for several samples of greedy decoding.
    """
    values = dict(gen_kwargs)
    if isinstance(stop := values.get("stop", ()), str | None):
        values["stop"] = [stop] if stop else []
    for name, value in values.items():
        if name not in GEN_KWARGS:
            raise AlignbenchError(f"--gen-kwargs {name}: no such parameter; there are {', '.join(GEN_KWARGS)}")
        form, kind, valid = GEN_KWARGS[name]
        if isinstance(value, bool) or not isinstance(value, kind) or not valid(value):
            raise AlignbenchError(f"--gen-kwargs {name}={value}: it must be {form}")
    values = {name: tuple(value) if name == "stop" else value for name, value in values.items()}
    if samples is not None and samples < 1:
        raise AlignbenchError(f"--samples {samples}: it must be at least 1")
    if task.generation is None or not task.takes("gen_kwargs"):
        return task
    if samples is not None and task.takes("samples"):
        least, most = 2 if task.ability == "diversity" else 1, task.most_samples
        if not least <= samples <= most:
            allowed = f"at least {least}" if samples < least else f"at most {most:g}"
            raise AlignbenchError(f"--samples {samples}: the metrics of task {task.name} need {allowed}")
        values["samples"] = samples
    sampling = replace(task.generation.sampling, **values)
    if sampling.temperature == 0 and sampling.samples > 1:
        advice = "add --gen-kwargs temperature=1, or --samples 1"
        raise AlignbenchError(f"task {task.name}: {sampling.samples} samples at temperature 0 are equal; {advice}")
    return with_samples(replace(task, generation=replace(task.generation, sampling=sampling)), sampling.samples)
