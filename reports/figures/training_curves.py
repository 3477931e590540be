"""Curves of trainings, as `alignbench train` logs them: PPO over iterations, SFT and reward models over steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from reports.chart import Panel, line_panels
from reports.drawing import Drawing, NoDataError, describe
from reports.evidence import Evidence, TrainingRun
from reports.style import Look

STAGES = {  # name of the figure -> title, stages, name of the steps, column of metrics.jsonl -> title and unit
    "training_curves": ("PPO", ("ppo", "ppo-ptx"), "iteration", {
        "score": ("Reward", "reward of a response"),
        "kl": ("KL from the initial policy", "nats per response"),
        "entropy": ("Entropy", "nats per token"),
        "response_tokens": ("Length", "tokens per response"),
    }),
    "training_curves_sft": ("SFT", ("sft",), "step", {
        "loss": ("Training loss", "nats per token"),
        "validation_loss": ("Validation loss", "nats per token"),
    }),
    "training_curves_reward": ("reward models", ("reward",), "step", {
        "loss": ("Training loss", "nats per comparison"),
        "accuracy": ("Accuracy on held-out labels", "proportion of pairs"),
    }),
}  # fmt: skip
PER_EPOCH = ("validation_loss", "accuracy")  # columns logged once per epoch, on held-out data


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per kind of training, a panel per quantity, a line per run."""
    if not evidence.trainings:
        raise NoDataError("no training folder among the arguments")
    often = Counter(run.name for run in evidence.trainings)
    names = [run.name if often[run.name] == 1 else f"{run.path.parent.name}/{run.name}" for run in evidence.trainings]
    runs, looks = dict(zip(names, evidence.trainings, strict=True)), evidence.looks(*names)
    drawings = []
    for figure, (title, stages, step, columns) in STAGES.items():
        own = {name: run for name, run in runs.items() if run.stage in stages}
        drawings += _draw(figure, title, step, columns, own, looks)
    if not drawings:
        raise NoDataError("no training folder of PPO, SFT or a reward model has a line of metrics")
    return drawings


def _draw(
    name: str, title: str, step: str, columns: Mapping[str, tuple[str, str]], runs: Mapping[str, TrainingRun],
    looks: Mapping[str, Look],
) -> list[Drawing]:  # fmt: skip
    wanted = [*columns, *(f"{column}_{end}" for column in PER_EPOCH for end in ("low", "high"))]
    table = pd.DataFrame(
        {"run": run, step: line["step"], **{column: line.get(column) for column in wanted}}
        for run, training in runs.items()
        for line in training.metrics
    )
    logged = [column for column in columns if column in table]
    bad = int(table[logged].map(lambda value: isinstance(value, str)).sum().sum())  # JSON has NaN as text
    values = table.iloc[:, 2:].apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    table = pd.concat([table.iloc[:, :2], values], axis="columns").dropna(axis="columns", how="all")
    panels = []
    for column, (quantity, unit) in columns.items():
        if column in table:
            low, high = (table.get(f"{column}_{end}", np.nan) for end in ("low", "high"))
            own = table.assign(value=table[column], low=low, high=high, panel=quantity).dropna(subset=["value"])
            panels.append(Panel(quantity, own, unit, (0.5, "chance") if column == "accuracy" else None))
    if not panels:
        return []
    options: dict[str, Any] = {"x": step, "line": "run", "label": step, "form": "{:.0f}".format}
    figure = line_panels(panels, {run: looks[run] for run in runs}, columns=2, height=2.1, **options)
    facts: dict[str, Any] = {"title": title, "step": step, "runs": list(runs), "bad": bad, "per_epoch": PER_EPOCH}
    return [describe("training_curves", figure, table, name=name, drawn=pd.concat(p.table for p in panels), **facts)]
