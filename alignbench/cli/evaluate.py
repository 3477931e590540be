"""`alignbench evaluate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from alignbench.cli.options import (
    AsJson,
    DataDir,
    Device,
    Limit,
    Metrics,
    Out,
    Prompts,
    ScorerPath,
    Scorers,
    Seed,
    Shots,
    all_metrics,
    scorer_specs,
    split_names,
)


def evaluate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Local folders, hub ids (owner/name or owner/name@revision), or https://host/v1#model."),
    ],
    tasks: Annotated[str, typer.Option(help="Comma-separated task names, see `alignbench tasks`.")],
    out: Out = Path("runs"),
    baseline: Annotated[str | None, typer.Option(help="Checkpoint that the task win_rate compares with.")] = None,
    limit: Limit = None,
    shots: Shots = None,
    seed: Seed = 0,
    template: Annotated[
        str,
        typer.Option(
            help="chat: use the model's chat template; none: plain prompts; auto: chat if there is a template."
        ),
    ] = "auto",
    scorer: Scorers = None,
    scorer_path: ScorerPath = None,
    prompts: Prompts = None,
    data_dir: DataDir = None,
    engine: Annotated[str, typer.Option(help="local or vllm.")] = "local",
    dtype: Annotated[
        str, typer.Option(help="auto (as in the checkpoint), float32, bfloat16, float16, float64.")
    ] = "auto",
    device: Device = "auto",
    token_budget: Annotated[
        int | None, typer.Option(help="Padded tokens per batch; determined automatically by default.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Simultaneous requests to an endpoint.")] = 8,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code from the checkpoint.")] = False,
    metrics: Metrics = "headline",
    as_json: AsJson = False,
) -> None:
    """Evaluate checkpoints on tasks. An interrupted run resumes when the same command is run again."""
    from alignbench.cli.format import show_results
    from alignbench.evaluation.evaluate import evaluate as run
    from alignbench.progress import for_terminal

    every = all_metrics(metrics)
    with for_terminal() as progress:
        runs = run(
            checkpoints,
            split_names(tasks),
            out,
            baseline=baseline,
            limit=limit,
            shots=shots,
            seed=seed,
            template=template,
            scorers=scorer_specs(scorer, scorer_path),
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
    if int(os.environ.get("RANK", "0")) == 0:  # only one of several processes prints
        show_results(runs, every, as_json)
