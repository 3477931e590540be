"""`alignbench diversity`: the diversity of the outputs of several systems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.cli.format import estimate_cells
from alignbench.cli.options import TAGS, AsJson, Columns, Thinking, ThinkingTags, columns_of
from alignbench.console import number, print_table, printable, write_csv

if TYPE_CHECKING:
    from alignbench.audit.diversity import Comparison, Row


class Lengths(StrEnum):
    EQUAL = "equal"
    WHOLE = "whole"


def diversity(
    sources: Annotated[
        list[str],
        typer.Argument(help="Run folders, task folders, or files with output(s) and id; the first is the reference."),
    ],
    task: Annotated[
        str | None, typer.Option(help="Task of run folders; default: diversity, or else diversity_across.")
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="KIND.NUMBER>=X, such as reward.reward>=0: also compare only outputs that pass.")
    ] = None,
    columns: Columns = None,
    embedding: Annotated[str, typer.Option(help="Embedding scorer: NAME[:PATH].")] = "hashed",
    equivalence: Annotated[
        str, typer.Option(help="Equivalence scorer, which finds the classes of outputs: NAME[:PATH].")
    ] = "embedding",
    device: Annotated[str, typer.Option(help="Device of the scorers' models: auto, cpu, cuda, cuda:1, mps.")] = "cpu",
    lengths: Annotated[
        Lengths, typer.Option(help="equal: outputs cut in pairs to at most 50 words; whole: also uncut outputs.")
    ] = Lengths.EQUAL,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    thinking: Thinking = "auto",
    thinking_tags: ThinkingTags = TAGS,
    as_json: AsJson = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write the results to this CSV file.")] = None,
) -> None:
    """Compare the diversity of outputs with those of the first system: same documents, equal numbers and lengths."""
    from typing import cast

    from alignbench.audit.diversity import compare
    from alignbench.audit.systems import read_system
    from alignbench.errors import AlignbenchError
    from alignbench.evaluation.thinking import find_thinking
    from alignbench.scorers import find_scorer
    from alignbench.types.scorer import Embedder

    if len(sources) < 2:
        raise AlignbenchError("one model only: name at least two runs or files to compare")
    thoughts = find_thinking(thinking, thinking_tags)
    systems = [read_system(source, task, columns_of(columns), thoughts) for source in sources]
    if device != "cpu":  # the hashed embedder would ignore a wrong device
        from alignbench.models.load import resolve_device

        device = resolve_device(device)
    embedder = cast(Embedder, find_scorer(f"embedding={embedding}", device=device))
    alike = find_scorer(f"equivalence={equivalence}", device=device)
    found = compare(systems, embedder, alike, gate, seed, whole=lengths is Lengths.WHOLE)
    if as_json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        print_comparison(found)
    if csv_file is not None:
        write_rows(csv_file, found.rows)


def print_comparison(found: Comparison) -> None:
    """A line per metric and model: its value, that of the reference, and the difference; then similarities of pairs."""
    from alignbench.audit.systems import LEAST
    from alignbench.diversity.lexical import LENGTH

    whole = any(row.lengths == "whole" and row.scope != "as written" for row in found.rows)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found.rows:
        groups.setdefault((row.scope, row.outputs, *([row.lengths] if whole else []), row.metric), []).append(row)
    header = ("scope", "outputs", *(["lengths"] if whole else []), "metric", "n")
    compared, pairs = [], []
    for setting, rows in groups.items():
        for row in rows:
            kept = (row.metric, row.lengths) == ("words", "equal")
            cells = (*setting[:-1], "words kept" if kept else row.metric, str(row.estimate.n))
            if row.scope == "between models":
                pairs.append((*cells, f"{row.reference} × {row.model}", *estimate_cells(row.estimate)))
            else:
                reference, _ = estimate_cells(row.of_reference)
                cells = (*cells, row.model, number(row.estimate.value), reference)
                compared.append((*cells, *estimate_cells(row.difference, "+.3f")))
    print_table((*header, "model", "value", found.models[0], "difference", "95 % interval"), compared)
    print_table((*header, "models", "value", "95 % interval"), pairs)
    for note in found.notes:
        print(printable(note))
    first = printable(found.models[0])
    print(
        f"Each line compares two models' outputs, cut in pairs to {LENGTH} words or to the length of the shorter "
        f"(at least {LEAST}): the values of {first} depend on the other model. Vectors of the same words: "
        f"{printable(found.embedder)}; classes: {printable(found.equivalence)}"
    )


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """One line per row, unrounded."""
    numbers = ("value", "standard_error", "low", "high")
    names = ("scope", "outputs", "lengths", "metric", "reference", "model")
    parts = {"": "estimate", "reference_": "of_reference", "difference_": "difference"}
    cells = []
    for row in rows:
        of_parts = [getattr(getattr(row, part), name, None) for part in parts.values() for name in numbers]
        cells.append([*(getattr(row, name) for name in names), row.estimate.n, *of_parts])
    write_csv(file, (*names, "n", *(f"{prefix}{name}" for prefix in parts for name in numbers)), cells)
