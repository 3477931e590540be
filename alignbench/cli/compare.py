"""`alignbench compare`: the audit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from alignbench.errors import AlignbenchError


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, names of runs or their beginnings, or checkpoint folders; the reference first."
        ),
    ],
    runs: Annotated[Path, typer.Option(help="Where the run folders are.")] = Path("runs"),
    reference: Annotated[
        str | None, typer.Option(help="Reference of all others, in place of what their lineages say.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="These alone, with commas between; default: all in common.")] = "",
    metrics: Annotated[
        str, typer.Option(help="headline: one for each task; all. Files and JSON hold all.")
    ] = "headline",
    across_templates: Annotated[
        bool, typer.Option("--across-templates", help="Also compare each model with its own chat template.")
    ] = False,
    reward: Annotated[
        str | None, typer.Option(help="TASK.METRIC set against the tax; default: win_rate.win_rate, where it is.")
    ] = None,
    reference_point: Annotated[
        str | None, typer.Option(help="REWARD,TAX (in percent) that the front's hypervolume is measured from.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Of the paired bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the audit as JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write every metric to this CSV file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this Markdown file.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables to this LaTeX file.")] = None,
) -> None:
    """Compare aligned models with what they were made from: gains and costs on the same documents."""
    if metrics not in ("headline", "all"):
        raise AlignbenchError(f"--metrics {metrics}: choose headline or all")
    if resamples < 100:
        raise AlignbenchError(f"--resamples {resamples}: at least 100, or an interval has no ends")
    if seed < 0:
        raise AlignbenchError(f"--seed {seed}: it cannot be negative")
    point = None if reference_point is None else _point(reference_point)
    from alignbench.audit.compare import compare as audit_of
    from alignbench.audit.render import to_csv, to_json, to_latex, to_markdown, to_terminal

    audit = audit_of(
        models,
        runs=runs,
        reference=reference,
        tasks=[name.strip() for name in tasks.split(",") if name.strip()],
        across_templates=across_templates,
        reward=reward,
        reference_point=point,
        resamples=resamples,
        seed=seed,
    )
    every = metrics == "all"
    if as_json:
        print(to_json(audit))
    else:
        to_terminal(audit, every_metric=every)
    # after the table: a file that cannot be written loses nothing
    if csv is not None:
        to_csv(audit, csv)
    if markdown is not None:
        to_markdown(audit, markdown, every_metric=every)
    if latex is not None:
        to_latex(audit, latex, every_metric=every)


def _point(text: str) -> tuple[float, float]:
    try:
        reward, tax = map(float, text.split(","))
    except ValueError:
        reward = tax = math.nan
    if not math.isfinite(reward + tax):
        raise AlignbenchError(f"--reference-point {text}: expected REWARD,TAX, such as 0.5,20")
    return reward, tax
