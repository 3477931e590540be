"""`alignbench sweep`: the checkpoints of one training, in order of step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.models.steps import saved_during, trainer_state
from alignbench.parse import find_path
from alignbench.progress import Progress
from alignbench.runs.folder import lock_run, write_json
from alignbench.shards import is_first_process
from alignbench.types.result import RunResult


def sweep(
    checkpoints: Sequence[str],
    tasks: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    base: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[tuple[int, RunResult]]:
    """Evaluate the checkpoints of one training, each into its own run folder; (step, results), in order of step.

    checkpoints: folders `checkpoint-STEP` of transformers' Trainer or TRL, or those in `checkpoints/` of our trainers
    base: the model that the training started from, as step 0; run.json of the checkpoints then refers to it
    settings: as of `alignbench.evaluate`

    Raises AlignbenchError as `evaluate` does, and for checkpoints of different trainings.
    """
    steps = in_order(checkpoints)
    if base is not None and 0 in steps:
        raise AlignbenchError(f"{steps[0]}: it is step 0; leave out --base or this checkpoint")
    specs = ({} if base is None else {0: base}) | steps
    runs = evaluate(list(specs.values()), tasks, out, progress=progress, **settings)
    if base is not None and is_first_process():
        _refer_to(runs[0], runs[1:])
    return list(zip(specs, runs, strict=True))


def in_order(checkpoints: Sequence[str]) -> dict[int, str]:
    """Step -> checkpoint, in order of step. Raises AlignbenchError if they are not of one training."""
    found: dict[int, str] = {}
    training = None
    for spec in checkpoints:
        folder = find_path(spec)
        if not folder.is_dir():
            raise AlignbenchError(f"{spec}: no such checkpoint")
        saved = saved_during(folder)
        if not saved:
            raise AlignbenchError(f"{spec}: its step is unknown; the folder's name must be like checkpoint-500")
        training = training or saved["run_id"]
        first = found.setdefault(saved["step"], spec)
        if saved["run_id"] != training:
            raise AlignbenchError(f"{checkpoints[0]} and {spec} are of different trainings; sweep one at a time")
        if find_path(first).resolve() != folder.resolve():
            raise AlignbenchError(f"{first} and {spec} are both of step {saved['step']}; leave out one of them")
    ordered = dict(sorted(found.items()))
    _check_logs(list(ordered.values()))
    return ordered


def _check_logs(checkpoints: Sequence[str]) -> None:
    """Raise AlignbenchError unless each trainer_state.json continues the log of the one before: a folder may have kept
    checkpoints of an earlier training."""
    before: list[str] = []
    for number, spec in enumerate(checkpoints):
        history = trainer_state(find_path(spec)).get("log_history")
        lines = [json.dumps(entry, sort_keys=True) for entry in history] if isinstance(history, list) else before
        if lines[: len(before)] != before:
            other, why = checkpoints[number - 1], "the logs in trainer_state.json disagree"
            raise AlignbenchError(f"{other} and {spec} are of different trainings ({why}); sweep one at a time")
        before = lines


def _refer_to(base: RunResult, runs: Sequence[RunResult]) -> None:
    """Add to run.json of checkpoints the weights that the training started from."""
    with lock_run(base.folder) as folder:
        start = folder.description()["model"].get("weights_sha256")
    for run in runs:
        with lock_run(run.folder) as folder:
            found = folder.description()
            training = {**(found.get("training") or {}), "start": start}
            if start is not None and found.get("training") != training:
                write_json(folder.path / "run.json", {**found, "training": training})
