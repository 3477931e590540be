"""The command line: `alignbench evaluate | score | rescore | compare | report | demo | rank | diversity | …`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli.average import average_command
from alignbench.cli.compare import compare
from alignbench.cli.data import app as data_app
from alignbench.cli.demo import app as demo_app
from alignbench.cli.diversity import diversity
from alignbench.cli.labels import app as labels_app
from alignbench.cli.options import columns_of
from alignbench.cli.rank import rank
from alignbench.cli.report import report
from alignbench.cli.scorers import app as scorers_app
from alignbench.cli.train import app as train_app
from alignbench.console import printable
from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.types.result import RunResult

app = typer.Typer(
    help="Measure what aligning a language model gained, and what it cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(demo_app, name="demo")
app.add_typer(data_app, name="data", help="The data sets: what is there, what is missing, fetch it.")
app.add_typer(scorers_app, name="scorers", help="The scorers of what a model wrote: what is there, how good they are.")
app.add_typer(labels_app, name="labels", help="Human labels: import, agreement, summary, screen, export.")
app.add_typer(train_app, name="train", help="Train: SFT, a reward model, PPO and PPO-ptx.")

DataDir = Annotated[Path | None, typer.Option(help="Folder with the authors' files (default: $ALIGNBENCH_DATA).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Every = Annotated[
    str, typer.Option("--metrics", help="In the table: headline (what the task wants told), or all.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Limit = Annotated[
    int | None, typer.Option(help="So many documents of each task, drawn with the seed, from each category its share.")
]
Out = Annotated[Path, typer.Option(help="Where the run folders go.")]
ScorerPath = Annotated[str | None, typer.Option(help="Local checkpoint of the one --scorer, in place of NAME:PATH.")]
Prompts = Annotated[Path | None, typer.Option(help="JSON lines with prompt and id, in place of a task's own prompts.")]
Scorers = Annotated[
    list[str] | None, typer.Option("--scorer", help="KIND=NAME[:PATH], in place of the kind's default; repeatable.")
]
Seed = Annotated[int, typer.Option(help="Draws documents, examples, orders of choices and what is sampled.")]
Shots = Annotated[int | None, typer.Option(help="Examples before every prompt, for tasks that take them.")]


@app.command()
def evaluate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Local folders, hub ids as owner/name or owner/name@revision, or https://host/v1#model."),
    ],
    tasks: Annotated[str, typer.Option(help="Names from `alignbench tasks`, with commas between.")],
    out: Out = Path("runs"),
    baseline: Annotated[str | None, typer.Option(help="What the task win_rate compares with: a checkpoint.")] = None,
    limit: Limit = None,
    shots: Shots = None,
    seed: Seed = 0,
    template: Annotated[
        str, typer.Option(help="chat: prompts become messages in the model's chat template; none: plain; auto.")
    ] = "auto",
    scorer: Scorers = None,
    scorer_path: ScorerPath = None,
    prompts: Prompts = None,
    data_dir: DataDir = None,
    engine: Annotated[str, typer.Option(help="local, or vllm.")] = "local",
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16, float64.")
    ] = "auto",
    device: Device = "auto",
    token_budget: Annotated[int | None, typer.Option(help="Padded tokens of one batch; found by itself.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests to an endpoint at the same time.")] = 8,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that a checkpoint brings.")] = False,
    metrics: Every = "headline",
    as_json: Json = False,
) -> None:
    """Score checkpoints on tasks. A run that was stopped goes on where it stood."""
    from alignbench.evaluation.evaluate import evaluate as run
    from alignbench.progress import for_terminal

    every = _every(metrics)
    with for_terminal() as progress:
        runs = run(
            checkpoints,
            _names(tasks),
            out,
            baseline=baseline,
            limit=limit,
            shots=shots,
            seed=seed,
            template=template,
            scorers=_scorers(scorer, scorer_path),
            prompts=prompts,
            data_dir=data_dir,
            engine=engine,
            dtype=dtype,
            device=device,
            token_budget=token_budget,
            concurrency=concurrency,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes one prints
        _print(runs, every, as_json)


@app.command()
def score(
    file: Annotated[
        Path, typer.Argument(help="JSON lines or CSV: id, output (or outputs), references, source, prompt.")
    ],
    task: Annotated[
        str | None, typer.Option(help="The benchmark whose documents the ids name; none: the file's own references.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the system that wrote them; default: the file's.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="For --task win_rate: the other system's file.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", help="THEIRS=OURS: a column's name here, such as response=output.")
    ] = None,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="The rows are the task's documents, in its order.")
    ] = False,
    out: Out = Path("runs"),
    limit: Limit = None,
    shots: Shots = None,
    seed: Seed = 0,
    scorer: Scorers = None,
    scorer_path: ScorerPath = None,
    prompts: Prompts = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    metrics: Every = "headline",
    as_json: Json = False,
) -> None:
    """Score outputs that exist already, from any system, so that they can stand in a table beside a checkpoint."""
    from alignbench.evaluation.score_file import judge_files, score_file
    from alignbench.progress import for_terminal

    every = _every(metrics)
    if (task == "win_rate") != (baseline is not None):
        raise AlignbenchError("--task win_rate and --baseline FILE go together")
    with for_terminal() as progress:
        settings: dict[str, Any] = {
            "scorers": _scorers(scorer, scorer_path),
            "name": name,
            "columns": columns_of(columns),
            "in_order": in_order,
            "limit": limit,
            "shots": shots,
            "seed": seed,
            "prompts": prompts,
            "data_dir": data_dir,
            "device": device,
            "progress": progress,
        }
        if baseline is not None:
            run = judge_files(file, baseline, out, **settings)
        else:
            run = score_file(file, out, task=task, **settings)
    _print([run], every, as_json)


@app.command()
def rescore(
    run: Annotated[Path, typer.Argument(help="A run folder, as `alignbench evaluate` names it.")],
    scorer: Scorers = None,
    scorer_path: ScorerPath = None,
    tasks: Annotated[str, typer.Option(help="Of these tasks alone, with commas between; default: all.")] = "",
    device: Device = "cpu",
    metrics: Every = "headline",
    as_json: Json = False,
) -> None:
    """Apply another scorer to what a run's model wrote, without the model; or complete what a scorer failed on."""
    from alignbench.evaluation.rescore import rescore as again
    from alignbench.progress import for_terminal

    every = _every(metrics)
    with for_terminal() as progress:
        result = again(run, _scorers(scorer, scorer_path), _names(tasks), device=device, progress=progress)
    _print([result], every, as_json)


