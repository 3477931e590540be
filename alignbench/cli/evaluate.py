"""`alignbench evaluate` and `alignbench tasks`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.progress import for_terminal
from alignbench.shards import is_first_process

PANELS = {
    "Tasks": (
        *("config", "tasks", "include_path", "limit", "shots", "seed", "prompts", "data_dir"),
        *("baseline", "scorer", "scorer_path"),
    ),
    "Prompts and sampling": (
        *("template", "template_kwargs", "system", "gen_kwargs", "samples"),
        *("thinking", "thinking_tags", "thinking_tokens"),
    ),
    "Output": ("out", "metrics", "as_json"),
}


@options.with_engine_settings(PANELS)
def evaluate(
    context: typer.Context,
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Local folders, hub ids (owner/name or owner/name@revision), or https://host/v1#model."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options take precedence.")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Comma-separated names, patterns ('winogender*') or abilities: see `alignbench tasks`."),
    ] = None,
    include_path: options.IncludePath = None,
    limit: options.Limit = None,
    shots: options.Shots = None,
    seed: options.Seed = 0,
    prompts: options.Prompts = None,
    data_dir: options.DataDir = None,
    scorer: options.Scorers = None,
    scorer_path: options.ScorerPath = None,
    baseline: Annotated[str | None, typer.Option(help="Checkpoint that the task win_rate compares with.")] = None,
    template: Annotated[
        str,
        typer.Option(
            help="chat: use the model's chat template; none: plain prompts; "
            "auto: chat where the model generates answers, if it has a template."
        ),
    ] = "auto",
    template_kwargs: Annotated[
        list[str] | None,
        typer.Option(help="Variable of the chat template: NAME=VALUE, such as enable_thinking=false; repeatable."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="System message before every prompt in a chat template.", metavar="TEXT|FILE"),
    ] = None,
    gen_kwargs: Annotated[
        list[str] | None,
        typer.Option(
            help="Sampling instead of a task's own: temperature, top_p, top_k, max_tokens, stop; repeatable.",
            metavar="NAME=VALUE,…",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Continuations of each prompt, for tasks that take several.", metavar="N"),
    ] = None,
    thinking: options.Thinking = "auto",
    thinking_tags: options.ThinkingTags = options.TAGS,
    thinking_tokens: options.ThinkingTokens = None,
    out: options.Out = Path("runs"),
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
    **engine: Any,
) -> None:
    """Evaluate checkpoints on tasks. An interrupted run resumes when the same command is run again."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.evaluate import evaluate as run

    every = options.all_metrics(metrics)
    given = options.given(context)
    parsed: dict[str, Any] = {
        "tasks": options.split_names(tasks or ""),
        "scorers": options.scorer_specs(scorer, scorer_path),
        "template_kwargs": options.template_kwargs_of(template_kwargs),
        "gen_kwargs": options.gen_kwargs_of(gen_kwargs),
    }
    for name in ("tasks", "scorer", "scorer_path", "template_kwargs", "gen_kwargs", "metrics", "as_json"):
        given.pop(name, None)
    with for_terminal() as progress:
        runs = run(progress=progress, **given, **{name: value for name, value in parsed.items() if value})
    if is_first_process():
        show_results(runs, every, as_json)
