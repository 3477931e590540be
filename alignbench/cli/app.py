"""The command line: `alignbench COMMAND`. One file per command; none imports torch before it runs."""

import io
import os
import sys
from typing import Annotated

import typer

from alignbench import __version__
from alignbench.cli.aliases import LmEvalNames
from alignbench.cli.compare import compare
from alignbench.cli.data import app as data_app
from alignbench.cli.demo import app as demo_app
from alignbench.cli.diversity import diversity
from alignbench.cli.engines import list_engines
from alignbench.cli.evaluate import evaluate, sweep
from alignbench.cli.export import export
from alignbench.cli.imports import import_results
from alignbench.cli.judges import app as judges_app
from alignbench.cli.labels import app as labels_app
from alignbench.cli.rank import rank
from alignbench.cli.report import report
from alignbench.cli.score import rescore, score
from alignbench.cli.scorers import app as scorers_app
from alignbench.cli.tasks import list_tasks
from alignbench.cli.train import app as train_app
from alignbench.cli.train import average_command
from alignbench.console import printable
from alignbench.errors import AlignbenchError

INTERRUPTED = 130  # exit code of typer after Ctrl-C

app = typer.Typer(
    help="Measure what aligning a language model gained, and what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(cls=LmEvalNames)(evaluate)
app.command(cls=LmEvalNames)(sweep)
for command in (score, rescore, compare, rank, diversity, report, export):
    app.command()(command)
app.command("import")(import_results)
app.command("average")(average_command)
app.command("tasks")(list_tasks)
app.command("engines")(list_engines)
app.add_typer(demo_app, name="demo")
app.add_typer(data_app, name="data")
app.add_typer(scorers_app, name="scorers")
app.add_typer(labels_app, name="labels")
app.add_typer(judges_app, name="judges")
app.add_typer(train_app, name="train")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"alignbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Measure what aligning a language model gained, and what it cost."""


def main() -> None:
    """Entry point. A user's mistake is one line on stderr and exit code 2; computed results stay in their folder."""
    # without these, `tokenizers` warns about forks and transformers prints advice into the results
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may have bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)  # what `typer.Exit` was raised with
        if code == INTERRUPTED:
            print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(code)
    except typer.TyperException as error:  # an unknown command or option, a value of the wrong type
        where = getattr(getattr(error, "ctx", None), "command_path", "alignbench")
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message:  # none if a group of commands is called without one: its help has been printed
            print(f"error: {where}: {printable(message)} (see `{where} --help`)", file=sys.stderr)
        sys.exit(2)
    except AlignbenchError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has closed the pipe
        sys.exit(1)
    except OSError as error:  # a name that no file can have, missing permission, a full disk
        if error.filename is None:
            raise
        print(f"error: {printable(str(error.filename))[:200]}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
