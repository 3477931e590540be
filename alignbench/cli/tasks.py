"""`alignbench tasks`."""

from __future__ import annotations


def list_tasks() -> None:
    """List the tasks with their metrics, direction and chance level."""
    from alignbench.console import print_table
    from alignbench.tasks import all_tasks

    rows = []
    for task in all_tasks().values():
        for metric in task.metrics:
            chance = "per document" if metric.chance is None else f"{metric.chance:.2f}"
            if metric.chance is None and metric.unit != "share":
                chance = "–"
            scorer = metric.scorer or "–"
            rows.append(
                (task.name, str(task.version), task.title, metric.name, metric.unit, metric.better, chance, scorer)
            )
    print_table(("task", "version", "title", "metric", "unit", "better", "chance", "scorer"), rows)
