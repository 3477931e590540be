"""`alignbench demo`: everything, and the stages that no other command has."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="A small world in which all of InstructGPT happens, measured: ten minutes, no network.")

Seed = Annotated[int, typer.Option(min=0, help="Of the world, and of all that is drawn.")]


@app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the demo; what is done in it is not done again.")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """Make a world; train base, SFT, reward model, PPO and PPO-ptx in it; evaluate them all, and write the report."""
    if context.invoked_subcommand is not None:
        return
    from alignbench.demo.pretrain import cores
    from alignbench.demo.runner import keep_seed, run
    from alignbench.demo.stages import plan

    began = time.monotonic()
    keep_seed(out, seed)
    try:
        run(plan(out, seed), out, cores())
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stood", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes")
    print(f"the audit: {out / 'audit.md'}")
    print(f"the report: {(out / 'report' / 'index.html').resolve().as_uri()}")


@app.command()
def world(folder: Annotated[Path, typer.Argument(help="Where its files go.")], seed: Seed = 0) -> None:
    """Write the world: the data files of all tasks, texts, demonstrations and rankings."""
    from alignbench.demo.write import write_world

    made = write_world(folder, seed)
    print(f"{len(made.people)} people, {len(made.facts)} facts: {folder}")


@app.command()
def pretrain(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="text=… and out=… at least.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="List all settings with value and meaning, and end.")] = False,
) -> None:
    """Teach a blank Llama of a million parameters a text: the base model."""
    from alignbench.console import print_table
    from alignbench.demo.pretrain import Pretraining
    from alignbench.demo.pretrain import pretrain as teach
    from alignbench.progress import for_terminal
    from trainers.config import describe, read_config, read_settings

    if show:
        given = read_settings(Pretraining, overrides=settings or [])
        print_table(("setting", "type", "value", "meaning"), describe(Pretraining, given))
        return
    config = read_config(Pretraining, overrides=settings or [])
    with for_terminal() as progress:
        print(f"checkpoint: {teach(config, progress=progress)}")


@app.command()
def label(
    runs: Annotated[Path, typer.Argument(help="Folder of run folders with the task answers.")],
    world: Annotated[Path, typer.Option(help="The world's folder, as `alignbench demo world` wrote it.")],
    out: Annotated[Path, typer.Option(help="Table of labels to write (JSON lines).")],
    seed: Seed = 0,
) -> None:
    """Let the world's simulated labelers rank, mark and flag what the models answered."""
    from alignbench.demo.labelers import label_runs

    print(f"{label_runs(runs, world, out, seed)} labels: {out}")


@app.command()
def rank(
    model: Annotated[Path, typer.Argument(help="Checkpoint whose answers are ranked: the SFT model.")],
    world: Annotated[Path, typer.Option(help="The world's folder, as `alignbench demo world` wrote it.")],
    out: Annotated[Path, typer.Option(help="Folder for rankings.jsonl and rankings_held_out.jsonl.")],
    seed: Seed = 0,
    number: Annotated[int, typer.Option(min=4, help="Prompts to rank; a quarter as many are held out.")] = 400,
) -> None:
    """Let a model answer the users, and the world's simulated labelers rank its answers: for the reward model."""
    from alignbench.demo.labelers import rank_samples
    from alignbench.progress import for_terminal

    with for_terminal() as progress:
        sampled = rank_samples(model, world, out, seed, number, progress)
    print(f"{sampled} of the ranked answers are the model's: {out}")
