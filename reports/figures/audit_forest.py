"""Forest plot of the audit: what each aligned model gained and lost against its reference, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from alignbench.audit.audit import Audit, Contrast, Row
from alignbench.audit.tax import RANGES
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.style import COST, FAINT, GAIN, INK, OPEN, new_figure, plain

TITLE = "Gains and costs, task by task"
MOST_CONTRASTS = 6
MOST_ROWS = 40
LETTERS = 36  # of a row's name
PERCENT = "% of the metric's range"
NORMAL = 1.96  # standard errors to each side of a 95 % interval
ROW, FRAME = 0.19, 0.75  # inches: of a row or of a group's name; of a panel's axis and its labels
GAP = 0.35  # rows: above a group's name
# verdict -> colour, mark, its inside
LOOKS = {
    "gain": (GAIN, ">", GAIN),
    "cost": (COST, "<", COST),
    "not decided": (OPEN, "o", "white"),
}


@dataclass(frozen=True)
class Bar:
    """A headline metric as drawn: the change for the better and its 95 % interval, in `unit`."""

    row: Row
    unit: str
    gain: float
    low: float | None
    high: float | None


def draw(evidence: Evidence) -> list[Drawing]:
    """One drawing a contrast, of the first MOST_CONTRASTS; the page's table has them all."""
    audit = evidence.audit
    judged = [contrast for contrast in audit.contrasts if bars_of(contrast)] if audit else []
    if audit is None or not judged:
        raise NoDataError("no two models have a headline metric in common")
    if len(judged) == 1:
        return [_forest(judged[0], "audit_forest", audit)]
    shown = judged[:MOST_CONTRASTS]
    return [_forest(contrast, f"audit_forest_{number}", audit) for number, contrast in enumerate(shown, start=1)]


def bars_of(contrast: Contrast) -> list[Bar]:
    """The headline metrics with a direction, by evidence."""
    return [_bar(row) for row in contrast.rows if row.headline and row.gain is not None]


def _bar(row: Row) -> Bar:
    gain, low, high = row.gain or 0.0, row.low, row.high
    if row.better == "lower" and low is not None and high is not None:
        low, high = -high, -low
    elif row.better in ("0.5", "0"):  # the audit's interval is that of the difference, not of the nearer
        reach = None if row.standard_error is None else NORMAL * row.standard_error
        low, high = (None, None) if reach is None else (gain - reach, gain + reach)
    if row.tax_of_range is None:
        return Bar(row, row.unit, gain, low, high)
    scale = _percent(row)
    return Bar(row, PERCENT, gain * scale, None if low is None else low * scale, None if high is None else high * scale)


def _percent(row: Row) -> float:
    """What turns the metric's unit into percent of its range."""
    if row.standard_error and row.tax_error is not None:
        return row.tax_error / row.standard_error
    if row.tax and row.tax_of_range is not None:
        return row.tax_of_range / row.tax
    low, high = RANGES.get(row.unit, (0.0, 1.0))  # nothing changed, and nothing varies: any factor gives 0
    return 100 / (high - low)


