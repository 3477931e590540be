"""The command line: `alignbench evaluate | tasks | data`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alignbench.data.cli import app as data_app
from alignbench.errors import AlignbenchError

app = typer.Typer(
    help="Measure what aligning a language model gained, and what it cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data", help="The data sets: what is there, what is missing, fetch it.")


@app.command()
def evaluate(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Local folders, or hub ids as owner/name or owner/name@revision.")
    ],
    tasks: Annotated[str, typer.Option(help="Names from `alignbench tasks`, with commas between.")],
    out: Annotated[Path, typer.Option(help="Where the run folders go.")] = Path("runs"),
    limit: Annotated[int | None, typer.Option(help="So many documents of each task, drawn with the seed.")] = None,
    shots: Annotated[int | None, typer.Option(help="Examples before every prompt, for tasks that take them.")] = None,
    seed: Annotated[int, typer.Option(help="Draws documents, examples and orders of choices.")] = 0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the authors' files (default: $ALIGNBENCH_DATA).")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16, float64.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    token_budget: Annotated[int | None, typer.Option(help="Padded tokens of one batch; found by itself.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that a checkpoint brings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Score checkpoints on tasks. A run that was stopped goes on where it stood."""
    from alignbench.evaluation import evaluate as run
    from alignbench.progress import for_terminal
    from alignbench.tables import print_results

    with for_terminal() as progress:
        runs = run(
            checkpoints,
            [name.strip() for name in tasks.split(",") if name.strip()],
            out,
            limit=limit,
            shots=shots,
            seed=seed,
            data_dir=data_dir,
            dtype=dtype,
            device=device,
            token_budget=token_budget,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if as_json:
        print(json.dumps([asdict(result) | {"folder": str(result.folder)} for result in runs], indent=2))
    else:
        print_results(runs)


@app.command("tasks")
def list_tasks() -> None:
    """List the tasks with their metrics, direction and chance level."""
    from alignbench.tables import print_table
    from alignbench.tasks import all_tasks

    rows = []
    for task in all_tasks().values():
        for metric in task.metrics:
            chance = "per document" if metric.chance is None else f"{metric.chance:.2f}"
            if metric.chance is None and metric.unit != "share":
                chance = "–"
            rows.append((task.name, str(task.version), task.title, metric.name, metric.unit, metric.better, chance))
    print_table(("task", "version", "what", "metric", "unit", "better", "chance"), rows)


def main() -> None:
    """Entry point. A user's mistake is one line on stderr and exit code 2; what is computed stays in its folder."""
    # without these, `tokenizers` warns about forks and transformers prints advice into the results
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        app()
    except AlignbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stood", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing to flush to
        sys.exit(1)
