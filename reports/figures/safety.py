"""Truthfulness, toxicity and bias by system and instruction (InstructGPT, figures 6, 7, 32 and 39)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from alignbench.stats import estimates
from alignbench.tasks.safety import BINS, INSTRUCTIONS, task_name
from reports.chart import Panel, line_panels, per_cent, row_panels
from reports.drawing import WORDS, Drawing, describe, rows_of
from reports.evidence import Evidence, Point, scored_by
from reports.style import FAINT, INK, wrapped

PROMPTS = WORDS["truthfulqa_prompts"]
RATES = {"true": "true", "true_and_info": "true and informative"}
CHOICES = {"mc1": "MC1: best answer most likely", "mc2": "MC2: probability of true answers"}
CHOICE_TASKS = ("truthfulqa_mc", "truthfulqa_mc_2025")
SAME = 0.02  # chance levels that differ by less, because of unscored questions, are drawn as one
GREEDY = {task_name("real_toxicity_instructgpt", variant): variant for variant in INSTRUCTIONS}
OFFICIAL = {"real_toxicity": "official"}
SHOWN = WORDS["toxicity_instructions"]
BENCHMARKS, BIAS_SHOWN = WORDS["bias_benchmarks"], WORDS["bias_instructions"]
UNIFORM = (1.0, "uniform")  # bits


def truthfulness(evidence: Evidence) -> Iterator[Drawing]:
    """Draw rates of true, and of true and informative, answers; without a judge of truth multiple choice."""
    table = pd.DataFrame(
        point.row(prompt=prompt)
        for judge in evidence.scorers(PROMPTS, "true")[:1]
        for task, prompt in PROMPTS.items()
        for metric in RATES
        for point in evidence.points(task, metric, scored_by("true", judge))
    )
    if len(table):
        panels = [Panel(str(prompt), own) for prompt, own in table.groupby("prompt", sort=False)]
        rates = {metric: words for metric, words in RATES.items() if metric in set(table.metric)}
        systems, series = rows_of(evidence, table), ("metric", rates)
        figure = row_panels(panels, systems, label="rate", series=series, most=1, percent=True)
        yield describe("truthfulness", figure, table, evidence=evidence, rates=rates)
        return
    task = next((task for task in CHOICE_TASKS if evidence.points(task, "mc1")), CHOICE_TASKS[0])
    points = [point for metric in CHOICES for point in evidence.points(task, metric)]
    if not points:
        return
    table = pd.DataFrame(point.row(chance=point.metric.chance) for point in points)
    panels = []
    for metric, own in table.groupby("metric", sort=False):
        chance = own.chance.dropna().astype(float)
        level = float(chance.mean()) if len(chance) and np.ptp(chance) < SAME else None
        reference = None if level is None else (level, f"chance {per_cent(round(level, 2))}")
        panels.append(Panel(CHOICES[str(metric)], own, reference=reference))
    label = "MC1: rate of questions; MC2: mean probability"
    figure = row_panels(panels, rows_of(evidence, table), label=label, most=1, percent=True)
    yield describe("truthfulness_choices", figure, table, name="truthfulness", evidence=evidence)


def toxicity(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a row of panels per scorer, and a column per instruction."""
    table = pd.DataFrame(
        point.row(instruction=variant)
        for scorer in sorted(evidence.scorers(GREEDY, "toxicity_greedy"))
        for task, variant in GREEDY.items()
        for point in evidence.points(task, "toxicity_greedy", scored_by("toxicity_greedy", scorer))
    )
    if table.empty:
        return
    scorers = sorted(set(table.scorer))
    variants = [variant for variant in INSTRUCTIONS if variant in set(table.instruction)]
    panels = [
        Panel(
            SHOWN[variant], table[(table.scorer == scorer) & (table.instruction == variant)],
            wrapped(f"by {scorer.split('@')[0]}", 24) if len(scorers) > 1 else "",
        )
        for scorer in scorers
        for variant in variants
    ]  # fmt: skip
    most = float(np.nanmax(table[["value", "high"]].to_numpy(np.float64)))
    figure = row_panels(
        panels, rows_of(evidence, table), label="mean toxicity ↓", columns=len(variants), most=most * 1.1
    )
    yield describe("toxicity", figure, table, instructions=SHOWN, evidence=evidence)


def toxicity_by_prompt(evidence: Evidence) -> Iterator[Drawing]:
    """Draw a panel per instruction and a line per system, over bins of the prompts' toxicity."""
    for tasks, metric in ((GREEDY, "toxicity_greedy"), (OFFICIAL, "toxicity_mean")):
        table = pd.DataFrame(
            row
            for scorer in evidence.scorers(tasks, metric)[:1]
            for task, variant in tasks.items()
            for point in evidence.points(task, metric, scored_by(metric, scorer))
            for row in _bins(point, variant)
        )
        if len(table):
            break
    else:
        return
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
    yield describe("toxicity_by_prompt", figure, table, bins=BINS, instructions=SHOWN, evidence=evidence)


def _bins(point: Point, variant: str) -> Iterator[dict[str, Any]]:
    rows = [
        (record.target["prompt_toxicity"], record.metrics.get(point.metric.metric), str(record.group or number))
        for number, record in enumerate(point.task.records())
        if isinstance(record.target.get("prompt_toxicity"), int | float)  # otherwise in no bin
    ]
    found = pd.DataFrame(rows, columns=["prompt", "output", "group"])
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


def bias(evidence: Evidence) -> Iterator[Drawing]:
    """Draw the entropy of the choice between a sentence and its counterpart: a row of panels per benchmark, a column
    per instruction."""
    table = pd.DataFrame(
        point.row(benchmark=benchmark, instruction=variant)
        for metric in ("entropy", "pct_stereotype")
        for benchmark in BENCHMARKS
        for variant in INSTRUCTIONS
        for point in evidence.points(task_name(benchmark, variant), metric)
    )
    if table.empty or "entropy" not in set(table.metric):
        return
    entropies = table[table.metric == "entropy"]
    table = table.merge(entropies[["benchmark", "instruction", "system"]])
    stereotypes = table[table.metric == "pct_stereotype"]
    variants = [variant for variant in INSTRUCTIONS if variant in set(entropies.instruction)]
    parts = [(name, variant) for name in BENCHMARKS if name in set(entropies.benchmark) for variant in variants]
    panels = []
    for name, variant in parts:
        own = entropies[(entropies.benchmark == name) & (entropies.instruction == variant)]
        panels.append(Panel(BENCHMARKS[name], own, BIAS_SHOWN[variant], UNIFORM))
    systems = rows_of(evidence, entropies)
    label = f"entropy of the choice (bits){'; ◇ pct_stereotype' if len(stereotypes) else ''}"
    columns = len(variants) if len(variants) > 1 else len(parts)
    figure = row_panels(panels, systems, label=label, columns=columns, most=1)
    mark: dict[str, Any] = {"marker": "D", "color": INK, "facecolors": "white", "s": 16, "zorder": 5, "clip_on": False}
    for axes, (name, variant) in zip(figure.axes, parts, strict=True):
        own = stereotypes[(stereotypes.benchmark == name) & (stereotypes.instruction == variant)]
        axes.scatter(own.value, [list(systems).index(system) for system in own.system], **mark)
    first = stereotypes[stereotypes.instruction == variants[0]]
    facts: dict[str, Any] = {"benchmarks": BENCHMARKS, "instructions": BIAS_SHOWN, "evidence": evidence}
    yield describe("bias_entropy", figure, table, entropies=entropies, stereotypes=first, **facts)
