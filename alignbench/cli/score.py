"""`alignbench score` and `alignbench rescore`: outputs that exist already."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.errors import AlignbenchError
from alignbench.progress import for_terminal


def score(
    file: Annotated[
        Path, typer.Argument(help="JSON lines or CSV: id, output (or outputs), references, source, prompt.")
    ],
    task: Annotated[
        str | None, typer.Option(help="Benchmark whose documents the ids name; default: the file's own references.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the system; default: the file's name.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="For --task win_rate: the other system's file.")] = None,
    include_path: options.IncludePath = None,
    columns: options.Columns = None,
    in_order: options.InOrder = False,
    out: options.Out = Path("runs"),
    limit: options.Limit = None,
    shots: options.Shots = None,
    seed: options.Seed = 0,
    scorer: options.Scorers = None,
    scorer_path: options.ScorerPath = None,
    prompts: options.Prompts = None,
    data_dir: options.DataDir = None,
    device: options.Device = "cpu",
    thinking: options.Thinking = "auto",
    thinking_tags: options.ThinkingTags = options.TAGS,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
) -> None:
    """Score outputs in a file, from any system, in the same way as a checkpoint's."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.score_file import judge_files, score_file

    every = options.all_metrics(metrics)
    if (task == "win_rate") != (baseline is not None):
        raise AlignbenchError("--task win_rate requires --baseline FILE, and --baseline requires --task win_rate")
    with for_terminal() as progress:
        settings: dict[str, Any] = {"name": name, "columns": options.columns_of(columns), "in_order": in_order}
        settings |= {"scorers": options.scorer_specs(scorer, scorer_path), "limit": limit, "shots": shots, "seed": seed}
        settings |= {"prompts": prompts, "data_dir": data_dir, "device": device, "progress": progress}
        settings |= {"thinking": thinking, "thinking_tags": thinking_tags}
        if baseline is not None:
            run = judge_files(file, baseline, out, **settings)
        else:
            run = score_file(file, out, task=task, **settings)
    show_results([run], every, as_json)


def rescore(
    run: Annotated[Path, typer.Argument(help="A run folder of `alignbench evaluate` or `alignbench score`.")],
    scorer: options.Scorers = None,
    scorer_path: options.ScorerPath = None,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks; default: all that take the scorer.")] = "",
    include_path: options.IncludePath = None,
    device: options.Device = "cpu",
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
) -> None:
    """Apply another scorer to the outputs of a run, without the model, or retry documents on which a scorer failed."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.rescore import rescore as score_again

    every = options.all_metrics(metrics)
    with for_terminal() as progress:
        specs = options.scorer_specs(scorer, scorer_path)
        result = score_again(run, specs, options.split_names(tasks), device=device, progress=progress)
    show_results([result], every, as_json)
