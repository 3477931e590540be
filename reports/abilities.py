"""An audit by ability: the bars of a contrast, and contrasts side by side in panels that share their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from alignbench.audit.abilities import ABILITIES, name_of
from alignbench.audit.audit import Contrast
from alignbench.audit.tax import CAPABILITY
from reports.style import GAIN, INK, LOSS, OPEN, plain

PERCENT = "% of the metric's range"
LOOKS = {  # verdict -> colour, marker, its inside, and the character for texts
    "gain": (GAIN, ">", GAIN, "▲"),
    "loss": (LOSS, "<", LOSS, "▼"),
    "retained": (OPEN, "o", OPEN, "●"),
    "inconclusive": (OPEN, "o", "white", "○"),
    "mixed": (INK, "D", INK, "◆"),
    "–": (OPEN, "o", "white", "–"),
}
Place = tuple[str, str]  # ability and name of a row


@dataclass(frozen=True)
class Bar:
    """gain, low, high: in percent of the metric's range, above 0 is better; no interval: None"""

    ability: str
    name: str
    gain: float
    low: float | None
    high: float | None
    verdict: str


def bars_of(contrast: Contrast) -> list[Bar]:
    """The tested benchmarks, strongest evidence first; of capabilities the mean tax and that of each group, as gains.

    Metrics without a finite range are left out.
    """
    groups = contrast.groups if len(contrast.groups) > 1 else ()
    found = []
    for own in (contrast.mean, *groups) if contrast.mean else ():
        name = "mean of groups" if own.name == "all" else own.name
        low, high = (None if end is None else -end for end in (own.high, own.low))
        found.append(Bar(CAPABILITY, name, -own.value, low, high, own.verdict))
    for row in contrast.rows:
        inside = contrast.mean is not None and row.ability == CAPABILITY  # of the means
        if row.primary and row.span and row.gain is not None and not inside:
            low, high = (None if x is None else 100 * x / row.span for x in (row.gain_low, row.gain_high))
            found.append(Bar(row.ability, name_of(row), 100 * row.gain / row.span, low, high, row.verdict))
    return found


def rows_of(columns: Sequence[Sequence[Bar]], most: int) -> list[Place]:
    """The rows of all columns by ability. At most `most` in all, the same number of each ability: its first ones."""
    every = list(dict.fromkeys((bar.ability, bar.name) for column in columns for bar in column))
    for each in range(len(every), 0, -1):
        rows = [row for own in ABILITIES for row in [row for row in every if row[0] == own][:each]]
        if len(rows) <= most:
            return rows
    return rows[:most] if every else []


def draw_bars(panels: Sequence[Axes], columns: Sequence[Sequence[Bar]], rows: Sequence[Place], letters: int) -> None:
    """Draw a column of bars into each panel. The names of the rows, of at most `letters`, are left of the first one."""
    drawn = [[bar for bar in column if (bar.ability, bar.name) in rows] for column in columns]
    ends = [abs(x) for own in drawn for bar in own for x in (bar.gain, bar.low, bar.high) if x is not None]
    reach = 1.08 * (max(ends, default=0) or 1)
    firsts = [place for place, row in enumerate(rows) if place == 0 or rows[place - 1][0] != row[0]]
    for axes, own in zip(panels, drawn, strict=True):
        for bar in own:
            colour, marker, inside, _ = LOOKS[bar.verdict]
            place = rows.index((bar.ability, bar.name))
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=1.4, zorder=2)
            axes.plot([bar.gain], [place], marker, color=colour, markerfacecolor=inside, markersize=4.5, zorder=3)
        for first in firsts[1:]:
            axes.axhline(first - 0.5, color="#dddddd", linewidth=0.6, zorder=1)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
        axes.xaxis.set_major_locator(MaxNLocator(4 if len(panels) < 5 else 2, symmetric=True, prune="both"))
        axes.grid(axis="x")
        axes.set_yticks(range(len(rows)), [])
        axes.tick_params(axis="x", length=0, labelsize=7 if len(panels) < 5 else 5.5)
        axes.tick_params(axis="y", length=0, labelsize=7)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [plain(name, letters) for _, name in rows])
