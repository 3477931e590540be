"""`alignbench report`: figures and an HTML page."""

import time
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.cli.options import IncludePath, Lineage
from alignbench.errors import AlignbenchError
from alignbench.progress import for_terminal

if TYPE_CHECKING:
    from reports.report import Report

EVERY = 5.0  # seconds between looks at the run folders


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, folders of run folders, training folders, tables of labels.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("report"),
    reference: Annotated[
        str | None, typer.Option(help="Compare all systems with this one instead of with their lineages' models.")
    ] = None,
    lineage: Lineage = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Gains and losses of alignment",
    include_path: IncludePath = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write each figure as PDF.")] = False,
    shards: Annotated[
        bool | None,
        typer.Option(
            "--shards/--no-shards",
            help="Write the samples to files beside the page, or always into the page, which then has at most 20,000 "
            "documents of a task. Default: to files if they are larger than 25 MB.",
            show_default=False,
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again whenever a task is finished, until Ctrl-C.")
    ] = False,
) -> None:
    """Draw figures of finished runs, and write an HTML page that works offline."""
    from reports.report import report as make

    def write() -> "Report":
        with for_terminal() as progress:
            return make(
                runs, out, reference=reference, lineage=lineage, title=title, pdf=pdf, shards=shards, progress=progress
            )

    if watch:
        _watch(runs, write, open_page)
        return
    made = write()
    for name, reason in made.left_out.items():
        print(f"left out: {name} ({reason})")
    print(f"{len(made.drawn)} figures; page: {made.page}")
    if open_page:
        _open(made.page)


def _watch(runs: Sequence[Path], write: Callable[[], "Report"], open_page: bool) -> None:
    """Write the page now, and whenever a task is finished or a table changes, until Ctrl-C."""
    before = None
    with suppress(KeyboardInterrupt):
        while True:
            if (now := _state(runs)) != before:
                try:
                    page = write().page
                    print(f"{time.strftime('%H:%M:%S')}: {page} is written; reload it in the browser", flush=True)
                    if open_page:
                        _open(page)
                    open_page = False
                except AlignbenchError as error:  # such as no finished task yet
                    print(f"{time.strftime('%H:%M:%S')}: waiting for a change: {error}", flush=True)
                before = now
            time.sleep(EVERY)
    print("watching ended")


def _state(runs: Sequence[Path]) -> dict[Path, int]:
    """Return the time of the last change of each result below the paths, and of each path that is a file. A study's
    last labels may be in the file beside it that SQLite writes first."""
    files = [file for path in runs if path.is_file() for file in (path, Path(f"{path}-wal"))]
    files += [file for path in runs for inside in ("*", "*/*") for file in path.glob(f"{inside}/result.json")]
    found = {}
    for file in files:
        with suppress(FileNotFoundError):
            found[file] = file.stat().st_mtime_ns
    return found


def _open(page: Path) -> None:
    if not webbrowser.open(page.resolve().as_uri()):
        print(f"no browser was found; open {page} yourself")
