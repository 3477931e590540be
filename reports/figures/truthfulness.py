"""TruthfulQA: shares of true, and of true and informative answers, by model and prompt (InstructGPT, figure 6).

Where no judges of truth and information were asked, the multiple choice in its place: MC1 and MC2.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from reports.bars import (
    ROW,
    best_scorer,
    bottom_label,
    draw_bars,
    extremes,
    key,
    left_out,
    look_of,
    n_told,
    name_rows,
    names_of,
    per_cent,
    reference_line,
    row_of,
    scorers_told,
    shares_axis,
)
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence
from reports.style import FAINT, new_figure

TITLE = "Truthfulness (TruthfulQA)"
PROMPTS = {
    "truthfulqa_generation": "QA prompt",
    "truthfulqa_generation_instruction": "Instruction",
    "truthfulqa_generation_qa_instruction": "Instruction + QA",
}
ABOUT = 0.02  # levels of chance that differ by less are drawn as one
CHOICES = ("truthfulqa_mc", "truthfulqa_mc_2025")


def draw(evidence: Evidence) -> list[Drawing]:
    written = _written(evidence)
    if not written.empty:
        return [_draw_written(evidence, written)]
    chosen = _chosen(evidence)
    if chosen.empty:
        raise NoDataError("no answers to TruthfulQA that a judge of truth has seen, and no multiple choice")
    return [_draw_chosen(evidence, chosen)]


def _written(evidence: Evidence) -> pd.DataFrame:
    judged = best_scorer(evidence, PROMPTS, "true")
    return pd.DataFrame(
        row_of(point, prompt=prompt)
        for task, prompt in PROMPTS.items()
        for metric in ("true", "true_and_info")
        for point in judged.points(task, metric)
    )


def _chosen(evidence: Evidence) -> pd.DataFrame:
    task = next((task for task in CHOICES if evidence.points(task, "mc1")), CHOICES[0])
    return pd.DataFrame(
        row_of(point, chance=point.metric.chance)
        for metric in ("mc1", "mc2")
        for point in evidence.points(task, metric)
    )


def _draw_written(evidence: Evidence, table: pd.DataFrame) -> Drawing:
    names = names_of(evidence, set(table.system))
    look = look_of(evidence, names)
    prompts = [prompt for prompt in PROMPTS.values() if prompt in set(table.prompt)]
    figure, grid = new_figure(1.05 + 1.5 * ROW * len(names), columns=len(prompts), sharey=True, squeeze=False)
    both = "true_and_info" in set(table.metric)
    for axes, prompt in zip(grid[0], prompts, strict=True):
        own = table[table.prompt == prompt]
        shift, height = (0.2, 0.34) if both else (0.0, 0.6)
        draw_bars(axes, own[own.metric == "true"], names, look, shift=-shift, height=height)
        if both:
            draw_bars(axes, own[own.metric == "true_and_info"], names, look, shift=shift, height=height, hatch="/////")
        name_rows(axes, names)
        shares_axis(axes, ticks=3)
        axes.set_title(prompt)
    bottom_label(grid[0], "share of answers")
    if both:
        marks = [Patch(facecolor=FAINT), Patch(facecolor="white", edgecolor=FAINT, hatch="/////")]
        key(figure, marks, ["true", "true and informative"])
    true = table[table.metric == "true"]
    caption = (
        f"Filled bars: share of answers that the judge calls true{'; hatched: true and informative' if both else ''}. "
        f"Whiskers: 95 % Wilson intervals over questions; {n_told(table, 'questions')}."
        f"{scorers_told(table)}{left_out(true, evidence)}"
    )
    told = "; ".join(
        f"{prompt}, {what}: {extremes(table[(table.prompt == prompt) & (table.metric == metric)], '.0%')}"
        for prompt in prompts
        for metric, what in (("true", "true"), ("true_and_info", "true and informative"))
        if metric in set(table.metric)
    )
    return Drawing("truthfulness", TITLE, "InstructGPT, figure 6", figure, table, caption, f"Share of answers. {told}.")


def _draw_chosen(evidence: Evidence, table: pd.DataFrame) -> Drawing:
    names = names_of(evidence, set(table.system))
    look = look_of(evidence, names)
    figure, grid = new_figure(1.05 + ROW * len(names), columns=2, sharey=True)
    meanings = {"mc1": "MC1: best answer likeliest", "mc2": "MC2: mass on true answers"}
    for axes, (metric, title) in zip(grid, meanings.items(), strict=True):
        own = table[table.metric == metric]
        draw_bars(axes, own, names, look)
        name_rows(axes, names)
        shares_axis(axes)
        axes.set_title(title, pad=16)
        chance = own.chance.dropna().astype(float)
        if len(chance) and np.ptp(chance) < ABOUT:  # not the same where a model has unscored questions
            reference_line(axes, float(chance.mean()), f"chance {per_cent(round(float(chance.mean()), 2))}")
    grid[0].set_xlabel("share of questions")
    grid[1].set_xlabel("mean probability")
    caption = (
        "Multiple choice, since no judge of truth has seen written answers. Whiskers: 95 % intervals over questions "
        f"(MC1: Wilson; MC2: t); {n_told(table, 'questions')}."
        f"{left_out(table[table.metric == 'mc1'], evidence)}"
    )
    told = "; ".join(f"{metric.upper()}: {extremes(table[table.metric == metric])}" for metric in meanings)
    return Drawing("truthfulness", TITLE, "InstructGPT, figure 6", figure, table, caption, f"{told}.")
