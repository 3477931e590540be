"""Two models on the same documents: paired values, and the change with its interval and p-value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.tax import TARGETS, improvement
from alignbench.stats import bootstrap, estimates, jackknife, significance
from alignbench.stats.estimates import NORMAL_QUANTILE, Bounds, Estimate, cluster_numbers
from alignbench.types.record import Record
from alignbench.types.result import MetricResult

TOO_FEW = "too few documents changed"
Array = NDArray[np.float64]
Inference = Callable[[float, Array], tuple[Estimate, float | None]]  # value, its draws -> estimate, p-value of 0


@dataclass(frozen=True)
class Pairs:
    """A metric on the documents that both models have a value for.

    reference, aligned: (n,) values; cluster: (n,) the group of each document, numbered from 0
    chance: value of random answers on these documents, None if there is no such level
    left_out: documents for which at least one of the two has no value
    """

    reference: Array
    aligned: Array
    cluster: NDArray[np.int64]
    chance: float | None
    left_out: int

    @property
    def clusters(self) -> int:
        return int(self.cluster.max(initial=-1)) + 1


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


def change(reference: float, aligned: float, draws: Array, better: str, infer: Inference, test: str) -> Change:
    """draws: (k, 2) both values on each resample, or without each group."""
    delta, p = infer(aligned - reference, draws[:, 1] - draws[:, 0])
    gain = delta if better == "higher" else None
    gained, gains = improvement(reference, aligned, better), improvement(draws[:, 0], draws[:, 1], better)
    if better != "higher" and gained is not None and gains is not None:
        gain, p = infer(gained, gains)
    return Change(reference, aligned, delta, gain, p, test)


def by_bootstrap(n: int, clusters: int) -> Inference:
    """p is at least the smallest p-value of a sign test on the groups. Fewer than two groups cannot be resampled."""

    def infer(value: float, draws: Array) -> tuple[Estimate, float | None]:
        if clusters < 2:
            return Estimate(value, n=n, clusters=clusters), None
        p = max(bootstrap.p_value(value, draws, clusters), significance.least_p(clusters))
        # a difference in the last digits is no change
        return bootstrap.estimate(value, draws, n, clusters), 1.0 if abs(value) < 1e-12 else p

    return infer


def by_jackknife(n: int, clusters: int) -> Inference:
    """Without an interval if all draws are equal: for example as many values as documents."""

    def infer(value: float, draws: Array) -> tuple[Estimate, float | None]:
        found = jackknife.estimate(value, draws, n, clusters)
        if not found.standard_error:
            return Estimate(value, n=n, clusters=clusters), None
        return found, float(2 * stats.t.sf(abs(value) / found.standard_error, jackknife.GROUPS - 1))

    return infer


def unpaired(reference: MetricResult, aligned: MetricResult) -> Change | None:
    """From the values and standard errors of the two runs, as if they were independent; None without values."""
    if reference.value is None or aligned.value is None:
        return None
    n, clusters = min(reference.n, aligned.n), min(reference.n_clusters, aligned.n_clusters)
    errors = reference.standard_error, aligned.standard_error

    def infer(value: float, draws: Array) -> tuple[Estimate, float | None]:
        if errors[0] is None or errors[1] is None:
            return Estimate(value, n=n, clusters=clusters), None
        error = float(np.hypot(errors[0], errors[1]))
        return Estimate.symmetric(value, error, NORMAL_QUANTILE, n, clusters), significance.normal_p(value, error)

    return change(reference.value, aligned.value, np.empty((0, 2)), reference.better, infer, "unpaired")


def pair(
    metric: str, reference: Mapping[str, Record], aligned: Mapping[str, Record], chance: float | None
) -> Pairs | None:
    """The values on the common documents, in the reference's order; None if the metric applies to no document.

    chance: of the metric, if a record has none
    """
    before, after = (
        {name: record.metrics[metric] for name, record in records.items() if metric in record.metrics}
        for records in (reference, aligned)
    )
    concerned = [name for name in {**reference, **aligned} if name in before or name in after]
    if not concerned:
        return None
    common = [name for name in concerned if before.get(name) is not None and after.get(name) is not None]
    levels = [reference[name].chance.get(metric, chance) for name in common]
    cluster = clusters_of([reference[name] for name in common])
    reference_values, aligned_values = (np.array([own[name] for name in common], float) for own in (before, after))
    known = float(np.mean(levels)) if levels and None not in levels else None  # type: ignore[arg-type]
    return Pairs(reference_values, aligned_values, cluster, known, len(concerned) - len(common))


def clusters_of(records: Sequence[Record]) -> NDArray[np.int64]:
    """(n,) the group of each record, numbered from 0."""
    grouped = any(record.group is not None for record in records)
    return cluster_numbers([record.cluster for record in records] if grouped else None, len(records))


def resample(
    metrics: Sequence[tuple[Pairs, str]], *, seed: int = 0, resamples: int = 10_000
) -> list[tuple[Array, Array]]:
    """For each metric: means of every resample and their standard errors, both (resamples, columns), of `_columns`.

    metrics: the pairs and the direction of each. Groups of documents are drawn as a whole. All metrics with the same
    groups share the draws, which saves most of the time of an audit of many tasks and changes no single interval.
    """
    columns = [_columns(*own) for own in metrics]
    found: dict[int, tuple[Array, Array]] = {}
    alike: dict[bytes, list[int]] = {}
    for number, (own, _) in enumerate(metrics):
        alike.setdefault(own.cluster.tobytes(), []).append(number)
    for numbers in alike.values():
        sums = bootstrap.cluster_sums(np.hstack([columns[k] for k in numbers]), metrics[numbers[0]][0].cluster)
        ends = np.cumsum([columns[k].shape[1] for k in numbers])[:-1]
        draws = bootstrap.studentised(*sums, seed=seed, resamples=resamples)
        found |= zip(numbers, zip(*(np.split(part, ends, axis=1) for part in draws), strict=True), strict=True)
    return [found[number] for number in range(len(metrics))]


def _columns(pairs: Pairs, better: str) -> Array:
    """The differences (n, 1); for a target of 0.5 or 0 also the values of both models, and values whose mean has the
    standard error of the improvement, (n, 4)."""
    before, after = pairs.reference, pairs.aligned
    if better not in TARGETS:
        return (after - before)[:, None]
    target = float(better)
    linear = np.sign(before.mean() - target) * before - np.sign(after.mean() - target) * after
    return np.column_stack([after - before, before, after, linear])


def paired_change(pairs: Pairs, draws: tuple[Array, Array], better: str, span: float | None, binary: bool) -> Change:
    """The change of a mean. draws: see `resample`; span: width of the metric's range; binary: values are 0 or 1"""
    before, after, columns = pairs.reference, pairs.aligned, _columns(pairs, better)
    reference, aligned = float(before.mean()), float(after.mean())
    bounds = (None, None) if span is None else (-span, span)
    means, errors = draws
    delta, p = _tested(columns[:, 0], pairs.cluster, means[:, 0], errors[:, 0], bounds)
    gain = delta if better == "higher" else None
    if better == "lower":
        value, low, high = (None if own is None else -own for own in (delta.value, delta.high, delta.low))
        gain = replace(delta, value=value, low=low, high=high)
    elif better in TARGETS:
        moved, gained = improvement(means[:, 1], means[:, 2], better), improvement(reference, aligned, better)
        assert moved is not None
        gain, p = _tested(columns[:, 3], pairs.cluster, moved, errors[:, 3], bounds, gained)
    changed = Change(reference, aligned, delta, gain, p, "bootstrap")
    usual = significance.usual_change(columns[:, 0], pairs.cluster)
    if significance.few_changed(columns[:, 0] - usual, pairs.cluster):
        changed = without_interval(changed) if span is None else rare_change(changed, pairs, span, better, usual)
    binary = binary and all(np.isin(values, (0, 1)).all() for values in (before, after))
    if binary and pairs.clusters == len(before) and better not in TARGETS:
        changed = replace(changed, p=significance.mcnemar(before, after), test="McNemar")
    return changed


