"""`alignbench judges`: measure judges of win rate by the labels of people."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alignbench.cli.format import estimate_cells
from alignbench.cli.options import AsJson, Device, IncludePath, Out
from alignbench.console import print_table, printable
from alignbench.progress import for_terminal

app = typer.Typer(help="Judges of win rate: validate with labels of people.", no_args_is_help=True)


@app.callback()
def _judges() -> None:
    """Judges of win rate: validate with labels of people."""


@app.command(no_args_is_help=True)
def validate(
    labels: Annotated[
        list[str], typer.Option(help="Labels of people (docs/labels.md), or ranked conversations; repeatable.")
    ],
    judge: Annotated[
        list[str],
        typer.Option(
            help="As after preference=, such as lm:MODEL; or saved verdicts: labeler:NAME of the labels, run:FOLDER of "
            "a win rate; repeatable."
        ),
    ],
    question: Annotated[
        str, typer.Option(help="ranking, or a flag, of which saved verdicts are validated.")
    ] = "ranking",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most N labelled pairs for a judge to compare, sampled with a fixed seed."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Ask a judge that generates text again, N times (2 or more).")] = 0,
    temperature: Annotated[float, typer.Option(min=0.01, max=2.0, help="With --seeds: of the samples.")] = 1.0,
    width: Annotated[float, typer.Option(min=0.001, max=1.0, help="Wanted width of a corrected interval.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of the bootstrap over prompts.")] = 10_000,
    out: Out = Path("runs"),
    device: Device = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code of a checkpoint.")] = False,
    include_path: IncludePath = None,
    as_json: AsJson = False,
) -> None:
    """Compare the verdicts of judges with labels of people.

    Agreement with each labeler and beside that of people, kappa, position consistency, preference for longer answers,
    sensitivity and specificity, the corrected win rate of what people did not label, repeatability, and the number of
    labels that a corrected win rate needs.
    """
    from alignbench.evaluation.judges import validate_judges

    with for_terminal() as progress:
        findings, notes = validate_judges(
            labels, judge, out, question=question, limit=limit, seeds=seeds, temperature=temperature, width=width,
            seed=seed, resamples=resamples, device=device, trust_remote_code=trust_remote_code, progress=progress,
        )  # fmt: skip
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        rows = []
        for own in findings:
            count = own.statistic.startswith("labels_")
            cells = estimate_cells(own.estimate, ".0f" if count else ".3f")
            rows.append((own.judge, own.statistic, own.who, *cells, "" if count else str(own.estimate.n)))
        print_table(["judge", "statistic", "who", "value", "95 % interval", "n"], rows)
    for note in notes:
        print(printable(note), file=sys.stderr)
