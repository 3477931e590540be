"""The one look of all figures: colours, marks, sizes, and words that fit.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), which people with any colour vision tell apart, in
an order of differing lightness; each comes with a mark, a line and a hatch of its own, so that figures can be read in
grey. No pyplot: a figure is an object, and nothing global changes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 6.4  # inches: a column of the page, and of a paper's text
LABEL = 8.5  # points: names beside lines
INK, FAINT, GRID = "#222222", "#6b6b6b", "#dddddd"
GAIN, COST, OPEN = "#0072b2", "#d55e00", "#7a7a7a"  # verdicts of the audit, the same in every figure
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#5e4b8b", "#8c6d31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 1)))
HATCHES = ("", "///", "...", "\\\\\\", "xx", "++", "oo", "--")
RC: Any = {  # matplotlib's stubs want each key as a literal
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # names hold dollars and underscores
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.6,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "path.simplify": True,
}


@dataclass(frozen=True)
class Look:
    """How one system looks in every figure."""

    colour: str
    marker: str
    line: Any
    hatch: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """name -> look, by position; beyond eight they repeat with other marks."""
    found = {}
    for number, name in zip(count(), dict.fromkeys(names)):
        lap, place = divmod(number, len(COLOURS))
        other = (place + lap) % len(COLOURS)
        found[name] = Look(COLOURS[place], MARKERS[other], LINES[other], HATCHES[other])
    return found


@contextmanager
def styled() -> Iterator[None]:
    """Figures that are made inside have this look."""
    with matplotlib.rc_context(RC):
        yield


def new_figure(
    height: float, *, width: float = WIDTH, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches and its axes (an array where there are several), laid out by itself."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def plain(text: str, most: int = 28) -> str:
    """A name as a figure can show it: one line, no control characters, what DejaVu cannot draw as "□", cut in the
    middle beyond `most` characters."""
    shown = "".join(c if _drawable(c) else "□" for c in " ".join(text.split()) if c.isprintable())
    if len(shown) <= most:
        return shown
    head = (most - 1) // 2 + (most - 1) % 2
    return f"{shown[:head]}…{shown[len(shown) - (most - 1 - head) :]}"


def spread_labels(positions: Sequence[float], gap: float) -> list[float]:
    """The positions moved as little as needed for neighbours to be `gap` apart, in the order given: for labels at the
    ends of lines."""
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    blocks: list[list[int]] = []
    centres: list[float] = []
    for i in order:
        blocks.append([i])
        centres.append(positions[i])
        while len(blocks) > 1 and centres[-2] + gap * (len(blocks[-2]) + len(blocks[-1])) / 2 > centres[-1]:
            last, before = blocks.pop(), blocks.pop()
            centres.pop(), centres.pop()
            merged = before + last
            blocks.append(merged)
            offsets = [gap * (j - (len(merged) - 1) / 2) for j in range(len(merged))]
            centres.append(float(np.mean([positions[k] - offset for k, offset in zip(merged, offsets, strict=True)])))
    found = [0.0] * len(positions)
    for block, centre in zip(blocks, centres, strict=True):
        for j, i in enumerate(block):
            found[i] = centre + gap * (j - (len(block) - 1) / 2)
    return found


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, gap: float = 0.06) -> None:
    """Write names beside the right ends of lines, in their colours, moved apart where they would meet.

    A name that was moved is tied to its line by a hair line. Call it last, when titles and labels are there: it lays
    the figure out to learn how high the axes are.

    ends: (x, y, name, colour) in data coordinates
    gap: of the axes' height between two names; more is taken where the letters need it
    """
    figure = axes.get_figure(root=True)
    if not ends or figure is None:
        return
    notes = [
        axes.annotate(
            plain(name), (x, y), xytext=(1.02, 0.5), xycoords="data", textcoords="axes fraction", color=colour,
            va="center", fontsize=LABEL, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 0},
        )
        for x, y, name, colour in ends
    ]  # fmt: skip
    for _ in range(2):  # names take room from the axes, and so move the ends
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        own = max(gap, LABEL * 1.35 / 72 * figure.dpi / axes.get_window_extent().height)
        axes.get_xlim(), axes.get_ylim()  # settles limits that are still to be found from the data
        inverse = axes.transAxes.inverted()
        found = [float(inverse.transform(axes.transData.transform((x, y)))[1]) for x, y, _, _ in ends]
        heights = _inside(spread_labels(found, own), own)
        moved = [abs(height - end) > own / 4 for height, end in zip(heights, found, strict=True)]
        for note, height, far in zip(notes, heights, moved, strict=True):
            note.set_position((1.06 if any(moved) else 1.02, height))
            if note.arrow_patch is not None:
                note.arrow_patch.set_visible(far)


def _inside(heights: list[float], gap: float) -> list[float]:
    """Heights that are `gap` apart, moved into 0..1 where there is room for all of them."""
    if len(heights) * gap > 1:
        return heights
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    found = list(heights)
    floor = gap / 2
    for i in order:
        found[i] = floor = max(found[i], floor)
        floor += gap
    ceiling = 1 - gap / 2
    for i in reversed(order):
        found[i] = ceiling = min(found[i], ceiling)
        ceiling -= gap
    return found


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """[.1, .2] as text; "" without ends."""
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"


def _drawable(character: str) -> bool:
    return character.isspace() or (ord(character) in _glyphs() and unicodedata.category(character) != "Cc")


_KNOWN: set[int] = set()


def _glyphs() -> set[int]:
    """Code points that DejaVu Sans has, read once."""
    if not _KNOWN:
        from matplotlib.font_manager import FontProperties, findfont, get_font

        _KNOWN.update(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())
    return _KNOWN
