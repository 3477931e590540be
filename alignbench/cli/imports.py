"""`alignbench import`: results of other tools as run folders."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli import options
from alignbench.errors import AlignbenchError
from alignbench.progress import for_terminal


def import_results(
    format: Annotated[str, typer.Argument(help="lm-eval, inspect or table.")],
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="lm-eval: output folders of lm_eval --log_samples. inspect: logs (.eval, .json) or folders of them. "
            "table: files with a row per output (CSV, TSV, JSON, JSON lines, Parquet)."
        ),
    ],
    out: options.Out = Path("runs"),
    metric: Annotated[
        list[str] | None, typer.Option(help="TASK=METRIC: the metric that represents a task in the audit; repeatable.")
    ] = None,
    metrics: options.Metrics = "headline",
    as_json: options.AsJson = False,
    columns: options.Columns = None,
    score: Annotated[
        list[str] | None, typer.Option(help="table: columns with scores, NAME,NAME; NAME:lower if lower is better.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="table: only rows with COLUMN=VALUE; repeatable.")] = None,
    split_by: Annotated[str, typer.Option(help="table: columns, comma-separated; each value is a task.")] = "",
    separator: Annotated[str | None, typer.Option(help="table: separator of references in a cell.")] = None,
    system: Annotated[str | None, typer.Option(help="table: system of rows without one; default: file name.")] = None,
    task: Annotated[str | None, typer.Option(help="table: task of rows without one; default: outputs.")] = None,
    scorer: options.Scorers = None,
    prompts: options.Prompts = None,
    data_dir: options.DataDir = None,
    include_path: options.IncludePath = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
) -> None:
    """Write run folders from results of lm-eval and Inspect (logs with samples), and from tables of saved outputs."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.score_file import write_runs
    from alignbench.imports.foreign import with_headlines
    from alignbench.imports.inspect import read_inspect
    from alignbench.imports.lm_eval import read_lm_eval
    from alignbench.imports.table import read_table
    from alignbench.shards import require_single_process

    require_single_process("import")

    every, headlines = options.all_metrics(metrics), options.pairs_of("--metric", metric)
    settings: dict[str, Any] = {"renamed": options.columns_of(columns), "where": options.pairs_of("--where", where)}
    settings |= {"scores": [name for listed in score or () for name in options.split_names(listed)]}
    settings |= {"split_by": options.split_names(split_by), "separator": separator, "system": system, "task": task}
    settings |= {"scorers": scorer or [], "prompts": prompts, "data_dir": data_dir}
    if format != "table" and any(settings.values()):
        raise AlignbenchError(f"import {format}: the options of tables, such as --map and --task, need `import table`")
    with for_terminal() as progress:
        if format == "lm-eval":
            found = read_lm_eval(paths, progress.say)
        elif format == "inspect":
            found = read_inspect(paths)
        elif format == "table":
            found = read_table(paths, **settings, seed=seed, device=device)
        else:
            raise AlignbenchError(f"import {format}: choose lm-eval, inspect or table")
        runs = write_runs(with_headlines(found, headlines), out, progress)
    show_results(runs, every, as_json)