app.command()(compare)
app.command()(rank)
app.command()(diversity)
app.command("average")(average_command)
app.command()(report)


@app.command("tasks")
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
    print_table(("task", "version", "what", "metric", "unit", "better", "chance", "scorer"), rows)


def _every(metrics: str) -> bool:
    if metrics not in ("headline", "all"):
        raise AlignbenchError(f"--metrics {metrics}: choose headline or all")
    return metrics == "all"


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _scorers(specs: list[str] | None, path: str | None) -> list[str]:
    specs = specs or []
    if path is None:
        return specs
    if len(specs) != 1:
        raise AlignbenchError(f"--scorer-path goes with one --scorer, not {len(specs)}; write KIND=NAME:PATH for each")
    return [f"{specs[0]}:{path}"]


def _print(runs: Sequence[RunResult], every: bool, as_json: bool) -> None:
    from alignbench.cli.format import print_results

    if as_json:
        print(json.dumps([asdict(run) | {"folder": str(run.folder)} for run in runs], indent=2))
    else:
        print_results(runs, every_metric=every)


def main() -> None:
    """Entry point. A user's mistake is one line on stderr and exit code 2; what is computed stays in its folder."""
    # without these, `tokenizers` warns about forks and transformers prints advice into the results
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        app()
    except AlignbenchError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stood", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing to flush to
        sys.exit(1)
