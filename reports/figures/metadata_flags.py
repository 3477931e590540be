"""Shares of outputs that labelers flagged, by flag and model (InstructGPT, figure 4)."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace

import pandas as pd

from alignbench.labels.summary import ModelFinding, summary
from alignbench.labels.table import flag_names
from reports.bars import ROW, draw_bars, extremes, look_of, n_told, name_rows, names_of, shares_axis, top_of
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.style import new_figure, plain

TITLE = "What labelers flagged"
COLUMNS = 3
A_LINE, LINES = 17, 3  # characters in a line of a panel's title, and lines of it


def draw(evidence: Evidence) -> list[Drawing]:
    """One panel a flag, each with an axis of its own: rare flags would vanish beside common ones."""
    flags = flag_names(evidence.labels)
    if not flags:
        raise NoDataError("no table of labels with flags")
    alone = [replace(label, rank=None, likert=None) for label in evidence.labels]  # without win rates, which take long
    table = pd.DataFrame(flag_row(found) for found in summary(alone))
    names = names_of(evidence, set(table.system))
    look = look_of(evidence, names)
    columns = min(COLUMNS, len(flags))
    rows = math.ceil(len(flags) / columns)
    height = 0.4 + rows * (0.9 + ROW * len(names))
    figure, grid = new_figure(height, rows=rows, columns=columns, sharey=True, squeeze=False)
    for axes, flag in zip(grid.flat, flags, strict=False):
        own = table[table.flag == flag]
        draw_bars(axes, own, names, look)
        name_rows(axes, names)
        shares_axis(axes, top_of(own), ticks=3)
        axes.set_title(_title(flag), fontsize=8.5)
    for axes in grid.flat[len(flags) :]:
        axes.set_axis_off()
    scale = " (each panel has its own scale)" if len(flags) > 1 else ""
    figure.supxlabel(f"share of labels{scale}", fontsize=9)
    caption = (
        "Bars: share of the labels that answered the question and said yes. Whiskers: 95 % Wilson intervals, clustered "
        f"by prompt; {n_told(table, 'labels a bar')}."
    )
    told = "; ".join(f"{plain(flag, 60)}: {extremes(table[table.flag == flag], '.1%')}" for flag in flags)
    return [Drawing("metadata_flags", TITLE, "InstructGPT, figure 4", figure, table, caption, f"Flagged. {told}.")]


def flag_row(found: ModelFinding) -> dict[str, object]:
    own = found.estimate
    return {
        "system": found.model, "flag": found.statistic, "value": own.value, "low": own.low, "high": own.high,
        "n": own.n, "prompts": own.clusters,
    }  # fmt: skip


def _title(flag: str) -> str:
    words = plain(flag.replace("_", " "), A_LINE * LINES - 8)
    return "\n".join(textwrap.wrap(words[:1].upper() + words[1:], A_LINE)[:LINES])
