"""`alignbench train STAGE`, and `alignbench average`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.console import print_table
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress, for_terminal
from alignbench.shards import is_first_process

ABOUT = "Train: SFT, a reward model, PPO, PPO-ptx, RLOO, DPO and rejection sampling."
app = typer.Typer(help=ABOUT, no_args_is_help=True)

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [NAME=VALUE]...", help="A YAML file of settings, then single settings."),
]
Preset = Annotated[str | None, typer.Option(help="Start from a published recipe, such as instructgpt-1.3b.")]
Show = Annotated[bool, typer.Option("--show", help="List all settings with values and meanings, and exit.")]
Plan = Annotated[bool, typer.Option("--plan", help="Estimate the memory on each device, and exit.")]


def _add(stage: str, about: str) -> None:
    @app.command(stage, help=f"{about} All settings: alignbench train {stage} --show")
    def command(
        settings: Settings = None, preset: Preset = None, show: Show = False, plan: Plan = False,
        gpus: Annotated[int, typer.Option(min=1, help="With --plan: devices.")] = 1,
        gpu_memory: Annotated[float, typer.Option(min=1, help="With --plan: GiB of each device.")] = 80,
    ) -> None:  # fmt: skip
        from trainers.config import find_stage

        module, recipe = find_stage(stage, preset)
        if not plan:
            run_stage(module.Config, module.train, settings, show, recipe)
            return
        from trainers.plan import table

        config = read_settings(module.Config, settings, recipe)
        if stage == "rejection":
            raise AlignbenchError("--plan: see that of sft")
        if absent := [name for name in ("model", "reward") if getattr(config, name, None) == "(required)"]:
            raise AlignbenchError(f"--plan: needs {absent[0]}=…")
        rows, advice = table(stage, config, gpus, gpu_memory)
        print_table(("on each device", "GiB", "bytes per parameter"), rows)
        print(advice)


_add("sft", "Supervised fine-tuning on demonstrations.")
_add("reward", "Train a reward model on rankings of responses.")
_add("rejection", "Rejection sampling: fine-tune on the best of n responses to each prompt.")
_add("dpo", "Direct preference optimisation on rankings of responses, without a reward model.")
_add("ppo", "PPO against a reward, or PPO-ptx with pretraining text.")
_add("rloo", "RLOO: REINFORCE against a reward, with the other responses to a prompt as the baseline.")


def run_stage(
    kind: Any,
    train: Callable[..., tuple[Path, Mapping[str, float]]],
    settings: list[str] | None,
    show: bool,
    preset: Mapping[str, Any] | None = None,
) -> None:
    """Show the settings of a stage, or train with them. kind: the dataclass of the settings"""
    from trainers.config import describe

    config = read_settings(kind, settings, preset)
    if show:
        print_table(("setting", "type", "value", "meaning"), describe(config))
        return
    with for_terminal() if is_first_process() else Progress() as progress:
        final, metrics = train(config, progress=progress)
    if is_first_process():
        print_table(("metric", "value"), [[name, str(value)] for name, value in metrics.items()])
        print(f"checkpoint: {final}")


def read_settings(kind: Any, settings: list[str] | None, preset: Mapping[str, Any] | None) -> Any:
    """Settings from the arguments of a command: a YAML file, which may be left out, then NAME=VALUE."""
    from trainers.config import read_config

    file, settings = None, settings or []
    if settings and settings[0].endswith((".yaml", ".yml")) and "=" not in settings[0]:
        file, *settings = Path(settings[0]), *settings[1:]
    return read_config(kind, file=file, preset=preset, overrides=settings)


def average_command(
    base: Annotated[str, typer.Argument(help="Folder or hub id: the weights at alpha 0.")],
    aligned: Annotated[str, typer.Argument(help="Folder or hub id: the weights at alpha 1, tokenizer and template.")],
    alpha: Annotated[str, typer.Option(help="Weights of ALIGNED from 0 to 1, separated by commas.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints OUT/alpha-0.5 and so on.")],
) -> None:
    """Average the weights of two checkpoints: points between them for the reward-tax front."""
    from trainers.average import average

    try:
        alphas = [float(part) for part in alpha.split(",")]
    except ValueError as error:
        raise AlignbenchError(f"--alpha {alpha}: numbers separated by commas, such as 0.25,0.5,0.75") from error
    with for_terminal() as progress:
        folders = average(base, aligned, alphas, out, progress=progress)
    for folder in folders:
        print(folder)
