"""Options that several commands share, and how their values are parsed."""

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.errors import AlignbenchError
from alignbench.parse import parse_yaml
from alignbench.plugins import include
from alignbench.types.settings import EngineSettings, with_fields


def _include(paths: list[str] | None) -> list[str] | None:
    for path in paths or ():
        include(path)
    return paths


IncludePath = Annotated[
    list[str] | None,
    typer.Option(
        help="Python file, or folder of files, with your TASKS, SCORERS or ENGINES; repeatable.",
        envvar="ALIGNBENCH_INCLUDE_PATH",
        callback=_include,
        metavar="FILE|DIR",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--map", help="Rename a column of the file: THEIRS=OURS, such as response=output; repeatable."),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the data files (default: $ALIGNBENCH_DATA).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
InOrder = Annotated[
    bool, typer.Option("--in-order", help="The rows are the task's documents, in its order; they need no ids.")
]
Limit = Annotated[
    int | None,
    typer.Option(help="At most N documents per task, sampled with --seed, stratified by category.", metavar="N"),
]
Lineage = Annotated[
    Path | None,
    typer.Option(help="YAML or JSON file of lineages that are not recorded: MODEL: {base: MODEL, role: sft}."),
]
Metrics = Annotated[str, typer.Option(help="Metrics in the table: headline or all.")]
Out = Annotated[Path, typer.Option(help="Folder for the run folders.")]
Prompts = Annotated[
    Path | None, typer.Option(help="JSON lines file with prompt and id that replaces a task's own prompts.")
]
ScorerPath = Annotated[str | None, typer.Option(help="Local checkpoint of the single --scorer, same as NAME:PATH.")]
Scorers = Annotated[
    list[str] | None,
    typer.Option("--scorer", help="KIND=NAME[:PATH], replaces the default scorer of that kind; repeatable."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of sampled documents, examples, orders of choices, generation.")]
Shots = Annotated[int | None, typer.Option(help="Examples before every prompt, for tasks that support them.")]
Thinking = Annotated[
    str,
    typer.Option(
        help="Thoughts of a model: strip takes them out of the answer, keep leaves them in; auto: strip where the chat "
        "template or the output has such a block."
    ),
]
ThinkingTags = Annotated[str, typer.Option(help="START,END of a block of thoughts.")]
ThinkingTokens = Annotated[
    int | None, typer.Option(help="Maximum tokens of the thoughts, without the answer; default: 4096.", metavar="N")
]
TAGS = "<think>,</think>"


def with_engine_settings(panels: Mapping[str, Collection[str]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose `**settings` are an option for each field of EngineSettings.

    panels: title of a group in the help text -> its other options; those of engines are a group of their own
    """

    def option(hint: Any) -> Any:
        return Annotated[hint.__origin__, typer.Option(help=hint.__metadata__[0], rich_help_panel="Engine")]

    def in_panel(parameter: inspect.Parameter) -> inspect.Parameter:
        title = next((title for title, names in panels.items() if parameter.name in names), None)
        if title is None:
            return parameter
        shown = copy(parameter.annotation.__metadata__[0])
        shown.rich_help_panel = title
        return parameter.replace(annotation=Annotated[parameter.annotation.__origin__, shown])

    def extended(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        own = own.replace(parameters=list(map(in_panel, own.parameters.values())))
        command.__signature__ = with_fields(own, EngineSettings, option)  # type: ignore[attr-defined]
        return command

    return extended


def given(context: typer.Context) -> dict[str, Any]:
    """The options of a command that the user has given."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: context.params[name] for name, source in sources.items() if source and source.name != "DEFAULT"}


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


def template_kwargs_of(specs: list[str] | None) -> dict[str, Any]:
    """Parse --template-kwargs NAME=VALUE, repeated."""
    return _named_values("--template-kwargs", specs or [], "enable_thinking=false")


def gen_kwargs_of(specs: list[str] | None) -> dict[str, Any]:
    """Parse --gen-kwargs NAME=VALUE,NAME=VALUE, repeated. A comma separates parameters if a name and = follow it."""
    split = [part for spec in specs or [] for part in re.split(r",(?=\w+=)", spec)]
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
