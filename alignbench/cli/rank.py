"""`alignbench rank`: what a user types and reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.evaluation.rank import Table
    from alignbench.stats.estimates import Estimate


def rank(
    systems: Annotated[
        list[str],
        typer.Argument(help="Runs with answers (--tasks answers), or files of outputs (see `score`); NAME= before it."),
    ],
    scorer: Annotated[list[str], typer.Option("--scorer", help="The judge: preference=reward:MODEL, lm, …")],
    baseline: Annotated[str | None, typer.Option(help="Name of the system at 0; default: the first.")] = None,
    columns: Annotated[list[str] | None, typer.Option("--map", help="THEIRS=OURS, for files: response=output.")] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="Files' rows are the prompts in order; no ids.")] = False,
    out: Annotated[Path, typer.Option(help="Where the run folders of files go.")] = Path("runs"),
    prompts: Annotated[Path | None, typer.Option(help="The prompts that files answer, if not Self-Instruct's.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the authors' files.")] = None,
    device: Annotated[str, typer.Option(help="Of the judge: auto, cpu, cuda, …")] = "cpu",
    csv: Annotated[Path | None, typer.Option(help="Write the standings to this file too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Rank many systems: every pair before the judge, then Bradley–Terry strengths with intervals over prompts."""
    from alignbench.cli.options import columns_of
    from alignbench.evaluation.rank import find_systems, rank_systems
    from alignbench.evaluation.win_rate import choose_judge
    from alignbench.progress import for_terminal

    settings: dict[str, Any] = {"columns": columns_of(columns), "in_order": in_order}
    settings |= {"prompts": prompts, "data_dir": data_dir}
    with for_terminal() as progress:
        judge = choose_judge(scorer, device)
        found = find_systems(systems, out, progress=progress, **settings)
        table = rank_systems(found, judge, baseline=baseline, progress=progress)
    if as_json:
        pairs = [{"first": a, "second": b, **asdict(estimate)} for (a, b), estimate in table.pairs.items()]
        print(json.dumps(asdict(table) | {"pairs": pairs}, indent=2))
    else:
        _print(table)
    if csv is not None:  # after the table: a file that cannot be written loses nothing
        _write_csv(csv, table)


HEADER = ("system", "strength", "95 % interval", "win rate", "95 % interval", "against all", "p to next", "words")


def _print(table: Table) -> None:
    from alignbench.console import print_table, printable

    known = [("parameters", "parameters"), ("KL", "kl")]
    known = [(head, name) for head, name in known if any(getattr(s, name) is not None for s in table.standings)]
    rows = []
    for standing in table.standings:
        own = standing.strength
        p = "–" if own.p_next is None else f"{own.p_next:.4f}"
        row = [standing.name, *_cells(own.strength, "+.2f"), *_cells(own.win_rate, ".3f")]
        row += [_cells(standing.against_all, ".3f")[0], p, f"{standing.words:.0f}"]
        extra = [getattr(standing, name) for _, name in known]
        rows.append([*row, *("–" if x is None else f"{x:,.4g}" if isinstance(x, float) else f"{x:,}" for x in extra)])
    print_table((*HEADER, *(head for head, _ in known)), rows)
    print(
        f"{table.battles} verdicts of {printable(table.judge)} on {table.prompts} prompts; strength in nats above "
        f"{printable(table.baseline)}, win rate against it as the model has it; ties: η = {table.eta:.2f}"
    )
    print(f"verdicts for the longer answer: {_phrase(table.longer)}")
    if table.position_consistency is not None:
        print(f"the same verdict in both orders: {_phrase(table.position_consistency)}")
    for (first, second), estimate in table.pairs.items():
        print(f"{printable(first)} against {printable(second)}: {_phrase(estimate)}")
    for warning in table.warnings:
        print(f"warning: {printable(warning)}")


def _cells(estimate: Estimate, form: str) -> tuple[str, str]:
    value = "–" if estimate.value is None else f"{estimate.value:{form}}"
    if estimate.low is None or estimate.high is None:
        return value, "–"
    return value, f"{estimate.low:{form}} … {estimate.high:{form}}"


def _phrase(estimate: Estimate) -> str:
    value, interval = _cells(estimate, ".3f")
    return f"{value} ({interval}; n = {estimate.n})"


def _write_csv(file: Path, table: Table) -> None:
    from csv import DictWriter

    from alignbench.console import printable

    rows = []
    for standing in table.standings:
        named = {"system": standing.name, "judge": table.judge, "baseline": table.baseline}
        row: dict[str, Any] = {column: printable(text) for column, text in named.items()}
        for name, estimate in (
            ("strength", standing.strength.strength),
            ("win_rate", standing.strength.win_rate),
            ("against_all", standing.against_all),
        ):
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {"p_next": standing.strength.p_next, "words": standing.words}
        rows.append(row | {"parameters": standing.parameters, "kl": standing.kl})
    try:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be written ({error.strerror or error})") from None
