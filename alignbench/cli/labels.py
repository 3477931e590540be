"""`alignbench labels`: import human labels, measure agreement, screen labelers, export rankings for the trainer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli.format import estimate_cells
from alignbench.cli.options import AsJson, Columns, columns_of
from alignbench.cli.serve import serve
from alignbench.console import print_table, printable
from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.labels.table import Label

app = typer.Typer(help="Human labels: a page, import, agreement, summary, screening, export.", no_args_is_help=True)
app.command()(serve)

Labels = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="Labels of `alignbench labels import`, or a study of `alignbench labels serve`."
    ),
]
Group = Annotated[str | None, typer.Option(help="Only labelers of this group, such as held-out.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")]
Resamples = Annotated[int, typer.Option(min=100, help="Resamples of the bootstrap over prompts.")]


@app.command("import")
def import_labels(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, TSV, JSON, JSON lines or parquet; see docs/labels.md.")
    ],
    out: Annotated[Path, typer.Option(help="The normal form, JSON lines.")],
    prompts: Annotated[
        str | None, typer.Option(help="File of all prompts of the labels: rows {prompt, prompt_id or id}.")
    ] = None,
    columns: Columns = None,
    flag: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A further column of yes and no; repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A column to skip; repeatable.")] = None,
    group: Group = None,
) -> None:
    """Check a table of labels and write it in the normal form."""
    from alignbench.labels.table import counts, of_group, read_labels, write_labels

    _refuse_overwriting(source, out)
    labels = read_labels(source, columns=columns_of(columns), flags=flag or [], ignored=ignore or [], prompts=prompts)
    labels = of_group(labels, group)
    write_labels(labels, out)
    print_table(("labels", ""), [(name, str(number)) for name, number in counts(labels).items()])
    print(f"written: {printable(str(out))}")


@app.command()
def agreement(
    file: Labels, group: Group = None, seed: Seed = 0, resamples: Resamples = 10_000, as_json: AsJson = False
) -> None:
    """Measure agreement on rankings, Likert marks and each flag: overall, by group, by labeler."""
    from alignbench.labels.agreement import agreement as measure

    with _labels(file, group) as labels:
        findings, notes = measure(labels, seed=seed, resamples=resamples)
    _show(findings, ("question", "statistic", "who"), as_json)
    for note in notes:
        print(printable(note), file=sys.stderr)


@app.command()
def summary(
    file: Labels, group: Group = None, seed: Seed = 0, resamples: Resamples = 10_000, as_json: AsJson = False
) -> None:
    """Summarise the labels of each model: Likert marks, flags, win rates."""
    from alignbench.labels.summary import summary as summarise

    with _labels(file, group) as labels:
        findings = summarise(labels, seed=seed, resamples=resamples)
    _show(findings, ("model", "statistic", "against"), as_json)


@app.command()
def screen(
    file: Labels,
    reference: Annotated[
        str | None, typer.Option(metavar="LABELER", help="Agreement with whom (the researchers); default: the others.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the labels of labelers below no cut-off here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mark labelers below InstructGPT's soft cut-offs. FILE is not changed. Without --reference, a study that has a
    qualification is screened by it."""
    from alignbench.labels.screen import kept
    from alignbench.labels.screen import screen as mark
    from alignbench.labels.table import read_qualification, write_labels

    if out is not None:
        _refuse_overwriting(file, out)
    with _labels(file) as labels:
        gold, gold_reference = ([], None) if reference else read_qualification(file)
        found = mark(gold, reference=gold_reference) if gold_reference else mark(labels, reference=reference)
    _show(found, ("labeler", "criterion"), as_json, ("cut_off", "mark"))
    if out is not None:
        rest = kept(labels, found)
        write_labels(rest, out)
        print(f"written: {printable(str(out))}, {len(rest)} of {len(labels)} labels", file=sys.stderr)


@app.command()
def export(
    file: Labels,
    out: Annotated[Path, typer.Option(help="Rankings for `alignbench train reward`, JSON lines.")],
    group: Group = None,
) -> None:
    """Write rankings for the reward-model trainer."""
    from alignbench.labels.table import export as make
    from alignbench.labels.table import write_lines

    _refuse_overwriting(file, out)
    with _labels(file, group) as labels:
        rankings, numbers = make(labels)
    write_lines(rankings, out)
    print_table(("rankings", ""), [(name, str(number)) for name, number in numbers.items()])
    print(f"written: {printable(str(out))}")


@contextmanager
def _labels(file: str, group: str | None = None) -> Iterator[list[Label]]:
    """Read labels; errors about them inside the context name the file."""
    from alignbench.labels.table import of_group, read_labels

    labels = read_labels(file)
    try:
        yield of_group(labels, group)
    except AlignbenchError as error:
        raise AlignbenchError(f"{file}: {error}") from None


def _refuse_overwriting(source: str, out: Path) -> None:
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise AlignbenchError(f"--out {out}: this is the input file; name another")


def _show(findings: Sequence[Any], before: Sequence[str], as_json: bool, after: Sequence[str] = ()) -> None:
    """Print findings, as JSON or as a table of these fields before and after the estimate."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
        return
    rows = []
    for finding in findings:
        own = finding.estimate
        values = [getattr(finding, name) for name in (*before, *after)]
        cells = ["–" if own is None else f"{own:g}" if isinstance(own, float) else str(own) for own in values]
        cells[len(before) : len(before)] = *estimate_cells(own), str(own.n), str(own.clusters)
        rows.append(cells)
    header = [*before, "value", "95 % interval", "n", "prompts", *after]
    print_table([name.replace("_", "-") for name in header], rows)
