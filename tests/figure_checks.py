"""Checks of figures: texts that overlap or are cut, pictures that changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from reports.style import styled

IMAGES = Path(__file__).parent / "images"
SLACK = 1.0  # pixels at 100 dpi: rounding and the empty border of glyphs


def shown_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return each visible text and its box in pixels, without tick labels outside the limits of their axis."""
    canvas = FigureCanvasAgg(figure)
    with styled():
        canvas.draw()
    renderer = canvas.get_renderer()
    unseen = {id(label) for axes in figure.findobj(Axes) for label in _beyond_limits(axes)}
    found = []
    for text in _visible(figure):
        if isinstance(text, Text) and text.get_text().strip() and id(text) not in unseen:
            box = Text.get_window_extent(text, renderer)  # of an annotation: the text without the arrow
            if box.width and box.height:
                found.append((text.get_text(), box))
    return found


def assert_nothing_overlaps(figure: Figure) -> None:
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


def assert_looks_as_before(figure: Figure, name: str, *, tolerance: float = 8.0) -> None:
    """The figure looks like tests/images/NAME.png, which UPDATE_IMAGES=1 replaces."""
    known = IMAGES / f"{name}.png"
    options = {"dpi": 60, "metadata": {"Software": None}}
    with styled(), tempfile.TemporaryDirectory() as folder:
        if os.environ.get("UPDATE_IMAGES"):
            figure.savefig(known, **options)
        assert known.is_file(), f"{known} is missing; create it with UPDATE_IMAGES=1"
        now = Path(folder) / known.name
        figure.savefig(now, **options)
        assert compare_images(str(known), str(now), tolerance) is None


def _visible(artist: Artist) -> Iterator[Artist]:
    """Yield the artist and all artists in it, except invisible ones."""
    if artist.get_visible():
        yield artist
        for child in artist.get_children():
            yield from _visible(child)


def _beyond_limits(axes: Axes) -> Iterator[Text]:
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        low, high = sorted(limits)
        slack = 1e-9 * (high - low)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low - slack <= tick.get_loc() <= high + slack:
                yield from (tick.label1, tick.label2)
