"""From foreign results to run folders: one run per model, one task folder per task, by the pipeline of all others."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.evaluation.pipeline import run_task
from alignbench.evaluation.sources import SavedOutputs
from alignbench.progress import Progress
from alignbench.provenance import environment
from alignbench.runs.folder import digest, open_run
from alignbench.runs.read import run_result
from alignbench.shards import require_single_process
from alignbench.tasks.declared import declared_task, described
from alignbench.types.record import Record
from alignbench.types.result import RunResult
from alignbench.types.scorer import Scorer
from alignbench.types.task import Metric

# metrics of other harnesses whose values are 0 or 1; other values between 0 and 1 are proportions
BINARY = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "exact", "pass@1"}
LOWER = ("toxic", "hallucinat", "perplexity", "error", "wer", "ter", "loss", "brier", "bias", "unsafe", "refus")
CORPUS = ("bleu", "chrf")  # metrics of all outputs together
# fields of task.json that foreign results do not have
UNKNOWN: dict[str, Any] = {"shots": 0, "limit": None, "seed": 0, "data": [], "template": None, "prefix": None}


@dataclass(frozen=True)
class Found:
    """A task of a model in foreign results.

    model: what identifies the model, with its name; about: what else run.json records
    declared: how the task differs from the built-in one (see `declared_task`)
    records: pending, if the task has to score them, with `scorers`
    identity: the rest of task.json; imported: the hashes of the files
    """

    model: Mapping[str, Any]
    task: str
    declared: Mapping[str, Any]
    records: Sequence[Record]
    identity: Mapping[str, Any]
    scorers: Sequence[Scorer] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def write_runs(found: Sequence[Found], out: str | Path, progress: Progress | None = None) -> list[RunResult]:
    """Write a run folder for each model. Of several results for the same task and settings, the first ones count.

    Raises AlignbenchError if an earlier import wrote the same task and settings from other files or with other options.
    """
    require_single_process("import")
    progress, runs = progress or Progress(), []
    of_model: dict[str, list[Found]] = {}
    for own in found:
        of_model.setdefault(digest(own.model), []).append(own)
    for together in of_model.values():
        name, taken = str(together[0].model["model"]["name"]), set[str]()
        done = []
        with open_run(Path(out), name, together[0].model) as run:
            run.describe({**together[0].model, **together[0].about, "environment": environment()})
            before = {_key(folder.identity()): folder for folder in run.tasks()}
            for own in together:
                identity = {"task": own.task, **own.identity, "n": len(own.records), "declared": dict(own.declared)}
                if (key := _key(identity)) in taken:
                    progress.say(f"{name} {own.task}: older, left out: {', '.join(own.identity['imported'])}")
                    continue
                taken.add(key)
                if key in before and digest(before[key].identity()) != digest(identity):
                    raise AlignbenchError(f"{before[key].path}: of other files or options; import into another --out")
                task, records = declared_task(own.task, own.declared), {record.id: record for record in own.records}
                assert task is not None
                source = SavedOutputs(name, lambda document, records=records: records[document.id])  # type: ignore[misc]
                documents = [record.document for record in own.records]
                done.append(run_task(source, run, task, documents, own.scorers, identity, progress))
        runs.append(run_result(name, run.path, done))
    return runs


def _key(identity: Mapping[str, Any]) -> str:
    """What results for the same task and settings have in common."""
    return digest({**identity, "imported": None, "declared": None})


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
    known = sorted({own.task for own in found})
    if unknown := sorted(set(headlines) - set(known)):
        raise AlignbenchError(f"--metric {unknown[0]}=…: no such task; there are {', '.join(known)}")
    changed = []
    for own in found:
        task, metric = declared_task(own.task, own.declared), headlines.get(own.task)
        assert task is not None
        names = [one.name for one in task.metrics] + ([*CORPUS, task.headline] if own.records[0].pending else [])
        if metric is not None and metric not in names:
            raise AlignbenchError(f"--metric {own.task}={metric}: no such metric; there are {', '.join(names)}")
        changed.append(own if metric is None else replace(own, declared={**own.declared, "headline": metric}))
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
    better = better or ("lower" if any(part in known for part in LOWER) else "higher")
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
