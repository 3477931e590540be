"""`alignbench tasks`: one line per task, or some tasks in full."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignbench.cli.options import AsJson, IncludePath
from alignbench.console import print_table

if TYPE_CHECKING:  # scipy, which it imports, is slow
    from alignbench.types.task import Metric, Task


def list_tasks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Tasks to show in full: names, patterns ('winogender*'), abilities.")
    ] = None,
    include_path: IncludePath = None,
    as_json: AsJson = False,
) -> None:
    """List the tasks with ability and headline metric, or show the named tasks in full."""
    from alignbench.tasks import find_names, find_task

    tasks = [find_task(name) for name in find_names(names or ["*"])]
    if as_json:
        print(json.dumps([_details(task) for task in tasks], indent=2))
        return
    if not names:
        rows = [(t.name, t.ability, t.group or "–", t.headline, t.title) for t in tasks]
        print_table(("task", "ability", "group", "headline", "title"), rows)
        return
    for task in tasks:
        found = _details(task)
        metrics = found.pop("metrics")
        print_table(("task", task.name), [(name, _text(value)) for name, value in found.items() if name != "task"])
        if metrics:  # a task may have corpus metrics only
            print_table(tuple(metrics[0]), [[_text(value) for value in metric.values()] for metric in metrics])


def _details(task: "Task") -> dict[str, Any]:
    sampling = None if task.generation is None else asdict(task.generation.sampling)
    found = {"task": task.name, "title": task.title, "version": task.version, "ability": task.ability}
    found |= {"group": task.group or None, "family": task.family or task.name, "headline": task.headline}
    found |= {"data card": task.card or None, "shots": task.takes_shots, "prompts": task.takes_prompts}
    found |= {"samples": task.takes("samples")}
    found |= {"sampling": sampling, "scorers": list(task.scorer_kinds), "plug-in": task.definition or None}
    return found | {"metrics": [_metric(metric) for metric in task.metrics]}


def _metric(metric: "Metric") -> dict[str, Any]:
    per_document = "per document" if metric.unit == "proportion" else None
    chance = per_document if metric.chance is None else metric.chance
    found = {"metric": metric.name, "unit": metric.unit, "better": metric.better, "chance": chance}
    return found | {"bounds": list(metric.bounds), "scorer": metric.scorer}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={own}" for name, own in value.items())
    if isinstance(value, list):
        return " … ".join("–" if own is None else str(own) for own in value) or "–"
    return {None: "–", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)
