"""Toxicity of continuations against that of their prompts (InstructGPT, figure 39)."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from alignbench.stats import estimates
from alignbench.tasks.bias import INSTRUCTIONS, task_name
from alignbench.tasks.real_toxicity import BINS
from reports.bars import best_scorer, bottom_label, key, left_out, look_of, n_told, names_of, scorers_told
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, Point, documents
from reports.style import FAINT, Look, label_ends, new_figure, plain

TITLE = "Toxicity of output and prompt"
GREEDY = {task_name("real_toxicity_instructgpt", variant): variant for variant in INSTRUCTIONS}
OFFICIAL = {"real_toxicity": "official"}  # where there is nothing else
SHOWN = {"basic": "No instruction", "respectful": "Respectful", "biased": "Biased", "official": "25 samples a prompt"}
NAMED = 8  # so many lines can have their names at their ends


def draw(evidence: Evidence) -> list[Drawing]:
    table = _table(evidence, GREEDY, "toxicity_greedy")
    if table.empty:
        table = _table(evidence, OFFICIAL, "toxicity_mean")
    if table.empty:
        raise NoDataError("no continuations of RealToxicityPrompts whose prompts have a toxicity score")
    names = names_of(evidence, set(table.system))
    look = look_of(evidence, names)
    variants = list(dict.fromkeys(table.instruction))
    beside = len(variants) == 1 and len(names) <= NAMED
    height = 3.2 if beside else 3.0 + 0.17 * -(-len(names) // 2)
    figure, grid = new_figure(height, columns=len(variants), sharex=True, sharey=True, squeeze=False)
    top = min(float(np.nanmax(table[["value", "high"]].to_numpy(float))) * 1.06, 1.0)
    for axes, variant in zip(grid[0], variants, strict=True):
        _panel(axes, table[table.instruction == variant], names, look, top)
        axes.set_title(SHOWN[variant])
    grid[0, 0].set_ylabel("mean toxicity of the output")
    bottom_label(grid[0], "toxicity of the prompt")
    if beside:
        last = table.sort_values("prompt_toxicity").groupby("system").last()
        label_ends(grid[0, 0], [(last.prompt_toxicity[n], last.value[n], n, look[n].colour) for n in names])
    else:
        lines = [Line2D([], [], color=look[n].colour, marker=look[n].marker, linestyle=look[n].line) for n in names]
        key(figure, lines, names, columns=2)
    caption = (
        f"Points: mean toxicity of the outputs to the prompts of each {_part()} of prompt toxicity (the score that "
        "comes with the data), at those prompts' mean. Bars: 95 % t intervals over prompts; "
        f"{n_told(table, 'prompts a point')}. The faint diagonal: as toxic as the prompt."
        f"{scorers_told(table)}{left_out(table, evidence)}"
    )
    told = "; ".join(_told(table[(table.instruction == v) & (table.system == n)]) for v in variants for n in names)
    alt = f"Mean output toxicity from the mildest to the most toxic prompts: {told}."
    return [Drawing("toxicity_by_prompt", TITLE, "InstructGPT, figure 39", figure, table, caption, alt)]


def _panel(axes: Axes, table: pd.DataFrame, names: list[str], look: dict[str, Look], top: float) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, linestyle=(0, (2, 3)), zorder=1)
    for name in names:
        own, how = table[table.system == name], look[name]
        values = own.value.to_numpy(float)
        reach = np.nan_to_num([values - own.low.to_numpy(float), own.high.to_numpy(float) - values]).clip(0)
        axes.errorbar(
            own.prompt_toxicity, values, yerr=reach, color=how.colour, marker=how.marker, linestyle=how.line,
            markersize=4, linewidth=1.3, elinewidth=0.7, capsize=1.5,
        )  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(0, top)
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    axes.grid(axis="y")


def _table(evidence: Evidence, tasks: dict[str, str], metric: str) -> pd.DataFrame:
    judged = best_scorer(evidence, tasks, metric)
    rows = [
        row for task, variant in tasks.items() for point in judged.points(task, metric) for row in _bins(point, variant)
    ]
    return pd.DataFrame(rows)


def _bins(point: Point, variant: str) -> list[dict[str, Any]]:
    """A row for each tenth of prompt toxicity that has a scored document."""
    found: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
    unscored: dict[int, int] = defaultdict(int)
    for number, record in zip(count(), documents(point.task)):
        of_prompt, of_output = record.get("prompt_toxicity"), record.get(point.metric.metric)
        if not isinstance(of_prompt, int | float):
            continue  # of no bin: the data have no score for this prompt
        place = min(int(of_prompt * BINS), BINS - 1)
        if isinstance(of_output, int | float) and np.isfinite(of_output):
            found[place].append((float(of_prompt), float(of_output), str(record.get("group") or number)))
        else:
            unscored[place] += 1
    rows = []
    for place, own in sorted(found.items()):
        prompts, outputs, groups = zip(*own, strict=True)
        mean = estimates.mean(outputs, groups, bounds=(0, 1))
        rows.append(
            {"system": point.system.name, "instruction": variant, "task": point.task.task,
             "metric": point.metric.metric, "bin_low": place / BINS, "bin_high": (place + 1) / BINS,
             "prompt_toxicity": float(np.mean(prompts)),
             "value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n, "unscored": unscored[place],
             "scorer": point.metric.scorer or ""}
        )  # fmt: skip
    return rows


def _part() -> str:
    return "tenth" if BINS == 10 else f"{BINS}th part"


def _told(own: pd.DataFrame) -> str:
    if own.empty:
        return "–"
    first, last = own.iloc[0], own.iloc[-1]
    return f"{plain(first.system, 60)}, {SHOWN[first.instruction].lower()}: {first.value:.2f} to {last.value:.2f}"
