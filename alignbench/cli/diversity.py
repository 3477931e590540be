"""`alignbench diversity`: how diverse several systems' outputs are, side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.cli.options import columns_of
from alignbench.console import printable
from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.audit.diversity import Comparison, Row
    from alignbench.stats.estimates import Estimate


class Lengths(StrEnum):
    EQUAL = "equal"
    WHOLE = "whole"


def diversity(
    sources: Annotated[
        list[str], typer.Argument(help="Run folders, tasks' folders, or files with output(s) and id; first, the base.")
    ],
    task: Annotated[
        str | None, typer.Option(help="Whose outputs, in a run folder; default: diversity, or diversity_across.")
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="KIND.NUMBER>=X, such as reward.reward>=0: also of the outputs that pass alone.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--map", help="THEIRS=OURS: a file's column response=output; repeatable.")
    ] = None,
    embedding: Annotated[str, typer.Option(help="NAME[:PATH] of the scorer of that kind.")] = "hashed",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "cpu",
    lengths: Annotated[
        Lengths, typer.Option(help="equal: cut in pairs, at most 50 words; whole: also of outputs as they are.")
    ] = Lengths.EQUAL,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write them to this file, too.")] = None,
) -> None:
    """Compare the diversity of outputs with the first model's: the same documents, as many of each, equal lengths."""
    from typing import cast

    from alignbench.audit.diversity import compare
    from alignbench.audit.systems import read_system
    from alignbench.scorers import find_scorer
    from alignbench.types.scorer import Embedder

    if len(sources) < 2:
        raise AlignbenchError("one model only: name at least two runs or files to compare")
    systems = [read_system(source, task, columns_of(column)) for source in sources]
    if device != "cpu":  # the hashed embedder would never look at it
        from alignbench.models.checkpoint import resolve_device

        device = resolve_device(device)
    embedder = cast(Embedder, find_scorer(f"embedding={embedding}", device=device))
    found = compare(systems, embedder, gate, seed, whole=lengths is Lengths.WHOLE)
    if csv_file is not None:
        write_csv(csv_file, found.rows)
    if as_json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        print_comparison(found)


def print_comparison(found: Comparison) -> None:
    """A line for each metric and model: its value, the first model's beside it, and their difference."""
    from alignbench.audit.equal import LEAST
    from alignbench.console import print_table
    from alignbench.diversity.words import LENGTH

    whole = any(row.lengths == "whole" and row.scope != "as written" for row in found.rows)

    def setting(row: Row) -> tuple[str, ...]:
        return (row.scope, row.outputs, *((row.lengths,) if whole else ()))

    header = ("scope", "outputs", *(("lengths",) if whole else ()), "metric", "n")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found.rows:
        groups.setdefault((*setting(row), row.metric), []).append(row)
    ordered = [row for own in groups.values() for row in own]
    print_table(
        (*header, "model", "value", found.models[0], "difference", "95 % interval"),
        [
            (
                *setting(row), _metric(row), str(row.estimate.n), row.model, _number(row.estimate),
                _number(row.of_reference),
                _number(row.difference, "+"), _interval(row.difference, "+"),
            )
            for row in ordered
            if row.scope != "between models"
        ],
    )  # fmt: skip
    print_table(
        (*header, "models", "value", "95 % interval"),
        [
            (
                *setting(row), row.metric, str(row.estimate.n), f"{row.reference} × {row.model}",
                _number(row.estimate), _interval(row.estimate),
            )
            for row in ordered
            if row.scope == "between models"
        ],
    )  # fmt: skip
    for note in found.notes:
        print(printable(note))
    print(
        f"Each line is of two models' outputs, cut in pairs to {LENGTH} words or to as many as the shorter has (never "
        f"below {LEAST}), so {printable(found.models[0])} has other numbers beside another model. "
        f"Vectors, of the same words: {printable(found.embedder)}"
    )


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """A line a number. A name that a spreadsheet would take for a formula gets an apostrophe before it."""
    from alignbench.audit.render import csv_cell

    try:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            numbers = ("value", "standard_error", "low", "high")
            names = ("scope", "outputs", "lengths", "metric", "reference", "model")
            parts = ("estimate", "of_reference", "difference")
            prefixes = ("", "reference_", "difference_")
            writer.writerow((*names, "n", *(f"{prefix}{name}" for prefix in prefixes for name in numbers)))
            for row in rows:
                texts = [csv_cell(getattr(row, name)) for name in names]
                told = [getattr(getattr(row, part), name, None) for part in parts for name in numbers]
                writer.writerow((*texts, row.estimate.n, *told))
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be written: {error.strerror or error}") from None


def _metric(row: Row) -> str:
    return "words kept" if (row.metric, row.lengths) == ("words", "equal") else row.metric


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{estimate.low:{sign}.3f} … {estimate.high:{sign}.3f}"


def _number(estimate: Estimate | None, sign: str = "") -> str:
    return "–" if estimate is None or estimate.value is None else f"{estimate.value:{sign}.3f}"
