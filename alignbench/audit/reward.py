"""The reward-tax front over checkpoints: which reward, against which reference, on which tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignbench.audit.audit import Checkpoint, Contrast, Front
from alignbench.audit.comparable import match
from alignbench.audit.front import hypervolume, non_dominated
from alignbench.audit.references import find
from alignbench.audit.tax import cards, macro, range_of, taxed
from alignbench.errors import AlignbenchError
from alignbench.runs.read import Run, TaskRun
from alignbench.types.result import MetricResult

REWARD = "win_rate.win_rate"
OF_A_TIE = {"win_rate", "win_rate_length_controlled"}  # of the task win_rate: one half against oneself
WORST_TAX = 100.0  # percent of the range: everything lost


def reward_front(
    contrasts: Sequence[Contrast],
    runs: Sequence[Run],
    reward: str | None,
    reference_point: tuple[float, float] | None,
    across_templates: bool,
) -> tuple[Front | None, list[str]]:
    """The front over a reference and all that were compared with it, on the tasks that all of them have; and notes.

    Raises AlignbenchError where `reward` (TASK.METRIC) is asked for and no run has it.
    """
    named = reward or REWARD
    results, notes = _rewards(runs, named, across_templates)
    if not results:
        if reward is not None:
            known = sorted({f"{own.task}.{m.metric}" for run in runs for own in run.tasks for m in own.result.metrics})
            raise AlignbenchError(f"--reward {reward}: none of the models has it; there are {', '.join(known)}")
        return None, []
    own = _of_most_compared(contrasts, results)
    sets = [{row.task for row in taxed(c.rows, named)} for c in own]
    tasks = sorted(set.intersection(*sets)) if sets else []
    if not tasks:
        return None, [*notes, f"no front of {named} against tax: no compared checkpoint has both"]
    reference = own[0].reference
    points = [_checkpoint(reference, results[reference], 0.0, None, None)] if reference in results else []
    for contrast in own:
        rows = [row for row in taxed(contrast.rows, named) if row.task in tasks]
        _, mean = macro(rows, cards(rows))
        assert mean is not None
        points.append(_checkpoint(contrast.aligned, results[contrast.aligned], mean.value, mean.low, mean.high))
    places = [(point.reward, point.tax) for point in points]
    points = [replace(point, on_front=on) for point, on in zip(points, non_dominated(places), strict=True)]
    unit = results[own[0].aligned].unit
    corner = reference_point or _worst(named, results[own[0].aligned])
    if corner is None:
        return None, [*notes, f"no front: {named} has no lowest value; give --reference-point REWARD,TAX"]
    why = "as asked for"
    if reference_point is None:
        why = "the worst there can be: it depends on no checkpoint, so other audits can be set beside this one"
    area = hypervolume(places, corner)
    return Front(named, unit, reference, tuple(tasks), tuple(points), area, corner, why), notes


def _rewards(runs: Sequence[Run], named: str, across_templates: bool) -> tuple[dict[str, MetricResult], list[str]]:
    """Each model's reward, measured alike; and who has none, or an unlike one.

    Where there are several kinds (two judges), it is the one that most models have.
    """
    task, _, metric = named.partition(".")
    folders = {
        run.name: [own for own in run.tasks if own.task == task and _value(own, metric) is not None] for run in runs
    }
    best: dict[str, TaskRun] = {}
    for measure in [own for mine in folders.values() for own in mine]:
        alike: dict[str, TaskRun] = {}
        for name, own in folders.items():
            found = match([measure], own, across_templates=across_templates) if own else None
            if isinstance(found, list):
                alike[name] = found[0].aligned
        if len(alike) > len(best):
            best = alike
    results = {name: result for name, own in best.items() if (result := _value(own, metric)) is not None}
    for run in runs:
        if run.name not in results and named.startswith("win_rate.") and metric in OF_A_TIE and best:
            measured = next(iter(best.values()))
            if _is_baseline(run, measured.identity):
                results[run.name] = _half(results[next(iter(best))])
    notes = [
        f"not on the front, since it has no {named}: {name}"
        for name, own in folders.items()
        if not own and name not in results
    ]
    notes += [
        f"not on the front, since its {named} was measured in another way: {name}"
        for name, own in folders.items()
        if own and name not in results
    ]
    return results, notes if results else []


def _is_baseline(run: Run, identity: Mapping[str, Any]) -> bool:
    """Whether a run is what a win rate was measured against: of that name, and with the answers that were judged."""
    baseline = identity.get("baseline") or {}
    named = baseline.get("name") == run.description["model"]["name"]
    return named and ("folder" not in baseline or (run.path / baseline["folder"]).is_dir())


def _half(like: MetricResult) -> MetricResult:
    return replace(like, value=0.5, standard_error=None, low=None, high=None, n=0, n_clusters=0, n_unscored=0)


def _of_most_compared(contrasts: Sequence[Contrast], results: Mapping[str, MetricResult]) -> list[Contrast]:
    """The contrasts with the reference that most of the models with a reward were compared with, one for each: with
    its own template where that was asked for."""
    usable = [contrast for contrast in contrasts if contrast.aligned in results]
    if not usable:
        return []
    references = [contrast.reference for contrast in usable]
    reference = max(dict.fromkeys(references), key=references.count)
    of_model: dict[str, Contrast] = {}
    for contrast in usable:
        if contrast.reference == reference:  # those with own templates come after the others
            of_model[contrast.aligned] = contrast
    return list(of_model.values())


def _worst(named: str, like: MetricResult) -> tuple[float, float] | None:
    """The lowest reward that there can be, and everything lost; None where a reward has no lowest value."""
    task, _, metric = named.partition(".")
    known = find(task)
    definition = next((m for m in known.metrics if m.name == metric), None) if known else None
    bounds = range_of(like, definition)
    return None if bounds is None else (bounds[0], WORST_TAX)


def _value(own: TaskRun, metric: str) -> MetricResult | None:
    found = (m for m in own.result.metrics if m.metric == metric and m.category is None and m.value is not None)
    return next(found, None)


def _checkpoint(name: str, reward: MetricResult, tax: float, low: float | None, high: float | None) -> Checkpoint:
    assert reward.value is not None
    return Checkpoint(name, reward.value, reward.low, reward.high, tax, low, high, False, by_definition=not reward.n)
