"""Two models on the same documents: paired values, and the change with its interval and p-value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.tax import TARGETS, improvement
from alignbench.stats import bootstrap, jackknife
from alignbench.stats.estimates import NORMAL_QUANTILE, Estimate, cluster_numbers, t_quantile
from alignbench.stats.significance import ADDED, few_changed, least_p, mcnemar, p_of_rare_changes, rare_changes
from alignbench.types.record import Record
from alignbench.types.result import MetricResult

TOO_FEW = "too few documents changed"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """A metric on the documents that both models have a value for.

    reference, aligned: (n,) values; cluster: (n,) the group of each document, numbered from 0; clusters: their number
    chance: value of random answers on these documents, None if there is no such level
    left_out: documents for which at least one of the two has no value
    """

    reference: Array
    aligned: Array
    cluster: NDArray[np.int64]
    clusters: int
    chance: float | None
    left_out: int


@dataclass(frozen=True)
class Change:
    """Two values with inference about their difference.

    delta: aligned − reference; gain: the improvement, None if no direction is better
    p, test: two-sided p-value of a gain (or else delta) of 0, and its method; note: why the row is not tested
    """

    reference: float
    aligned: float
    delta: Estimate
    gain: Estimate | None
    p: float | None
    test: str
    note: str = ""

    @property
    def tested(self) -> Estimate:
        return self.delta if self.gain is None else self.gain


@dataclass(frozen=True)
class Method:
    """How an interval and a p-value follow from a value and its draws: resamples, or values without one group each.

    estimate: value, draws, n, clusters -> estimate; p_value: estimate, draws -> p
    """

    name: str
    estimate: Callable[[float, Array, int, int], Estimate]
    p_value: Callable[[Estimate, Array], float | None]


def change(
    reference: float, aligned: float, draws: Array, better: str, n: int, clusters: int, method: Method
) -> Change:
    """draws: (k, 2) both values on each resample, or without each group."""
    deltas = draws[:, 1] - draws[:, 0]
    delta = method.estimate(aligned - reference, deltas, n, clusters)
    gained, gains = improvement(reference, aligned, better), improvement(draws[:, 0], draws[:, 1], better)
    if gained is None or gains is None:
        return Change(reference, aligned, delta, None, method.p_value(delta, deltas), method.name)
    gain = method.estimate(gained, gains, n, clusters)
    return Change(reference, aligned, delta, gain, method.p_value(gain, gains), method.name)


def _bootstrapped(value: float, draws: Array, n: int, clusters: int) -> Estimate:
    """Fewer than two groups cannot be resampled: no interval."""
    return Estimate(value, n=n, clusters=clusters) if clusters < 2 else bootstrap.estimate(value, draws, n, clusters)


def _bootstrap_p(found: Estimate, draws: Array) -> float | None:
    """At least the smallest p-value of a sign test on the groups."""
    if found.value is None or found.clusters < 2:
        return None
    if abs(found.value) < 1e-12:  # a difference in the last digits is no change
        return 1.0
    return max(bootstrap.p_value(found.value, draws, found.clusters), least_p(found.clusters))


def _jackknifed(value: float, draws: Array, n: int, clusters: int) -> Estimate:
    """No interval if all draws are equal: for example as many values as documents."""
    found = jackknife.estimate(value, draws if len(draws) else None, n, clusters)
    return found if found.standard_error else Estimate(value, n=n, clusters=clusters)


def _jackknife_p(found: Estimate, draws: Array) -> float | None:
    if found.value is None or found.standard_error is None:
        return None
    return float(2 * stats.t.sf(abs(found.value) / found.standard_error, jackknife.GROUPS - 1))


BOOTSTRAP = Method("bootstrap", _bootstrapped, _bootstrap_p)
JACKKNIFE = Method("jackknife", _jackknifed, _jackknife_p)


def unpaired(reference: MetricResult, aligned: MetricResult) -> Change | None:
    """From the values and standard errors of the two runs, as if they were independent; None without values."""
    if reference.value is None or aligned.value is None:
        return None
    error = None
    if reference.standard_error is not None and aligned.standard_error is not None:
        error = float(np.hypot(reference.standard_error, aligned.standard_error))

    def estimate(value: float, draws: Array, n: int, clusters: int) -> Estimate:
        if error is None:
            return Estimate(value, n=n, clusters=clusters)
        return Estimate.symmetric(value, error, NORMAL_QUANTILE, n, clusters)

    def p_value(found: Estimate, draws: Array) -> float | None:
        if error is None or found.value is None:
            return None
        return float(2 * stats.norm.sf(abs(found.value) / error)) if error else float(found.value == 0)

    n, clusters = min(reference.n, aligned.n), min(reference.n_clusters, aligned.n_clusters)
    method = Method("unpaired", estimate, p_value)
    return change(reference.value, aligned.value, np.empty((0, 2)), reference.better, n, clusters, method)


def pair(
    metric: str, reference: Mapping[str, Record], aligned: Mapping[str, Record], chance: float | None
) -> Pairs | None:
    """The values on the common documents, in the reference's order; None if the metric applies to no document.

    chance: of the metric, if a record has none
    """
    sides = [
        {name: record.metrics[metric] for name, record in records.items() if metric in record.metrics}
        for records in (reference, aligned)
    ]
    concerned = [name for name in {**reference, **aligned} if name in sides[0] or name in sides[1]]
    if not concerned:
        return None
    values = [(name, sides[0].get(name), sides[1].get(name)) for name in concerned]
    common = [(name, before, after) for name, before, after in values if before is not None and after is not None]
    levels = [reference[name].chance.get(metric, chance) for name, _, _ in common]
    cluster = cluster_numbers([reference[name].cluster for name, _, _ in common], len(common))
    return Pairs(
        np.array([before for _, before, _ in common], np.float64),
        np.array([after for _, _, after in common], np.float64),
        cluster,
        int(cluster.max()) + 1 if common else 0,
        float(np.mean(levels)) if levels and None not in levels else None,  # type: ignore[arg-type]
        len(concerned) - len(common),
    )


def resample(pairs: Sequence[Pairs], *, seed: int = 0, resamples: int = 10_000) -> list[Array]:
    """For each of `pairs` the two means of every resample, (resamples, 2): reference, aligned.

    Groups of documents are drawn as a whole. All metrics with the same number of groups share the draws, which saves
    most of the time of an audit of many tasks and changes no single interval.
    """
    means: list[Array] = [np.empty((0, 2))] * len(pairs)
    for count in sorted({own.clusters for own in pairs if own.clusters}):
        same = [number for number, own in enumerate(pairs) if own.clusters == count]
        sums = np.column_stack([column for number in same for column in _sums(pairs[number])])
        drawn = bootstrap.resampled_sums(sums, seed=seed, resamples=resamples)
        for place, number in enumerate(same):
            reference, aligned, size = drawn[:, 3 * place : 3 * place + 3].T
            means[number] = np.column_stack([reference / size, aligned / size])
    return means


def _sums(pairs: Pairs) -> list[Array]:
    """Sums of both models' values, and number of documents, of each group."""
    columns = (pairs.reference, pairs.aligned, np.ones(len(pairs.cluster)))
    return [np.asarray(np.bincount(pairs.cluster, column, pairs.clusters), np.float64) for column in columns]


