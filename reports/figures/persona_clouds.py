"""Word clouds of the personas' names and nationalities, models side by side."""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alignbench.diversity.entropy import FEWEST
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.names import short_names
from reports.personas import ASKED, FIELDS, TASKS, People, people, shown
from reports.style import WIDTH, looks, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Personas: names and nationalities as word clouds"
SOURCE = "2406.05587, section 3.1"
CLOUDS = ("first_name", "nationality")
DOTS = 2  # of the layout's grid, a point
SMALLEST = 8.5  # points
MOST_WORDS = 40
LARGEST = (0.27, 0.19, 0.13)  # of the cloud's height; the first at which all words find room
SEEDS = range(4)
FAINTEST, STRONGEST = 3.0, 6.0  # contrast on white, of the commonest and of the rarest word (WCAG 2.2, 1.4.3)


def draw(evidence: Evidence) -> list[Drawing]:
    """One drawing a field and task, one cloud a system."""
    look = looks([system.name for system in evidence.systems])
    drawings = []
    for task in TASKS:
        found = people(evidence, task)
        for field in CLOUDS:
            known = [own for own in found if len(own.values[field]) >= FEWEST]
            if known:
                drawings.append(_drawing(task, field, found, known, {name: own.colour for name, own in look.items()}))
    if not drawings:
        raise NoDataError(f"no run has the task personas of which {FEWEST} names or nationalities could be read")
    return drawings


