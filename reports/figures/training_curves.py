"""Curves of trainings, as `alignbench train` logs them: PPO over iterations, SFT and reward models over steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.chart import Panel, line_panels
from reports.drawing import Drawing, NoDataError, by_part, ends
from reports.evidence import Evidence, TrainingRun
from reports.style import plain

PER_EPOCH = ("validation_loss", "accuracy")  # columns logged once per epoch, on held-out data


@dataclass(frozen=True)
class Stage:
    """What is drawn of one kind of training. step: name of its steps; columns: of metrics.jsonl -> title and unit."""

    name: str
    title: str
    stages: tuple[str, ...]
    step: str
    columns: dict[str, tuple[str, str]]


STAGES = (
    Stage("training_curves", "PPO", ("ppo", "ppo-ptx"), "iteration", {
        "score": ("Reward", "reward of a response"),
        "kl": ("KL from the initial policy", "nats per response"),
        "entropy": ("Entropy", "nats per token"),
        "response_tokens": ("Length", "tokens per response"),
    }),
    Stage("training_curves_sft", "SFT", ("sft",), "step", {
        "loss": ("Training loss", "nats per token"),
        "validation_loss": ("Validation loss", "nats per token"),
    }),
    Stage("training_curves_reward", "reward models", ("reward",), "step", {
        "loss": ("Training loss", "nats per comparison"),
        "accuracy": ("Accuracy on held-out labels", "proportion of pairs"),
    }),
)  # fmt: skip


def draw(evidence: Evidence) -> list[Drawing]:
    """Draw a figure per kind of training, a panel per quantity, a line per run."""
    if not evidence.trainings:
        raise NoDataError("no training folder among the arguments")
    often = Counter(run.name for run in evidence.trainings)
    runs = {
        run.name if often[run.name] == 1 else f"{run.path.parent.name}/{run.name}": run for run in evidence.trainings
    }
    drawings = []
    for stage in STAGES:
        own = {name: run for name, run in runs.items() if run.stage in stage.stages}
        tables = [_curves(name, run, stage) for name, run in own.items()]
        if any(column in table for table in tables for column in stage.columns):
            drawings.append(_draw(evidence, stage, pd.concat(tables, ignore_index=True), list(runs), list(own.values())))
    if not drawings:
        raise NoDataError("no training folder of PPO, SFT or a reward model has a line of metrics")
    return drawings


def _curves(name: str, run: TrainingRun, stage: Stage) -> pd.DataFrame:
    """Return the values of a run; those that are not finite numbers are missing."""
    columns = [*stage.columns, *(f"{column}_{end}" for column in PER_EPOCH for end in ("low", "high"))]
    table = pd.DataFrame([{c: line.get(c) for c in columns} for line in run.metrics], columns=columns)
    table = table.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    table.insert(0, "run", name)
    table.insert(1, stage.step, [line["step"] for line in run.metrics])
    return table.dropna(axis="columns", how="all")


def _draw(
    evidence: Evidence, stage: Stage, table: pd.DataFrame, names: Sequence[str], runs: Sequence[TrainingRun]
) -> Drawing:
    parts = []
    for column in stage.columns:
        if column in table:
            low, high = (table.get(f"{column}_{end}", np.nan) for end in ("low", "high"))
            values = table.assign(value=table[column], low=low, high=high, column=stage.columns[column][0])
            parts.append(values.dropna(subset=["value"]))
    panels = [
        Panel(title, own, unit, (0.5, "chance") if "Accuracy" in title else None)
        for own in parts
        for title, unit in stage.columns.values()
        if title == own.column.iloc[0]
    ]
    looks = evidence.looks(*names)
    lines = {name: looks[name] for name in names if name in set(table.run)}
    options = {"x": stage.step, "line": "run", "label": stage.step, "form": "{:.0f}".format}
    figure = line_panels(panels, lines, columns=2, height=2.1, **options)
    bad = sum(isinstance(line.get(column), str) for run in runs for line in run.metrics for column in stage.columns)
    per_epoch = [column for column in PER_EPOCH if column in table]
    intervals = any(f"{column}_low" in table for column in per_epoch)
    caption = (
        f"One line per run, one point per {stage.step}; lines have no interval, since each is a single run."
        + f" Held-out data: once per epoch{', with 95 % intervals' * intervals}." * bool(per_epoch)
        + (f" Run: {plain(next(iter(lines)), 60)}." if len(lines) == 1 else "")
        + f" {bad} values that are not finite numbers are left out." * bool(bad)
    )
    alt = by_part(pd.concat(parts), ["run", "column"], lambda own: ends(own, stage.step))
    title = f"Training curves: {stage.title}"
    return Drawing(stage.name, title, "", figure, table, caption, f"By {stage.step}. {alt}.")
