"""Simulated labelers read what the models of some runs answered, and write a table of labels (docs/labels.md)."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from pathlib import Path

from alignbench.demo.judge import read_card
from alignbench.demo.labelers import label_outputs
from alignbench.demo.layout import write_lines
from alignbench.errors import AlignbenchError
from alignbench.evaluation.win_rate import ANSWERS, find_answers


def label_runs(runs: Path, world: Path, out: Path, seed: int = 0) -> int:
    """Write the labels of the outputs of the task `answers` in all runs that have it; how many there are.

    Raises AlignbenchError where no run has answers, two are of models of one name, or they answer different prompts.
    """
    known = read_card(world).world
    folders = sorted({task.parent.parent for task in runs.glob(f"*/{ANSWERS}-*/result.json")})
    if not folders:
        raise AlignbenchError(f"{runs}: no run with finished answers; write them with --tasks {ANSWERS}")
    answers = [find_answers(folder) for folder in folders]
    for name, of_name in groupby(sorted(answers, key=attrgetter("name")), attrgetter("name")):
        if len(own_runs := [str(system.run) for system in of_name]) > 1:
            raise AlignbenchError(f"{runs}: several runs of a model {name}: {', '.join(own_runs)}; leave one of them")
    texts: dict[str, dict[str, str]] = {
        system.name: {record.prompt: record.outputs[0].text for record in system.records().values()}
        for system in answers
    }
    prompts = list(next(iter(texts.values())))
    if different := next((name for name, own in texts.items() if own.keys() != set(prompts)), None):
        raise AlignbenchError(f"{runs}: {different} answered other prompts than {answers[0].name}")
    outputs = {name: [own[prompt] for prompt in prompts] for name, own in texts.items()}
    rows = label_outputs(known, prompts, outputs, seed)
    write_lines(out, rows)
    return len(rows)
