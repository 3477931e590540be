"""Results for other tools: the hub's model card, Every Eval Ever, lm-evaluation-harness, Parquet, and the experiment
trackers Weights & Biases, MLflow and Trackio."""

import importlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignbench import __version__
from alignbench.audit.references import task_of
from alignbench.audit.tax import range_of
from alignbench.data.load import SYNTHETIC
from alignbench.errors import AlignbenchError, first_line
from alignbench.runs.read import Run, TaskRun, read_run
from alignbench.types.result import MetricResult

NAME = "alignbench"
TRACKERS = ("wandb", "mlflow", "trackio")
CARD = "audit-card"  # .md and .pdf, which `alignbench compare --card` writes
LINK = f"[audit card]({CARD}.md) ([PDF]({CARD}.pdf))"
SECTION = f"\n<!-- alignbench -->\nWhat aligning this model gained and cost: {LINK}.\n<!-- /alignbench -->\n"
SECTIONS = re.compile(r"\s*<!-- alignbench -->.*?<!-- /alignbench -->\s*", re.DOTALL)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def measured(run: Run) -> Iterator[tuple[str, TaskRun, list[MetricResult]]]:
    """(label, task, metrics) of each finished task. The label is the task's name, or that of its folder if the run has
    the task in several settings. The metrics are those over all documents that have a value."""
    names = [task.task for task in run.tasks]
    for task in run.tasks:
        metrics = [own for own in task.result.metrics if own.category is None and own.value is not None]
        yield task.task if names.count(task.task) == 1 else task.path.name, task, metrics


def to_model_card(run: Run, file: Path) -> str:
    """The model card in a file, or a new one, with the headline metrics in its `model-index`, and at its end a link to
    the audit card of this model, if its folder has one.

    What an earlier export wrote is replaced; the rest stays. Raises AlignbenchError if the card cannot be read.
    """
    import yaml
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    try:
        card = ModelCard.load(file) if file.exists() else ModelCard(f"---\n{{}}\n---\n\n# {run.name}\n")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AlignbenchError(f"{file}: not a model card ({first_line(error)})") from error
    name = str(getattr(card.data, "model_name", None) or run.name)
    others = [own for own in card.data.eval_results or () if NAME not in (own.metric_args or {})]
    found = []
    for label, task, metrics in measured(run):
        headline = None if (known := task_of(task)) is None else known.headline
        for metric in metrics:
            if metric.metric == headline or headline is None:
                dataset, revision = _dataset(task)
                found.append(
                    EvalResult(
                        task_type="text-generation", task_name=known.title if known else label, dataset_type=dataset,
                        dataset_name=label, dataset_revision=revision, dataset_config=label, metric_type=metric.metric,
                        metric_name=f"{metric.metric} ({metric.unit}; {_interval(metric)})", metric_value=metric.value,
                        metric_args={NAME: _version(run)},
                    )
                )  # fmt: skip
    fields = card.data.to_dict() | {"model_name": name, "eval_results": [*others, *found]}
    fields.pop("model-index", None)
    card.data = ModelCardData(**fields)
    linked = has_audit_card(run, file.parent)
    if linked or SECTIONS.search(card.text):
        card.text = SECTIONS.sub("\n\n", card.text).rstrip() + "\n" + SECTION * linked
    return str(card)


def card_mark(runs: Sequence[Run]) -> str:
    """The first line of the audit card of these models, a comment that names them."""
    return f"<!-- audit card of {', '.join(run.weights or run.path.name[-8:] for run in runs)} -->"


def has_audit_card(run: Run, folder: Path) -> bool:
    """Whether a folder has an audit card, and this model is among those that it is of."""
    try:
        with (folder / f"{CARD}.md").open(encoding="utf-8") as stream:
            return (run.weights or run.path.name[-8:]) in stream.readline(100_000)
    except (OSError, ValueError):
        return False


