"""What the readers of foreign results have in common: scores as metrics, and tasks that are not ours."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.evaluation.score_file import Found
from alignbench.tasks import lm_eval_metrics
from alignbench.tasks.declared import declared_task, described
from alignbench.types.record import Record
from alignbench.types.task import Metric

# metrics of other harnesses whose values are 0 or 1; other values between 0 and 1 are proportions
BINARY = {*lm_eval_metrics.BINARY, "em", "exact", "pass@1"}
# in names of metrics of which less is better; "answer" contains "wer" and is none
LOWER = re.compile(r"(?<![a-z])(toxic|hallucinat|error|brier|bias|unsafe|refus|[wt]er(?![a-z]))|perplexity|loss")
CORPUS = ("bleu", "chrf")  # metrics of all outputs together


def task_of(
    model: Mapping[str, Any],
    task: str,
    declared: Mapping[str, Any],
    records: Sequence[Record],
    identity: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> Found:
    """The scored records of a task. declared: how it differs from the built-in one (see `declared_task`)"""
    known = declared_task(task, declared)
    assert known is not None
    identity = {"task": task, **identity, "n": len(records), "declared": dict(declared)}
    return Found(model, known, records, identity, about=about or {})


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Report a log with another structure than its format has as an AlignbenchError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise AlignbenchError(f"{file}: not a log of a version that can be read ({why})") from None


def with_headlines(found: Sequence[Found], headlines: Mapping[str, str]) -> list[Found]:
    """The results with the metrics that represent their tasks (task -> metric).

    Raises AlignbenchError for a task that was not found, and for a metric that it does not have.
    """
    known = sorted({own.task.name for own in found})
    if unknown := sorted(set(headlines) - set(known)):
        raise AlignbenchError(f"--metric {unknown[0]}=…: no such task; there are {', '.join(known)}")
    changed = []
    for own in found:
        if (metric := headlines.get(own.task.name)) is not None:
            names = [one.name for one in own.task.metrics]
            names += [*CORPUS, own.task.headline] if own.records[0].pending else []
            if metric not in names:
                raise AlignbenchError(
                    f"--metric {own.task.name}={metric}: no such metric; there are {', '.join(names)}"
                )
            declared = {**own.identity["declared"], "headline": metric}
            own = replace(own, task=replace(own.task, headline=metric), identity={**own.identity, "declared": declared})
        changed.append(own)
    return changed


def numeric(value: Any) -> float | None:
    """A score as a number: 1 for true; None for what is not a finite number."""
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def scored(record: Record, metrics: Mapping[str, float | None], reason: str | None = None) -> Record:
    """The complete record with these metrics; one that is None could not be computed, for this reason."""
    absent = next((f"{name} is not a number" for name, value in metrics.items() if value is None), None)
    return replace(record, metrics=dict(metrics), unscored=reason or absent, pending=False)


def describe_metric(name: str, values: Sequence[float], better: str | None = None, base: str | None = None) -> Metric:
    """The metric of a column of values. better: "higher", "lower" or "–"; None: by its name

    base: the name by which the metric is known, if that differs
    """
    known = (base or name).lower()
    better = better or ("lower" if LOWER.search(known) else "higher")
    if not all(0 <= value <= 1 for value in values):
        return Metric(name, "number", better)  # type: ignore[arg-type]
    binary = known in BINARY and set(values) <= {0.0, 1.0}
    return Metric(name, "proportion", better, binary, bounds=(0.0, 1.0))  # type: ignore[arg-type]


def declare(name: str, metrics: Sequence[Metric], corpus: Sequence[str] = (), **fields: Any) -> dict[str, Any]:
    """The declaration of a task that is not ours. The usual metric of the benchmark represents it, or else the first.

    corpus: names of further metrics, of all documents together
    """
    known, names = described(name), [*(metric.name for metric in metrics), *corpus]
    usual = known.pop("metric", None)
    headline = next((own for own in names if own == usual or own.startswith(f"{usual},")), names[0])
    fields |= {"like": "outputs", "title": name, **known, "headline": headline}
    return fields | {"metrics": [asdict(metric) for metric in metrics]}


def task_name(name: str) -> str:
    """A foreign name as the name of a task and its folder: without slashes, and without the dot of TASK.METRIC."""
    return re.sub(r"[^\w:+-]+", "_", name.rpartition("/")[2]).strip("_") or "task"
