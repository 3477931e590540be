"""Agreement of labelers on every question of a label table: rankings as pairs of outputs, Likert marks, each flag.

A unit is an output or a pair of outputs. `counts`, (units, categories), is the number of labelers who chose each
category. Statistics are functions of sums over units, so that a bootstrap can resample prompts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignbench.errors import AlignbenchError
from alignbench.labels.table import LIKERT, Label, by_ranking, flag_names
from alignbench.stats.bootstrap import RESAMPLES, estimate, resampled_sums
from alignbench.stats.estimates import Estimate, cluster_numbers, share

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Level = Literal["nominal", "ordinal", "interval"]
QUIET = np.errstate(invalid="ignore", divide="ignore")  # divisions by 0 are NaN
TIE = 1  # category of a pair of outputs; 0: the second is better, 2: the first
LEVELS: dict[str, tuple[Level, ...]] = {
    "ranking": ("nominal", "ordinal"),
    "likert": ("nominal", "ordinal", "interval"),
}  # a flag: nominal


def agreeing_pairs(counts: ArrayLike) -> Floats:
    """(units, 2): number of pairs of labelers who agree, and of all pairs, for each unit."""
    n = np.asarray(counts, np.float64)
    judges = n.sum(-1)
    return np.stack([(n * (n - 1)).sum(-1) / 2, judges * (judges - 1) / 2], -1)


@QUIET
def proportion(sums: Floats) -> Floats:
    """(…) of agreeing pairs, of sums (…, 2) over units; NaN without pairs."""
    return np.asarray(sums[..., 0] / sums[..., 1])


@QUIET
def cohen_kappa(confusion: ArrayLike) -> Floats:
    """Cohen's kappa (1960) of two labelers. confusion: (…, categories, categories), counts of their categories.
    NaN if both use the same single category."""
    table = np.asarray(confusion, np.float64)
    total = table.sum((-2, -1))
    expected = (table.sum(-1) * table.sum(-2)).sum(-1) / total**2
    return _above_chance(np.trace(table, axis1=-2, axis2=-1) / total, expected)


def fleiss_sums(counts: ArrayLike) -> Floats:
    """(units, 2 + categories): 1, the proportion of agreeing pairs, and the counts, for each unit with two labelers."""
    n, pairs = np.asarray(counts, np.float64), agreeing_pairs(counts)
    known = pairs[:, 1] > 0
    return np.column_stack([known, np.where(known, proportion(pairs), 0), n * known[:, None]])


@QUIET
def fleiss_kappa(sums: ArrayLike) -> Floats:
    """Fleiss' kappa (1971), (…), of `fleiss_sums` added up over units, (…, 2 + categories).
    Units may have different numbers of labelers; those with fewer than two are ignored. NaN for a single category."""
    units, same, n = np.split(np.asarray(sums, np.float64), [1, 2], axis=-1)
    rates = n / n.sum(-1, keepdims=True)
    return _above_chance((same / units)[..., 0], (rates**2).sum(-1))


def _above_chance(observed: Floats, expected: Floats) -> Floats:
    kappa = (observed - expected) / (1 - expected)
    return np.asarray(np.where(np.isclose(expected, 1, rtol=0, atol=1e-12), np.nan, kappa))


def coincidences(counts: ArrayLike) -> Floats:
    """(units, categories, categories): pairs of values within a unit, weighted so that each value counts once."""
    n = np.asarray(counts, np.float64)
    others = n.sum(-1)[:, None, None] - 1
    pairs = n[:, :, None] * n[:, None, :] - np.eye(n.shape[1]) * n[:, None, :]
    return np.asarray(np.divide(pairs, others, out=np.zeros_like(pairs), where=others > 0))


@QUIET
def krippendorff_alpha(coincidence: ArrayLike, level: Level, values: ArrayLike | None = None) -> Floats:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability"), with missing data, (…), of
    `coincidences` added up over units, (…, categories, categories).
    Categories are in ascending order for "ordinal"; values: (categories,) their numbers, for "interval".
    NaN if a single category is used."""
    table = np.asarray(coincidence, np.float64)
    n = table.sum(-1)
    if level == "nominal":
        distance = 1 - np.eye(table.shape[-1])
    else:
        # an ordinal distance is the difference of the categories' middle ranks
        place = np.cumsum(n, -1) - n / 2 if level == "ordinal" else np.asarray(values, np.float64)
        distance = (place[..., :, None] - place[..., None, :]) ** 2
    expected = (n[..., :, None] * n[..., None, :] * distance).sum((-2, -1))
    alpha = 1 - (n.sum(-1) - 1) * (table * distance).sum((-2, -1)) / expected
    return np.asarray(np.where(expected > 0, alpha, np.nan))


