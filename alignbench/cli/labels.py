"""`alignbench labels`: human labels, from any table to agreement, a screen of labelers, and the trainer's rankings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli.options import columns_of
from alignbench.console import print_table, printable
from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.stats.estimates import Estimate

app = typer.Typer(
    help="Human labels: import them, measure agreement, screen labelers, export rankings.", no_args_is_help=True
)

Labels = Annotated[str, typer.Argument(metavar="FILE", help="Labels, as `alignbench labels import` writes them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]
Seed = Annotated[int, typer.Option(help="Of the bootstrap.")]
Resamples = Annotated[int, typer.Option(min=100, help="Of the bootstrap over prompts.")]


@app.command("import")
def import_labels(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, TSV, JSON, JSON lines or parquet; see docs/labels.md.")
    ],
    out: Annotated[Path, typer.Option(help="The normal form, JSON lines.")],
    prompts: Annotated[
        str | None, typer.Option(help="File of the prompts that labels may name: rows {prompt, prompt_id or id}.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="THEIRS=OURS", help="A column by another name; repeatable.")
    ] = None,
    flag: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A further column of yes and no; repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Not to be read; repeatable.")] = None,
) -> None:
    """Check a table of labels and write it in the normal form."""
    from alignbench.labels.table import counts, read_labels, write_labels

    _refuse_overwriting(source, out)
    labels = read_labels(source, columns=columns_of(columns), flags=flag or [], ignored=ignore or [], prompts=prompts)
    write_labels(labels, out)
    print_table(("labels", ""), [(name, str(number)) for name, number in counts(labels).items()])
    print(f"written: {printable(str(out))}")


@app.command()
def agreement(file: Labels, seed: Seed = 0, resamples: Resamples = 10_000, as_json: AsJson = False) -> None:
    """How far labelers agree on rankings, Likert marks and each flag: overall, by group, by labeler."""
    from alignbench.labels.report import agreement as measure
    from alignbench.labels.table import read_labels

    labels = read_labels(file)
    try:
        findings, notes = measure(labels, seed=seed, resamples=resamples)
    except AlignbenchError as error:
        raise AlignbenchError(f"{file}: {error}") from None
    if as_json:
        _print_json(findings)
    else:
        rows = [(f.question, f.statistic, f.who, *_cells(f.estimate)) for f in findings]
        print_table(("question", "statistic", "who", "value", "95 % interval", "n", "prompts"), rows)
    for note in notes:
        print(printable(note), file=sys.stderr)


@app.command()
def summary(file: Labels, seed: Seed = 0, resamples: Resamples = 10_000, as_json: AsJson = False) -> None:
    """What labelers say of each model: Likert marks, flags, win rates."""
    from alignbench.labels.summary import summary as sum_up
    from alignbench.labels.table import read_labels

    labels = read_labels(file)
    try:
        findings = sum_up(labels, seed=seed, resamples=resamples)
    except AlignbenchError as error:
        raise AlignbenchError(f"{file}: {error}") from None
    if as_json:
        _print_json(findings)
    else:
        rows = [(f.model, f.statistic, f.against or "–", *_cells(f.estimate)) for f in findings]
        print_table(("model", "statistic", "against", "value", "95 % interval", "n", "prompts"), rows)


@app.command()
def screen(
    file: Labels,
    reference: Annotated[
        str | None, typer.Option(metavar="LABELER", help="Whom to agree with (the researchers); default: the rest.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the labels of those below no cut-off here.")] = None,
    flagging: Annotated[float, typer.Option(help="Cut-off of agreement on sensitive speech.")] = 0.75,
    rankings: Annotated[float, typer.Option(help="Cut-off of agreement on rankings.")] = 0.75,
    demonstrations: Annotated[float, typer.Option(help="Cut-off of the mean Likert mark of demonstrations.")] = 6.0,
    sensitive: Annotated[
        list[str] | None, typer.Option(metavar="FLAG", help="Flags of sensitive speech, in place of the usual ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Mark labelers below InstructGPT's soft cut-offs. FILE stays as it is."""
    from alignbench.labels.screen import SENSITIVE, CutOffs, kept
    from alignbench.labels.screen import screen as mark
    from alignbench.labels.table import flag_names, read_labels, write_labels

    if out is not None:
        _refuse_overwriting(file, out)
    labels = read_labels(file)
    for name in sensitive or []:
        if name not in flag_names(labels):
            raise AlignbenchError(f"{file}: no flag {name!r} (there are: {', '.join(flag_names(labels)) or 'none'})")
    limits = CutOffs(flagging, rankings, demonstrations)
    try:
        found = mark(labels, reference=reference, cut_offs=limits, sensitive=sensitive or SENSITIVE)
    except AlignbenchError as error:
        raise AlignbenchError(f"{file}: {error}") from None
    if as_json:
        _print_json(found)
    else:
        rows = [(s.labeler, s.criterion, *_cells(s.estimate), f"{s.cut_off:g}", s.mark) for s in found]
        print_table(("labeler", "criterion", "value", "95 % interval", "n", "prompts", "cut-off", ""), rows)
    if out is not None:
        rest = kept(labels, found)
        write_labels(rest, out)
        print(f"written: {printable(str(out))}, {len(rest)} of {len(labels)} labels", file=sys.stderr)


@app.command()
def export(
    file: Labels, out: Annotated[Path, typer.Option(help="Rankings for `alignbench train reward`, JSON lines.")]
) -> None:
    """Write rankings for the reward-model trainer."""
    from alignbench.labels.export import export as make
    from alignbench.labels.table import read_labels, write_lines

    _refuse_overwriting(file, out)
    labels = read_labels(file)
    try:
        done = make(labels)
    except AlignbenchError as error:
        raise AlignbenchError(f"{file}: {error}") from None
    write_lines(done.rankings, out)
    rows = [
        ("written", str(len(done.rankings))),
        ("pairs in them that are no ties", str(done.pairs)),
        ("left out: all responses tied", str(done.tied)),
        ("left out: fewer than two responses", str(done.alone)),
        ("responses left out: empty", str(done.empty)),
    ]
    print_table(("rankings", ""), rows)
    print(f"written: {printable(str(out))}")


def _refuse_overwriting(source: str, out: Path) -> None:
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise AlignbenchError(f"--out {out}: that is the file that is read; name another")


def _print_json(findings: Sequence[Any]) -> None:
    print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))


def _cells(estimate: Estimate) -> tuple[str, str, str, str]:
    value = "–" if estimate.value is None else f"{estimate.value:.3f}"
    known = estimate.low is not None and estimate.high is not None
    interval = f"{estimate.low:.3f} … {estimate.high:.3f}" if known else "–"
    return value, interval, str(estimate.n), str(estimate.clusters)