def _forest(contrast: Contrast, name: str, audit: Audit) -> Drawing:
    every = bars_of(contrast)
    bars = every[:MOST_ROWS]
    units = sorted({bar.unit for bar in bars}, key=lambda unit: (unit != PERCENT, unit))
    panels = [[bar for bar in bars if bar.unit == unit] for unit in units]
    heights = [FRAME + ROW * (len(own) + (1 + GAP) * len({bar.row.group for bar in own})) for own in panels]
    figure, grid = new_figure(
        sum(heights) + 0.25, rows=len(panels), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, own in zip(grid.flat, panels, strict=True):
        _panel(axes, own)
    shown = {bar.row.verdict for bar in bars}
    marks = [
        Line2D(
            [], [], color=colour, marker=marker, markerfacecolor=inside, label=f"{verdict} ({_count(bars, verdict)})"
        )
        for verdict, (colour, marker, inside) in LOOKS.items()
        if verdict in shown
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=3, handlelength=1.6, borderaxespad=0.2)
    whom = f"{plain(contrast.aligned)} against {plain(contrast.reference)}"
    role = "" if contrast.role == "reference" else f" ({contrast.role})"
    asked = "" if contrast.templates == "same" else ", each asked through its own template"
    return Drawing(
        name, f"{TITLE}: {whom}{role}{asked}", "", figure, _table(contrast, every), _caption(contrast, every, audit),
        _told(whom, bars),
    )  # fmt: skip


def _count(bars: Sequence[Bar], verdict: str) -> int:
    return sum(bar.row.verdict == verdict for bar in bars)


def _panel(axes: Axes, bars: Sequence[Bar]) -> None:
    """Rows of one unit below each other, the names of their groups above them, the numbers on the right."""
    place, ticks, labels = 0.0, [], []
    for number, group in enumerate(sorted({bar.row.group for bar in bars})):
        place += GAP if number else 0.0
        axes.text(
            -0.01, place, group, transform=axes.get_yaxis_transform(), ha="right", va="center_baseline",
            fontweight="bold", fontsize=8.5,
        )  # fmt: skip
        place += 1
        of_group = [bar for bar in bars if bar.row.group == group]
        for bar in sorted(of_group, key=lambda bar: (-bar.gain, bar.row.task, bar.row.variant)):
            _mark(axes, bar, place)
            ticks.append(place)
            labels.append(_label(bar.row))
            place += 1
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    axes.text(0, 1.0, "no change", transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
    axes.set_ylim(place - 0.3, -0.7)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    low, high = axes.get_xlim()
    if low == high or not any(bar.gain or bar.low or bar.high for bar in bars):
        axes.set_xlim(-1, 1)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    unit = bars[0].unit
    axes.set_xlabel(f"← cost    {unit}    gain →", fontsize=8.5)


def _mark(axes: Axes, bar: Bar, place: float) -> None:
    colour, marker, inside = LOOKS.get(bar.row.verdict, LOOKS["not decided"])
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=1.5, solid_capstyle="butt", zorder=2)
    axes.plot(
        [bar.gain], [place], linestyle="", marker=marker, color=colour, markerfacecolor=inside, markersize=6, zorder=3
    )
    axes.text(
        1.02, place, _numbers(bar), transform=axes.get_yaxis_transform(), va="center_baseline", fontsize=8,
        color=INK if bar.row.verdict in ("gain", "cost") else FAINT,
    )  # fmt: skip


def _numbers(bar: Bar) -> str:
    largest = max(abs(x) for x in (bar.gain, bar.low, bar.high) if x is not None)
    digits = 1 if largest >= 1 else 2
    value, *ends = (
        f"{round(x, digits) + 0.0:+.{digits}f}".replace("-", "−")  # + 0.0 makes -0.0 a 0
        for x in (bar.gain, bar.low, bar.high)
        if x is not None
    )
    return f"{value} [{ends[0]}, {ends[1]}]" if len(ends) == 2 else f"{value} (no interval)"


def _label(row: Row) -> str:
    """Task, variant and metric; the metric is left to the table where there is no room for it."""
    task = row.task + (f" ({row.variant})" if row.variant else "")
    whole = f"{task} · {row.metric.replace('_', ' ')}"
    return plain(whole if len(whole) <= LETTERS and row.metric not in row.task else task, LETTERS)


def _table(contrast: Contrast, bars: Sequence[Bar]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "reference": contrast.reference,
                "aligned": contrast.aligned,
                "group": bar.row.group,
                "task": bar.row.task,
                "variant": bar.row.variant,
                "metric": bar.row.metric,
                "unit": bar.unit,
                "gain": bar.gain,
                "low": bar.low,
                "high": bar.high,
                "verdict": bar.row.verdict,
                "p_holm": bar.row.p_holm,
                "n": bar.row.n,
                "test": bar.row.test,
                "scorer": bar.row.scorer,
                "drawn": number < MOST_ROWS,
            }
            for number, bar in enumerate(bars)
        ]
    )


def _caption(contrast: Contrast, bars: Sequence[Bar], audit: Audit) -> str:
    counts = sorted({bar.row.n for bar in bars})
    n = f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,}–{counts[-1]:,} (in the table)"
    parts = [
        "Each mark is the change for the better of a task's headline metric on the documents that both models "
        f"answered ({n}); bars are 95 % intervals, of paired resampling ({audit.resamples:,} resamples) unless the "
        "table names another test; of metrics that are best at a target, 1.96 standard errors. Gain and cost: "
        "significant at 5 % after Holm's correction for all rows."
    ]
    if any(bar.unit != PERCENT for bar in bars):
        parts.append("Metrics without a finite range have panels in their own unit.")
    if len(bars) > MOST_ROWS:
        parts.append(
            f"Drawn are the {MOST_ROWS} rows with the strongest evidence; {len(bars) - MOST_ROWS} more are in the CSV."
        )
    told = [row.task for row in contrast.rows if row.headline and row.gain is None]
    if told:
        parts.append(f"Not drawn, since they cannot be judged: {', '.join(plain(task, 40) for task in told)}.")
    scorers = sorted({plain(bar.row.scorer.partition("@")[0], 90) for bar in bars if bar.row.scorer})
    if scorers:
        parts.append(f"Scored by {', '.join(scorers)}.")
    return " ".join(parts)


def _told(whom: str, bars: Sequence[Bar]) -> str:
    def some(verdict: str) -> str:
        own = [f"{bar.row.task} {_numbers(bar)}" for bar in bars if bar.row.verdict == verdict]
        return f"{len(own)} {verdict}{'' if len(own) == 1 else 's'}" + (f" ({'; '.join(own)})" if own else "")

    return f"{whom}: {some('gain')}, {some('cost')}, {_count(bars, 'not decided')} not decided."
