"""The alignment tax: what a model lost on a task, and what it lost on average. Pure functions.

Tax_t = s_t(reference) - s_t(aligned), with the sign that makes a loss positive (Ouyang et al. 2022, arXiv 2203.02155,
section 4.2). Tasks have different units, so they are averaged in percent of each metric's range: points of a hundred,
for accuracies, F1 and BLEU alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.audit import MeanTax, Row
from alignbench.audit.references import find
from alignbench.types.result import MetricResult
from alignbench.types.task import Metric

Value = TypeVar("Value", float, NDArray[np.float64])
RANGES = {"share": (0.0, 1.0), "points": (0.0, 100.0)}


def improvement(reference: Value, aligned: Value, better: str) -> Value | None:
    """The change for the better: upwards, downwards, or nearer to a target of 0.5 or 0; None for "–"."""
    if better == "higher":
        return aligned - reference
    if better == "lower":
        return reference - aligned
    if better in ("0.5", "0"):
        target = float(better)
        return abs(reference - target) - abs(aligned - target)
    return None


def tax(reference: float, aligned: float, better: str) -> float | None:
    """What was lost, positive; None where neither direction is better."""
    gained = improvement(reference, aligned, better)
    return None if gained is None else 0.0 - gained  # no loss is 0, not -0


def relative_tax(
    reference: float, aligned: float, better: str, chance: float | None, standard_error: float | None
) -> float | None:
    """The share of what the reference had above chance that is lost: Tax / (s(reference) - chance).

    standard_error: of s(reference). None where the reference is not 2 standard errors above chance: a ratio to
    nothing would say anything. None too where there is no chance level, or no direction.
    """
    lost = tax(reference, aligned, better)
    if lost is None or chance is None or standard_error is None or better not in ("higher", "lower"):
        return None
    above = reference - chance if better == "higher" else chance - reference
    return lost / above if above > 0 and above >= 2 * standard_error else None


def range_of(result: MetricResult, metric: Metric | None = None) -> tuple[float, float] | None:
    """The lowest and the highest value that a metric can have; None where it has no finite range.

    metric: its definition, for a result of before, which does not say
    """
    for low, high in (result.bounds, (None, None) if metric is None else metric.bounds):
        if low is not None and high is not None:
            return low, high
    return RANGES.get(result.unit)


def chance_level(chance: float | None, better: str, bounds: tuple[float, float] | None) -> float | None:
    """The metric's own chance level, or 0 for a score that begins there, such as F1 or BLEU."""
    if chance is None and better == "higher" and bounds is not None and bounds[0] == 0:
        return 0.0
    return chance


def taxed(rows: Sequence[Row], reward: str) -> list[Row]:
    """The rows that the mean tax is of: headline metrics with a finite range, but those of the reward's task
    (TASK.METRIC), which is what was bought with it."""
    return [
        row for row in rows if row.headline and row.tax_of_range is not None and row.task != reward.partition(".")[0]
    ]


def cards(rows: Sequence[Row]) -> dict[str, str]:
    """Task -> the data card that it is made of."""
    found = {row.task: find(row.task) for row in rows}
    return {name: task.card for name, task in found.items() if task is not None}


def macro(rows: Sequence[Row], card: Mapping[str, str]) -> tuple[tuple[MeanTax, ...], MeanTax | None]:
    """Mean tax of each group of tasks, and the mean over groups, in percent of the metrics' ranges.

    rows: those of `taxed`
    card: task -> the data that it is made of. Errors of tasks on different data add up as independent ones; tasks on
    the same data share their documents, so theirs are added as if they were one, which is the most that they can be.
    Several rows of one task (two templates, two scorers) count as one task.
    """
    groups = sorted({row.group for row in rows})
    if not groups:
        return (), None
    of_group = {group: _equal_shares([row for row in rows if row.group == group]) for group in groups}
    means = tuple(_mean(group, shares, card) for group, shares in of_group.items())
    overall = [(row, share / len(groups)) for shares in of_group.values() for row, share in shares]
    return means, _mean("all", overall, card)


def _equal_shares(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    tasks = [row.task for row in rows]
    return [(row, 1 / len(set(tasks)) / tasks.count(row.task)) for row in rows]


def _mean(name: str, shares: Sequence[tuple[Row, float]], card: Mapping[str, str]) -> MeanTax:
    """Weighted mean of taxes; None for its error where one of them has none."""
    tasks = tuple(dict.fromkeys(row.task for row, _ in shares))
    value = sum(share * row.tax_of_range for row, share in shares if row.tax_of_range is not None)
    together: dict[str, float] = {}
    for row, share in shares:
        if row.tax_error is None:
            return MeanTax(name, tasks, value, None, None, None)
        together[card[row.task]] = together.get(card[row.task], 0.0) + share * row.tax_error
    error = float(np.sqrt(sum(part**2 for part in together.values())))
    reach = float(stats.norm.ppf(0.975)) * error
    return MeanTax(name, tasks, value, error, value - reach, value + reach)
