"""`alignbench rank`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli.format import estimate_cells
from alignbench.cli.options import (
    TAGS,
    AsJson,
    Columns,
    DataDir,
    InOrder,
    Out,
    Prompts,
    Thinking,
    ThinkingTags,
    columns_of,
)
from alignbench.console import number, print_table, printable, write_csv
from alignbench.progress import for_terminal

if TYPE_CHECKING:
    from alignbench.evaluation.rank import Table
    from alignbench.stats.estimates import Estimate

HEADER = ("system", "strength", "95 % interval", "win rate", "95 % interval", "against all", "p to next", "words")


def rank(
    systems: Annotated[
        list[str],
        typer.Argument(help="Runs with answers (--tasks answers), or files of outputs (see `score`), as [NAME=]PATH."),
    ],
    scorer: Annotated[list[str], typer.Option("--scorer", help="The judge: preference=reward:MODEL, lm, …")],
    baseline: Annotated[
        str | None, typer.Option(help="Name of the system with strength 0; default: the first.")
    ] = None,
    columns: Columns = None,
    in_order: InOrder = False,
    out: Out = Path("runs"),
    prompts: Prompts = None,
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="Device of the judge: auto, cpu, cuda, …")] = "cpu",
    thinking: Thinking = "auto",
    thinking_tags: ThinkingTags = TAGS,
    csv: Annotated[Path | None, typer.Option(help="Also write the standings to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank systems: a judge compares every pair; Bradley–Terry strengths with intervals over prompts."""
    from alignbench.evaluation.rank import rank_specs

    settings: dict[str, Any] = {
        "columns": columns_of(columns),
        "in_order": in_order,
        "prompts": prompts,
        "data_dir": data_dir,
    }
    with for_terminal() as progress:
        settings |= {"thinking": thinking, "thinking_tags": thinking_tags}
        table = rank_specs(systems, scorer, out, baseline=baseline, device=device, progress=progress, **settings)
    if as_json:
        pairs = [{"first": a, "second": b, **asdict(estimate)} for (a, b), estimate in table.pairs.items()]
        print(json.dumps(asdict(table) | {"pairs": pairs}, indent=2))
    else:
        _print(table)
    if csv is not None:  # after the table: if the file cannot be written, nothing is lost
        _write_csv(csv, table)


def _print(table: Table) -> None:
    optional = [("parameters", "parameters"), ("KL", "kl")]
    optional = [(head, name) for head, name in optional if any(getattr(s, name) is not None for s in table.standings)]
    rows = []
    for standing in table.standings:
        own = standing.strength
        row = [
            standing.name,
            *estimate_cells(own.strength, "+.2f"),
            *estimate_cells(own.win_rate),
            number(standing.against_all.value),
        ]
        row += [number(own.p_next, ".4f"), f"{standing.words:.0f}"]
        extra = [getattr(standing, name) for _, name in optional]
        rows.append([*row, *(number(x, ",.4g" if isinstance(x, float) else ",") for x in extra)])
    print_table((*HEADER, *(head for head, _ in optional)), rows)
    print(
        f"{table.battles} verdicts of {printable(table.judge)} on {table.prompts} prompts; strength in nats above "
        f"{printable(table.baseline)}; win rate against it as predicted by the model; ties: η = {table.eta:.2f}"
    )
    print(f"verdicts for the longer answer: {_phrase(table.longer)}")
    if table.position_consistency is not None:
        print(f"same verdict in both orders: {_phrase(table.position_consistency)}")
    for (first, second), estimate in table.pairs.items():
        print(f"{printable(first)} against {printable(second)}: {_phrase(estimate)}")
    for warning in table.warnings:
        print(f"warning: {printable(warning)}")


def _phrase(estimate: Estimate) -> str:
    value, limits = estimate_cells(estimate)
    return f"{value} ({limits}; n = {estimate.n})"


def _write_csv(file: Path, table: Table) -> None:
    rows = []
    for standing in table.standings:
        own = standing.strength
        row: dict[str, Any] = {"system": standing.name, "judge": table.judge, "baseline": table.baseline}
        parts = {"strength": own.strength, "win_rate": own.win_rate, "against_all": standing.against_all}
        for name, estimate in parts.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {"p_next": own.p_next, "words": standing.words}
        rows.append(row | {"parameters": standing.parameters, "kl": standing.kl})
    write_csv(file, list(rows[0]), [list(row.values()) for row in rows])
