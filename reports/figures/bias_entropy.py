"""Entropy of the choice between a sentence and its counterpart, by system and instruction (InstructGPT, figure 32)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from alignbench.tasks.bias import INSTRUCTIONS, task_name
from reports.chart import Panel, row_panels
from reports.drawing import Drawing, describe, rows_of, table_of
from reports.evidence import Evidence
from reports.style import INK

BENCHMARKS = {"winogender": "Winogender", "crows_pairs": "CrowS-Pairs"}
SHOWN = {"basic": "no instruction", "respectful": "respectful", "biased": "biased"}
UNIFORM = (1.0, "uniform")  # bits


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw a row of panels per benchmark and a column per instruction."""
    rows = [
        point.row(benchmark=benchmark, instruction=variant)
        for metric in ("entropy", "pct_stereotype")
        for benchmark in BENCHMARKS
        for variant in INSTRUCTIONS
        for point in evidence.points(task_name(benchmark, variant), metric)
    ]
    entropies = table_of(
        (row for row in rows if row["metric"] == "entropy"), "neither Winogender nor CrowS-Pairs is among the tasks"
    )
    stereotypes = pd.DataFrame(rows).merge(entropies[["benchmark", "instruction", "system"]])
    stereotypes = stereotypes[stereotypes.metric != "entropy"]
    variants = [variant for variant in INSTRUCTIONS if variant in set(entropies.instruction)]
    parts = [(name, variant) for name in BENCHMARKS if name in set(entropies.benchmark) for variant in variants]
    panels = [
        Panel(
            BENCHMARKS[name], entropies[(entropies.benchmark == name) & (entropies.instruction == v)], SHOWN[v], UNIFORM
        )
        for name, v in parts
    ]
    systems = rows_of(evidence, entropies)
    label = f"entropy of the choice (bits){'; ◇ pct_stereotype' if len(stereotypes) else ''}"
    columns = len(variants) if len(variants) > 1 else len(parts)
    figure = row_panels(panels, systems, label=label, columns=columns, most=1)
    for axes, (name, variant) in zip(figure.axes, parts, strict=True):
        own = stereotypes[(stereotypes.benchmark == name) & (stereotypes.instruction == variant)]
        places = [list(systems).index(system) for system in own.system]
        mark: dict[str, Any] = {
            "marker": "D",
            "color": INK,
            "facecolors": "white",
            "s": 16,
            "zorder": 5,
            "clip_on": False,
        }
        axes.scatter(own.value, places, **mark)
    whole = pd.concat([entropies, stereotypes], ignore_index=True)
    facts: dict[str, Any] = {"benchmarks": BENCHMARKS, "instructions": SHOWN, "evidence": evidence}
    first = stereotypes[stereotypes.instruction == variants[0]]
    return [describe("bias_entropy", figure, whole, entropies=entropies, stereotypes=first, **facts)]