@dataclass(frozen=True)
class Judgements:
    """The answers to one question.
    category: (units, labelers), an index into `values`, −1 where a labeler did not judge a unit
    prompt: (units,) number of each unit's prompt; groups: each labeler's group
    mirrored: a unit is a pair of outputs in arbitrary order; in the opposite order its categories are reversed"""

    question: str
    category: Ints
    prompt: Ints
    labelers: tuple[str, ...]
    groups: tuple[str | None, ...]
    values: tuple[float, ...]
    mirrored: bool = False

    @property
    def n(self) -> int:  # number of judgements
        return int((self.category >= 0).sum())

    def overlapping(self) -> "Judgements":
        """The judgements of units that two labelers judged."""
        shared = (self.category >= 0).sum(1) > 1
        prompt = cluster_numbers(self.prompt[shared].tolist(), int(shared.sum()))
        return replace(self, category=self.category[shared], prompt=prompt)

    def without_ties(self) -> "Judgements":
        """The judgements that are not ties, of units that two labelers judged so."""
        return replace(self, category=np.where(self.category == TIE, -1, self.category)).overlapping()

    def counts(self, category: Ints | None = None) -> Floats:
        """(units, categories): number of labelers, of all or of these columns of `category`."""
        chosen = self.category if category is None else category
        return np.stack([(chosen == value).sum(1) for value in range(len(self.values))], -1).astype(np.float64)


def questions(labels: Sequence[Label]) -> list[Judgements]:
    """Rankings, Likert marks and each flag, if there are labels of them."""
    marks = [(label, label.item, label.likert - LIKERT[0]) for label in labels if label.likert]
    likert = _judgements("likert", marks, range(LIKERT[0], LIKERT[1] + 1))
    found = [rankings(labels), likert, *(flag(labels, name) for name in flag_names(labels))]
    return [judgements for judgements in found if judgements.n]


def rankings(labels: Sequence[Label]) -> Judgements:
    """Each labeler's ranking of a prompt's outputs, expanded to all K-choose-2 pairs; equal ranks are a tie."""
    rows = [
        (one, (one.item, other.item), TIE + int(np.sign((other.rank or 0) - (one.rank or 0))))
        for ranking in by_ranking(labels).values()
        for one, other in combinations(sorted(ranking, key=lambda own: own.item), 2)
    ]
    return _judgements("ranking", rows, (-1, 0, 1), mirrored=True)


def flag(labels: Iterable[Label], name: str) -> Judgements:
    rows = [(label, label.item, int(label.flags[name])) for label in labels if name in label.flags]
    return _judgements(name, rows, (0, 1))


def _judgements(
    question: str, rows: Sequence[tuple[Label, object, int]], values: Sequence[float], mirrored: bool = False
) -> Judgements:
    """rows: a label, what it is about (a unit within its prompt), and its category"""
    unit = cluster_numbers([(label.prompt_id, key) for label, key, _ in rows], len(rows))
    prompt = cluster_numbers([label.prompt_id for label, *_ in rows], len(rows))
    labeler = cluster_numbers([label.labeler for label, *_ in rows], len(rows))
    groups = {label.labeler: label.group for label, *_ in rows}
    _, first = np.unique(unit, return_index=True)
    category = np.full((len(first), len(groups)), -1)
    category[unit, labeler] = [own for *_, own in rows]
    return Judgements(question, category, prompt[first], (*groups,), (*groups.values(),), (*values,), mirrored)


# Single labelers. Their intervals are Wilson's: resamples of few units on which all agree would all agree.


def with_others(judgements: Judgements, labeler: int) -> Estimate:
    """Mean, over the units that a labeler judged, of the proportion of the other labelers who agree."""
    mine = judgements.category[:, labeler] >= 0
    category, prompt = judgements.category[mine], judgements.prompt[mine]
    own, others = category[:, labeler], judgements.counts(np.delete(category, labeler, 1))
    known = others.any(1)
    agreeing = others[np.arange(len(own)), own][known] / others.sum(1)[known]
    return share(agreeing, prompt[known].tolist())


def with_reference(judgements: Judgements, labeler: int, reference: int) -> Estimate:
    """Proportion of the units both judged on which a labeler agrees with the reference labeler."""
    return with_others(replace(judgements, category=judgements.category[:, [labeler, reference]]), 0)


@dataclass(frozen=True)
class Finding:
    """One number. who: all, a group, two groups, or a labeler. estimate: n counts pairs of judgements for pairwise
    agreement, else units (outputs or pairs of them); clusters are prompts."""

    question: str
    statistic: str
    who: str
    estimate: Estimate


