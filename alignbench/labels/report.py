"""Agreement for every question the labels answer, with intervals: overall, by group, by labeler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.labels import labelers
from alignbench.labels.judgements import Judgements, questions
from alignbench.labels.table import Label
from alignbench.stats import estimates
from alignbench.stats.agreement import (
    Floats,
    Level,
    agreeing_across,
    agreeing_pairs,
    alpha_of_coincidences,
    cohen_kappa,
    coincidences,
    fleiss_kappa_of_sums,
    fleiss_sums,
)
from alignbench.stats.bootstrap import RESAMPLES, estimate, resampled_means
from alignbench.stats.estimates import Estimate

LEVELS: dict[str, tuple[Level, ...]] = {
    "ranking": ("nominal", "ordinal"),
    "likert": ("nominal", "ordinal", "interval"),
}  # a flag: nominal


@dataclass(frozen=True)
class Finding:
    """One number.

    who: all, or a group, two groups, a labeler
    estimate: n counts pairs of judgements for pairwise agreement, else units (outputs or pairs of them); clusters are
        prompts
    """

    question: str
    statistic: str
    who: str
    estimate: Estimate


@dataclass(frozen=True)
class _Statistic:
    """A function of sums over units: `columns` (units, k) -> sums (…, k) -> `value` (…)."""

    name: str
    who: str
    columns: Floats
    value: Callable[[Floats], Floats]
    n: int
    bounds: tuple[float, float]


def agreement(labels: Sequence[Label], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[list[Finding], list[str]]:
    """Findings, and a line for each question on which nobody's judgements meet.

    Intervals of pairwise agreement, kappa and alpha resample prompts; those of single labelers are clustered Wilson
    intervals. Raises AlignbenchError where no two labelers judged the same thing.
    """
    found, notes = [], []
    for judgements in questions(labels):
        shared = judgements.overlapping()
        if not len(shared.unit):
            notes.append(f"{judgements.question}: no two labelers judged the same {_unit(judgements)}")
            continue
        found += _findings(shared, seed, resamples)
    if not found:
        names = sorted({label.labeler for label in labels})
        why = "; ".join(notes) or "the labels hold no ranks, Likert marks or flags"
        if len(names) == 1:
            why = f"one labeler only ({names[0]})"
        raise AlignbenchError(f"nothing to agree on: {why}")
    return found, notes


def _findings(shared: Judgements, seed: int, resamples: int) -> list[Finding]:
    question = shared.question
    found = [
        Finding(question, statistic.name, statistic.who, interval)
        for statistic, interval in _intervals(shared, _statistics(shared), seed, resamples)
    ]
    untied = shared.without_ties() if shared.mirrored else None
    if untied is not None and len(untied.unit):
        statistics = [_pairs(untied, "agreement_ties_dropped"), *_by_group(untied, "agreement_ties_dropped")]
        found[:0] = [
            Finding(question, statistic.name, statistic.who, interval)
            for statistic, interval in _intervals(untied, statistics, seed, resamples)
        ]
    for number in np.unique(shared.labeler).tolist():
        who = f"labeler {shared.labelers[number]}"
        if untied is not None:
            tieless = labelers.with_others(untied, number)
            found.append(Finding(question, "agreement_with_others_ties_dropped", who, tieless))
        found.append(Finding(question, "agreement_with_others", who, labelers.with_others(shared, number)))
        found.append(Finding(question, "agreement_with_majority", who, labelers.with_majority(shared, number)))
    return found


def _statistics(shared: Judgements) -> list[_Statistic]:
    counts = shared.counts()
    units, size = counts.shape
    found = [_pairs(shared, "agreement"), *_by_group(shared, "agreement")]
    judges = np.unique(shared.labeler)
    if len(judges) == 2:
        confusion = np.zeros((units, size, size))
        first, second = (shared.labeler == judge for judge in judges)
        one, other = np.empty(units, np.int64), np.empty(units, np.int64)
        one[shared.unit[first]], other[shared.unit[second]] = shared.category[first], shared.category[second]
        confusion[np.arange(units), one, other] = 1
        found.append(_chance_corrected("cohen_kappa", _either_order(shared, confusion), cohen_kappa))
    sums = fleiss_sums(counts)
    if shared.mirrored:
        sums[:, 2:] = (sums[:, 2:] + sums[:, :1:-1]) / 2
    found.append(_Statistic("fleiss_kappa", "all", sums, fleiss_kappa_of_sums, units, (-1, 1)))
    paired = _either_order(shared, coincidences(counts))
    for level in LEVELS.get(shared.question, ("nominal",)):
        found.append(_chance_corrected(f"alpha_{level}", paired, _alpha(level, shared.values)))
    return found


def _either_order(shared: Judgements, tables: Floats) -> Floats:
    """Tables (units, categories, categories) of which a mirrored unit counts half in each order: which output of a
    pair comes first means nothing, and must not change how often labelers would agree by chance."""
    return (tables + tables[:, ::-1, ::-1]) / 2 if shared.mirrored else tables


def _chance_corrected(name: str, tables: Floats, value: Callable[[Floats], Floats]) -> _Statistic:
    units, size, _ = tables.shape
    return _Statistic(
        name,
        "all",
        tables.reshape(units, -1),
        lambda sums: value(sums.reshape(*sums.shape[:-1], size, size)),
        units,
        (-1, 1),
    )


def _alpha(level: Level, values: Sequence[float]) -> Callable[[Floats], Floats]:
    return lambda tables: alpha_of_coincidences(tables, level, values)


def _pairs(shared: Judgements, name: str) -> _Statistic:
    return _share(name, "all", agreeing_pairs(shared.counts()))


def _by_group(shared: Judgements, name: str) -> list[_Statistic]:
    names = sorted({group for group in shared.groups if group is not None})
    member = {group: np.array([mine == group for mine in shared.groups]) for group in names}
    counts = {group: shared.counts(member[group]) for group in names}
    found = [_share(name, f"group {group}", agreeing_pairs(counts[group])) for group in names]
    for a, b in combinations(names, 2):
        found.append(_share(name, f"groups {a} and {b}", agreeing_across(counts[a], counts[b])))
    return found


def _share(name: str, who: str, columns: Floats) -> _Statistic:
    return _Statistic(name, who, columns, _ratio, int(columns[:, 1].sum()), (0, 1))


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _intervals(
    shared: Judgements, statistics: Sequence[_Statistic], seed: int, resamples: int
) -> list[tuple[_Statistic, Estimate]]:
    """Each statistic with its interval: all of them see the same draws of prompts."""
    prompts = shared.prompts
    sums = np.concatenate([_by_prompt(shared, statistic.columns) for statistic in statistics], 1)
    drawn = resampled_means(sums, seed=seed, resamples=resamples) * prompts if prompts > 1 else sums
    found, start = [], 0
    for statistic in statistics:
        mine = slice(start, start + statistic.columns.shape[1])
        start = mine.stop
        clusters = int(sums[:, mine].any(1).sum())
        found.append((statistic, _interval(statistic, sums[:, mine].sum(0), drawn[:, mine], clusters)))
    return found


def _by_prompt(shared: Judgements, columns: Floats) -> Floats:
    sums = np.zeros((shared.prompts, columns.shape[1]))
    np.add.at(sums, shared.prompt, columns)
    return sums


def _interval(statistic: _Statistic, sums: Floats, drawn: Floats, clusters: int) -> Estimate:
    centre = float(statistic.value(sums))
    if not np.isfinite(centre):
        return Estimate(None, None, None, None, statistic.n, clusters)
    draws = statistic.value(drawn)
    draws = draws[np.isfinite(draws)]
    if statistic.bounds == (0, 1) and centre in (0, 1):
        # a resample of judgements that all agree agrees too, whatever their number
        known = estimates.share(np.full(clusters, centre))
        return Estimate(centre, known.standard_error, known.low, known.high, statistic.n, clusters)
    if clusters < 2 or len(draws) < 2 or np.ptp(draws) == 0:
        return Estimate(centre, None, None, None, statistic.n, clusters)
    return estimate(centre, draws, statistic.n, clusters, statistic.bounds)


def _unit(judgements: Judgements) -> str:
    return "pair of outputs" if judgements.mirrored else "output"