def _drawing(task: str, field: str, found: list[People], known: list[People], colours: dict[str, str]) -> Drawing:
    columns = len(known) if len(known) < 4 else 2 if len(known) == 4 else 3
    rows = -(-len(known) // columns)
    high = 1.9 if columns < 3 else 1.6
    figure, grid = new_figure(rows * (high + 0.32), rows=rows, columns=columns, squeeze=False)
    names = short_names([own.system.name for own in known], {1: 70, 2: 38, 3: 20}[columns])
    tables, unset = [], 0
    for axes, own in zip(grid.flat, known, strict=False):
        counts = sorted(own.counts(field).items(), key=lambda pair: (-pair[1], pair[0]))
        words = {shown(field, value): count for value, count in counts if _can_be_set(shown(field, value))}
        unset += len(counts) - len(words)
        drawn = _cloud(axes, words, WIDTH / columns - 0.15, high, colours[own.system.name])
        n = sum(count for _, count in counts)
        axes.set_title(names[own.system.name], fontsize=9, pad=15)
        axes.text(0, 1.01, f"n = {n}, {len(counts)} different", transform=axes.transAxes, fontsize=8, va="bottom")
        tables += [
            {
                "system": own.system.name, "task": task, "field": field, "value": value, "count": count,
                "share": count / n, "n": n, "drawn": shown(field, value) in drawn,
            }
            for value, count in counts
        ]  # fmt: skip
    for axes in grid.flat[len(known) :]:
        axes.remove()
    table = pd.DataFrame(tables)
    what = FIELDS[field]
    title = f"Personas: {'first names' if field == 'first_name' else 'nationalities'}"
    caption = [
        f"The {what} of invented customers ({task}: {ASKED[task]}); the more personas have it, the larger the word, "
        "and the paler. Sizes compare within one cloud alone; n is the number of personas of which it could be read."
    ]
    if absent := [plain(own.system.name) for own in found if own not in known]:
        caption.append(f"Left out, with fewer than {FEWEST} that could be read: {', '.join(absent)}.")
    if hidden := int((~table.drawn).sum()) - unset:
        caption.append(f"{hidden} rare values found no room; the table has them.")
    if unset:
        caption.append(f"{unset} values in scripts that the picture's font cannot set are in the table alone.")
    name = f"persona_clouds_{field}" if task == TASKS[0] else f"{task}_clouds_{field}"
    return Drawing(name, _of_task(title, task), SOURCE, figure, table, " ".join(caption), _told(table, what))


def _of_task(title: str, task: str) -> str:
    return title if task == TASKS[0] else f"{title} (verbalised)"


def _told(table: pd.DataFrame, what: str) -> str:
    parts = []
    for system, own in table.groupby("system", sort=False):
        top = own.iloc[0]
        parts.append(
            f"{plain(str(system))}: {len(own)} different among {top.n}, most often "
            f"{plain(str(top.value))} ({top.share:.0%})"
        )
    return f"Commonest {what}: {'; '.join(parts)}."


def _can_be_set(word: str) -> bool:
    """Every glyph is there, and it is written from left to right."""
    return plain(word, len(word) + 1) == " ".join(word.split()) and not any(
        unicodedata.bidirectional(character) in ("R", "AL") for character in word
    )


def _cloud(axes: Axes, words: dict[str, int], width: float, height: float, colour: str) -> set[str]:
    """Draw the words into the axes of that many inches; those that found room."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    wide, high = round(width * 72 * DOTS), round(height * 72 * DOTS)
    axes.set(xlim=(0, wide), ylim=(high, 0), xticks=[], yticks=[], aspect="equal", anchor="NW")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not words:
        return set()
    shortened = {plain(word, 30): count for word, count in words.items()}
    layout = _layout(shortened, wide, high)
    most, least = max(shortened.values()), min(shortened.values())
    for word, size, left, baseline in layout:
        rarity = 1 - (shortened[word] - least) / (most - least) if most > least else 0.0
        path = TextPath((0, 0), word, size=size)
        vertices = path.vertices * (1, -1) + (left, baseline)
        axes.add_patch(
            PathPatch(
                Path(vertices, path.codes),
                color=shade(colour, FAINTEST + (STRONGEST - FAINTEST) * rarity),
                linewidth=0,
            )
        )
    placed = {word for word, *_ in layout}
    return {word for word in words if plain(word, 30) in placed}


def _layout(words: dict[str, int], wide: int, high: int) -> list[tuple[str, int, int, int]]:
    """(word, size, left, baseline) of each, in dots from the upper left corner; no two touch, none is cut.

    wordcloud (1.9.6) keeps a box of the ink free, but draws from the line of ascenders, so that a word may meet what
    is below it. Such words are left out, and of several layouts the first with the fewest of them is taken.
    """
    from wordcloud import WordCloud

    best: list[tuple[str, int, int, int]] = []
    for largest, seed in product(LARGEST, SEEDS):
        cloud = WordCloud(
            font_path=_font(), width=wide, height=round(high * 0.93), margin=4 * DOTS, prefer_horizontal=1.0,
            random_state=seed, min_font_size=round(SMALLEST * DOTS), max_font_size=round(high * largest),
            relative_scaling=0.5, max_words=MOST_WORDS,
        ).generate_from_frequencies(words)  # fmt: skip
        taken = np.zeros((high, wide), bool)
        kept = []
        for (word, _), size, (top, left), _, _ in cloud.layout_:
            ink, ascent = _ink(word, size, top, left, wide, high)
            if ink is not None and not (ink & taken).any():
                taken |= _wider(ink)
                kept.append((word, size, left, top + ascent))
        if len(kept) > len(best):
            best = kept
        if len(best) == min(len(words), MOST_WORDS):
            break
    return best


def _ink(word: str, size: int, top: int, left: int, wide: int, high: int) -> tuple[NDArray[np.bool_] | None, int]:
    """(high, wide) where the word is black, None where it would be cut; and how far its baseline is below `top`."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(_font(), size)
    image = Image.new("L", (wide + 2 * size, high + 2 * size))
    ImageDraw.Draw(image).text((left, top), word, fill=255, font=font)
    black = np.asarray(image) > 60
    cut = black[high:].any() or black[:, wide:].any()
    return None if cut else black[:high, :wide], int(font.getmetrics()[0])


def _wider(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The ink and a point and a half around it."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(ink, iterations=round(1.5 * DOTS)))


@cache
def _font() -> str:
    from matplotlib.font_manager import FontProperties, findfont

    return str(findfont(FontProperties(family="DejaVu Sans")))


def shade(colour: str, contrast: float) -> str:
    """The colour, darkened as little as it takes to have that contrast on white (WCAG 2.2: 1.05 / (L + .05))."""
    from matplotlib.colors import to_hex, to_rgb

    rgb = np.array(to_rgb(colour))
    low, high = 0.0, 1.0
    if contrast_on_white(rgb) >= contrast:
        return str(to_hex(tuple(rgb)))
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if contrast_on_white(rgb * middle) >= contrast else (low, middle)
    return str(to_hex(tuple(np.floor(rgb * low * 255) / 255)))


def contrast_on_white(rgb: Any) -> float:
    """1 (white) to 21 (black), of (3,) red, green and blue from 0 to 1."""
    value = np.asarray(rgb, np.float64)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05))
