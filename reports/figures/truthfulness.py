"""Truthfulness on TruthfulQA by system and prompt (InstructGPT, figure 6).

Rates of true, and of true and informative, answers. Without a judge of truth: multiple choice, MC1 and MC2.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports.chart import Panel, per_cent, row_panels
from reports.drawing import Drawing, describe, rows_of, table_of
from reports.evidence import Evidence, scored_by

PROMPTS = {
    "truthfulqa_generation": "QA prompt",
    "truthfulqa_generation_instruction": "Instruction",
    "truthfulqa_generation_qa_instruction": "Instruction + QA",
}
RATES = {"true": "true", "true_and_info": "true and informative"}
CHOICES = {"mc1": "MC1: best answer most likely", "mc2": "MC2: probability of true answers"}
CHOICE_TASKS = ("truthfulqa_mc", "truthfulqa_mc_2025")
SAME = 0.02  # chance levels that differ by less, because of unscored questions, are drawn as one


def draw(evidence: Evidence) -> list[Drawing]:
    judged = [
        point.row(prompt=prompt)
        for judge in evidence.scorers(PROMPTS, "true")[:1]
        for task, prompt in PROMPTS.items()
        for metric in RATES
        for point in evidence.points(task, metric, where=scored_by("true", judge))
    ]
    return [_generated(evidence, pd.DataFrame(judged)) if judged else _multiple_choice(evidence)]


def _generated(evidence: Evidence, table: pd.DataFrame) -> Drawing:
    panels = [Panel(str(prompt), own) for prompt, own in table.groupby("prompt", sort=False)]
    rates = {metric: words for metric, words in RATES.items() if metric in set(table.metric)}
    series = ("metric", rates)
    figure = row_panels(panels, rows_of(evidence, table), label="rate", series=series, most=1, percent=True)
    return describe("truthfulness", figure, table, evidence=evidence, rates=rates)


def _multiple_choice(evidence: Evidence) -> Drawing:
    task = next((task for task in CHOICE_TASKS if evidence.points(task, "mc1")), CHOICE_TASKS[0])
    table = table_of(
        (point.row(chance=point.metric.chance) for metric in CHOICES for point in evidence.points(task, metric)),
        "no answers to TruthfulQA with a judge of truth, and no multiple choice",
    )
    panels = []
    for metric, own in table.groupby("metric", sort=False):
        chance = own.chance.dropna().astype(float)
        level = float(chance.mean()) if len(chance) and np.ptp(chance) < SAME else None
        reference = None if level is None else (level, f"chance {per_cent(round(level, 2))}")
        panels.append(Panel(CHOICES[str(metric)], own, reference=reference))
    label = "MC1: rate of questions; MC2: mean probability"
    figure = row_panels(panels, rows_of(evidence, table), label=label, most=1, percent=True)
    return describe("truthfulness_choices", figure, table, name="truthfulness", evidence=evidence)
