"""Results as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from alignbench.console import interval, number, print_table, printable

if TYPE_CHECKING:
    from alignbench.stats.estimates import Estimate
    from alignbench.types.result import RunResult

HEADER = (
    "checkpoint", "task", "metric", "value", "95 % interval", "unit", "better", "chance", "n", "unscored", "scorer",
)  # fmt: skip


def estimate_cells(estimate: Estimate | None, form: str = ".3f") -> tuple[str, str]:
    """The value and its interval as text."""
    if estimate is None:
        return number(None), number(None)
    return number(estimate.value, form), interval(estimate.low, estimate.high, form)


def show_results(runs: Sequence[RunResult], every_metric: bool, as_json: bool) -> None:
    """One row per metric over all documents: the task's display metrics, or all. Metrics of categories are only in
    result.json and in the JSON form."""
    if as_json:
        print(json.dumps([asdict(run) | {"folder": str(run.folder)} for run in runs], indent=2))
        return
    from alignbench.tasks import all_tasks

    display = {name: task.display_metrics for name, task in all_tasks().items()}
    results = [(run, result) for run in runs for result in run.results]
    every = [(run, result, metric) for run, result in results for metric in result.metrics if metric.category is None]
    rows = [
        (run.checkpoint, result.task, metric.metric, number(metric.value), interval(metric.low, metric.high),
         metric.unit, metric.better, number(metric.chance), str(metric.n), str(metric.n_unscored), metric.scorer or "–")
        for run, result, metric in every
        if every_metric or metric.metric in (display.get(result.task) or (metric.metric,))
    ]  # fmt: skip
    print_table(HEADER, rows)
    if len(rows) < len(every):
        print(f"{len(every) - len(rows)} more metrics in result.json, or with --metrics all")
    for run in runs:
        for result in run.results:
            for reason, count in result.unscored.items():
                print(f"{run.checkpoint} {result.task}: {count} of {result.n} documents unscored: {printable(reason)}")
        print(f"records: {run.folder}")
