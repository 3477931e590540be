"""Checks of figures: texts that overlap or are cut, pictures that changed."""

import os
import tempfile
from itertools import combinations
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from report_runs import evidence_of

from reports import report
from reports.figures import FIGURES
from reports.style import styled

IMAGES = Path(__file__).parent / "images"
SLACK = 1.0  # pixels at 100 dpi: rounding and the empty border of glyphs


def draw(figure, *evidence):
    """Draw a figure, which must be a single one, of evidence or of run folders."""
    with styled():
        (found,) = figure(evidence_of(*evidence) if isinstance(evidence[0], Path) else evidence[0])
    return found


def draw_all(evidence):
    """Return the figures with data, and title -> reason for the others."""
    found = {title: report.draw(evidence, title) for title in FIGURES}
    reasons = {title: reason for title, (_, reason) in found.items() if reason}
    return [own for drawn, _ in found.values() for own in drawn], reasons


def shown_texts(figure):
    """Return each visible text and its box in pixels, without tick labels outside the limits of their axis."""
    canvas = FigureCanvasAgg(figure)
    with styled():
        canvas.draw()
    unseen = set[int]()
    for axes in figure.findobj(Axes):
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            slack = 1e-9 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - slack <= tick.get_loc() <= high + slack:
                    unseen |= {id(tick.label1), id(tick.label2)}

    def visible(artist):
        below = artist.get_children() if artist.get_visible() else []
        return [artist] * artist.get_visible() + [found for child in below for found in visible(child)]

    texts = [text for text in visible(figure) if isinstance(text, Text) and id(text) not in unseen]
    # of an annotation: the text without the arrow
    boxes = [(own.get_text(), Text.get_window_extent(own, canvas.get_renderer())) for own in texts]
    return [(text, box) for text, box in boxes if text.strip() and box.width and box.height]


def assert_nothing_overlaps(figure):
    """No two texts overlap, and none leaves the canvas."""
    texts = shown_texts(figure)
    assert texts, "a figure without text"
    canvas = figure.bbox
    for name, box in texts:
        out = max(canvas.x0 - box.x0, canvas.y0 - box.y0, box.x1 - canvas.x1, box.y1 - canvas.y1)
        assert out <= SLACK, f"{name!r} leaves the canvas by {out:.1f} pixels"
    for (name, box), (other, second) in combinations(texts, 2):
        wide = min(box.x1, second.x1) - max(box.x0, second.x0)
        high = min(box.y1, second.y1) - max(box.y0, second.y0)
        assert wide <= SLACK or high <= SLACK, f"{name!r} and {other!r} overlap by {wide:.1f} x {high:.1f} pixels"


def assert_looks_as_before(figure, name, *, tolerance=8.0):
    """The figure looks like tests/images/NAME.png, which UPDATE_IMAGES=1 replaces."""
    known = IMAGES / f"{name}.png"
    with styled(), tempfile.TemporaryDirectory() as folder:
        now = Path(folder) / known.name
        figure.savefig(known if os.environ.get("UPDATE_IMAGES") else now, dpi=60, metadata={"Software": None})
        assert known.is_file(), f"{known} is missing; create it with UPDATE_IMAGES=1"
        figure.savefig(now, dpi=60, metadata={"Software": None})
        assert compare_images(str(known), str(now), tolerance) is None
