"""Toxicity of continuations: by instruction and scorer (InstructGPT, figure 7), and against the prompt's toxicity
(figure 39)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from alignbench.stats import estimates
from alignbench.tasks.bias import INSTRUCTIONS, task_name
from alignbench.tasks.real_toxicity import BINS
from reports.chart import Panel, line_panels, row_panels
from reports.drawing import Drawing, describe, rows_of, table_of
from reports.evidence import Evidence, Point, scored_by
from reports.style import FAINT, plain

GREEDY = {task_name("real_toxicity_instructgpt", variant): variant for variant in INSTRUCTIONS}
OFFICIAL = {"real_toxicity": "official"}
SHOWN = {"basic": "No instruction", "respectful": "Respectful", "biased": "Biased", "official": "25 samples per prompt"}
FLAGS = ("toxic", "toxicity")  # names of flags by which people call an output toxic
PEOPLE = "people"


def by_instruction(evidence: Evidence) -> list[Drawing]:
    """Draw a row of panels per scorer, people last, and a column per instruction."""
    measured = [
        point.row(instruction=variant)
        for scorer in sorted(evidence.scorers(GREEDY, "toxicity_greedy"))
        for task, variant in GREEDY.items()
        for point in evidence.points(task, "toxicity_greedy", where=scored_by("toxicity_greedy", scorer))
    ]
    missing = "no continuations of real_toxicity_instructgpt with a toxicity score"
    table = table_of([*measured, *_people(evidence)], missing)
    scorers = sorted(set(table.scorer), key=lambda name: (name == PEOPLE, name))
    variants = [variant for variant in INSTRUCTIONS if variant in set(table.instruction)]
    panels = [
        Panel(
            SHOWN[variant],
            table[(table.scorer == scorer) & (table.instruction == variant)],
            f"by {plain(scorer.split('@')[0])}" if len(scorers) > 1 else "",
        )
        for scorer in scorers
        for variant in variants
    ]
    people = PEOPLE in scorers
    label = "mean toxicity" + "; people: proportion of outputs called toxic" * people
    most = float(np.nanmax(table[["value", "high"]].to_numpy(np.float64)))
    figure = row_panels(panels, rows_of(evidence, table), label=label, columns=len(variants), most=most * 1.1)
    facts: dict[str, Any] = {"people": people, "instructions": SHOWN, "evidence": evidence}
    return [describe("toxicity", figure, table, **facts)]


def _people(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Yield rows of the rate of the flag over labels with exactly the prompt and output of a continuation."""
    said: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for label in evidence.labels:
        flags = [label.flags[name] for name in FLAGS if name in label.flags]
        if flags and label.prompt is not None:
            said[label.prompt.strip(), label.output.strip()].append(flags[0])
    for system, task in [run for name in GREEDY for run in evidence.runs(name)] if said else []:
        prefix = str(task.identity.get("prefix") or "")
        values, prompts, unlabelled = [], [], 0
        for record in task.records():
            pairs = [
                (p.strip(), o.text.strip()) for p in (prefix + record.prompt, record.prompt) for o in record.outputs[:1]
            ]
            found = next((said[pair] for pair in pairs if pair in said), [])
            unlabelled += not found
            values += found
            prompts += [record.id] * len(found)
        if values:
            rate = estimates.share(values, prompts)
            yield {
                "system": system.name, "instruction": GREEDY[task.task], "task": task.task, "metric": "toxic",
                "value": rate.value, "low": rate.low, "high": rate.high, "n": rate.n, "unscored": unlabelled,
                "scorer": PEOPLE,
            }  # fmt: skip


def by_prompt(evidence: Evidence) -> list[Drawing]:
    """Draw a panel per instruction and a line per system, over bins of the prompts' toxicity."""
    rows = _binned(evidence, GREEDY, "toxicity_greedy") or _binned(evidence, OFFICIAL, "toxicity_mean")
    table = table_of(rows, "no continuations of RealToxicityPrompts whose prompts have a toxicity score")
    panels = [Panel(SHOWN[str(variant)], own) for variant, own in table.groupby("instruction", sort=False)]
    figure = line_panels(
        panels, rows_of(evidence, table), x="prompt_toxicity", line="system", label="toxicity of the prompt",
        height=2.9, ticks=(0, 0.5, 1), form="{:g}".format, zero=True,
    )  # fmt: skip
    top = min(1.0, max(axes.get_ylim()[1] for axes in figure.axes))
    for axes in figure.axes:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.7, linestyle=(0, (2, 3)), zorder=1)
        axes.set(xlim=(-0.02, 1.02), ylim=(0, top))
    figure.axes[0].set_ylabel("mean toxicity of the output")
    return [describe("toxicity_by_prompt", figure, table, bins=BINS, instructions=SHOWN, evidence=evidence)]


def _binned(evidence: Evidence, tasks: Mapping[str, str], metric: str) -> list[dict[str, Any]]:
    return [
        row
        for scorer in evidence.scorers(tasks, metric)[:1]
        for task, variant in tasks.items()
        for point in evidence.points(task, metric, where=scored_by(metric, scorer))
        for row in _bins(point, variant)
    ]


def _bins(point: Point, variant: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each bin of prompt toxicity that has a scored document."""
    found = pd.DataFrame(
        [
            (record.target["prompt_toxicity"], record.metrics.get(point.metric.metric), str(record.group or number))
            for number, record in enumerate(point.task.records())
            if isinstance(record.target.get("prompt_toxicity"), int | float)  # otherwise in no bin
        ],
        columns=["prompt", "output", "group"],
    )
    number = np.minimum((found.prompt.to_numpy(np.float64) * BINS).astype(int), BINS - 1)
    for place, every in found.groupby(number):
        own = every[np.isfinite(every.output.astype(float))]
        if len(own):
            mean = estimates.mean(own.output.astype(float), own.group.tolist(), bounds=(0, 1))
            edges = {"bin_low": place / BINS, "bin_high": (place + 1) / BINS}
            yield {
                **point.row(instruction=variant), **edges, "prompt_toxicity": float(own.prompt.mean()), "low": mean.low,
                "value": mean.value, "high": mean.high, "n": mean.n, "unscored": len(every) - len(own),
            }  # fmt: skip
