"""Measures of a set of outputs (diversity, entropies of what was chosen), compared on the same documents.

They grow with the number of outputs, so both models' are computed anew on the documents in common. A bootstrap would
draw texts twice, which no measure of diversity takes for chance: a twentieth of the documents is left out of both sides
at a time (Efron & Tibshirani 1993, chapter 11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.paired import Change
from alignbench.audit.tax import improvement
from alignbench.diversity.sets import GROUPS, MOST, jackknife_error
from alignbench.stats import intervals
from alignbench.stats.estimates import CONFIDENCE, Estimate
from alignbench.types.task import Scored, Task

Found = dict[str, Estimate]


@dataclass(frozen=True)
class Side:
    """One model's answers. whole: each metric of them all; parts: of those without one group each, often none."""

    whole: Found
    parts: tuple[Found, ...]


def measure_side(task: Task, scored: Sequence[Scored], cluster: NDArray[np.int64]) -> Side:
    """cluster: (n,) each document's group, numbered from 0; groups are left out whole. With fewer than GROUPS groups,
    or more than MOST documents, there are no parts, and so no intervals."""
    with intervals.values_only():
        parts: list[Found] = []
        if int(cluster.max()) + 1 >= GROUPS and len(cluster) <= MOST:
            for group in range(GROUPS):
                rows = np.flatnonzero(cluster % GROUPS != group).tolist()
                parts.append(_values(task, [scored[row] for row in rows]))
        return Side(_values(task, scored), tuple(parts))


def compare_sets(
    better: Mapping[str, str], reference: Side, aligned: Side, cluster: NDArray[np.int64]
) -> dict[str, tuple[Change, tuple[int, int]]]:
    """Each metric of `Task.across` on two models' answers to the same documents, and how many values it was made from.

    cluster: as `measure_side` had it
    """
    clusters = int(cluster.max()) + 1
    before, after, parts = reference.whole, aligned.whole, list(zip(reference.parts, aligned.parts, strict=True))
    found = {}
    for name in [name for name in better if name in before and name in after]:
        first, second = before[name], after[name]
        if first.value is None or second.value is None:
            continue
        pairs = [(one[name].value, other[name].value) for one, other in parts if name in one and name in other]
        draws = np.array([pair for pair in pairs if None not in pair], np.float64).reshape(-1, 2)
        changed = _change(first.value, second.value, draws, len(cluster), clusters, better[name])
        found[name] = (changed, (first.n, second.n))
    return found


def _change(reference: float, aligned: float, draws: NDArray[np.float64], n: int, clusters: int, better: str) -> Change:
    """draws: (GROUPS, 2), both values without one of the groups each; without an interval where some are missing."""
    gained = improvement(reference, aligned, better)
    delta = _estimate(aligned - reference, draws[:, 1] - draws[:, 0], n, clusters)
    gain = None
    if gained is not None:
        gains = improvement(draws[:, 0], draws[:, 1], better)
        assert gains is not None
        gain = _estimate(gained, gains, n, clusters)
    return Change(reference, aligned, delta, gain, _p(delta if gain is None else gain))


def _estimate(value: float, replicates: NDArray[np.float64], n: int, clusters: int) -> Estimate:
    if len(replicates) < GROUPS or not np.isfinite(replicates).all():
        return Estimate(value, None, None, None, n, clusters)
    error = jackknife_error(replicates)
    if error == 0:  # as many values as there are documents, say: nothing tells how much it may vary
        return Estimate(value, None, None, None, n, clusters)
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, GROUPS - 1)) * error
    return Estimate(value, error, value - reach, value + reach, n, clusters)


def _p(tested: Estimate) -> float | None:
    if tested.standard_error is None or tested.value is None:
        return None
    return float(2 * stats.t.sf(abs(tested.value) / tested.standard_error, GROUPS - 1))


def _values(task: Task, scored: Sequence[Scored]) -> Found:
    assert task.across is not None
    return {metric.name: estimate for metric, estimate in task.across(scored)}
