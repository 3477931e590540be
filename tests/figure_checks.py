"""What a person would see at once in a figure: words that meet, words that are cut, pictures that changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from reports.drawing import Drawing, save

IMAGES = Path(__file__).parent / "images"
SLACK = 1.0  # pixels at 100 dpi: what rounding and the empty border of glyphs may take


def shown_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Each word that is seen in the figure and the box of its ink, in pixels.

    Tick labels outside the limits of their axis are no part of the picture, so they are not among them.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    unseen = {id(label) for axes in figure.findobj(Axes) for label in _beyond_limits(axes)}
    found = []
    for text in _visible(figure):
        if isinstance(text, Text) and text.get_text().strip() and id(text) not in unseen:
            box = Text.get_window_extent(text, renderer)  # of an annotation: the words without the arrow
            if box.width and box.height:
                found.append((text.get_text(), box))
    return found


def assert_nothing_overlaps(figure: Figure) -> None:
    """No two words meet, none leaves the canvas."""
    texts = shown_texts(figure)
    assert texts, "a figure without a word"
    canvas = figure.bbox
    for name, box in texts:
        out = max(canvas.x0 - box.x0, canvas.y0 - box.y0, box.x1 - canvas.x1, box.y1 - canvas.y1)
        assert out <= SLACK, f"{name!r} leaves the canvas by {out:.1f} pixels"
    for number, (name, box) in enumerate(texts):
        for other, second in texts[number + 1 :]:
            wide = min(box.x1, second.x1) - max(box.x0, second.x0)
            high = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert wide <= SLACK or high <= SLACK, f"{name!r} and {other!r} overlap by {wide:.1f} x {high:.1f} pixels"


def assert_same_bytes(first: Drawing, second: Drawing) -> None:
    """SVG, PNG and CSV of two drawings do not differ in a byte."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        for before, after in zip(save(first, Path(one)), save(second, Path(other)), strict=True):
            assert before.name == after.name
            assert before.read_bytes() == after.read_bytes(), f"{before.name} differs"


def assert_looks_as_before(figure: Figure, name: str, *, tolerance: float = 8.0) -> None:
    """The figure looks like tests/images/NAME.png, which UPDATE_IMAGES=1 makes anew."""
    from matplotlib.testing.compare import compare_images

    known = IMAGES / f"{name}.png"
    plain = {"dpi": 60, "metadata": {"Software": None}}
    if os.environ.get("UPDATE_IMAGES"):
        IMAGES.mkdir(exist_ok=True)
        figure.savefig(known, **plain)
    assert known.is_file(), f"{known} is missing; make it with UPDATE_IMAGES=1"
    with tempfile.TemporaryDirectory() as folder:
        now = Path(folder) / known.name
        figure.savefig(now, **plain)
        difference = compare_images(str(known), str(now), tolerance)
    assert difference is None, difference


def _visible(artist: Artist) -> Iterator[Artist]:
    """The artist and all below it, without what is hidden and what is in it."""
    if artist.get_visible():
        yield artist
        for child in artist.get_children():
            yield from _visible(child)


def _beyond_limits(axes: Axes) -> Iterator[Text]:
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        low, high = sorted((low, high))
        slack = 1e-9 * (high - low)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low - slack <= tick.get_loc() <= high + slack:
                yield from (tick.label1, tick.label2)
