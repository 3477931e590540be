"""The main path of `alignbench report`: from evidence to figures and a page."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.runs.folder import read_object, write_json
from reports.drawing import Drawing, NoDataError, mark_synthetic, save
from reports.evidence import Evidence, gather
from reports.figures import FIGURES, MISSING
from reports.page.page import write_page
from reports.style import styled

MANIFEST, SILENT = "report.json", Progress()


@dataclass(frozen=True)
class Report:
    """page: index.html; drawn: its figures; left_out: title of each figure without data -> reason"""

    page: Path
    drawn: tuple[Drawing, ...]
    left_out: dict[str, str]


def report(
    paths: Sequence[str | Path], out: str | Path = "report", *, reference: str | None = None,
    title: str = "Gains and losses of alignment", pdf: bool = False, progress: Progress = SILENT,
) -> Report:  # fmt: skip
    """Draw all figures for which `paths` have data, and write the page: out/index.html and out/figures/.

    paths: run folders, folders of run folders, training folders, tables of labels
    reference: the system that all others are compared with, instead of the references that their lineages name
    pdf: also write each figure as PDF

    The same folders give the same bytes. Raises AlignbenchError as `gather` does.
    """
    progress.say("reading and comparing the runs")
    out = Path(out)
    evidence = gather([Path(path) for path in paths], reference=reference)
    drawn, left_out = draw_all(evidence, progress)
    files = [file.name for drawing in drawn for file in save(drawing, out / "figures", pdf=pdf)]
    listed = None
    with suppress(AlignbenchError):  # a file of another program
        listed = (read_object(out / MANIFEST) or {}).get("figures")
    for name in set(map(str, listed)) - set(files) if isinstance(listed, list) else ():
        (out / "figures" / Path(name).name).unlink(missing_ok=True)  # of an earlier report; other files stay
    page = write_page(evidence, drawn, left_out, out, title)
    write_json(out / MANIFEST, {"figures": files, "left_out": left_out})
    return Report(page, tuple(drawn), left_out)


def draw_all(evidence: Evidence, progress: Progress = SILENT) -> tuple[list[Drawing], dict[str, str]]:
    """Return the figures with data, and title -> reason for the others."""
    progress.start("figures", len(FIGURES), unit="figures")
    drawn: list[Drawing] = []
    left_out: dict[str, str] = {}
    for title, draw in FIGURES.items():
        try:
            with styled():
                found = list(draw(evidence))
            drawn += map(mark_synthetic, found) if evidence.synthetic else found
            left_out |= {} if found else {title: MISSING[title]}
        except NoDataError as reason:
            left_out[title] = str(reason)
        progress.advance()
    return drawn, left_out
