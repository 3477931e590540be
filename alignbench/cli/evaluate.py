"""`alignbench evaluate` and `alignbench tasks`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.progress import for_terminal
from alignbench.shards import is_first_process


@options.with_engine_settings
def evaluate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Local folders, hub ids (owner/name or owner/name@revision), or https://host/v1#model."),
    ],
    tasks: Annotated[str, typer.Option(help="Comma-separated task names, see `alignbench tasks`.")],
    out: options.Out = Path("runs"),
    baseline: Annotated[str | None, typer.Option(help="Checkpoint that the task win_rate compares with.")] = None,
    limit: options.Limit = None,
    shots: options.Shots = None,
    seed: options.Seed = 0,
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
    thinking: options.Thinking = "auto",
    thinking_tags: options.ThinkingTags = options.TAGS,
    thinking_tokens: options.ThinkingTokens = None,
    scorer: options.Scorers = None,
    scorer_path: options.ScorerPath = None,
    prompts: options.Prompts = None,
    data_dir: options.DataDir = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
    **engine: Any,
) -> None:
    """Evaluate checkpoints on tasks. An interrupted run resumes when the same command is run again."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.evaluate import evaluate as run

    every = options.all_metrics(metrics)
    with for_terminal() as progress:
        settings: dict[str, Any] = {"baseline": baseline, "limit": limit, "shots": shots, "seed": seed}
        settings |= {"template": template, "prompts": prompts, "data_dir": data_dir, **engine}
        settings |= {"scorers": options.scorer_specs(scorer, scorer_path)}
        settings |= {"thinking": thinking, "thinking_tags": thinking_tags, "thinking_tokens": thinking_tokens}
        settings["template_kwargs"] = options.template_kwargs_of(template_kwargs)
        runs = run(checkpoints, options.split_names(tasks), out, progress=progress, **settings)
    if is_first_process():
        show_results(runs, every, as_json)


def list_tasks() -> None:
    """List the tasks with their metrics, direction and chance level."""
    from alignbench.console import print_table
    from alignbench.tasks import all_tasks

    rows = []
    for task in all_tasks().values():
        for metric in task.metrics:
            chance = "per document" if metric.chance is None else f"{metric.chance:.2f}"
            if metric.chance is None and metric.unit != "proportion":
                chance = "–"
            scorer = metric.scorer or "–"
            rows.append(
                (task.name, str(task.version), task.title, metric.name, metric.unit, metric.better, chance, scorer)
            )
    print_table(("task", "version", "title", "metric", "unit", "better", "chance", "scorer"), rows)
