"""Curves of PPO's reward, KL, entropy and length over its iterations: what `alignbench train ppo` logged."""

from __future__ import annotations

import pandas as pd

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, TrainingRun
from reports.style import label_ends, looks, new_figure

TITLE = "Training curves"
PANELS = (
    ("score", "reward", "reward of a response"),
    ("kl", "KL from the start", "nats a response"),
    ("entropy", "entropy", "nats a token"),
    ("response_tokens", "length", "tokens a response"),
)
PPO = ("ppo", "ppo-ptx")


def draw(evidence: Evidence) -> list[Drawing]:
    """One panel a quantity, one line a run of PPO."""
    runs = [run for run in evidence.trainings if run.stage in PPO]
    if not runs:
        raise NoDataError("no training folder of PPO among the arguments")
    table = pd.concat([_curves(run) for run in runs], ignore_index=True)
    figure, grid = new_figure(4.6, rows=2, columns=2, sharex=True)
    look = looks([system.name for system in evidence.systems])
    look |= looks([run.name for run in runs]) if not set(look) >= {run.name for run in runs} else {}
    for axes, (column, title, unit) in zip(grid.flat, PANELS, strict=True):
        ends = []
        for run in runs:
            own = table[(table.run == run.name) & table[column].notna()]
            if own.empty:
                continue
            axes.plot(own.step, own[column], color=look[run.name].colour, linestyle=look[run.name].line)
            ends.append((float(own.step.iloc[-1]), float(own[column].iloc[-1]), run.name, look[run.name].colour))
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.grid(axis="y")
        label_ends(axes, ends, gap=0.1)
    for axes in grid[-1]:
        axes.set_xlabel("iteration")
    last = table.groupby("run", sort=False).last()
    told = "; ".join(f"{name}: reward {row.score:.2f}, KL {row.kl:.1f}" for name, row in last.iterrows())
    caption = "One line a run, one point an iteration; single runs, so without intervals."
    return [Drawing("training_curves", TITLE, "", figure, table, caption, f"At the last iteration: {told}.")]


def _curves(run: TrainingRun) -> pd.DataFrame:
    rows = [{"run": run.name, "step": line["step"]} | {c: line.get(c) for c, _, _ in PANELS} for line in run.metrics]
    table = pd.DataFrame(rows)
    return table.assign(**{column: pd.to_numeric(table[column], errors="coerce") for column, _, _ in PANELS})
