"""`alignbench average`: interpolated checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignbench.errors import AlignbenchError


def average_command(
    base: Annotated[str, typer.Argument(help="Folder or hub id: the weights at alpha 0.")],
    aligned: Annotated[str, typer.Argument(help="Folder or hub id: the weights at alpha 1, tokenizer and template.")],
    alpha: Annotated[str, typer.Option(help="Weights of ALIGNED from 0 to 1, separated by commas.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints OUT/alpha-0.5 and so on.")],
) -> None:
    """Average the weights of two checkpoints: points between them for the reward-tax front."""
    from alignbench.progress import for_terminal
    from trainers.average import average

    try:
        alphas = [float(part) for part in alpha.split(",")]
    except ValueError as error:
        raise AlignbenchError(f"--alpha {alpha}: numbers separated by commas, such as 0.25,0.5,0.75") from error
    with for_terminal() as progress:
        folders = average(base, aligned, alphas, out, progress=progress)
    for folder in folders:
        print(folder)
