"""Two models on the same documents: paired values, and the change with its interval and p-value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.audit.tax import TARGETS, improvement
from alignbench.stats import bootstrap, estimates, jackknife, significance
from alignbench.stats.estimates import NORMAL_QUANTILE, Bounds, Estimate, cluster_numbers, t_quantile
from alignbench.types.record import Record
from alignbench.types.result import MetricResult

TOO_FEW = "too few documents changed"
Array = NDArray[np.float64]
Inference = Callable[[float, Array], tuple[Estimate, float | None]]  # value, its draws -> estimate, p-value of 0


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


def change(reference: float, aligned: float, draws: Array, better: str, infer: Inference, test: str) -> Change:
    """draws: (k, 2) both values on each resample, or without each group."""
    delta, p = infer(aligned - reference, draws[:, 1] - draws[:, 0])
    gain = delta if better == "higher" else None
    gained, gains = improvement(reference, aligned, better), improvement(draws[:, 0], draws[:, 1], better)
    if better != "higher" and gained is not None and gains is not None:
        gain, p = infer(gained, gains)
    return Change(reference, aligned, delta, gain, p, test)


def mirrored(own: Estimate) -> Estimate:
    """The estimate of the negative value."""
    low, high = (None if end is None else -end for end in (own.high, own.low))
    return replace(own, value=None if own.value is None else -own.value, low=low, high=high)


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
        p = float(2 * stats.norm.sf(abs(value) / error)) if error else float(value == 0)
        return Estimate.symmetric(value, error, NORMAL_QUANTILE, n, clusters), p

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
    clusters, left_out = int(cluster.max(initial=-1)) + 1, len(concerned) - len(common)
    return Pairs(reference_values, aligned_values, cluster, clusters, known, left_out)


def clusters_of(records: Sequence[Record]) -> NDArray[np.int64]:
    """(n,) the group of each record, numbered from 0."""
    grouped = any(record.group is not None for record in records)
    return cluster_numbers([record.cluster for record in records] if grouped else None, len(records))


def resample(
    pairs: Sequence[Pairs], better: Sequence[str], *, seed: int = 0, resamples: int = 10_000
) -> list[tuple[Array, Array]]:
    """For each of `pairs`: means of every resample and their standard errors, both (resamples, 4), of the reference,
    the aligned model, their difference, and the linear part of the improvement (for a target of 0.5 or 0).

    better: the direction of each metric. Groups of documents are drawn as a whole. All metrics with the same groups
    share the draws, which saves most of the time of an audit of many tasks and changes no single interval.
    """
    found: list[tuple[Array, Array]] = [(np.empty((0, 4)), np.empty((0, 4)))] * len(pairs)
    alike: dict[bytes, list[int]] = {}
    for number, own in enumerate(pairs):
        if own.clusters:
            alike.setdefault(own.cluster.tobytes(), []).append(number)
    for numbers in alike.values():
        columns = []
        for number in numbers:
            before, after, target = pairs[number].reference, pairs[number].aligned, better[number]
            columns += [before, after, after - before, _linear_part(before, after, target)]
        sums = bootstrap.cluster_sums(np.column_stack(columns), pairs[numbers[0]].cluster)
        means, errors = bootstrap.studentised(*sums, seed=seed, resamples=resamples)
        for place, number in enumerate(numbers):
            own_columns = slice(4 * place, 4 * place + 4)
            found[number] = means[:, own_columns], errors[:, own_columns]
    return found


def _linear_part(before: Array, after: Array, better: str) -> Array:
    """(n,) values whose mean has the standard error of the improvement towards a target."""
    if better not in TARGETS:
        return after - before
    target = float(better)
    linear: Array = np.sign(before.mean() - target) * before - np.sign(after.mean() - target) * after
    return linear


def paired_change(pairs: Pairs, draws: tuple[Array, Array], better: str, span: float | None, binary: bool) -> Change:
    """The change of a mean. draws: see `resample`; span: width of the metric's range; binary: values are 0 or 1"""
    before, after = pairs.reference, pairs.aligned
    reference, aligned = float(before.mean()), float(after.mean())
    bounds = (None, None) if span is None else (-span, span)
    means, errors = draws
    delta, p = _tested(after - before, pairs, means[:, 2], errors[:, 2], bounds)
    gain = delta if better == "higher" else mirrored(delta) if better == "lower" else None
    gained = improvement(reference, aligned, better)
    if better in TARGETS and gained is not None:
        moved = improvement(means[:, 0], means[:, 1], better)
        assert moved is not None
        gain, p = _tested(_linear_part(before, after, better), pairs, moved, errors[:, 3], bounds, gained)
    changed = Change(reference, aligned, delta, gain, p, "bootstrap")
    if significance.few_changed(after - before, pairs.cluster):
        changed = without_interval(changed) if span is None else _adjusted_wald(changed, pairs, span, better)
    binary = binary and all(np.isin(values, (0, 1)).all() for values in (before, after))
    if binary and pairs.clusters == len(before) and better not in TARGETS:
        changed = replace(changed, p=significance.mcnemar(before, after), test="McNemar")
    return changed


def _tested(
    values: Array, pairs: Pairs, means: Array, errors: Array, bounds: Bounds, value: float | None = None
) -> tuple[Estimate, float | None]:
    """An estimate by the studentised bootstrap, and the p-value of 0; with few groups, as in `estimates.mean`.

    values: (n,) whose mean has the statistic's standard error; means, errors: (resamples,) of the statistic
    value: of the statistic, if it is not that mean
    """
    plain = estimates.mean(values, pairs.cluster, bounds)
    if value is not None and plain.value is not None:
        plain = plain.moved(value - plain.value, bounds)
    assert plain.value is not None
    if pairs.clusters < 2 or not plain.standard_error:
        return plain, significance.p_of_equal(plain.value, pairs.clusters, bounds[1])
    if pairs.clusters < estimates.STUDENTISED:
        p = float(2 * stats.t.sf(abs(plain.value) / plain.standard_error, pairs.clusters - 1))
    else:
        plain, p = bootstrap.by_t(plain, bootstrap.t_values(plain.value, means, errors), bounds)
    return plain, 1.0 if plain.value is None or abs(plain.value) < 1e-12 else max(
        p, significance.least_p(pairs.clusters)
    )


def _adjusted_wald(changed: Change, pairs: Pairs, span: float, better: str) -> Change:
    """The interval and p-value of `rare_changes`."""
    delta = tested = significance.rare_changes(pairs.aligned - pairs.reference, pairs.cluster, span)
    assert delta.value is not None
    assert delta.standard_error is not None
    value, error, n = delta.value, delta.standard_error, pairs.clusters + significance.ADDED
    if changed.gain is not None and changed.gain.value is not None:
        value = changed.gain.value
        if better in TARGETS:  # the uncertainty of the reference's own value counts too
            error = max(error, changed.gain.standard_error or 0.0)
        centred = Estimate.symmetric(value * pairs.clusters / n, error, t_quantile(n - 1), delta.n, delta.clusters)
        tested = replace(centred, value=value)
    p = significance.p_of_rare_changes(value, error, pairs.clusters)
    return replace(changed, delta=delta, gain=changed.gain and tested, p=p, test="adjusted Wald")


def without_interval(changed: Change) -> Change:
    """For few changed documents: their resamples do not show how the value varies."""
    bare = replace(changed.delta, standard_error=None, low=None, high=None)
    gain = changed.gain and replace(bare, value=changed.gain.value)
    return replace(changed, delta=bare, gain=gain, p=None, note=TOO_FEW)