def paired_change(pairs: Pairs, draws: Array, better: str, span: float | None, binary: bool) -> Change:
    """The change of a mean. draws: see `resample`; span: width of the metric's range; binary: values are 0 or 1"""
    before, after = pairs.reference, pairs.aligned
    changed = change(float(before.mean()), float(after.mean()), draws, better, len(before), pairs.clusters, BOOTSTRAP)
    if few_changed(after - before, pairs.cluster):
        changed = without_interval(changed) if span is None else _adjusted_wald(changed, pairs, span, better)
    if binary and pairs.clusters == len(before) and better not in TARGETS:
        changed = replace(changed, p=mcnemar(before, after), test="McNemar")
    return changed


def _adjusted_wald(changed: Change, pairs: Pairs, span: float, better: str) -> Change:
    """With the interval and p-value of `rare_changes`."""
    delta = rare_changes(pairs.aligned - pairs.reference, pairs.cluster, span)
    tested = delta
    if changed.gain is not None and changed.gain.value is not None and delta.standard_error is not None:
        error = delta.standard_error
        if better in TARGETS:  # the uncertainty of the reference's own value counts too
            error = max(error, changed.gain.standard_error or 0.0)
        value, n = changed.gain.value, pairs.clusters + ADDED
        centred = Estimate.symmetric(value * pairs.clusters / n, error, t_quantile(n - 1), delta.n, delta.clusters)
        tested = replace(centred, value=value)
    assert tested.value is not None
    assert tested.standard_error is not None
    p = p_of_rare_changes(tested.value, tested.standard_error, pairs.clusters)
    return replace(changed, delta=delta, gain=None if changed.gain is None else tested, p=p, test="adjusted Wald")


def without_interval(changed: Change) -> Change:
    """For few changed documents: their resamples do not show how the value varies."""
    delta, gain = (
        own and replace(own, standard_error=None, low=None, high=None) for own in (changed.delta, changed.gain)
    )
    assert delta is not None
    return replace(changed, delta=delta, gain=gain, p=None, note=TOO_FEW)
