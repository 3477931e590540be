"""`alignbench report`: figures and an HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from alignbench.cli.options import IncludePath
from alignbench.progress import for_terminal


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, folders of run folders, training folders, tables of labels.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("report"),
    reference: Annotated[
        str | None, typer.Option(help="Compare all systems with this one instead of with their lineages' models.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Gains and losses of alignment",
    include_path: IncludePath = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write each figure as PDF.")] = False,
) -> None:
    """Draw figures of finished runs, and write an HTML page that works offline."""
    from reports.report import report as make

    with for_terminal() as progress:
        made = make(runs, out, reference=reference, title=title, pdf=pdf, progress=progress)
    for name, reason in made.left_out.items():
        print(f"left out: {name} ({reason})")
    print(f"{len(made.drawn)} figures; page: {made.page}")
