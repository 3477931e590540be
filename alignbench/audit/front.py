"""The reward-tax front over checkpoints: those that no other checkpoint beats in both reward and tax."""

from collections.abc import Sequence
from dataclasses import replace

from alignbench.audit.audit import Checkpoint, Contrast, Front, MeanTax
from alignbench.audit.comparable import match
from alignbench.audit.tax import macro, range_of, taxed
from alignbench.errors import AlignbenchError
from alignbench.runs.read import Run, TaskRun
from alignbench.types.result import MetricResult

REWARD = "win_rate.win_rate"
OF_A_TIE = {"win_rate", "win_rate_length_controlled"}  # metrics of win_rate that are one half against oneself
WORST_TAX = 100.0  # percent of the range: a total loss
Point = tuple[float, float]  # reward (higher is better), tax (lower is better)


def reward_front(
    contrasts: Sequence[Contrast],
    runs: Sequence[Run],
    reward: str | None,
    reference_point: Point | None,
    across_templates: bool,
    margin: float,
) -> tuple[Front | None, list[str]]:
    """The front over a reference and all models compared with it, on the tasks that all of them have; and notes.

    Raises AlignbenchError if no run has the given `reward` (TASK.METRIC).
    """
    named = reward or REWARD
    results, notes = _rewards(runs, named, across_templates)
    if not results:
        if reward is not None:
            known = sorted({f"{own.task}.{m.metric}" for run in runs for own in run.tasks for m in own.result.metrics})
            raise AlignbenchError(f"--reward {reward}: none of the models has it; there are {', '.join(known)}")
        return None, []
    # the contrasts with the reference that most models with a reward were compared with, one for each model; those with
    # own templates come after the others and take their places
    usable = [contrast for contrast in contrasts if contrast.aligned in results]
    names = [contrast.reference for contrast in usable]
    most = max(dict.fromkeys(names), key=names.count, default=None)
    own = list({contrast.aligned: contrast for contrast in usable if contrast.reference == most}.values())
    sets = [{row.task for row in taxed(contrast.rows, named)} for contrast in own]
    tasks = sorted(set.intersection(*sets)) if sets else []
    if not tasks:
        return None, [*notes, f"no front of {named} against tax: no compared checkpoint has both"]
    reference = own[0].reference
    taxes: dict[str, MeanTax | None] = {reference: None} if reference in results else {}
    for contrast in own:
        _, taxes[contrast.aligned] = macro([row for row in taxed(contrast.rows, named) if row.task in tasks], margin)
    places = [(results[name].value or 0.0, mean.value if mean else 0.0) for name, mean in taxes.items()]
    points = []
    for (name, mean), (gained, lost), on in zip(taxes.items(), places, non_dominated(places), strict=True):
        found, ends = results[name], (mean.low, mean.high) if mean else (None, None)
        points.append(Checkpoint(name, gained, found.low, found.high, lost, *ends, on, by_definition=not found.n))
    like, why, corner = results[own[0].aligned], "as given", reference_point
    if corner is None:
        if (bounds := range_of(like)) is None:
            return None, [*notes, f"no front: {named} has no lowest value; give --reference-point REWARD,TAX"]
        corner, why = (bounds[0], WORST_TAX), "the worst possible values, the same for all checkpoints and audits"
    area = hypervolume(places, corner)
    return Front(named, like.unit, reference, tuple(tasks), tuple(points), area, corner, why), notes


def non_dominated(points: Sequence[Point]) -> list[bool]:
    """For each point, True if no other has at least its reward and at most its tax, and differs from it."""
    return [
        not any(other != point and other[0] >= point[0] and other[1] <= point[1] for other in points)
        for point in points
    ]


def hypervolume(points: Sequence[Point], reference_point: Point) -> float:
    """Area of the (reward, tax) pairs that some point is better than, bounded by the reference point; exact.

    Zitzler & Thiele 1999, doi 10.1109/4235.797969. Points worse than the reference point in either add nothing.
    """
    reward, tax = reference_point
    inside = sorted((point for point in points if point[0] > reward and point[1] < tax), key=lambda point: point[1])
    area, reached = 0.0, reward
    for own, cost in inside:  # by increasing tax: each adds the strip of reward that none before it had
        if own > reached:
            area += (own - reached) * (tax - cost)
            reached = own
    return area


def _rewards(runs: Sequence[Run], named: str, across_templates: bool) -> tuple[dict[str, MetricResult], list[str]]:
    """The reward of each model, measured in the same way for all; and which models have none, or another one.

    If there are several kinds (two judges), the one that most models have.
    """
    task, _, metric = named.partition(".")

    def value(own: TaskRun) -> float | None:
        return own.result.overall[metric].value if own.task == task and metric in own.result.overall else None

    folders = {run.name: [own for own in run.tasks if value(own) is not None] for run in runs}
    best: dict[str, TaskRun] = {}
    for measured in [own for mine in folders.values() for own in mine]:
        pairs = {
            name: match([measured], own, across_templates=across_templates) for name, own in folders.items() if own
        }
        alike = {name: found[0].aligned for name, found in pairs.items() if isinstance(found, list)}
        best = max(best, alike, key=len)
    results = {name: own.result.overall[metric] for name, own in best.items()}
    if best and task == "win_rate" and metric in OF_A_TIE:
        name, folder = next(iter(best.items()))
        half = replace(results[name], value=0.5, standard_error=None, low=None, high=None, n=0, n_clusters=0)
        # the run that has the baseline's name, and the folder of the answers that were judged
        baseline = folder.identity.get("baseline") or {}
        for run in runs:
            judged = "folder" not in baseline or (run.path / baseline["folder"]).is_dir()
            if judged and run.description["model"]["name"] == baseline.get("name"):
                results.setdefault(run.name, half)
    lacking = [name for name in folders if name not in results]
    notes = [f"not on the front, no {named}: {name}" for name in lacking if not folders[name]]
    notes += [f"not on the front, {named} with different settings: {name}" for name in lacking if folders[name]]
    return results, notes if results else []
