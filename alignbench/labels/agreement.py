"""Agreement of labelers on every question of a label table: rankings as pairs of outputs, Likert marks, each flag."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from alignbench.errors import AlignbenchError
from alignbench.labels.table import LIKERT, Label, flag_names
from alignbench.stats import agreement as statistics
from alignbench.stats import estimates
from alignbench.stats.agreement import Floats, Level
from alignbench.stats.bootstrap import RESAMPLES, estimate, resampled_means
from alignbench.stats.estimates import Estimate, cluster_numbers

Ints = NDArray[np.int64]
SECOND, TIE, FIRST = range(3)  # categories of a pair of outputs
LEVELS: dict[str, tuple[Level, ...]] = {
    "ranking": ("nominal", "ordinal"),
    "likert": ("nominal", "ordinal", "interval"),
}  # a flag: nominal


@dataclass(frozen=True)
class Judgements:
    """The answers to one question: parallel arrays (n,) of a unit, a labeler and a category.

    unit, labeler: numbers from 0; category: index into `values`; prompt: (units,) number of each unit's prompt
    groups: each labeler's group
    mirrored: a unit is a pair of outputs in arbitrary order; in the opposite order its categories are reversed
    """

    question: str
    unit: Ints
    labeler: Ints
    category: Ints
    prompt: Ints
    labelers: tuple[str, ...]
    groups: tuple[str | None, ...]
    values: tuple[float, ...]
    mirrored: bool = False

    @property
    def prompts(self) -> int:
        return int(self.prompt.max()) + 1 if len(self.prompt) else 0

    def counts(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """(units, categories): number of labelers, or of the `chosen` ones, (labelers,)."""
        keep = slice(None) if chosen is None else chosen[self.labeler]
        size = len(self.values)
        flat = np.bincount(self.unit[keep] * size + self.category[keep], minlength=len(self.prompt) * size)
        return flat.reshape(-1, size).astype(np.float64)

    def overlapping(self) -> Judgements:
        """The judgements of units that two labelers judged."""
        return self._only((self.counts().sum(1) > 1)[self.unit])

    def without_ties(self) -> Judgements:
        """The judgements that are not ties, of units that two labelers judged so."""
        return self._only(self.category != TIE).overlapping()

    def _only(self, keep: NDArray[np.bool_]) -> Judgements:
        units, unit = np.unique(self.unit[keep], return_inverse=True)
        _, prompt = np.unique(self.prompt[units], return_inverse=True)
        labeler, category = self.labeler[keep], self.category[keep]
        return replace(
            self, unit=unit.astype(np.int64), labeler=labeler, category=category, prompt=prompt.astype(np.int64)
        )

    def of(self, labeler: int) -> tuple[Ints, Ints]:
        """The units that a labeler judged, and their categories."""
        mine = self.labeler == labeler
        return self.unit[mine], self.category[mine]


def questions(labels: Sequence[Label]) -> list[Judgements]:
    """Rankings, Likert marks and each flag, if there are labels of them."""
    found = [rankings(labels), likert(labels), *(flag(labels, name) for name in flag_names(labels))]
    return [judgements for judgements in found if len(judgements.unit)]


def rankings(labels: Sequence[Label]) -> Judgements:
    """Each labeler's ranking of a prompt's outputs, expanded to all K-choose-2 pairs; equal ranks are a tie."""
    ranked: dict[tuple[str, str], list[Label]] = defaultdict(list)
    for label in labels:
        if label.rank is not None:
            ranked[label.prompt_id, label.labeler].append(label)
    rows = []
    for ranking in ranked.values():
        for a, b in combinations(sorted(ranking, key=lambda label: label.item), 2):
            rows.append((a, (a.item, b.item), TIE + int(np.sign((b.rank or 0) - (a.rank or 0)))))
    return _judgements("ranking", rows, (-1, 0, 1), mirrored=True)


def likert(labels: Iterable[Label]) -> Judgements:
    rows = [(label, label.item, label.likert - LIKERT[0]) for label in labels if label.likert]
    return _judgements("likert", rows, tuple(range(LIKERT[0], LIKERT[1] + 1)))


def flag(labels: Iterable[Label], name: str) -> Judgements:
    rows = [(label, label.item, int(label.flags[name])) for label in labels if name in label.flags]
    return _judgements(name, rows, (0, 1))


def _judgements(
    question: str, rows: Sequence[tuple[Label, object, int]], values: tuple[float, ...], mirrored: bool = False
) -> Judgements:
    """rows: a label, what it is about (a unit within its prompt), and its category"""
    unit = cluster_numbers([(label.prompt_id, key) for label, key, _ in rows], len(rows))
    labeler = cluster_numbers([label.labeler for label, _, _ in rows], len(rows))
    prompt = cluster_numbers([label.prompt_id for label, _, _ in rows], len(rows))
    groups = {label.labeler: label.group for label, _, _ in rows}
    category = np.array([category for _, _, category in rows], np.int64)
    _, first = np.unique(unit, return_index=True)
    return Judgements(
        question, unit, labeler, category, prompt[first], tuple(groups), tuple(groups.values()), values, mirrored
    )


def with_others(judgements: Judgements, labeler: int) -> Estimate:
    """Mean, over the units that a labeler judged, of the proportion of the other labelers who agree."""
    units, categories = judgements.of(labeler)
    counts = judgements.counts()[units]
    others = counts.sum(1) - 1
    same = counts[np.arange(len(units)), categories] - 1
    known = others > 0
    return _proportion(same[known] / others[known], judgements.prompt[units[known]])


def with_majority(judgements: Judgements, labeler: int) -> Estimate:
    """Proportion of units on which a labeler agrees with most of the others; units without a majority are left out."""
    units, categories = judgements.of(labeler)
    counts = judgements.counts()[units]
    counts[np.arange(len(units)), categories] -= 1
    most = counts.max(1, initial=0)
    known = (most > 0) & ((counts == most[:, None]).sum(1) == 1)
    return _proportion((counts.argmax(1) == categories)[known], judgements.prompt[units[known]])


def with_reference(judgements: Judgements, labeler: int, reference: int) -> Estimate:
    """Proportion of the units both judged on which a labeler agrees with the reference labeler."""
    units, categories = judgements.of(labeler)
    reference_units, reference_categories = judgements.of(reference)
    theirs = np.full(len(judgements.prompt), -1)
    theirs[reference_units] = reference_categories
    known = theirs[units] >= 0
    return _proportion((theirs[units] == categories)[known], judgements.prompt[units[known]])


def _proportion(values: NDArray[np.generic], prompts: Ints) -> Estimate:
    # not a bootstrap: resamples of a labeler with few units who always agrees would all agree
    return estimates.share(values.astype(np.float64), prompts.tolist())


@dataclass(frozen=True)
class Finding:
    """One number.

    who: all, a group, two groups, or a labeler
    estimate: n counts pairs of judgements for pairwise agreement, else units (outputs or pairs of them); clusters are
        prompts
    """

    question: str
    statistic: str
    who: str
    estimate: Estimate


@dataclass(frozen=True)
class _Statistic:
    """A function of sums over units: `columns` (units, k) -> sums (…, k) -> `value` (…). n: see `Finding`"""

    name: str
    who: str
    columns: Floats
    value: Callable[[Floats], Floats]
    n: int
    bounds: tuple[float, float] = (-1, 1)


def agreement(labels: Sequence[Label], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[list[Finding], list[str]]:
    """Return findings, and a line for each question without two judgements of the same unit.

    Intervals of pairwise agreement, kappa and alpha resample prompts; those of single labelers are clustered Wilson
    intervals. Raises AlignbenchError if no two labelers judged the same unit.
    """
    found, notes = [], []
    for judgements in questions(labels):
        shared = judgements.overlapping()
        if len(shared.unit):
            found += _findings(shared, seed, resamples)
        else:
            unit = "pair of outputs" if judgements.mirrored else "output"
            notes.append(f"{judgements.question}: no two labelers judged the same {unit}")
    if not found:
        names = sorted({label.labeler for label in labels})
        why = "; ".join(notes) or "the labels hold no ranks, Likert marks or flags"
        if len(names) == 1:
            why = f"one labeler only ({names[0]})"
        raise AlignbenchError(f"no agreement to measure: {why}")
    return found, notes


def _findings(shared: Judgements, seed: int, resamples: int) -> list[Finding]:
    untied = shared.without_ties() if shared.mirrored else None
    found = []
    if untied is not None and len(untied.unit):
        found += _estimates(untied, _pairwise(untied, "agreement_ties_dropped"), seed, resamples)
    found += _estimates(shared, _statistics(shared), seed, resamples)
    for number in np.unique(shared.labeler).tolist():
        of_labeler = {
            "agreement_with_others_ties_dropped": with_others(untied, number) if untied is not None else None,
            "agreement_with_others": with_others(shared, number),
            "agreement_with_majority": with_majority(shared, number),
        }
        who = f"labeler {shared.labelers[number]}"
        found += [Finding(shared.question, name, who, value) for name, value in of_labeler.items() if value]
    return found


def _statistics(shared: Judgements) -> list[_Statistic]:
    counts = shared.counts()
    units, size = counts.shape

    def of_tables(name: str, tables: Floats, value: Callable[[Floats], Floats]) -> _Statistic:
        """A function of tables (units, categories, categories). Each mirrored unit counts half in either order: the
        order of a pair's outputs is arbitrary and must not change the agreement expected by chance."""
        columns = ((tables + tables[:, ::-1, ::-1]) / 2 if shared.mirrored else tables).reshape(units, -1)
        return _Statistic(name, "all", columns, lambda sums: value(sums.reshape(*sums.shape[:-1], size, size)), units)

    found = _pairwise(shared, "agreement")
    labelers = np.unique(shared.labeler).tolist()
    if len(labelers) == 2:
        categories = np.empty((2, units), np.int64)
        for row, labeler in enumerate(labelers):
            judged, category = shared.of(labeler)
            categories[row, judged] = category
        confusion = np.zeros((units, size, size))
        confusion[np.arange(units), categories[0], categories[1]] = 1
        found.append(of_tables("cohen_kappa", confusion, statistics.cohen_kappa))
    sums = statistics.fleiss_sums(counts)
    if shared.mirrored:
        sums[:, 2:] = (sums[:, 2:] + sums[:, :1:-1]) / 2
    found.append(_Statistic("fleiss_kappa", "all", sums, statistics.fleiss_kappa_of_sums, units))
    coincidences = statistics.coincidences(counts)
    for level in LEVELS.get(shared.question, ("nominal",)):
        alpha = partial(statistics.alpha_of_coincidences, level=level, values=shared.values)
        found.append(of_tables(f"alpha_{level}", coincidences, alpha))
    return found


