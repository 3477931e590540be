"""`alignbench report`: figures and an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, folders of run folders, training folders, tables of labels.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    reference: Annotated[
        str | None, typer.Option(help="The model that all others are compared with, in place of what lineages say.")
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "What alignment gained, and what it cost",
    pdf: Annotated[bool, typer.Option("--pdf", help="Each figure as PDF, too.")] = False,
) -> None:
    """Draw figures and write a page that works offline, from finished runs alone."""
    from alignbench.progress import for_terminal
    from reports.report import report as make

    with for_terminal() as progress:
        made = make(runs, out, reference=reference, title=title, pdf=pdf, progress=progress)
    for name, why in made.left_out:
        print(f"left out: {name} ({why})")
    print(f"{len(made.drawn)} figures; the page: {made.page}")
