"""The style that all figures share: colours, markers, sizes, and names short enough for a panel.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), which can be told apart with any colour vision, in
an order of differing lightness. Each has its own marker and line style, so that figures also work in greyscale.
Figures are created without pyplot, so no global state changes.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

WIDTH = 6.4  # inches: a column of the page, or of a paper
MOST_LETTERS = 100  # of a name; an id of the hub has up to 96
SMALL = 8  # points: tick labels, names and notes inside panels
INK, FAINT = "#222222", "#6b6b6b"  # as in alignbench.mplstyle
GAIN, LOSS, OPEN = "#0072b2", "#d55e00", "#7a7a7a"  # verdicts of the audit
SHADE = "#f1f1f1"  # areas
ON_LIGHT, ON_DARK = "#212121", "#fefefe"  # text on cells whose colours are the same in the dark theme
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#5e4b8b", "#8c6d31")
DARK_COLOURS = ("#4aa3df", "#f0b63c", "#2bbf94", "#ff8f4a", "#a5d8f7", "#e6a3ca", "#b3a1e0", "#cbab6e")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 1)))


def deep(colour: str) -> str:
    """Return a darker colour for text on white, with a contrast of at least 4.5 (WCAG 2.2, 1.4.3)."""
    return to_hex(tuple(0.6 * part for part in to_rgb(colour)))  # type: ignore[arg-type]


# colours of the light theme -> those of the dark theme
DARK = {INK: "#e6e4df", FAINT: "#a5a7ab", OPEN: "#9a9da2", SHADE: "#2a2e34", "#dddddd": "#3b4047", "#cccccc": "#4a5058"}
DARK |= {"#ffffff": "#1d2024", **dict(zip(COLOURS, DARK_COLOURS, strict=True))}
DARK |= {deep(colour): dark for colour, dark in zip(COLOURS, DARK_COLOURS, strict=True)}


def themed(svg: str) -> str:
    """Return a picture of matplotlib whose colours follow the colour scheme of the page that shows it.

    It is for `<img>`, where a picture runs no script and loads nothing.
    """
    names = "".join(f"--{light[1:]}:light-dark({light},{dark});" for light, dark in DARK.items())
    paint = re.compile(rf"((?:fill|stroke|stop-color): ?)({'|'.join(DARK)})\b")
    head, found, body = svg.partition('<style type="text/css">')
    assert found, "a picture without a style"
    return f"{head}{found}:root{{color-scheme:light dark;{names}}}" + paint.sub(
        lambda own: f"{own[1]}var(--{own[2][1:]})", body
    )


@dataclass(frozen=True)
class Look:
    """How one system is drawn in every figure. hollow: markers in outline, bars in outline with a hatch."""

    colour: str
    marker: str
    line: Any
    hollow: bool = False

    @property
    def mark(self) -> dict[str, Any]:
        """Return the keyword arguments of matplotlib for its markers."""
        inside = "white" if self.hollow else self.colour
        return {"color": self.colour, "marker": self.marker, "markerfacecolor": inside}

    @property
    def bar(self) -> dict[str, Any]:
        """Return the keyword arguments of matplotlib for its bars."""
        outline = {"facecolor": "white", "edgecolor": self.colour, "hatch": "/////"}
        return outline if self.hollow else {"color": self.colour}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Map each name to a look by its position; beyond eight names, colours repeat with other markers."""
    found = {}
    for number, name in enumerate(dict.fromkeys(names)):
        lap, place = divmod(number, len(COLOURS))
        other = (place + lap) % len(COLOURS)
        found[name] = Look(COLOURS[place], MARKERS[other], LINES[other])
    return found


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """Apply the style, and settings of matplotlib, to figures created or saved inside the block."""
    rc: Any = matplotlib.rc_params_from_file(Path(__file__).parent / "alignbench.mplstyle", use_default_template=False)
    with matplotlib.rc_context(dict(rc) | more):
        yield


def new_figure(height: float, *, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Create a figure of WIDTH x `height` inches and its axes (an array if there are several), laid out by itself."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def plain(text: str, most: int = MOST_LETTERS) -> str:
    """Return a name as a figure can show it, in at most `most` characters.

    One line without control characters; "□" replaces what DejaVu Sans cannot draw; longer names are cut in the middle.
    """
    shown = "".join(c if c == " " or ord(c) in _glyphs() else "□" for c in " ".join(text.split()) if c.isprintable())
    head = most // 2
    return shown if len(shown) <= most else f"{shown[:head]}…{shown[len(shown) - (most - 1 - head) :]}"


def wrapped(text: str, width: int) -> str:
    """Return a whole name in lines of at most `width` characters, which end after a space or sign where possible."""
    lines = [""]
    for part in re.findall(r"[^\s/_.:-]*[\s/_.:-]?", plain(text)):
        for piece in (part[at : at + width] for at in range(0, len(part), width)):
            if len((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def wrapped_names(names: Iterable[str], width: int) -> dict[str, str]:
    """Map each name to itself in lines, see `wrapped`; names that look the same are numbered."""
    found: dict[str, str] = {}
    for name in names:
        number, shown = 1, plain(name)
        while wrapped(shown, width) in found.values():
            number += 1
            shown = f"{plain(name, MOST_LETTERS - 4)} #{number}"
        found[name] = wrapped(shown, width)
    return found


def most_lines(texts: Iterable[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=1)


def size_of(number: float) -> str:
    """Format a number of parameters or episodes: 260K, 135M, 1.3B, 175B."""
    units = ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1, ""))
    unit, letter = next((one for one in units if number >= one[0] * 0.9995), units[-1])
    return f"{number / unit:.3g}{letter}"


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