def to_every_eval_ever(run: Run, organization: str, relationship: str) -> str:
    """A JSON object of the aggregate schema 0.3.0 of Every Eval Ever (arXiv 2606.14516).

    organization: that made the evaluation; relationship: to the model's developer: first_party, third_party,
    collaborative, other
    """
    model, engine = run.description["model"], run.description.get("engine") or {}
    environment = run.description.get("environment") or {}
    kind = str(engine.get("kind", "file"))
    package = {"local": "transformers"}.get(kind, kind)
    details = {"deployment_type": "externally_managed" if kind == "endpoint" else "self_deployed"}
    details |= {"model_availability": "unknown"}
    details |= {key: str(value) for key, value in model.items() if key.endswith("sha256") and value is not None}
    found = {
        "schema_version": "0.3.0",
        "evaluation_id": f"{NAME}/{run.name}/{run.path.name}",
        "retrieved_timestamp": f"{time.time():.0f}",
        "source_metadata": {
            "source_name": NAME, "source_type": "evaluation_run", "source_organization_name": organization,
            "evaluator_relationship": relationship,
        },
        "eval_library": {"name": NAME, "version": _version(run)},
        "model_info": {
            "name": run.name, "id": str(model["name"]), "additional_details": details,
            "inference_engine": {"name": package, "version": str(environment.get(package, "unknown"))},
        },
        "evaluation_results": [
            _evaluation(label, task, metric) for label, task, metrics in measured(run) for metric in metrics
        ],
    }  # fmt: skip
    return _json(found)


def _evaluation(label: str, task: TaskRun, metric: MetricResult) -> dict[str, Any]:
    low, high = range_of(metric) or metric.bounds
    sampling = task.identity.get("sampling") or {}
    arguments = {name: sampling[name] for name in ("temperature", "top_p", "max_tokens") if name in sampling}
    settings = ("version", "shots", "limit", "seed", "template", "documents_sha256")
    uncertainty: dict[str, Any] = {"num_samples": metric.n}
    if metric.standard_error is not None:
        uncertainty["standard_error"] = {"value": metric.standard_error}
    if metric.low is not None and metric.high is not None:
        ends = {"lower": metric.low, "upper": metric.high}
        uncertainty["confidence_interval"] = {**ends, "confidence_level": 0.95}
    return {
        "evaluation_result_id": f"{label}.{metric.metric}",
        "evaluation_name": label,
        "source_data": _source(task),
        "metric_config": {
            "metric_id": f"{task.task}.{metric.metric}",
            "metric_name": metric.metric,
            "metric_unit": metric.unit,
            "lower_is_better": metric.better == "lower",
            "score_type": "continuous",
            "min_score": "-Infinity" if low is None else low,
            "max_score": "Infinity" if high is None else high,
            "additional_details": {"better": metric.better, "unscored": str(metric.n_unscored)},
        },
        "score_details": {"score": metric.value, "uncertainty": uncertainty},
        "generation_config": {
            "generation_args": arguments,
            "additional_details": {name: str(task.identity.get(name)) for name in settings},
        },
    }


def _source(task: TaskRun) -> dict[str, Any]:
    name, revision = _dataset(task)
    kind: dict[str, Any] = {"source_type": "other"}
    if HUB_ID.fullmatch(name):
        kind = {"source_type": "hf_dataset", "hf_repo": name, "samples_number": task.result.n}
    return {"dataset_name": name, **kind, "additional_details": {"revision": str(revision)}}


def _dataset(task: TaskRun) -> tuple[str, str | None]:
    """The data set that the documents come from, by its id on the hub or the name of its card, and its revision; the
    task itself if it needs none."""
    first = (task.identity.get("data") or [{"source": "", "card": task.task}])[0]
    source, revision = str(first.get("source")), first.get("revision")
    if HUB_ID.fullmatch(source):
        return source, revision
    return f"{SYNTHETIC if task.synthetic else ''}{first.get('card')}", revision


