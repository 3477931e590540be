"""`alignbench sweep`."""

import inspect
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.cli.evaluate import evaluate, settings_of
from alignbench.progress import for_terminal
from alignbench.shards import is_first_process


def sweep(
    context: typer.Context,
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoints of one training: RUN/checkpoint-* or RUN/checkpoints/*.")
    ],
    base: Annotated[
        str | None, typer.Option(help="The model that the training started from: step 0.", rich_help_panel="Tasks")
    ] = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
    **settings: Any,
) -> None:
    """Evaluate the checkpoints of one training, in order of step; the options are those of evaluate."""
    from alignbench.cli.format import show_steps
    from alignbench.evaluation.sweep import sweep as run

    every = options.all_metrics(metrics)
    with for_terminal() as progress:
        steps = run(progress=progress, **settings_of(context))
    if is_first_process():
        show_steps(steps, every, as_json)


def _signature() -> inspect.Signature:
    """The options of evaluate, with the arguments that only `sweep` has, or that are different."""
    own = inspect.signature(sweep, eval_str=True).parameters
    every = {**inspect.signature(evaluate).parameters, **{name: own[name] for name in ("checkpoints", "base")}}
    return inspect.Signature([own.replace(kind=inspect.Parameter.KEYWORD_ONLY) for own in every.values()])


sweep.__signature__ = _signature()  # type: ignore[attr-defined]
