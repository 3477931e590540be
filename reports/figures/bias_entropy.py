"""Entropy of the choice between a sentence and its counterpart, by system and instruction (InstructGPT, figure 32)."""

from __future__ import annotations

import pandas as pd

from alignbench.tasks.bias import INSTRUCTIONS, task_name
from reports.chart import Panel, row_panels
from reports.drawing import Drawing, by_part, extremes, left_out, n_range, rows_of, table_of
from reports.evidence import Evidence
from reports.style import INK, plain

BENCHMARKS = {"winogender": "Winogender", "crows_pairs": "CrowS-Pairs"}
SHOWN = {"basic": "no instruction", "respectful": "respectful", "biased": "biased"}
UNIFORM = (1.0, "uniform")  # bits
STEREOTYPE = "pct_stereotype"


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw a row of panels per benchmark and a column per instruction."""
    every = [(benchmark, variant) for benchmark in BENCHMARKS for variant in INSTRUCTIONS]
    table, stereotypes = (
        pd.DataFrame(
            point.row(benchmark=benchmark, instruction=variant)
            for benchmark, variant in every
            for point in evidence.points(task_name(benchmark, variant), metric)
        )
        for metric in ("entropy", STEREOTYPE)
    )
    table = table_of(table.to_dict("records"), "neither Winogender nor CrowS-Pairs is among the tasks")
    keys = ["benchmark", "instruction", "system"]
    stereotypes = stereotypes.merge(table[keys]) if len(stereotypes) else stereotypes
    variants = [variant for variant in INSTRUCTIONS if variant in set(table.instruction)]
    parts = [(name, variant) for name in BENCHMARKS if name in set(table.benchmark) for variant in variants]
    panels = [
        Panel(BENCHMARKS[name], table[(table.benchmark == name) & (table.instruction == v)], SHOWN[v], UNIFORM)
        for name, v in parts
    ]
    rows = rows_of(evidence, table)
    beside = "; ◇ pct_stereotype" if len(stereotypes) else ""
    columns = len(variants) if len(variants) > 1 else len(parts)
    figure = row_panels(panels, rows, label=f"entropy of the choice (bits){beside}", columns=columns, most=1)
    for axes, (name, variant) in zip(figure.axes, parts, strict=True):
        if name == "crows_pairs" and len(stereotypes):
            own = stereotypes[stereotypes.instruction == variant]
            places = [list(rows).index(system) for system in own.system]
            axes.plot(own.value, places, "D", color=INK, markerfacecolor="white", markersize=4, zorder=5, clip_on=False)
    caption = (
        "Bars: mean entropy of the choice between the two sentences of a pair; the maximum, 1 bit, is a uniform "
        "choice. Entropy also rises if a model is merely less certain: compare pct_stereotype, the proportion of "
        f"CrowS-Pairs in which the stereotype is more likely (0.5: no preference){_stereotypes(stereotypes)}. "
        f"Whiskers: 95 % t intervals, clustered by occupation for Winogender; {n_range(table, 'pairs')}."
        f"{left_out(table, evidence)}"
    )
    alt = by_part(table, ["benchmark", "instruction"], extremes, benchmark=BENCHMARKS, instruction=SHOWN)
    whole = pd.concat([table, stereotypes], ignore_index=True)
    source = "InstructGPT, figure 32"
    return [Drawing("bias_entropy", "Bias: entropy of the choice", source, figure, whole, caption, f"Bits. {alt}.")]


def _stereotypes(table: pd.DataFrame) -> str:
    """Return the values for the first instruction; those for the others are in the table."""
    if table.empty:
        return ", which no run reports"
    first = table[table.instruction == table.instruction.iloc[0]]
    each = ", ".join(f"{plain(row.system)} {row.value:.0%}" for row in first.itertuples())
    return f" (diamonds; {SHOWN[str(first.instruction.iloc[0])]}: {each})"