class Statistic(NamedTuple):
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
    intervals. Raises AlignbenchError if no two labelers judged the same unit."""
    found, notes = [], []
    for judgements in questions(labels):
        shared = judgements.overlapping()
        if not shared.n:
            unit = "pair of outputs" if judgements.mirrored else "output"
            notes.append(f"{judgements.question}: no two labelers judged the same {unit}")
            continue
        untied = shared.without_ties() if shared.mirrored else None
        if untied is not None and untied.n:
            found += _estimates(untied, _pairwise(untied, "agreement_ties_dropped"), seed, resamples)
        found += _estimates(shared, [*_pairwise(shared, "agreement"), *_beyond_chance(shared)], seed, resamples)
        for number, name in enumerate(shared.labelers):
            if (shared.category[:, number] >= 0).any():
                own = {} if untied is None else {"agreement_with_others_ties_dropped": with_others(untied, number)}
                own["agreement_with_others"] = with_others(shared, number)
                found += [Finding(shared.question, what, f"labeler {name}", rate) for what, rate in own.items()]
    if not found:
        names = sorted({label.labeler for label in labels})
        why = "; ".join(notes) or "the labels hold no ranks, Likert marks or flags"
        raise AlignbenchError(f"no agreement to measure: {why if len(names) > 1 else f'one labeler only ({names[0]})'}")
    return found, notes


def _pairwise(shared: Judgements, name: str) -> list[Statistic]:
    """Proportion of agreeing pairs of labelers: of all, within each group, between each two groups."""
    own = np.array(shared.groups, object)
    groups = sorted({group for group in shared.groups if group is not None})
    of = {group: agreeing_pairs(shared.counts(shared.category[:, own == group])) for group in groups}
    columns = {"all": agreeing_pairs(shared.counts())} | {f"group {group}": pairs for group, pairs in of.items()}
    for a, b in combinations(groups, 2):
        both = agreeing_pairs(shared.counts(shared.category[:, (own == a) | (own == b)]))
        columns[f"groups {a} and {b}"] = both - of[a] - of[b]
    return [Statistic(name, who, pairs, proportion, int(pairs[:, 1].sum()), (0, 1)) for who, pairs in columns.items()]


def _beyond_chance(shared: Judgements) -> list[Statistic]:
    """Kappa and alpha. Each mirrored unit counts half in either order: the order of a pair's outputs is arbitrary and
    must not change the agreement expected by chance."""
    counts = shared.counts()
    units, size = counts.shape

    def of_tables(name: str, tables: Floats, value: Callable[[Floats], Floats]) -> Statistic:
        columns = ((tables + tables[:, ::-1, ::-1]) / 2 if shared.mirrored else tables).reshape(units, -1)
        return Statistic(name, "all", columns, lambda sums: value(sums.reshape(*sums.shape[:-1], size, size)), units)

    found = []
    judged = (shared.category >= 0).any(0)
    if judged.sum() == 2:
        confusion = np.zeros((units, size, size))
        confusion[np.arange(units), *shared.category[:, judged].T] = 1
        found.append(of_tables("cohen_kappa", confusion, cohen_kappa))
    sums = fleiss_sums(counts)
    if shared.mirrored:
        sums[:, 2:] = (sums[:, 2:] + sums[:, :1:-1]) / 2
    found.append(Statistic("fleiss_kappa", "all", sums, fleiss_kappa, units))
    for level in LEVELS.get(shared.question, ("nominal",)):
        alpha = partial(krippendorff_alpha, level=level, values=shared.values)
        found.append(of_tables(f"alpha_{level}", coincidences(counts), alpha))
    return found


def _estimates(shared: Judgements, found: Sequence[Statistic], seed: int, resamples: int) -> list[Finding]:
    estimates = intervals(found, shared.prompt, seed, resamples)
    return [Finding(shared.question, own.name, own.who, got) for own, got in zip(found, estimates, strict=True)]


def intervals(found: Sequence[Statistic], prompt: Ints, seed: int, resamples: int) -> list[Estimate]:
    """Each statistic with its interval. All see the same resamples of prompts. prompt: (units,) number of the prompt"""
    columns = np.concatenate([statistic.columns for statistic in found], 1)
    sums = np.zeros((int(prompt.max()) + 1, columns.shape[1]))
    np.add.at(sums, prompt, columns)
    ends = np.cumsum([statistic.columns.shape[1] for statistic in found])[:-1]
    drawn = np.split(resampled_sums(sums, seed=seed, resamples=resamples), ends, axis=1)
    return [_interval(*own) for own in zip(found, np.split(sums, ends, axis=1), drawn, strict=True)]


def _interval(statistic: Statistic, sums: Floats, drawn: Floats) -> Estimate:
    """sums: (prompts, k); drawn: (resamples, k), their sums over resampled prompts"""
    clusters, n = int(sums.any(1).sum()), statistic.n
    centre = float(statistic.value(sums.sum(0)))
    if not np.isfinite(centre):
        return Estimate(n=n, clusters=clusters)
    draws = statistic.value(drawn)
    draws = draws[np.isfinite(draws)]
    if statistic.bounds == (0, 1) and centre in (0, 1):
        # resamples of judgements that all agree would all agree, whatever their number
        return replace(share(np.full(clusters, centre)), n=n)
    if clusters < 2 or len(draws) < 2 or np.ptp(draws) == 0:
        return Estimate(centre, n=n, clusters=clusters)
    return estimate(centre, draws, n, clusters, statistic.bounds)
