"""How toxic continuations are, by instruction and by scorer (InstructGPT, figure 7)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pandas as pd

from alignbench.stats import estimates
from alignbench.tasks.bias import INSTRUCTIONS, task_name
from reports.bars import (
    ROW,
    draw_bars,
    extremes,
    left_out,
    look_of,
    n_told,
    name_rows,
    names_of,
    row_of,
    scorers_of,
    scorers_told,
    shares_axis,
    top_of,
)
from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence, documents
from reports.style import FAINT, new_figure, plain

TITLE = "Toxicity by instruction"
TASKS = {variant: task_name("real_toxicity_instructgpt", variant) for variant in INSTRUCTIONS}
SHOWN = {"basic": "No instruction", "respectful": "Respectful", "biased": "Biased"}
METRIC = "toxicity_greedy"
FLAGS = ("toxic", "toxicity")  # what a flag may be called by which people said so
PEOPLE = "people"


def draw(evidence: Evidence) -> list[Drawing]:
    """One row of panels a scorer, people last; one column an instruction."""
    judged = scorers_of(evidence, TASKS.values(), METRIC).values()
    measured = [
        row_of(point, instruction=variant)
        for own in judged
        for variant, task in TASKS.items()
        for point in own.points(task, METRIC)
    ]
    table = pd.DataFrame(measured + _said_by_people(evidence))
    if table.empty:
        raise NoDataError("no continuations of real_toxicity_instructgpt with a toxicity score")
    names = names_of(evidence, set(table.system))
    look = look_of(evidence, names)
    scorers = sorted(set(table.scorer), key=lambda name: (name == PEOPLE, name))
    variants = [variant for variant in INSTRUCTIONS if variant in set(table.instruction)]
    size = {"rows": len(scorers), "columns": len(variants)}
    height = 0.5 + len(scorers) * (0.55 + ROW * len(names))
    figure, grid = new_figure(height, **size, sharey=True, sharex="row", squeeze=False)
    for line, scorer in zip(grid, scorers, strict=True):
        of_scorer = table[table.scorer == scorer]
        for axes, variant in zip(line, variants, strict=True):
            draw_bars(axes, of_scorer[of_scorer.instruction == variant], names, look)
            name_rows(axes, names)
            shares_axis(axes, top_of(of_scorer), ticks=3, percent=False)
            axes.set_title(SHOWN[variant])
        if len(scorers) > 1:
            told = f"Scored by {plain(scorer.split('@')[0], 40)}"
            # the blank keeps room above; the words would also take it at their right
            for text, takes_room in ((" ", True), (told, False)):
                place = {"xy": (0, 1), "xytext": (0, 19), "xycoords": "axes fraction", "textcoords": "offset points"}
                line[0].annotate(text, **place, fontsize=9, color=FAINT).set_in_layout(takes_room)
    people = PEOPLE in scorers
    figure.supxlabel("mean toxicity; people: share of outputs called toxic" if people else "mean toxicity", fontsize=9)
    caption = (
        "Bars: mean toxicity of one greedy continuation a prompt. Whiskers: 95 % t intervals over prompts"
        f"{'; for people, Wilson intervals clustered by prompt' if people else ''}; {n_told(table)}."
        f"{scorers_told(table)}{left_out(table, evidence)}"
    )
    told = "; ".join(
        f"{SHOWN[variant]}, {plain(scorer.split('@')[0], 40)}: {extremes(own)}"
        for (scorer, variant), own in table.groupby(["scorer", "instruction"], sort=False)
    )
    return [Drawing("toxicity", TITLE, "InstructGPT, figure 7", figure, table, caption, f"Toxicity. {told}.")]


def _said_by_people(evidence: Evidence) -> list[dict[str, Any]]:
    """Shares of the flag over the labels whose prompt and output are those of a continuation, word for word."""
    said: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for label in evidence.labels:
        flags = [label.flags[name] for name in FLAGS if name in label.flags]
        if flags and label.prompt is not None:
            said[label.prompt.strip(), label.output.strip()].append(flags[0])
    if not said:
        return []
    rows = []
    for variant, task in TASKS.items():
        for system, own in evidence.runs_of(task):
            prefix = str(own.identity.get("prefix") or "")
            values, prompts, unlabelled = [], [], 0
            for record in documents(own):
                outputs = {str(output["text"]).strip() for output in (record.get("outputs") or [])[:1]}
                prompt = str(record.get("prompt") or "")
                asked = (prefix + prompt, prompt)
                found = next((said[p.strip(), o] for p in asked for o in sorted(outputs) if (p.strip(), o) in said), [])
                unlabelled += not found
                values += found
                prompts += [record["id"]] * len(found)
            if values:
                share = estimates.share(values, prompts)
                rows.append(
                    {"system": system.name, "instruction": variant, "task": task, "metric": "toxic",
                     "value": share.value, "low": share.low, "high": share.high, "n": share.n,
                     "unscored": unlabelled, "scorer": PEOPLE}
                )  # fmt: skip
    return rows
