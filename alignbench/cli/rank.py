"""`alignbench rank`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli import options
from alignbench.cli.format import estimate_cells
from alignbench.console import number, print_table, printable, write_csv
from alignbench.progress import for_terminal

if TYPE_CHECKING:
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
    columns: options.Columns = None,
    in_order: options.InOrder = False,
    out: options.Out = Path("runs"),
    prompts: options.Prompts = None,
    data_dir: options.DataDir = None,
    device: Annotated[str, typer.Option(help="Device of the judge: auto, cpu, cuda, …")] = "cpu",
    thinking: options.Thinking = "auto",
    thinking_tags: options.ThinkingTags = options.TAGS,
    csv: Annotated[Path | None, typer.Option(help="Also write the standings to this file.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Rank systems: a judge compares every pair; Bradley–Terry strengths with intervals over prompts."""
    from alignbench.evaluation.rank import rank_specs

    settings: dict[str, Any] = {"prompts": prompts, "data_dir": data_dir, "in_order": in_order}
    settings |= {"columns": options.columns_of(columns), "thinking": thinking, "thinking_tags": thinking_tags}
    with for_terminal() as progress:
        table = rank_specs(systems, scorer, out, baseline=baseline, device=device, progress=progress, **settings)
    if as_json:
        pairs = [{"first": a, "second": b, **asdict(estimate)} for (a, b), estimate in table.pairs.items()]
        print(json.dumps(asdict(table) | {"pairs": pairs}, indent=2))
    else:
        optional = {"parameters": "parameters", "kl": "KL"}  # shown if any system has one
        shown = [name for name in optional if any(getattr(own, name) is not None for own in table.standings)]
        rows = []
        for standing in table.standings:
            own = standing.strength
            row = [standing.name, *estimate_cells(own.strength, "+.2f"), *estimate_cells(own.win_rate)]
            row += [number(standing.against_all.value), number(own.p_next, ".4f"), f"{standing.words:.0f}"]
            extra = [getattr(standing, name) for name in shown]
            rows.append([*row, *(number(x, ",.4g" if isinstance(x, float) else ",") for x in extra)])
        print_table((*HEADER, *(optional[name] for name in shown)), rows)
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
    if csv is not None:  # after the table: if the file cannot be written, nothing is lost
        lines = []
        for standing in table.standings:
            own = standing.strength
            line: dict[str, Any] = {"system": standing.name, "judge": table.judge, "baseline": table.baseline}
            parts = {"strength": own.strength, "win_rate": own.win_rate, "against_all": standing.against_all}
            for name, estimate in parts.items():
                line |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            line |= {"p_next": own.p_next, "words": standing.words}
            lines.append(line | {"parameters": standing.parameters, "kl": standing.kl})
        write_csv(csv, list(lines[0]), [list(line.values()) for line in lines])


def _phrase(estimate: Estimate) -> str:
    value, limits = estimate_cells(estimate)
    return f"{value} ({limits}; n = {estimate.n})"
