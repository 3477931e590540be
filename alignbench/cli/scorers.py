"""`alignbench scorers`: which scorers there are, and how far they can be trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignbench.console import print_table
from alignbench.errors import AlignbenchError
from alignbench.scorers import DEFAULTS, KNOWN, Scorer, find_scorer, look_up

if TYPE_CHECKING:
    from alignbench.scorers.validate import Finding

app = typer.Typer(help="Scorers: list them, check them against what people said.", no_args_is_help=True)
validate_app = typer.Typer(help="Measure scorers on annotated data.", no_args_is_help=True)
app.add_typer(validate_app, name="validate")

Specs = Annotated[
    list[str] | None, typer.Option("--scorer", help="KIND=NAME or KIND=NAME:PATH; may be given several times.")
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of data files; default: $ALIGNBENCH_DATA.")]
Limit = Annotated[int | None, typer.Option(min=1, help="So many texts of each data set, drawn with a fixed seed.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
Trust = Annotated[bool, typer.Option(help="Run Python code that a checkpoint brings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]


@app.command("list")
def list_scorers() -> None:
    """Show each scorer, how to name it, whether it can be used here, its licence and its download."""
    rows = []
    for known in KNOWN:
        missing = known.missing()
        state = "needs a path" if known.needs_path else missing or "yes"
        default = "default" if DEFAULTS.get(known.kind) == f"{known.kind}={known.name}" else ""
        rows.append([known.kind, known.spec, default, state, known.licence, known.download])
    rows.append(["evaluate", "evaluate=PATH", "", "needs a path", "the script's", "none: a metric of evaluate's"])
    print_table(["kind", "scorer", "", "usable here", "licence", "download"], rows)


@validate_app.command()
def toxicity(
    scorer: Specs = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    device: Device = "cpu",
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Agreement with Perspective on RealToxicityPrompts; false alarms and detected hate on HateCheck."""
    from alignbench.progress import for_terminal
    from alignbench.scorers.validate import validate_toxicity

    scorers = _find(scorer, "toxicity", device, trust_remote_code)
    with for_terminal() as progress:
        findings = validate_toxicity(scorers, data_dir=data_dir, limit=limit, progress=progress)
    _show(findings, [], as_json)


@validate_app.command()
def hallucination(
    scorer: Specs = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    device: Device = "cpu",
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Agreement with people on summaries (FRANK, XSum annotations), beside the authors' published metrics."""
    from alignbench.progress import for_terminal
    from alignbench.scorers.validate_hallucination import validate_hallucination

    scorers = _find(scorer, "entailment", device, trust_remote_code)
    with for_terminal() as progress:
        findings, missing = validate_hallucination(scorers, data_dir=data_dir, limit=limit, progress=progress)
    _show(findings, missing, as_json)


def _find(specs: list[str] | None, kind: str, device: str, trust_remote_code: bool) -> list[Scorer]:
    specs = specs or [DEFAULTS[kind]]
    for spec in specs:
        if look_up(spec).kind != kind:
            raise AlignbenchError(f"scorer {spec!r}: this command validates {kind} scorers; name one as {kind}=NAME")
    return [find_scorer(spec, device=device, trust_remote_code=trust_remote_code) for spec in specs]


def _show(findings: Sequence[Finding], notes: Sequence[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        rows = [(f.scorer, f.data, f.metric, _number(f.value), _interval(f), str(f.n)) for f in findings]
        print_table(["scorer", "data", "metric", "value", "95 % interval", "n"], rows)
    for note in notes:
        print(note, file=sys.stderr)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3f}"


def _interval(finding: Finding) -> str:
    return "–" if finding.low is None or finding.high is None else f"{finding.low:.3f} … {finding.high:.3f}"
