"""Results for a terminal, and in plain lines for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.console import print_table, printable

if TYPE_CHECKING:
    from alignbench.types.result import MetricResult, RunResult

HEADER = (
    "checkpoint",
    "task",
    "metric",
    "value",
    "95 % interval",
    "unit",
    "better",
    "chance",
    "n",
    "unscored",
    "scorer",
)


def print_results(runs: Sequence[RunResult], every_metric: bool = False) -> None:
    """One line a metric over all documents, those that the task wants told or all; what the categories gave stands in
    result.json."""
    rows, untold = [], 0
    for run in runs:
        for result in run.results:
            told = _told(result.task)
            for metric in result.metrics:
                if metric.category is not None:
                    continue
                if every_metric or not told or metric.metric in told:
                    rows.append((run.checkpoint, result.task, *_cells(metric)))
                else:
                    untold += 1
    print_table(HEADER, rows)
    if untold:
        print(f"{untold} more metrics in result.json, or with --metrics all")
    for run in runs:
        for result in run.results:
            for reason, count in result.unscored.items():
                print(f"{run.checkpoint} {result.task}: {count} of {result.n} documents unscored: {printable(reason)}")
        print(f"records: {run.folder}")


def _told(task: str) -> tuple[str, ...]:
    from alignbench.tasks import all_tasks

    known = all_tasks().get(task)
    return () if known is None else known.display_metrics


def _cells(metric: MetricResult) -> tuple[str, ...]:
    return (
        metric.metric,
        _number(metric.value),
        "–" if metric.low is None or metric.high is None else f"{metric.low:.3f} … {metric.high:.3f}",
        metric.unit,
        metric.better,
        _number(metric.chance),
        str(metric.n),
        str(metric.n_unscored),
        metric.scorer or "–",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
