"""Forest plot of the audit: gains and losses of each aligned model against its reference, task by task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from alignbench.audit.audit import Audit, Contrast, Row
from reports.drawing import Drawing, NoDataError, describe
from reports.evidence import Evidence
from reports.style import FAINT, GAIN, INK, LOSS, OPEN, SMALL, new_figure, plain

MOST_CONTRASTS, MOST_ROWS = 6, 40
LETTERS = 36  # of a row's name
PERCENT = "% of the metric's range"
NORMAL = 1.96  # standard errors to each side of a 95 % interval
ROW, FRAME, GAP = 0.19, 0.75, 0.35  # inches of a row and of a panel's frame; rows above a group's name
VERDICTS = {  # verdict -> plural, colour, marker, its inside
    "gain": ("gains", GAIN, ">", GAIN),
    "loss": ("losses", LOSS, "<", LOSS),
    "inconclusive": ("inconclusive", OPEN, "o", "white"),
}


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw the first MOST_CONTRASTS contrasts; the page's table has all of them."""
    audit = evidence.audit
    tested = [contrast for contrast in audit.contrasts if _tested(contrast)] if audit else []
    if audit is None or not tested:
        raise NoDataError("no two models with a headline metric in common")
    names = ["audit_forest"] if len(tested) == 1 else [f"audit_forest_{n}" for n in range(1, MOST_CONTRASTS + 1)]
    return [_forest(contrast, name, audit) for contrast, name in zip(tested, names, strict=False)]


def _tested(contrast: Contrast) -> list[Row]:
    return [row for row in contrast.rows if row.headline and row.gain is not None]


def _forest(contrast: Contrast, name: str, audit: Audit) -> Drawing:
    models = {"reference": contrast.reference, "aligned": contrast.aligned}
    columns = ("group", "task", "variant", "metric", "verdict", "p_holm", "n", "test", "scorer")
    table = pd.DataFrame(
        {**models, **{column: getattr(row, column) for column in columns}, **_bar(row)} for row in _tested(contrast)
    ).astype({"low": float, "high": float})
    table["drawn"] = table.index < MOST_ROWS
    shown = table[table.drawn]
    units = sorted(set(shown.unit), key=lambda unit: (unit != PERCENT, unit))
    panels = [shown[shown.unit == unit] for unit in units]
    heights = [FRAME + ROW * (len(own) + (1 + GAP) * own.group.nunique()) for own in panels]
    ratios = {"height_ratios": heights}
    figure, grid = new_figure(sum(heights) + 0.25, rows=len(panels), squeeze=False, gridspec_kw=ratios)
    for axes, own in zip(grid.flat, panels, strict=True):
        _panel(axes, own)
    marks, results = [], []
    for verdict, (plural, colour, marker, inside) in VERDICTS.items():
        own = shown[shown.verdict == verdict]
        label = f"{verdict} ({len(own)})"
        marks += [Line2D([], [], color=colour, marker=marker, markerfacecolor=inside, label=label)] * (len(own) > 0)
        values = "; ".join(f"{row.task} {_numbers(row)}" for _, row in own.iterrows())
        detail = f" ({values})" if values and verdict != "inconclusive" else ""
        results.append(f"{len(own)} {verdict if len(own) == 1 else plural}{detail}")
    figure.legend(handles=marks, loc="outside upper left", ncols=3, handlelength=1.6, borderaxespad=0.2)
    facts = {"contrast": contrast, "resamples": audit.resamples, "results": results, "percent": PERCENT}
    return describe("audit_forest", figure, table, name=name, **facts)


def _bar(row: Row) -> dict[str, Any]:
    """Return unit, gain and interval as drawn: positive is better, in percent of the metric's range if it has one."""
    gain = row.gain or 0.0
    ends: tuple[float | None, ...] = (row.low, row.high)
    if row.better == "lower":
        ends = tuple(None if end is None else -end for end in reversed(ends))
    elif row.better in (
        "0.5",
        "0",
    ):  # the audit's interval is that of the difference, not of the distance to the target
        error = row.standard_error
        ends = (None, None) if error is None else (gain - NORMAL * error, gain + NORMAL * error)
    scale = 1.0 if row.tax_of_range is None else _percent(row)
    low, high = (None if end is None else end * scale for end in ends)
    return {"unit": row.unit if row.tax_of_range is None else PERCENT, "gain": gain * scale, "low": low, "high": high}


def _percent(row: Row) -> float:
    """Return the factor from the metric's unit to percent of its range."""
    for part, whole in ((row.tax_error, row.standard_error), (row.tax_of_range, row.tax)):
        if part is not None and whole:
            return part / whole
    return 1.0  # no change and no variance: every factor gives 0


def _panel(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the rows of one unit below the names of their groups, with the numbers on the right."""
    place, ticks, labels = -GAP, [], []
    beside = axes.get_yaxis_transform()
    for group, own in table.groupby("group"):
        place += GAP
        style: dict[str, Any] = {"ha": "right", "va": "center_baseline", "fontweight": "bold", "fontsize": 8.5}
        axes.text(-0.01, place, str(group), transform=beside, **style)
        for _, row in own.sort_values(["gain", "task", "variant"], ascending=[False, True, True]).iterrows():
            place += 1
            _, colour, marker, inside = VERDICTS.get(row.verdict, VERDICTS["inconclusive"])
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=1.5, zorder=2)
            axes.plot([row.gain], [place], marker, color=colour, markerfacecolor=inside, markersize=6, zorder=3)
            ink = FAINT if row.verdict == "inconclusive" else INK
            axes.text(1.02, place, _numbers(row), transform=beside, va="center_baseline", fontsize=SMALL, color=ink)
            ticks.append(place)
            labels.append(_label(row))
        place += 1
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    axes.text(0, 1.0, "no change", transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=SMALL)
    axes.set_ylim(place - 0.3, -0.7)
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if not np.nan_to_num(table[["gain", "low", "high"]].to_numpy(np.float64)).any():
        axes.set_xlim(-1, 1)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.set_xlabel(f"← loss    {table.unit.iloc[0]}    gain →", fontsize=8.5)


def _numbers(row: pd.Series) -> str:
    values = [x for x in (row.gain, row.low, row.high) if pd.notna(x)]
    digits = 1 if max(map(abs, values)) >= 1 else 2
    value, *ends = (f"{round(x, digits) + 0.0:+.{digits}f}".replace("-", "−") for x in values)  # + 0.0: no -0
    return f"{value} [{ends[0]}, {ends[1]}]" if len(ends) == 2 else f"{value} (no interval)"


def _label(row: pd.Series) -> str:
    """Return task, variant and, if there is room, the metric."""
    task = row.task + (f" ({row.variant})" if row.variant else "")
    whole = f"{task} · {row.metric.replace('_', ' ')}"
    return plain(whole if len(whole) <= LETTERS and row.metric not in row.task else task, LETTERS)