def _version(run: Run) -> str:
    return str((run.description.get("environment") or {}).get(NAME, __version__))


def _interval(metric: MetricResult) -> str:
    if metric.low is None or metric.high is None:
        return f"n = {metric.n}"
    return f"95 % interval {metric.low:.4g} … {metric.high:.4g}, n = {metric.n}"


def to_lm_eval(run: Run) -> str:
    """A JSON object like results_*.json of lm-evaluation-harness 0.4: `METRIC,none` and `METRIC_stderr,none`."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for label, task, metrics in measured(run):
        result, values = task.result, found["results"].setdefault(label, {"alias": label})
        for own in metrics:
            error = "N/A" if own.standard_error is None else own.standard_error
            values |= {f"{own.metric},none": own.value, f"{own.metric}_stderr,none": error}
        found["group_subtasks"][label] = []
        sampling = task.identity.get("sampling")
        found["configs"][label] = {"task": label, "num_fewshot": result.shots, "generation_kwargs": sampling}
        found["versions"][label], found["n-shot"][label] = result.version, result.shots
        directions = {own.metric: {"higher": True, "lower": False}.get(own.better) for own in metrics}
        found["higher_is_better"][label] = directions
        found["n-samples"][label] = {"original": result.n, "effective": result.n}
    name = str(run.description["model"]["name"])
    config = {"model": NAME, "model_args": f"pretrained={name}", "model_sha256": run.weights}
    return _json({**found, "config": config, "model_source": NAME, "model_name": name, "date": time.time()})


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_parquet(runs: Sequence[Run], file: Path) -> None:
    """The records of all runs in one table: the columns of `read_run`, and the model and its run folder."""
    import pandas

    tables = [read_run(run.path).assign(model=run.name, run=run.path.name) for run in runs]
    try:
        pandas.concat(tables, ignore_index=True).to_parquet(file, index=False)
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be written ({error.strerror or error})") from None


def to_tracker(tracker: str, run: Run, project: str) -> None:
    """Log the metrics TASK/METRIC and TASK/METRIC_stderr as a run of the tracker, in its own configuration.

    Raises AlignbenchError if its package is not installed or refuses.
    """
    try:
        library: Any = importlib.import_module(tracker)
    except ImportError:
        raise AlignbenchError(f"{tracker} is not installed: pip install 'alignbench[{tracker}]'") from None
    try:
        _log(library, run, project)
    except Exception as error:  # its servers, logins and settings have errors of their own
        raise AlignbenchError(f"{tracker}: {first_line(error)}") from error


def _log(library: Any, run: Run, project: str) -> None:
    metrics, settings = _values(run), _settings(run)
    if library.__name__ == "mlflow":
        library.set_experiment(project)
        with library.start_run(run_name=run.name):
            library.log_params(settings)
            # MLflow accepts no other characters in names
            library.log_metrics({re.sub(r"[^\w\-. :/]", "_", name): value for name, value in metrics.items()})
    else:
        library.init(project=project, name=run.name, config=settings)
        library.log(metrics)
        library.finish()


def _values(run: Run) -> dict[str, float]:
    found: dict[str, float] = {}
    for label, _, metrics in measured(run):
        for own in metrics:
            pair = (f"{label}/{own.metric}", own.value), (f"{label}/{own.metric}_stderr", own.standard_error)
            found |= {name: value for name, value in pair if value is not None}
    return found


def _settings(run: Run) -> dict[str, str]:
    """What identifies the run: its folder, the model's hashes, the engine, the version."""
    engine, environment = run.description.get("engine") or {}, run.description.get("environment") or {}
    found = {"run_folder": run.path.name, NAME: environment.get(NAME)}
    found |= {f"model.{name}": value for name, value in run.description["model"].items()}
    found |= {f"engine.{name}": value for name, value in engine.items()}
    return {name: str(value) for name, value in found.items() if value is not None}
