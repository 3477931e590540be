"""Curves of the trainings, as `alignbench train` logged them: PPO over its iterations, SFT and reward models over their
steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, TrainingRun
from reports.style import FAINT, LABEL, Look, looks, plain
from reports.tax_tasks import small_panels

TITLE = "Training curves"
HALF = 0.5
MANY = 200  # points of a line: beyond, it is drawn thinner


@dataclass(frozen=True)
class Panel:
    """A column of metrics.jsonl. marked: it is told once an epoch, so with a mark and, where there is one, an interval;
    half: guessing has a half of it."""

    column: str
    title: str
    unit: str
    marked: bool = False
    half: bool = False


@dataclass(frozen=True)
class Stage:
    """What is drawn of one kind of training. step: what its steps are called."""

    name: str
    title: str
    stages: tuple[str, ...]
    step: str
    panels: tuple[Panel, ...]


STAGES = (
    Stage("training_curves", "PPO", ("ppo", "ppo-ptx"), "iteration", (
        Panel("score", "Reward", "reward of a response"),
        Panel("kl", "KL from the start", "nats a response"),
        Panel("entropy", "Entropy", "nats a token"),
        Panel("response_tokens", "Length", "tokens a response"),
    )),
    Stage("training_curves_sft", "SFT", ("sft",), "step", (
        Panel("loss", "Training loss", "nats a token"),
        Panel("validation_loss", "Validation loss", "nats a token", marked=True),
    )),
    Stage("training_curves_reward", "reward models", ("reward",), "step", (
        Panel("loss", "Training loss", "nats a comparison"),
        Panel("accuracy", "Agreement with held-out labels", "share of pairs", marked=True, half=True),
    )),
)  # fmt: skip


def draw(evidence: Evidence) -> list[Drawing]:
    """One drawing a kind of training that there are folders of, one panel a quantity, one line a run."""
    if not evidence.trainings:
        raise NoDataError("no training folder among the arguments")
    names = _names(evidence.trainings)
    look = looks([system.name for system in evidence.systems] + list(names.values()))
    drawings = []
    for stage in STAGES:
        runs = {names[run.path.as_posix()]: run for run in evidence.trainings if run.stage in stage.stages}
        tables = [_curves(name, run, stage) for name, run in runs.items()]
        if tables and any(table[panel.column].notna().any() for table in tables for panel in stage.panels):
            drawings.append(_draw(stage, tables, look, sum(_unusable(run, stage) for run in runs.values())))
    if not drawings:
        raise NoDataError("no training folder of PPO, SFT or a reward model has a line of metrics")
    return drawings


def _names(trainings: Sequence[TrainingRun]) -> dict[str, str]:
    """Path -> the folder's name; with its parent's before it where two are called alike, as the folds are."""
    often = Counter(run.name for run in trainings)
    return {
        run.path.as_posix(): run.name if often[run.name] == 1 else f"{run.path.parent.name}/{run.name}"
        for run in trainings
    }


def _curves(name: str, run: TrainingRun, stage: Stage) -> pd.DataFrame:
    """The numbers of a run; what is not a number, or not finite, is missing."""
    columns = [panel.column for panel in stage.panels]
    columns += [f"{panel.column}_{end}" for panel in stage.panels if panel.marked for end in ("low", "high")]
    table = pd.DataFrame([{c: line.get(c) for c in columns} for line in run.metrics], columns=columns)
    table = table.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    table.insert(0, "run", name)
    table.insert(1, stage.step, [line["step"] for line in run.metrics])
    return table.dropna(axis="columns", how="all")


def _unusable(run: TrainingRun, stage: Stage) -> int:
    """Values that were logged as NaN or as infinite, which JSON has as text."""
    return sum(isinstance(line.get(panel.column), str) for line in run.metrics for panel in stage.panels)


def _draw(stage: Stage, tables: Sequence[pd.DataFrame], look: dict[str, Look], missing: int) -> Drawing:
    panels = [panel for panel in stage.panels if any(panel.column in table for table in tables)]
    names = [str(table.run.iloc[0]) for table in tables]
    keyed = len(names) > 1
    columns = max(1, min(3, 84 // (max(len(plain(name)) for name in names) + 7)))  # letters in the figure's width
    rows = -(-len(names) // columns) if keyed else 0
    figure, grid = small_panels(len(panels), 2.1, top=0.1 + 0.2 * rows if keyed else 0.0, columns=2)
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        for table, name in zip(tables, names, strict=True):
            if panel.column in table:
                _line(axes, table, panel, stage.step, look[name])
        _frame(axes, panel)
        if number >= len(panels) - 2:
            axes.set_xlabel(stage.step)
    if keyed:
        _key(figure, names, look, columns, marked=any(panel.marked for panel in panels))
    whole = pd.concat(tables, ignore_index=True)
    runs = f"One line a run, one point {'an iteration' if stage.step == 'iteration' else 'a step'}"
    caption = f"{runs}; each is a single run, so its line has no interval."
    if any(panel.marked for panel in panels):
        caption += " Marks: once an epoch, on held-out data"
        caption += ", with 95 % intervals." if any(f"{p.column}_low" in whole for p in panels) else "."
    if not keyed:
        caption += f" The run: {plain(names[0], 60)}."
    if missing:
        caption += f" {missing} values were no numbers, and are left out."
    return Drawing(
        stage.name, f"{TITLE}: {stage.title}", "", figure, whole, caption, _told(tables, names, panels, stage.step)
    )


def _line(axes: Axes, table: pd.DataFrame, panel: Panel, step: str, own: Look) -> None:
    known = table[table[panel.column].notna()]
    x, y = known[step].to_numpy(float), known[panel.column].to_numpy(float)
    low, high = (known.get(f"{panel.column}_{end}") for end in ("low", "high"))
    if panel.marked and low is not None and high is not None:
        errors = np.nan_to_num(np.clip([y - low.to_numpy(float), high.to_numpy(float) - y], 0, None))
        axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=own.colour, elinewidth=1)
    axes.plot(
        x, y, color=own.colour, linestyle=own.line, linewidth=0.9 if len(x) > MANY else 1.5,
        marker=own.marker if panel.marked or len(x) == 1 else None, markersize=4.5,
    )  # fmt: skip


def _frame(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    axes.set_ylabel(panel.unit, fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=8)
    axes.grid(axis="y")
    if panel.half:
        axes.set_xlim(left=0)  # no epoch ends there, so there is room for a word
        axes.axhline(HALF, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
        axes.annotate(
            "guessing", (0, HALF), xycoords=axes.get_yaxis_transform(), xytext=(3, 2), textcoords="offset points",
            fontsize=8, color=FAINT, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _key(figure: Figure, names: Sequence[str], look: dict[str, Look], columns: int, *, marked: bool) -> None:
    handles = [
        Line2D(
            [], [], color=own.colour, linestyle=own.line, marker=own.marker if marked else None, markersize=4.5,
            label=plain(name),
        )
        for name, own in ((name, look[name]) for name in names)
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, fontsize=LABEL, borderaxespad=0.2, handlelength=2.6
    )


def _told(tables: Sequence[pd.DataFrame], names: Sequence[str], panels: Sequence[Panel], step: str) -> str:
    told = []
    for table, name in zip(tables, names, strict=True):
        own = []
        for panel in panels:
            known = table[panel.column].dropna().tolist() if panel.column in table else []
            if known:
                own.append(f"{panel.title.lower()} from {known[0]:.3g} to {known[-1]:.3g}")
        told.append(f"{plain(name, 60)}: {', '.join(own)}")
    return f"From the first {step} to the last: {'; '.join(told)}."
