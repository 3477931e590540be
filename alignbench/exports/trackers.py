"""Results in experiment trackers: Weights & Biases, MLflow, Trackio."""

import importlib
import re
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.exports.files import NAME, measured
from alignbench.runs.read import Run

TRACKERS = ("wandb", "mlflow", "trackio")


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
    metrics, settings = values_of(run), settings_of(run)
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


def values_of(run: Run) -> dict[str, float]:
    found: dict[str, float] = {}
    for label, _, metrics in measured(run):
        for own in metrics:
            pair = (f"{label}/{own.metric}", own.value), (f"{label}/{own.metric}_stderr", own.standard_error)
            found |= {name: value for name, value in pair if value is not None}
    return found


def settings_of(run: Run) -> dict[str, str]:
    """What identifies the run: its folder, the model's hashes, the engine, the version."""
    engine, environment = run.description.get("engine") or {}, run.description.get("environment") or {}
    found = {"run_folder": run.path.name, NAME: environment.get(NAME)}
    found |= {f"model.{name}": value for name, value in run.description["model"].items()}
    found |= {f"engine.{name}": value for name, value in engine.items()}
    return {name: str(value) for name, value in found.items() if value is not None}
