"""Labels as arrays, one question at a time: rankings as pairs of outputs, Likert marks, each flag."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from alignbench.labels.table import LIKERT, Label, flag_names
from alignbench.stats import estimates
from alignbench.stats.estimates import Estimate, cluster_numbers

Ints = NDArray[np.int64]
SECOND, TIE, FIRST = range(3)  # categories of a pair of outputs


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
