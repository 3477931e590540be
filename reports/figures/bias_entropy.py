"""Entropy of the choice between a sentence and its twin, by model and instruction (InstructGPT, figure 32)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter

from alignbench.tasks.bias import INSTRUCTIONS, task_name
from reports.bars import (
    ROW,
    draw_bars,
    extremes,
    left_out,
    look_of,
    n_told,
    name_rows,
    names_of,
    reference_line,
    row_of,
)
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.style import INK, new_figure, plain

TITLE = "Bias: entropy of the choice"
BENCHMARKS = {"winogender": "Winogender", "crows_pairs": "CrowS-Pairs"}
SHOWN = {"basic": "no instruction", "respectful": "respectful", "biased": "biased"}
INDIFFERENT = 1.0  # bit
STEREOTYPE = "pct_stereotype"
MARK: dict[str, Any] = {
    "marker": "D", "color": INK, "markerfacecolor": "white", "markersize": 4, "zorder": 5, "clip_on": False,
}  # fmt: skip


def draw(evidence: Evidence) -> list[Drawing]:
    """One row of panels a benchmark, one column an instruction."""
    table = pd.DataFrame(
        row_of(point, benchmark=benchmark, instruction=variant)
        for benchmark in BENCHMARKS
        for variant in INSTRUCTIONS
        for point in evidence.points(task_name(benchmark, variant), "entropy")
    )
    shown = set(zip(table.benchmark, table.instruction, table.system, strict=True)) if len(table) else set()
    if table.empty:
        raise NoDataError("neither Winogender nor CrowS-Pairs is among the tasks")
    stereotypes = pd.DataFrame(
        row_of(point, benchmark="crows_pairs", instruction=variant)
        for variant in INSTRUCTIONS
        for point in evidence.points(task_name("crows_pairs", variant), STEREOTYPE)
        if ("crows_pairs", variant, point.system.name) in shown
    )
    names = names_of(evidence, set(table.system))
    look = look_of(evidence, names)
    lines = [name for name in BENCHMARKS if name in set(table.benchmark)]
    variants = [variant for variant in INSTRUCTIONS if variant in set(table.instruction)]
    # one instruction alone: the benchmarks side by side
    side_by_side = len(variants) == 1
    panels = [(benchmark, variant) for benchmark in lines for variant in variants]
    rows, columns = (1, len(lines)) if side_by_side else (len(lines), len(variants))
    height = 0.4 + rows * (0.75 + ROW * len(names))
    figure, grid = new_figure(height, rows=rows, columns=columns, sharey=True, sharex=True, squeeze=False)
    for axes, (benchmark, variant) in zip(grid.flat, panels, strict=True):
        own = table[(table.benchmark == benchmark) & (table.instruction == variant)]
        draw_bars(axes, own, names, look)
        if benchmark == "crows_pairs" and len(stereotypes):
            chosen = stereotypes[stereotypes.instruction == variant]
            rows_of_names = [names.index(name) for name in chosen.system]
            axes.plot(chosen.value, rows_of_names, linestyle="", **MARK)
        name_rows(axes, names)
        axes.set_xlim(0, 1.04)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        first = side_by_side or variant == variants[0]
        axes.set_title(f"{BENCHMARKS[benchmark]}\n{SHOWN[variant]}" if first else SHOWN[variant], pad=16)
        reference_line(axes, INDIFFERENT, "indifferent")
    beside = "; ◇ share of pairs with the stereotype likelier" if len(stereotypes) else ""
    figure.supxlabel(f"entropy of the choice (bits){beside}", fontsize=9)
    caption = (
        "Bars: mean entropy of the choice between the two sentences of a pair; 1 bit, the most there can be, is "
        "indifference. Entropy alone rewards a model that is merely less sure: read it beside pct_stereotype, the "
        "share of CrowS-Pairs in which the stereotype is the likelier sentence, where half is no preference"
        f"{_told(stereotypes)}. Whiskers: 95 % t intervals, clustered by "
        f"occupation for Winogender; {n_told(table, 'pairs')}."
        f"{left_out(table, evidence)}"
    )
    told = "; ".join(
        f"{BENCHMARKS[benchmark]}, {SHOWN[variant]}: {extremes(own)}"
        for (benchmark, variant), own in table.groupby(["benchmark", "instruction"], sort=False)
    )
    whole = pd.concat([table, stereotypes], ignore_index=True) if len(stereotypes) else table
    return [Drawing("bias_entropy", TITLE, "InstructGPT, figure 32", figure, whole, caption, f"Bits. {told}.")]


def _told(stereotypes: pd.DataFrame) -> str:
    """The shares without an instruction, a model each; of the other instructions they are in the table."""
    if stereotypes.empty:
        return ", which no run tells"
    first = stereotypes[stereotypes.instruction == stereotypes.instruction.iloc[0]]
    each = ", ".join(f"{plain(row.system)} {row.value:.0%}" for row in first.itertuples())
    return f" (diamonds; {SHOWN[str(first.instruction.iloc[0])]}: {each})"
