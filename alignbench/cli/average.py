"""`alignbench average`: interpolated checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignbench.errors import AlignbenchError


def average_command(
    base: Annotated[str, typer.Argument(help="Folder or hub id: the weights at alpha 0.")],
    aligned: Annotated[str, typer.Argument(help="Folder or hub id: the weights at alpha 1, tokenizer and template.")],
    alpha: Annotated[str, typer.Option(help="Shares of ALIGNED, 0 to 1, with commas between.")],
    out: Annotated[Path, typer.Option(help="Where the checkpoints go: OUT/alpha-0.5 and so on.")],
) -> None:
    """Average the weights of two checkpoints: points between them for the reward-tax front."""
    from alignbench.progress import for_terminal
    from trainers.average import average

    with for_terminal() as progress:
        folders = average(base, aligned, parse_alphas(alpha), out, progress=progress)
    for folder in folders:
        print(folder)


def parse_alphas(text: str) -> list[float]:
    """ "0.25,0.5" -> [0.25, 0.5]. Raises AlignbenchError where a part is not a number."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise AlignbenchError(f"--alpha {text}: numbers with commas between, such as 0.25,0.5,0.75") from error
