"""`alignbench train sft | reward | ppo`."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from alignbench.errors import AlignbenchError

app = typer.Typer(help="Train a model: SFT, a reward model, PPO and PPO-ptx.", no_args_is_help=True)

CONFIGS = {"sft": "SFTConfig", "reward": "RewardConfig", "ppo": "PPOConfig"}

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [NAME=VALUE]...", help="A YAML file of settings, then single settings."),
]
Preset = Annotated[str | None, typer.Option(help="Start from a published recipe, such as instructgpt-1.3b.")]
Show = Annotated[bool, typer.Option("--show", help="List all settings with values and meanings, and exit.")]


@app.command()
def sft(settings: Settings = None, preset: Preset = None, show: Show = False) -> None:
    """Supervised fine-tuning on demonstrations. All settings: alignbench train sft --show"""
    _run("sft", settings or [], preset, show)


@app.command()
def reward(settings: Settings = None, preset: Preset = None, show: Show = False) -> None:
    """Train a reward model on rankings of responses. All settings: alignbench train reward --show"""
    _run("reward", settings or [], preset, show)


@app.command()
def ppo(settings: Settings = None, preset: Preset = None, show: Show = False) -> None:
    """PPO against a reward, or PPO-ptx with pretraining text. All settings: alignbench train ppo --show"""
    _run("ppo", settings or [], preset, show)


def _run(stage: str, settings: list[str], preset: str | None, show: bool) -> None:
    from alignbench.console import print_table
    from alignbench.progress import Progress, for_terminal
    from trainers.config import describe, read_config

    file = None
    if settings and settings[0].endswith((".yaml", ".yml")) and "=" not in settings[0]:
        file, *settings = Path(settings[0]), *settings[1:]
    module = import_module(f"trainers.{stage}")
    if preset is not None and preset not in module.PRESETS:
        raise AlignbenchError(f"preset {preset}: {stage} has {', '.join(module.PRESETS) or 'none'}")
    start = module.PRESETS[preset] if preset is not None else None
    config = read_config(getattr(module, CONFIGS[stage]), file=file, preset=start, overrides=settings)
    if show:
        print_table(("setting", "type", "value", "meaning"), describe(config))
        return
    first = int(os.environ.get("RANK", "0")) == 0  # only the first of several processes prints
    with for_terminal() if first else Progress() as progress:
        final, metrics = module.train(config, progress=progress)
    if first:
        print_table(("metric", "value"), [[name, str(value)] for name, value in metrics.items()])
        print(f"checkpoint: {final}")
