"""`alignbench compare`: the audit."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.cli.options import AsJson, IncludePath, Lineage, Metrics, all_metrics, split_names
from alignbench.console import write_text
from alignbench.errors import AlignbenchError


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="Run folders, names of runs or their beginnings, or checkpoints; the reference first."),
    ],
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    reference: Annotated[
        str | None, typer.Option(help="Reference of all others; default: from their lineages, else the first model.")
    ] = None,
    lineage: Lineage = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="Labels of the models' answers, for the verdict: a table or a study; repeatable."
        ),
    ] = None,
    tasks: Annotated[str, typer.Option(help="Tasks to compare, comma-separated; default: all common tasks.")] = "",
    include_path: IncludePath = None,
    metrics: Metrics = "headline",
    across_templates: Annotated[
        bool, typer.Option("--across-templates", help="Also compare each model with its own chat template.")
    ] = False,
    reward: Annotated[
        str | None, typer.Option(help="TASK.METRIC of the reward-tax front; default: win_rate.win_rate, if available.")
    ] = None,
    reference_point: Annotated[
        str | None, typer.Option(help="REWARD,TAX (in percent) that bounds the hypervolume of the front.")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Largest loss, in percent of a metric's range, that counts as retained.")
    ] = 1.0,
    resamples: Annotated[int, typer.Option(help="Number of resamples of the paired bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
    as_json: AsJson = False,
    csv: Annotated[Path | None, typer.Option(help="Write all metrics to this CSV file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this Markdown file.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables to this LaTeX file.")] = None,
    card: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write an audit card of two pages, as PDF and Markdown.")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help='Exit with code 3 under this condition, such as "capability loss > 0.02"; repeatable. The size is a '
            "proportion of the metric's range."
        ),
    ] = None,
    gate: Annotated[
        str,
        typer.Option(help="--fail-if fails if the interval shows the loss (lenient), or does not exclude it (strict)."),
    ] = "lenient",
    junit: Annotated[Path | None, typer.Option(help="Write the decisions of --fail-if to this JUnit XML file.")] = None,
) -> None:
    """Compare aligned models with the models they were derived from: gains and losses on the same documents."""
    every = all_metrics(metrics)
    if resamples < 100:
        raise AlignbenchError(f"--resamples {resamples}: intervals need at least 100")
    if not 0 <= margin <= 100:
        raise AlignbenchError(f"--margin {margin}: percent of a metric's range, from 0 to 100")
    point = None
    if reference_point is not None:
        try:
            point = tuple(map(float, reference_point.split(",")))
        except ValueError:
            point = (math.nan,)
        if len(point) != 2 or not math.isfinite(sum(point)):
            raise AlignbenchError(f"--reference-point {reference_point}: expected REWARD,TAX, such as 0.5,20")
    if gate not in ("lenient", "strict"):
        raise AlignbenchError(f"--gate {gate}: choose lenient or strict")
    if junit is not None and not fail_if:
        raise AlignbenchError("--junit needs a condition: --fail-if")
    from alignbench.audit.compare import compare as audit_of
    from alignbench.audit.gate import decide, parse_condition, to_junit, to_lines
    from alignbench.audit.render import to_csv, to_json, to_latex, to_markdown, to_terminal
    from alignbench.labels.table import read_labels

    settings: dict[str, Any] = {"runs": runs, "reference": reference, "tasks": split_names(tasks), "seed": seed}
    settings |= {"lineage": lineage, "across_templates": across_templates, "reward": reward, "reference_point": point}
    settings["labels"] = [label for file in labels or () for label in read_labels(file)]
    conditions = [parse_condition(text) for text in fail_if or []]
    audit = audit_of(models, margin=margin, resamples=resamples, **settings)
    decisions = decide(audit, conditions, "strict" if gate == "strict" else "lenient")
    if as_json:
        print(to_json(audit))
    else:
        to_terminal(audit, every_metric=every)
    # after the table, so that it is not lost if a file cannot be written
    if csv is not None:
        to_csv(audit, csv)
    if markdown is not None:
        to_markdown(audit, markdown, every_metric=every, decisions=decisions)
    if latex is not None:
        to_latex(audit, latex, every_metric=every)
    if card is not None:
        from alignbench.runs.read import read_runs, with_lineages
        from reports.card.card import write_card

        write_card(audit, with_lineages(read_runs(models, runs), lineage), card)
    if junit is not None:
        write_text(junit, to_junit(decisions))
    for line in to_lines(decisions):
        print(line, file=sys.stderr)
    if any(decision.state != "passed" for decision in decisions):
        raise typer.Exit(3)
