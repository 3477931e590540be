"""Tasks that a task.json declares: those of imported results, which have metrics, titles and abilities of their own."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignbench.parse import parse_yaml
from alignbench.tasks import all_tasks
from alignbench.tasks.outputs import OUTPUTS
from alignbench.types.task import Document, Metric, Output, Task

READY = "ready"  # kind of the scores of an output that were in the file
_KNOWN: dict[str, Any] = parse_yaml(Path(__file__).with_name("declared.yaml").read_text("utf-8"))


def find_any(name: str) -> Task | None:
    """The built-in task of this name, or that of outputs without a benchmark; None if there is none."""
    return OUTPUTS if name == OUTPUTS.name else all_tasks().get(name)


def declared_task(name: str, declared: Mapping[str, Any] | None = None) -> Task | None:
    """The task `name`, with the fields that a task.json declares; None if this version has no such task.

    declared: fields of `Task`; like: the built-in task that it is based on (default: `name`); metrics: as objects;
        ready: names of metrics whose values were in the file, one per output
    """
    fields = dict(declared or {})
    base, ready = find_any(str(fields.pop("like", name))), tuple(fields.pop("ready", ()))
    if base is None or not fields.keys() <= Task.__dataclass_fields__.keys():
        return None
    if "metrics" in fields:
        fields["metrics"] = tuple(map(metric_of, fields["metrics"]))
    if ready and base.generation is not None:
        score, kinds = base.generation.score, (*base.generation.optional_scorers, READY)

        def with_ready(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
            found = score(document, outputs)
            for metric in ready:
                values = [output.scores[READY][metric] for output in outputs if metric in output.scores.get(READY, {})]
                found |= {metric: sum(values) / len(values)} if values else {}
            return found

        fields["generation"] = replace(base.generation, score=with_ready, optional_scorers=kinds)
    return replace(base, name=name, **fields)


def metric_of(fields: Mapping[str, Any]) -> Metric:
    """The metric that a task.json describes."""
    return Metric(**{**fields, "bounds": tuple(fields.get("bounds", (None, None)))})


def described(name: str) -> dict[str, Any]:
    """What declared.yaml says of a benchmark that is not a task of ours: ability, group, and metric if it has a usual
    one. Names are those of lm-eval, Inspect and HELM, with any prefix "…/"."""
    return {"ability": "capability", "group": "other", **_first("benchmarks", name.rpartition("/")[2].lower())}


def unit_of(name: str) -> dict[str, Any]:
    """Unit and bounds of lm-eval's metric TASK.METRIC."""
    return {"unit": "number", **_first("metrics", name)}


def _first(kind: str, name: str) -> dict[str, Any]:
    """What declared.yaml says under the first pattern of the name."""
    return next((dict(own) for pattern, own in _KNOWN[kind].items() if fnmatch.fnmatchcase(name, pattern)), {})
