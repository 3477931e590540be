"""The paired bootstrap: two models' values on the same documents, resampled together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.tax import improvement
from alignbench.stats import bootstrap
from alignbench.stats.estimates import CONFIDENCE, Estimate, cluster_numbers
from alignbench.stats.significance import ADDED, least_p, p_of_rare_changes, rare_changes
from alignbench.types.record import Record

Records = Mapping[str, Record]


@dataclass(frozen=True)
class Pairs:
    """A metric on the documents that both models have a value for.

    reference, aligned: (n,) values; cluster: (n,) each document's group, numbered from 0; clusters: how many
    chance: what answering at random scores on these documents, None where there is no such level
    left_out: documents that only one of the two, or neither, could be scored on
    """

    reference: NDArray[np.float64]
    aligned: NDArray[np.float64]
    cluster: NDArray[np.int64]
    clusters: int
    chance: float | None
    left_out: int


@dataclass(frozen=True)
class Change:
    """What resampling says of two values. delta: aligned - reference; gain: the change for the better, None where no
    direction is better; p: two-sided, of the gain, or else of delta, being 0."""

    reference: float
    aligned: float
    delta: Estimate
    gain: Estimate | None
    p: float | None


def pair(metric: str, reference: Records, aligned: Records, chance: float | None) -> Pairs | None:
    """The metric's values on the documents that both have, in the reference's order; None if no document has it.

    chance: the metric's, where a record does not give its own
    """
    concerned = [
        name
        for name in {**reference, **aligned}
        if any(name in records and metric in records[name].metrics for records in (reference, aligned))
    ]
    if not concerned:
        return None
    values = [{name: record.metrics.get(metric) for name, record in own.items()} for own in (reference, aligned)]
    common = [name for name in concerned if values[0].get(name) is not None and values[1].get(name) is not None]
    levels = [reference[name].chance.get(metric, chance) for name in common]
    cluster = cluster_numbers([reference[name].cluster for name in common], len(common))
    return Pairs(
        np.array([values[0][name] for name in common], np.float64),
        np.array([values[1][name] for name in common], np.float64),
        cluster,
        int(cluster.max()) + 1 if common else 0,
        float(np.mean(levels)) if levels and None not in levels else None,  # type: ignore[arg-type]
        len(concerned) - len(common),
    )


def resample(pairs: Sequence[Pairs], *, seed: int = 0, resamples: int = 10_000) -> list[NDArray[np.float64]]:
    """For each of `pairs` the two means of every resample, (resamples, 2): reference, aligned.

    Groups of documents are drawn whole. All metrics with equally many groups see the same draws, made once: that is
    what makes an audit of many tasks fast, and it changes no single interval.
    """
    means: list[NDArray[np.float64]] = [np.empty((0, 2))] * len(pairs)
    for count in sorted({own.clusters for own in pairs if own.clusters}):
        alike = [number for number, own in enumerate(pairs) if own.clusters == count]
        sums = np.column_stack([column for number in alike for column in _sums(pairs[number])])
        drawn = bootstrap.resampled_sums(sums, seed=seed, resamples=resamples)
        for place, number in enumerate(alike):
            reference, aligned, size = drawn[:, 3 * place : 3 * place + 3].T
            means[number] = np.column_stack([reference / size, aligned / size])
    return means


def change(reference: float, aligned: float, draws: NDArray[np.float64], n: int, clusters: int, better: str) -> Change:
    """Interval and p-value from the two values and their resamples, (resamples, 2).

    Fewer than two groups cannot be resampled: values without an interval. The p-value is never below what so few
    groups could show if all changed the same way.
    """
    gained = improvement(reference, aligned, better)
    if clusters < 2:
        bare = Estimate(aligned - reference, None, None, None, n, clusters)
        gain = None if gained is None else Estimate(gained, None, None, None, n, clusters)
        return Change(reference, aligned, bare, gain, None)
    deltas = draws[:, 1] - draws[:, 0]
    delta = bootstrap.estimate(aligned - reference, deltas, n, clusters)
    if gained is None:
        return Change(reference, aligned, delta, None, _p(aligned - reference, deltas, clusters))
    gains = improvement(draws[:, 0], draws[:, 1], better)
    assert gains is not None
    gain = bootstrap.estimate(gained, gains, n, clusters)
    return Change(reference, aligned, delta, gain, _p(gained, gains, clusters))


def rarely(changed: Change, pairs: Pairs, span: float | None, better: str) -> Change:
    """The same change where few documents changed: with the interval and p-value of `rare_changes`; without either
    where the metric has no finite range (span), since nobody knows how far a document may change."""
    if span is None:
        return without_interval(changed)
    delta = rare_changes(pairs.aligned - pairs.reference, pairs.cluster, span)
    assert delta.standard_error is not None
    if changed.gain is None:
        assert delta.value is not None
        return replace(changed, delta=delta, p=p_of_rare_changes(delta.value, delta.standard_error, pairs.clusters))
    assert changed.gain.value is not None
    error = delta.standard_error
    if better in ("0.5", "0"):  # what the reference's own value is not known by counts too
        error = max(error, changed.gain.standard_error or 0.0)
    value, n = changed.gain.value, pairs.clusters + ADDED
    centre, reach = value * pairs.clusters / n, float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    gain = replace(delta, value=value, standard_error=error, low=centre - reach, high=centre + reach)
    return replace(changed, delta=delta, gain=gain, p=p_of_rare_changes(value, error, pairs.clusters))


def without_interval(changed: Change) -> Change:
    bare = replace(changed.delta, standard_error=None, low=None, high=None)
    gain = None if changed.gain is None else replace(bare, value=changed.gain.value)
    return replace(changed, delta=bare, gain=gain, p=None)


def _p(centre: float, draws: NDArray[np.float64], clusters: int) -> float:
    # what differs in the last digits alone is no change
    if abs(centre) < 1e-12:
        return 1.0
    return max(bootstrap.p_value(centre, draws, clusters), least_p(clusters))


def _sums(pairs: Pairs) -> list[NDArray[np.float64]]:
    """Sums of both models' values, and documents, of each cluster."""
    columns = (pairs.reference, pairs.aligned, np.ones(len(pairs.cluster)))
    return [np.asarray(np.bincount(pairs.cluster, column, pairs.clusters), np.float64) for column in columns]
