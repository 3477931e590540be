"""Tasks of results that were not made here: `outputs`, the task of `alignbench score FILE`, and those that a task.json
declares, with metrics, titles and abilities of their own."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alignbench.parse import parse_yaml
from alignbench.scorers import squad
from alignbench.scorers.rouge import rouge_l
from alignbench.tasks import all_tasks
from alignbench.tasks.common import CORPUS_SCORES, ngram_counts
from alignbench.tasks.declare import generation_task, words
from alignbench.types.task import Document, Metric, Output, Task, TaskData

READY = "ready"  # kind of the scores of an output that were in the file
_KNOWN: dict[str, Any] = parse_yaml(Path(__file__).with_name("declared.yaml").read_text("utf-8"))


NUMBERS = {"entailment": "flagged"}  # kind of scorer -> its number, where that is not named as the kind


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Means over the document's outputs. A metric applies to a document that has what it needs: references for exact
    match, F1, ROUGE and BLEU, a source text for entailment scorers."""
    metrics: dict[str, list[float]] = {}
    kinds = [(metric.name, kind) for metric in OUTPUTS.metrics for kind in metric.kinds]
    for output in outputs:
        text, references = output.text, document.references
        numbers: dict[str, float | None] = {"words": words(text), "empty": float(not text.strip())}
        if references:
            numbers["exact_match"] = squad.exact_match(text, references)
            numbers["f1"] = squad.f1(text, references)
            numbers["rouge_l"] = max(rouge_l(text, reference) for reference in references)
        numbers |= {name: output.scores.get(kind, {}).get(NUMBERS.get(kind, kind)) for name, kind in kinds}
        for name, value in numbers.items():
            metrics.setdefault(name, []).extend([] if value is None else [value])
    return {name: sum(own) / len(own) for name, own in metrics.items() if own}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    """n-gram counts of all outputs together, for the corpus BLEU and chrF."""
    if not document.references or not outputs:
        return {}
    each = [ngram_counts(output.text, document.references) for output in outputs]
    together = {column: np.sum([counts[column] for counts in each], axis=0).tolist() for column in each[0]}
    return together | {"references_counted": each[0]["references_counted"]}


# without documents of its own: they come from the file
OUTPUTS = generation_task("outputs", lambda options: TaskData([], ()), score, CORPUS_SCORES, statistics=statistics)


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