def _pairwise(shared: Judgements, name: str) -> list[_Statistic]:
    """Proportion of agreeing pairs of labelers: of all, within each group, between each two groups."""
    groups = sorted({group for group in shared.groups if group is not None})
    counts = {group: shared.counts(np.array([own == group for own in shared.groups])) for group in groups}
    columns = {"all": statistics.agreeing_pairs(shared.counts())}
    columns |= {f"group {group}": statistics.agreeing_pairs(counts[group]) for group in groups}
    for a, b in combinations(groups, 2):
        columns[f"groups {a} and {b}"] = statistics.agreeing_across(counts[a], counts[b])
    return [_Statistic(name, who, pairs, _ratio, int(pairs[:, 1].sum()), (0, 1)) for who, pairs in columns.items()]


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _estimates(shared: Judgements, found: Sequence[_Statistic], seed: int, resamples: int) -> list[Finding]:
    """Each statistic with its interval. All see the same resamples of prompts."""
    prompts = shared.prompts
    columns = np.concatenate([statistic.columns for statistic in found], 1)
    sums = np.zeros((prompts, columns.shape[1]))
    np.add.at(sums, shared.prompt, columns)
    drawn = resampled_means(sums, seed=seed, resamples=resamples) * prompts if prompts > 1 else sums
    ends = np.cumsum([statistic.columns.shape[1] for statistic in found])[:-1]
    parts = zip(found, np.split(sums, ends, axis=1), np.split(drawn, ends, axis=1), strict=True)
    return [
        Finding(shared.question, statistic.name, statistic.who, _interval(statistic, own, own_drawn))
        for statistic, own, own_drawn in parts
    ]


def _interval(statistic: _Statistic, sums: Floats, drawn: Floats) -> Estimate:
    """sums: (prompts, k); drawn: (resamples, k), their sums over resampled prompts"""
    clusters = int(sums.any(1).sum())
    centre = float(statistic.value(sums.sum(0)))
    if not np.isfinite(centre):
        return Estimate(None, None, None, None, statistic.n, clusters)
    draws = statistic.value(drawn)
    draws = draws[np.isfinite(draws)]
    if statistic.bounds == (0, 1) and centre in (0, 1):
        # resamples of judgements that all agree would all agree, whatever their number
        known = estimates.share(np.full(clusters, centre))
        return Estimate(centre, known.standard_error, known.low, known.high, statistic.n, clusters)
    if clusters < 2 or len(draws) < 2 or np.ptp(draws) == 0:
        return Estimate(centre, None, None, None, statistic.n, clusters)
    return estimate(centre, draws, statistic.n, clusters, statistic.bounds)
