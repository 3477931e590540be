"""The alignment tax: the loss of a model on a task, and its mean over tasks. Pure functions.

Tax_t = s_t(reference) − s_t(aligned), with the sign that makes a loss positive (Ouyang et al. 2022, arXiv 2203.02155,
section 4.2). It is about capabilities: other abilities have their own verdicts. Tasks have different units, so they are
averaged in percent of each metric's range: points of a hundred for accuracies, F1 and BLEU alike.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alignbench.audit.audit import MeanTax, Row, Verdict
from alignbench.stats.estimates import NORMAL_QUANTILE
from alignbench.stats.significance import normal_p
from alignbench.tasks.declared import find_any
from alignbench.types.result import MetricResult

Value = TypeVar("Value", float, NDArray[np.float64])
RANGES = {"proportion": (0.0, 1.0), "points": (0.0, 100.0)}
TARGETS = ("0.5", "0")
CAPABILITY = "capability"


def improvement(reference: Value, aligned: Value, better: str) -> Value | None:
    """The change for the better: upwards, downwards, or closer to a target of 0.5 or 0; None for "–"."""
    if better == "higher":
        return aligned - reference
    if better == "lower":
        return reference - aligned
    if better in TARGETS:
        target = float(better)
        return abs(reference - target) - abs(aligned - target)
    return None


def tax(reference: float, aligned: float, better: str) -> float | None:
    """The loss, positive; None if no direction is better."""
    gained = improvement(reference, aligned, better)
    return None if gained is None else 0.0 - gained  # no loss is 0, not -0


def relative_tax(
    reference: float, aligned: float, better: str, chance: float | None, standard_error: float | None
) -> float | None:
    """Tax / (s(reference) − chance): the loss in proportion to the reference's value above chance.

    standard_error: of s(reference). None if the reference is less than 2 standard errors above chance, where the ratio
    is meaningless, and if there is no chance level or no direction.
    """
    lost = tax(reference, aligned, better)
    if lost is None or chance is None or standard_error is None or better in TARGETS:
        return None
    above = reference - chance if better == "higher" else chance - reference
    return lost / above if above > 0 and above >= 2 * standard_error else None


def range_of(result: MetricResult) -> tuple[float, float] | None:
    """The lowest and the highest possible value of a metric; None without a finite range."""
    low, high = result.bounds
    return RANGES.get(result.unit) if low is None or high is None else (low, high)


def span_of(result: MetricResult) -> float | None:
    bounds = range_of(result)
    return bounds and bounds[1] - bounds[0]


def taxed(rows: Sequence[Row], reward: str) -> list[Row]:
    """The rows of the mean tax: primary rows of capabilities with a finite range, except those of the task of the
    reward (TASK.METRIC), which is what the model was optimised for."""
    task = reward.partition(".")[0]
    own = [row for row in rows if row.primary and row.ability == CAPABILITY and row.task != task]
    return [row for row in own if row.tax_of_range is not None]


def macro(rows: Sequence[Row], margin: float) -> tuple[tuple[MeanTax, ...], MeanTax | None]:
    """Mean tax of each group of capabilities, and the mean over groups, in percent of the metrics' ranges.

    rows: see `taxed`; margin: the largest tax that counts as retained
    Errors of tasks on different data add up as independent ones. Tasks on the same data share documents: their errors
    add up as if fully correlated, the maximum.
    """
    means: list[MeanTax] = []
    overall: list[tuple[Row, float]] = []
    groups = sorted({row.group for row in rows})
    for group in groups:
        own = [row for row in rows if row.group == group]
        means.append(_mean(group, [(row, 1 / len(own)) for row in own], margin))
        overall += [(row, 1 / len(own) / len(groups)) for row in own]
    return tuple(means), _mean("all", overall, margin) if groups else None


def _mean(name: str, weighted: Sequence[tuple[Row, float]], margin: float) -> MeanTax:
    """Weighted mean of taxes, without an interval if a row has none."""
    tasks = tuple(row.task for row, _ in weighted)
    value = sum(weight * row.tax_of_range for row, weight in weighted if row.tax_of_range is not None)
    of_data: defaultdict[str, float] = defaultdict(float)
    for row, weight in weighted:
        if row.tax_error is None:
            return MeanTax(name, tasks, value, None, None, None, None, "inconclusive")
        task = find_any(row.task)
        of_data[row.task if task is None else task.card] += weight * row.tax_error
    error = float(np.sqrt(sum(part**2 for part in of_data.values())))
    low, high = value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error
    verdict: Verdict = "retained" if high <= margin else "inconclusive"
    if low > 0 or high < 0:
        verdict = "loss" if value > 0 else "gain"
    return MeanTax(name, tasks, value, error, low, high, normal_p(value, error), verdict)
