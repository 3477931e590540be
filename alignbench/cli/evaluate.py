"""`alignbench evaluate` and `alignbench sweep`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.progress import for_terminal
from alignbench.shards import is_first_process

Config = Annotated[Path | None, typer.Option(help="YAML file of settings; options take precedence.")]


@options.with_settings
def evaluate(
    context: typer.Context,
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Local folders, hub ids (owner/name or owner/name@revision), or https://host/v1#model."),
    ] = None,
    config: Config = None,
    scorer_path: options.ScorerPath = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
    **settings: Any,
) -> None:
    """Evaluate checkpoints on tasks. An interrupted run resumes when the same command is run again."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.evaluate import evaluate as run

    every = options.all_metrics(metrics)
    with for_terminal() as progress:
        runs = run(progress=progress, **options.settings_of(context))
    if is_first_process():
        show_results(runs, every, as_json)


@options.with_settings
def sweep(
    context: typer.Context,
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoints of one training: RUN/checkpoint-* or RUN/checkpoints/*.")
    ],
    base: Annotated[str | None, typer.Option(help="The model that the training started from: step 0.")] = None,
    config: Config = None,
    scorer_path: options.ScorerPath = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
    **settings: Any,
) -> None:
    """Evaluate the checkpoints of one training, in order of step; the options are those of evaluate."""
    from alignbench.cli.format import show_steps
    from alignbench.evaluation.sweep import sweep as run

    every = options.all_metrics(metrics)
    with for_terminal() as progress:
        steps = run(progress=progress, **options.settings_of(context))
    if is_first_process():
        show_steps(steps, every, as_json)
