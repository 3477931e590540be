"""Curves of trainings, as `alignbench train` logs them: PPO over iterations, SFT and reward models over steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from reports.chart import Panel, line_panels
from reports.drawing import WORDS, Drawing, describe
from reports.evidence import Evidence

PER_EPOCH = ("validation_loss", "accuracy")  # columns logged once per epoch, on held-out data


def draw(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a figure per kind of training, a panel per quantity, a line per run."""
    often = Counter(run.name for run in evidence.trainings)
    names = [run.name if often[run.name] == 1 else f"{run.path.parent.name}/{run.name}" for run in evidence.trainings]
    looks = evidence.looks(*names)
    for figure_name, kind in WORDS["training_curves"].items():
        step, columns = kind["step"], kind["columns"]
        runs = {name: run for name, run in zip(names, evidence.trainings, strict=True) if run.stage in kind["stages"]}
        wanted = [*columns, *(f"{column}_{end}" for column in PER_EPOCH for end in ("low", "high"))]
        table = pd.DataFrame(
            {"run": name, step: line["step"], **{column: line.get(column) for column in wanted}}
            for name, run in runs.items()
            for line in run.metrics
        )
        bad = int(
            table.reindex(columns=list(columns)).map(lambda value: isinstance(value, str)).sum().sum()
        )  # "nan" in JSON
        values = table.iloc[:, 2:].apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
        table = pd.concat([table.iloc[:, :2], values], axis="columns").dropna(axis="columns", how="all")
        panels = []
        for column, (quantity, unit) in columns.items():
            if column in table:
                low, high = (table.get(f"{column}_{end}", np.nan) for end in ("low", "high"))
                own = table.assign(value=table[column], low=low, high=high, panel=quantity).dropna(subset=["value"])
                panels.append(Panel(quantity, own, unit, (0.5, "chance") if column == "accuracy" else None))
        if panels:
            lines = {run: looks[run] for run in runs}
            figure = line_panels(
                panels, lines, x=step, line="run", label=step, columns=2, height=2.1, form="{:.0f}".format
            )
            yield describe(
                "training_curves", figure, table, name=figure_name, drawn=pd.concat(panel.table for panel in panels),
                title=kind["title"], step=step, runs=list(runs), bad=bad, per_epoch=PER_EPOCH,
            )  # fmt: skip
