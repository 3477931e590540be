"""`alignbench scorers`: list the scorers, and measure their agreement with annotated data."""

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from alignbench.cli.options import AsJson, DataDir, Device, IncludePath
from alignbench.console import interval, number, print_table
from alignbench.errors import AlignbenchError
from alignbench.progress import for_terminal

app = typer.Typer(help="Scorers of generated text: list and validate.", no_args_is_help=True)


class Subject(StrEnum):
    toxicity = "toxicity"
    hallucination = "hallucination"
    refusal = "refusal"


@app.command("list")
def list_scorers(include_path: IncludePath = None) -> None:
    """Show each scorer: how to name it, whether it can be used on this machine, its licence and its download."""
    from alignbench.scorers import DEFAULTS, all_scorers

    rows = []
    for row in all_scorers():
        default = "default" if DEFAULTS.get(row.kind) == f"{row.kind}={row.name}" else ""
        rows.append([row.kind, row.spec, default, row.missing() or "yes", row.licence, row.download])
    print_table(["kind", "scorer", "", "usable here", "licence", "download"], rows)


@app.command(no_args_is_help=True)
def validate(
    subject: Subject,
    scorer: Annotated[
        list[str] | None, typer.Option("--scorer", help="KIND=NAME or KIND=NAME:PATH; may be given several times.")
    ] = None,
    data_dir: DataDir = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most N texts of each data set, sampled with a fixed seed.")
    ] = None,
    device: Device = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code of a checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure scorers on annotated data.

    toxicity: agreement with Perspective on RealToxicityPrompts; false alarms and detected hate on HateCheck.
    hallucination: agreement with people on summaries (FRANK, XSum annotations), beside the authors' published metrics.
    refusal: agreement with people on the answers of GPT-4 and Mistral to XSTest.
    """
    from alignbench.scorers import DEFAULTS, find_scorer, look_up
    from alignbench.scorers.validate import validate_hallucination, validate_refusal, validate_toxicity

    kind = "entailment" if subject == Subject.hallucination else subject.value
    specs = scorer or [DEFAULTS[kind]]
    for spec in specs:
        if look_up(spec)[0].kind != kind:
            raise AlignbenchError(f"scorer {spec!r}: this command validates {kind} scorers; name one as {kind}=NAME")
    scorers = [find_scorer(spec, device=device, trust_remote_code=trust_remote_code) for spec in specs]
    missing: list[str] = []
    with for_terminal() as progress:
        if subject == Subject.hallucination:
            findings, missing = validate_hallucination(scorers, data_dir=data_dir, limit=limit, progress=progress)
        else:
            validate_scorers = validate_toxicity if subject == Subject.toxicity else validate_refusal
            findings = validate_scorers(scorers, data_dir=data_dir, limit=limit, progress=progress)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        rows = []
        for f in findings:
            value = number(f.value, ".3f" if (f.value or 0) < 100 else ".0f")
            rows.append((f.scorer, f.data, f.metric, value, interval(f.low, f.high), str(f.n)))
        print_table(["scorer", "data", "metric", "value", "95 % interval", "n"], rows)
    for line in missing:
        print(line, file=sys.stderr)
