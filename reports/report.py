"""The main path of `alignbench report`: from evidence to figures and a page."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.runs.folder import read_object, write_json
from reports.drawing import Drawing, NoDataError, mark_synthetic, save
from reports.evidence import Evidence, gather
from reports.figures import FIGURES, MISSING
from reports.page.page import write_page
from reports.style import styled

MANIFEST, SILENT = "report.json", Progress()
FEW = 8  # tasks: figures of fewer take less time than the start of other processes
Drawn = tuple[list[Drawing], list[str], str]  # figures, names of their files, reason if there are none


@dataclass(frozen=True)
class Report:
    """page: index.html; drawn: its figures, whose pictures are in files; left_out: title of each figure without data ->
    reason"""

    page: Path
    drawn: tuple[Drawing, ...]
    left_out: dict[str, str]


def report(
    paths: Sequence[str | Path], out: str | Path = "report", *, reference: str | None = None,
    title: str = "Gains and losses of alignment", lineage: Path | None = None, pdf: bool = False,
    shards: bool | None = None, progress: Progress = SILENT,
) -> Report:  # fmt: skip
    """Draw all figures for which `paths` have data, and write the page: out/index.html and out/figures/.

    paths: run folders, folders of run folders, training folders, tables of labels
    reference: the system that all others are compared with, instead of the references that their lineages name
    lineage: file that says which model was trained from which, where that is not recorded
    pdf: also write each figure as PDF
    shards: True: write the samples to out/samples/, False: into the page, with fewer of them if there are very many;
        None: to out/samples/ if they are large

    The same folders give the same bytes. Raises AlignbenchError as `gather` does.
    """
    out = Path(out)
    evidence = gather([Path(path) for path in paths], reference=reference, lineage=lineage, progress=progress)
    progress.start("figures", len(FIGURES), unit="figures")
    drawn: list[Drawing] = []
    files: list[str] = []
    left_out: dict[str, str] = {}
    draw_one = partial(_draw_and_save, evidence, out / "figures", pdf)
    for name, (found, written, reason) in zip(FIGURES, _in_processes(draw_one, FIGURES, evidence), strict=True):
        drawn += found
        files += written
        left_out |= {name: reason} if reason else {}
        progress.advance()
    page, samples = write_page(evidence, drawn, left_out, out, title, shards=shards, progress=progress)
    former: dict[str, Any] = {}
    with suppress(AlignbenchError):  # a file of another program
        former = read_object(out / MANIFEST) or {}
    for folder, names in (("figures", files), ("samples", samples)):
        listed = former.get(folder)
        for name in set(map(str, listed)) - set(names) if isinstance(listed, list) else ():
            (out / folder / Path(name).name).unlink(missing_ok=True)  # of an earlier report; other files stay
    write_json(out / MANIFEST, {"figures": files, "samples": samples, "left_out": left_out})
    return Report(page, tuple(drawn), left_out)


def _in_processes(draw_one: Any, titles: Iterable[str], evidence: Evidence) -> Iterator[Drawn]:
    """Draw in as many processes as there are cores: matplotlib holds the interpreter's lock."""
    from joblib import Parallel, delayed

    jobs = 1 if len(evidence.tasks) < FEW else -1
    drawn: Iterator[Drawn] = Parallel(jobs, return_as="generator")(delayed(draw_one)(title) for title in titles)
    return drawn


def _draw_and_save(evidence: Evidence, folder: Path, pdf: bool, title: str) -> Drawn:
    found, reason = draw(evidence, title)
    files = [file.name for drawing in found for file in save(drawing, folder, pdf=pdf)]
    return [replace(drawing, figure=Figure()) for drawing in found], files, reason


def draw(evidence: Evidence, title: str) -> tuple[list[Drawing], str]:
    """Return the figures with this title, and the reason if there are none."""
    try:
        with styled():
            found = list(FIGURES[title](evidence))
        if evidence.synthetic:
            found = list(map(mark_synthetic, found))
        return found, "" if found else MISSING[title]
    except NoDataError as reason:
        return [], str(reason)
