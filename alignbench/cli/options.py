"""Options that several commands share, and how their values are parsed."""

import inspect
import json
import re
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from alignbench.errors import AlignbenchError
from alignbench.parse import parse_yaml
from alignbench.plugins import include
from alignbench.types.settings import EngineSettings, Settings, with_fields


def _include(paths: list[str] | None) -> list[str] | None:
    for path in paths or ():
        include(path)
    return paths


FIELDS: dict[str, Any] = {own.name: own for own in fields(Settings)}
# group of options in the help of `evaluate` -> their order
PANELS = {
    "Tasks": "base config tasks include_path limit shots seed prompts data_dir scorers scorer_path baseline",
    "Prompts and sampling": "template template_kwargs system gen_kwargs samples thinking thinking_tags thinking_tokens",
    "Output": "out metrics as_json",
    "Engine": " ".join(own.name for own in fields(EngineSettings)),
}
FORMS = {"limit": "N", "samples": "N", "thinking_tokens": "N", "system": "TEXT|FILE", "include_path": "FILE|DIR"}
FORMS |= {"gen_kwargs": "NAME=VALUE,…"} | dict.fromkeys(("prompts", "data_dir", "out"), "PATH")
MORE: dict[str, dict[str, Any]] = {
    "include_path": {"envvar": "ALIGNBENCH_INCLUDE_PATH", "callback": _include},
    "seed": {"min": 0},
}


def option(name: str) -> Any:
    """The option of a setting of `evaluate`."""
    names = ("--scorer",) if name == "scorers" else ()
    text = FIELDS[name].type.__metadata__[0]
    return typer.Option(*names, help=text, metavar=FORMS.get(name), **MORE.get(name, {}))


AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--map", help="Rename a column of the file: THEIRS=OURS, such as response=output; repeatable."),
]
DataDir = Annotated[Path | None, option("data_dir")]
Device = Annotated[str, option("device")]
IncludePath = Annotated[list[str] | None, option("include_path")]
InOrder = Annotated[
    bool, typer.Option("--in-order", help="The rows are the task's documents, in its order; they need no ids.")
]
Limit = Annotated[int | None, option("limit")]
Lineage = Annotated[
    Path | None,
    typer.Option(help="YAML or JSON file of lineages that are not recorded: MODEL: {base: MODEL, role: sft}."),
]
Metrics = Annotated[str, typer.Option(help="Metrics in the table: headline or all.")]
Out = Annotated[Path, option("out")]
Prompts = Annotated[Path | None, option("prompts")]
ScorerPath = Annotated[str | None, typer.Option(help="Local checkpoint of the single --scorer, same as NAME:PATH.")]
Scorers = Annotated[list[str] | None, option("scorers")]
Seed = Annotated[int, option("seed")]
Shots = Annotated[int | None, option("shots")]
Thinking = Annotated[str, option("thinking")]
ThinkingTags = Annotated[str, option("thinking_tags")]
TAGS = FIELDS["thinking_tags"].default


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each setting of `evaluate` instead of its `**settings`, in groups."""
    own = dict(with_fields(inspect.signature(command, eval_str=True)).parameters)

    def in_panel(title: str, name: str) -> inspect.Parameter:
        found = own.pop(name)
        hint, default = found.annotation.__origin__, found.default
        shown = option(name) if name in FIELDS else copy(found.annotation.__metadata__[0])
        shown.rich_help_panel = title
        if get_origin(hint) in (tuple, dict):
            hint, default = list[str] | None, None
        return found.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[hint, shown], default=default)

    listed = [in_panel(title, name) for title, names in PANELS.items() for name in names.split() if name in own]
    command.__signature__ = inspect.Signature([*own.values(), *listed])  # type: ignore[attr-defined]
    return command


def settings_of(context: typer.Context) -> dict[str, Any]:
    """The settings that the user has given, as keywords of `alignbench.evaluate`."""
    sources = {name: context.get_parameter_source(name) for name in context.params.keys() - {"metrics", "as_json"}}
    given = {name: context.params[name] for name, source in sources.items() if source and source.name != "DEFAULT"}
    given |= {name: parse(given[name]) for name, parse in PARSERS.items() if name in given}
    scorers = scorer_specs(given.pop("scorers", None), given.pop("scorer_path", None))
    return given | ({"scorers": scorers} if scorers else {})


def all_metrics(metrics: str) -> bool:
    """Parse --metrics."""
    if metrics not in ("headline", "all"):
        raise AlignbenchError(f"--metrics {metrics}: choose headline or all")
    return metrics == "all"


def split_names(listed: str) -> list[str]:
    """Parse comma-separated names."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def scorer_specs(specs: list[str] | None, path: str | None) -> list[str]:
    """Combine --scorer and --scorer-path."""
    specs = specs or []
    if path is None:
        return specs
    if len(specs) != 1:
        raise AlignbenchError(
            f"--scorer-path requires exactly one --scorer, not {len(specs)}; write KIND=NAME:PATH for each"
        )
    return [f"{specs[0]}:{path}"]


def gen_kwargs_of(specs: list[str]) -> dict[str, Any]:
    """Parse --gen-kwargs NAME=VALUE,NAME=VALUE, repeated. A comma separates parameters if a name and = follow it."""
    split = [part for spec in specs for part in re.split(r",(?=\w+=)", spec)]
    found = _named_values("--gen-kwargs", split, "temperature=0.7,max_tokens=64")
    stop = next((spec.partition("=")[2] for spec in reversed(split) if spec.startswith("stop=")), None)
    return found | ({"stop": stop} if not isinstance(found.get("stop", []), str | list) else {})  # stop=No is a text


def _named_values(option: str, specs: list[str], example: str) -> dict[str, Any]:
    """NAME=VALUE of each spec; a value is YAML: false, 3, text, {a: 1}."""
    found: dict[str, Any] = {}
    for spec in specs:
        name, _, value = spec.partition("=")
        try:
            found[name] = parse_yaml(value)
            json.dumps(found[name], allow_nan=False)
        except (TypeError, ValueError):
            name = ""
        if not name.isidentifier() or not value:
            raise AlignbenchError(f"{option} {spec}: write NAME=VALUE, such as {example}")
    return found


def pairs_of(option: str, specs: list[str] | None) -> dict[str, str]:
    """Parse an option NAME=VALUE, repeated."""
    found = dict(spec.partition("=")[::2] for spec in specs or [])
    if bad := [spec for spec in specs or [] if not all(spec.partition("="))]:
        raise AlignbenchError(f"{option} {bad[0]}: write NAME=VALUE")
    return found


def columns_of(specs: list[str] | None) -> dict[str, str]:
    """Parse --map THEIRS=OURS, repeated: the file's name of a column -> our name."""
    found: dict[str, str] = {}
    for spec in specs or []:
        theirs, equals, ours = spec.rpartition("=")
        if not (theirs and equals and ours):
            raise AlignbenchError(f"--map {spec}: write THEIRS=OURS, such as response=output")
        if theirs in found:
            raise AlignbenchError(f"--map {spec}: {theirs} is already mapped to {found[theirs]}")
        found[theirs] = ours
    return found


PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "tasks": lambda listed: split_names(",".join(listed)),
    "template_kwargs": lambda specs: _named_values("--template-kwargs", specs, "enable_thinking=false"),
    "gen_kwargs": gen_kwargs_of,
}
