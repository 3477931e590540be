"""`alignbench demo`: the whole demo, and the stages that no other command has."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from alignbench.cli.train import Show, run_stage
from alignbench.progress import for_terminal

app = typer.Typer(
    help="InstructGPT's pipeline on synthetic data: trained and evaluated in ten minutes, without a network."
)

Methods = Literal["ppo", "all"]
Seed = Annotated[int, typer.Option(min=0, help="Random seed of the world and of all that is drawn.")]
World = Annotated[Path, typer.Option(help="Folder of the world, written by `alignbench demo world`.")]


@app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the demo; finished stages are not repeated.")] = Path("demo"),
    seed: Seed = 0,
    methods: Annotated[Methods, typer.Option(help="ppo: PPO and PPO-ptx; all: also DPO, RLOO and best-of-n.")] = "ppo",
    label: Annotated[bool, typer.Option("--label", help="Then open a page on which you label the outputs.")] = False,
) -> None:
    """Make a world; train base, SFT, reward model, PPO and PPO-ptx in it; evaluate them, and write the report."""
    if context.invoked_subcommand is not None:
        return
    from alignbench.demo.runner import plan, run

    began = time.monotonic()
    with for_terminal() as progress:
        run(plan(out, seed, methods=methods), out, seed, progress=progress)
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes")
    print(f"audit: {out / 'audit.md'}")
    print(f"report: {(out / 'report' / 'index.html').resolve().as_uri()}")
    if label:
        _serve_page(out, seed)


def _serve_page(out: Path, seed: int) -> None:
    """Serve the labeling page on the outputs of the demo's models, and open it."""
    import webbrowser

    from alignbench.cli.serve import run_study
    from alignbench.demo.labelers import find_all_answers
    from alignbench.evaluation.study import study_items
    from alignbench.labels.study.store import Settings

    systems, settings = find_all_answers(out / "runs"), Settings(1, seed)
    baseline = next((own.name for own in systems if own.name == "sft"), systems[0].name)
    run_study(
        out / "study.db", study_items(systems, seed=seed), settings, {"you": None}, baseline,
        port=0, new_links=True, opened=webbrowser.open,
    )  # fmt: skip


@app.command()
def world(folder: Annotated[Path, typer.Argument(help="Folder to write to.")], seed: Seed = 0) -> None:
    """Write a world: data files for all tasks, pretraining text, demonstrations and rankings."""
    from alignbench.demo.write import write_world

    made = write_world(folder, seed)
    print(f"{len(made.people)} people, {len(made.facts)} facts: {folder}")


@app.command()
def pretrain(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Settings, at least text=… and out=….")
    ] = None,
    show: Show = False,
) -> None:
    """Train the base model: a blank Llama of a million parameters, on a text."""
    from alignbench.demo.pretrain import Pretraining
    from alignbench.demo.pretrain import pretrain as train

    run_stage(Pretraining, lambda config, progress: (train(config, progress), {}), settings, show)


@app.command()
def label(
    runs: Annotated[Path, typer.Argument(help="Folder of run folders with the task answers.")],
    world: World,
    out: Annotated[Path, typer.Option(help="Table of labels to write (JSON lines).")],
    seed: Seed = 0,
) -> None:
    """Let the world's simulated labelers rank, mark and flag the models' answers."""
    from alignbench.demo.labelers import label_runs

    print(f"{label_runs(runs, world, out, seed)} labels: {out}")


@app.command()
def rank(
    model: Annotated[Path, typer.Argument(help="Checkpoint whose answers are ranked: the SFT model.")],
    world: World,
    out: Annotated[Path, typer.Option(help="Folder for rankings.jsonl and rankings_held_out.jsonl.")],
    seed: Seed = 0,
    number: Annotated[int, typer.Option(min=4, help="Prompts to rank; a quarter as many are held out.")] = 400,
) -> None:
    """Sample a model's answers to the users, and let simulated labelers rank them, as data for the reward model."""
    from alignbench.demo.labelers import rank_samples

    with for_terminal() as progress:
        sampled = rank_samples(model, world, out, seed, number, progress)
    print(f"{sampled} of the ranked answers are the model's: {out}")
