"""`alignbench import`: results of other tools as run folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress, for_terminal

app = typer.Typer(no_args_is_help=True)

Headlines = Annotated[
    list[str] | None,
    typer.Option("--metric", help="TASK=METRIC: the metric that represents a task in the audit; repeatable."),
]


@app.command("lm-eval")
def import_lm_eval(
    folder: Annotated[Path, typer.Argument(help="Output folder of lm_eval with --log_samples, or one that has such.")],
    out: options.Out = Path("runs"),
    metric: Headlines = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
) -> None:
    """Logs of lm-evaluation-harness (0.4.13) with samples."""
    from alignbench.imports.lm_eval import read_lm_eval

    _write(lambda progress: read_lm_eval(folder, progress.say), out, metric, metrics, as_json)


@app.command("inspect")
def import_inspect(
    logs: Annotated[list[Path], typer.Argument(help="Logs of Inspect, .eval or .json, or folders with such logs.")],
    out: options.Out = Path("runs"),
    metric: Headlines = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
) -> None:
    """Logs of Inspect (inspect_ai): scores of each sample, averaged over epochs."""
    from alignbench.imports.inspect import read_inspect

    _write(lambda _: read_inspect(logs), out, metric, metrics, as_json)


@app.command("table")
def import_table(
    files: Annotated[list[Path], typer.Argument(help="CSV, TSV, JSON, JSON lines or Parquet, a row per output.")],
    out: options.Out = Path("runs"),
    columns: options.Columns = None,
    score: Annotated[
        list[str] | None,
        typer.Option(help="Columns with scores, comma-separated; NAME:lower or NAME:higher says which is better."),
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE: only these rows; repeatable.")] = None,
    split_by: Annotated[str, typer.Option(help="Columns, comma-separated: a task for each of their values.")] = "",
    separator: Annotated[str | None, typer.Option(help="Separates several references in a cell, such as ';'.")] = None,
    system: Annotated[str | None, typer.Option(help="Of rows without a system; default: the file's name.")] = None,
    task: Annotated[str | None, typer.Option(help="Of rows without a task; default: outputs.")] = None,
    metric: Headlines = None,
    scorer: options.Scorers = None,
    prompts: options.Prompts = None,
    data_dir: options.DataDir = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
) -> None:
    """Outputs of systems in one table: columns system, task, id, prompt, output, references, source, group, scores."""
    from alignbench.imports.table import Columns, read_table

    scores: dict[str, str | None] = {}
    for name in [name for listed in score or () for name in options.split_names(listed)]:
        column, _, better = name.partition(":")
        if better not in ("", "lower", "higher"):
            raise AlignbenchError(f"--score {name}: write NAME, NAME:lower or NAME:higher")
        scores[column] = better or None
    read = Columns(
        options.columns_of(columns), scores, options.pairs_of("--where", where), options.split_names(split_by),
        separator, system, task,
    )  # fmt: skip
    settings: dict[str, Any] = {"scorers": scorer or [], "prompts": prompts}
    settings |= {"data_dir": data_dir, "seed": seed, "device": device}
    _write(lambda _: read_table(files, read, **settings), out, metric, metrics, as_json)


def _write(
    read: Callable[[Progress], list[Any]], out: Path, metric: list[str] | None, metrics: str, as_json: bool
) -> None:
    from alignbench.cli.format import show_results
    from alignbench.imports.write import with_headlines, write_runs

    headlines = options.pairs_of("--metric", metric)
    every = options.all_metrics(metrics)
    with for_terminal() as progress:
        runs = write_runs(with_headlines(read(progress), headlines), out, progress)
    show_results(runs, every, as_json)
