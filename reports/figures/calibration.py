"""Reliability diagrams: accuracy by confidence, of tasks with choices (Guo et al. 2017, arXiv 1706.04599, figure 4)."""

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from alignbench.stats.calibration import BINS, reliability
from alignbench.tasks.calibration import SUFFIX
from reports.chart import Panel, panel_grid, per_cent, reach
from reports.drawing import Drawing, describe, rows_of
from reports.evidence import Evidence, Point
from reports.style import FAINT, plain, wrapped_names

COLUMNS = 2


def diagrams(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per task with choices, a panel per system."""
    for task in [name for name in evidence.tasks if name.endswith(SUFFIX)]:
        points = evidence.points(task, "ece")
        table = pd.concat([_bins(point) for point in points]) if points else pd.DataFrame()
        if table.empty:
            continue
        rows = rows_of(evidence, table)
        names = wrapped_names(rows, 24)
        panels = [_panel(names[name], table[table.system == name]) for name in rows]
        figure, grid = panel_grid(panels, 2.1, columns=COLUMNS, sharex=True, sharey=True)
        low, high = table.confidence.min(), table.confidence.max()
        for axes, panel, look in zip(grid, panels, rows.values(), strict=True):
            own = panel.table
            axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
            bars: dict[str, Any] = {"yerr": reach(own), "linestyle": "none", "markersize": 3.5, "elinewidth": 0.7}
            axes.errorbar(own.confidence, own.value, zorder=3, **bars, **look.mark)
            margin = 0.05 * (high - low) + 0.01
            axes.set(xlim=(low - margin, high + margin), ylim=(-0.02, 1.02))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
                axis.set_major_formatter(FuncFormatter(lambda at, _: per_cent(at)))
            axes.grid()
        figure.supxlabel("confidence: probability of the chosen answer", fontsize=9)
        figure.supylabel("accuracy", fontsize=9)
        name = task.removesuffix(SUFFIX)
        facts: dict[str, Any] = {"task": plain(name, 40), "bins": BINS, "evidence": evidence}
        yield describe("reliability", figure, table, name="reliability_" + re.sub(r"[^\w-]", "_", name), **facts)


def _panel(name: str, table: pd.DataFrame) -> Panel:
    head = table.iloc[0]
    ends = "" if pd.isna(head.ece_low) else f" [{head.ece_low:.3f}, {head.ece_high:.3f}]"
    return Panel(name, table, f"ECE {head.ece:.3f}{ends}; {head.ece_if_calibrated:.3f} if calibrated")


def _bins(point: Point) -> pd.DataFrame:
    """The bins of a system's answers, each with the errors of all of them."""
    known = [record for record in point.task.records() if record.metrics.get("confidence") is not None]
    confidences, right = ([record.values[name] for record in known] for name in ("confidence", "accuracy"))
    error, expected = point.metric, point.task.result.overall["ece_if_calibrated"].value
    whole = {"ece": error.value, "ece_low": error.low, "ece_high": error.high, "ece_if_calibrated": expected}
    return pd.DataFrame(
        point.row(bin=number, confidence=mean)
        | {"metric": "accuracy", "value": own.value, "low": own.low, "high": own.high, "n": own.n, **whole}
        | {"unscored": error.n_unscored * (number == 1)}  # once for all bins
        for number, (mean, own) in enumerate(reliability(confidences, right, [record.cluster for record in known]), 1)
    )
