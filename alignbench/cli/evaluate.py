"""`alignbench evaluate` and `alignbench tasks`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.progress import for_terminal
from alignbench.shards import is_first_process


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
    engine: Annotated[str, typer.Option(help="local or vllm.")] = "local",
    dtype: Annotated[
        str,
        typer.Option(
            help="auto (as in the checkpoint; float32 on a CPU without bfloat16), float32, bfloat16, float16, float64."
        ),
    ] = "auto",
    device: options.Device = "auto",
    token_budget: Annotated[
        int | None, typer.Option(help="Padded tokens per batch; determined automatically by default.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Simultaneous requests to an endpoint.")] = 8,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code from the checkpoint.")] = False,
    device_map: options.DeviceMap = None,
    merge_adapter: options.MergeAdapter = False,
    gpus: options.Gpus = None,
    max_model_len: options.MaxModelLen = None,
    gpu_memory_utilization: options.GpuMemory = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
) -> None:
    """Evaluate checkpoints on tasks. An interrupted run resumes when the same command is run again."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.evaluate import evaluate as run

    every = options.all_metrics(metrics)
    with for_terminal() as progress:
        settings: dict[str, Any] = {"baseline": baseline, "limit": limit, "shots": shots, "seed": seed}
        settings |= {"template": template, "prompts": prompts, "data_dir": data_dir, "engine": engine, "dtype": dtype}
        settings |= {"device": device, "token_budget": token_budget, "concurrency": concurrency}
        settings |= {"trust_remote_code": trust_remote_code, "scorers": options.scorer_specs(scorer, scorer_path)}
        settings |= {"thinking": thinking, "thinking_tags": thinking_tags, "thinking_tokens": thinking_tokens}
        settings |= {"device_map": device_map, "merge_adapter": merge_adapter, "gpus": gpus}
        settings |= {"max_model_len": max_model_len, "gpu_memory_utilization": gpu_memory_utilization}
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
            if metric.chance is None and metric.unit != "share":
                chance = "–"
            scorer = metric.scorer or "–"
            rows.append(
                (task.name, str(task.version), task.title, metric.name, metric.unit, metric.better, chance, scorer)
            )
    print_table(("task", "version", "title", "metric", "unit", "better", "chance", "scorer"), rows)
