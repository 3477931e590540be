"""Options that several commands share, and how their values are parsed."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import yaml

from alignbench.errors import AlignbenchError
from alignbench.types.settings import EngineSettings

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
Seed = Annotated[int, typer.Option(help="Seed of sampled documents, examples, orders of choices, and generation.")]
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
    int | None, typer.Option(help="Limit of the thoughts, besides that of the answer; default: 4096.", metavar="N")
]
TAGS = "<think>,</think>"


def with_engine_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose `**settings` are an option for each field of EngineSettings."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    for name, hint in get_type_hints(EngineSettings, include_extras=True).items():
        option = typer.Option(help=hint.__metadata__[0], rich_help_panel="Engine")
        default, annotation = getattr(EngineSettings, name), Annotated[hint.__origin__, option]
        own.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    return command


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
    """Parse --template-kwargs NAME=VALUE, repeated. A value is YAML: false, 3, text, {a: 1}."""
    found: dict[str, Any] = {}
    for spec in specs or []:
        name, _, value = spec.partition("=")
        try:
            found[name] = yaml.safe_load(value)
            json.dumps(found[name], allow_nan=False)
        except (yaml.YAMLError, TypeError, ValueError, RecursionError):
            name = ""
        if not name.isidentifier() or not value:
            raise AlignbenchError(f"--template-kwargs {spec}: write NAME=VALUE, such as enable_thinking=false")
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
