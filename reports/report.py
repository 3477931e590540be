"""The main path of `alignbench report`: evidence in, figures and a page out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignbench.progress import Progress
from alignbench.runs.folder import read_object, write_json
from reports.drawing import Drawing, NoDataError, save
from reports.evidence import Evidence, gather
from reports.figures import FIGURES
from reports.page.page import write_page
from reports.style import styled

MANIFEST = "report.json"


@dataclass(frozen=True)
class Report:
    """page: index.html; drawn: the figures in it; left_out: title and reason of those without data"""

    page: Path
    drawn: tuple[Drawing, ...]
    left_out: tuple[tuple[str, str], ...]


def report(
    paths: Sequence[Path],
    out: Path,
    *,
    reference: str | None = None,
    title: str = "What alignment gained, and what it cost",
    pdf: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Draw all figures that `paths` have the data for, and write the page: out/index.html and out/figures/.

    paths: run folders, folders of run folders, training folders, tables of labels
    reference: the system that all others are compared with, in place of what their lineages say
    pdf: each figure as PDF, too

    The same folders give the same bytes. Raises AlignbenchError as `gather` does.
    """
    progress = progress or Progress()
    progress.say("reading the runs, comparing them")
    evidence = gather(paths, reference=reference)
    drawn, left_out = draw_all(evidence, progress)
    files = [file.name for drawing in drawn for file in save(drawing, out / "figures", pdf=pdf)]
    before = read_object(out / MANIFEST)
    listed = before.get("figures") if isinstance(before, dict) else None
    earlier = set(map(str, listed)) if isinstance(listed, list) else set()
    for name in earlier - set(files):  # nothing else in the folder is touched
        (out / "figures" / Path(name).name).unlink(missing_ok=True)
    page = write_page(evidence, drawn, left_out, out, title)
    write_json(out / MANIFEST, {"figures": files, "left_out": dict(left_out)})
    return Report(page, tuple(drawn), tuple(left_out))


def draw_all(evidence: Evidence, progress: Progress | None = None) -> tuple[list[Drawing], list[tuple[str, str]]]:
    """The figures that there are data for; title and reason of the others."""
    progress = progress or Progress()
    progress.start("figures", len(FIGURES), unit="figures")
    drawn: list[Drawing] = []
    left_out: list[tuple[str, str]] = []
    for module in FIGURES:
        try:
            with styled():
                drawn += module.draw(evidence)
        except NoDataError as why:
            left_out.append((module.TITLE, str(why)))
        progress.advance()
    return drawn, left_out