def _tested(
    values: Array, cluster: NDArray[np.int64], means: Array, errors: Array, bounds: Bounds, value: float | None = None
) -> tuple[Estimate, float | None]:
    """An estimate by the studentised bootstrap, and the p-value of 0; with few groups, as in `estimates.mean`.

    values: (n,) whose mean has the statistic's standard error; means, errors: (resamples,) of the statistic
    value: of the statistic, if it is not that mean
    """
    found = estimates.mean(values, cluster, bounds)
    assert found.value is not None
    centre, error, clusters = found.value if value is None else value, found.standard_error, found.clusters
    found = found.moved(centre - found.value, bounds)
    if clusters < 2 or not error:
        return found, significance.p_of_equal(centre, clusters, bounds[1])
    if clusters < estimates.STUDENTISED:
        p = float(2 * stats.t.sf(abs(centre) / error, clusters - 1))
    else:
        found, p = bootstrap.by_t(found, means, errors, bounds)
    return found, 1.0 if abs(centre) < 1e-12 else max(p, significance.least_p(clusters))


def rare_change(changed: Change, pairs: Pairs, span: float, better: str, usual: float = 0.0) -> Change:
    """The change with the interval and p-value of `rare_changes`."""
    delta, p = significance.rare_changes(pairs.aligned - pairs.reference, pairs.cluster, span, usual)
    gain, error = changed.gain, delta.standard_error or 0.0
    if gain is not None and gain.value is not None:
        if better in TARGETS:  # the uncertainty of the reference's own value counts too
            error = max(error, gain.standard_error or 0.0)
        usual = {"higher": usual, "lower": -usual}.get(better, 0.0)
        gain, p = significance.adjusted_wald(gain.value, error, delta.n, delta.clusters, span, usual)
    return replace(changed, delta=delta, gain=gain, p=p, test="adjusted Wald")


def without_interval(changed: Change) -> Change:
    """For few changed documents: their resamples do not show how the value varies."""
    bare = replace(changed.delta, standard_error=None, low=None, high=None)
    gain = changed.gain and replace(bare, value=changed.gain.value)
    return replace(changed, delta=bare, gain=gain, p=None, note=TOO_FEW)
