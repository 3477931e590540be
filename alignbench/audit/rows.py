"""From two matched task folders to rows: every metric on the common documents, all resampled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alignbench.audit.audit import Row
from alignbench.audit.comparable import Match, baseline_of
from alignbench.audit.corpus import RecordCache, compare_corpus, unpaired
from alignbench.audit.paired import Change, Pairs, change, pair, rarely, resample
from alignbench.audit.references import find
from alignbench.audit.tax import chance_level, range_of, relative_tax, tax
from alignbench.stats import estimates
from alignbench.stats.significance import detectable, few_changed, mcnemar
from alignbench.types.result import MetricResult
from alignbench.types.task import Metric, Task

TOO_FEW = "too few documents changed"
UNKNOWN = "unknown"  # the template of a file's outputs
AT_A_FIXED_COUNT = "_at_50"  # ends the names of what so many of the values show on average


@dataclass(frozen=True)
class Measured:
    """A metric before resampling. finish: what makes its row of the two columns of resampled means."""

    pairs: Pairs | None
    finish: Callable[[NDArray[np.float64]], Row]


@dataclass(frozen=True)
class Rows:
    """Of one contrast: its rows, not yet judged, and a line for each metric that could not be compared."""

    rows: list[Row]
    left_out: list[str]


def measure(contrasts: Sequence[Sequence[Match]], *, seed: int = 0, resamples: int = 10_000) -> list[Rows]:
    """The rows of each contrast, given its matched folders. Raises AlignbenchError for records that cannot be read."""
    cache = RecordCache()
    jobs = [(number, own, matches) for number, matches in enumerate(contrasts) for own in matches]
    # contrasts that share folders come one after the other, so that their records are still at hand
    jobs.sort(key=lambda job: (job[1].reference.task, str(job[1].reference.path), job[0]))
    rows = [Rows([], []) for _ in contrasts]
    measured: list[tuple[int, Match, Measured]] = []
    for number, own, matches in jobs:
        found, left_out = _metrics(own, matches, seed, cache)
        measured += [(number, own, one) for one in found]
        rows[number].left_out.extend(left_out)
    paired = [one.pairs for _, _, one in measured if one.pairs is not None]
    draws = iter(resample(paired, seed=seed, resamples=resamples))
    for number, own, one in measured:
        row = one.finish(next(draws) if one.pairs is not None else np.empty((0, 2)))
        rows[number].rows.append(replace(row, reference_folder=own.reference.path, aligned_folder=own.aligned.path))
    return rows


def _metrics(
    folders: Match, matches: Sequence[Match], seed: int, cache: RecordCache
) -> tuple[list[Measured], list[str]]:
    """Every metric that both folders have over all documents, made with the same scorer; and what is left out."""
    task = find(folders.reference.task)
    assert task is not None
    before = {m.metric: m for m in folders.reference.result.metrics if m.category is None}
    after = {m.metric: m for m in folders.aligned.result.metrics if m.category is None}
    both = [m for name, m in before.items() if name in after and m.scorer == after[name].scorer]
    reference, aligned = cache.records(folders.reference), cache.records(folders.aligned)
    known = {metric.name: metric for metric in task.metrics}
    found: list[Measured] = []
    rest: list[tuple[MetricResult, MetricResult]] = []
    for result in both:
        metric = known.get(result.metric)
        pairs = pair(result.metric, reference, aligned, None if metric is None else metric.chance)
        if pairs is None:
            rest.append((result, after[result.metric]))
        elif len(pairs.reference):
            variant = _variant(result.metric, folders, matches)
            found.append(Measured(pairs, _finisher(task, variant, metric, result, pairs)))
    rows, left_out = _corpus_rows(task, matches, folders, rest, seed, cache) if rest else ([], [])
    return found + [Measured(None, lambda draws, row=row: row) for row in rows], left_out  # type: ignore[misc]


def _corpus_rows(
    task: Task,
    matches: Sequence[Match],
    folders: Match,
    results: Sequence[tuple[MetricResult, MetricResult]],
    seed: int,
    cache: RecordCache,
) -> tuple[list[Row], list[str]]:
    """Rows of metrics across documents, and those that cannot be computed anew on the documents in common."""
    better = {before.metric: before.better for before, _ in results}
    found, lacking = compare_corpus(task, better, folders.reference, folders.aligned, cache, seed=seed)
    rows, left_out = [], []
    for before, after in results:
        one = found.get(before.metric)
        if one is None and lacking and task.corpus is not None and task.corpus.resampling == "jackknife":
            made = f" with {before.scorer}" if before.scorer else ""
            left_out.append(f"{task.name}.{before.metric} (not to be made anew{made} on the documents in common)")
            continue
        changed = unpaired(before, after) if one is None else one.changed
        if changed is None:
            continue
        test = "unpaired" if one is None else one.test
        counts = (before.n, after.n) if one is None else one.counts
        variant = _variant(before.metric, folders, matches)
        row = _row(task, variant, None, before, changed, test, before.chance, before.standard_error, lacking)
        if counts[0] != counts[1] and not before.metric.endswith(AT_A_FIXED_COUNT):
            row = row.told(f"counts differ: {counts[0]} / {counts[1]}")
        elif one is not None and one.few:
            row = row.told(TOO_FEW)
        rows.append(row)
    return rows, left_out


def _finisher(
    task: Task, variant: str, metric: Metric | None, result: MetricResult, pairs: Pairs
) -> Callable[[NDArray[np.float64]], Row]:
    bounds = range_of(result, metric)

    def finish(draws: NDArray[np.float64]) -> Row:
        before, after = pairs.reference, pairs.aligned
        changed = change(float(before.mean()), float(after.mean()), draws, len(before), pairs.clusters, result.better)
        test, note = "bootstrap", ""
        if few_changed(after - before, pairs.cluster):
            changed = rarely(changed, pairs, None if bounds is None else bounds[1] - bounds[0], result.better)
            test, note = "adjusted Wald", "" if bounds else TOO_FEW
        independent = pairs.clusters == len(before)
        if metric is not None and metric.binary and independent and result.better not in ("0.5", "0"):
            changed, test = replace(changed, p=mcnemar(before, after)), "McNemar"
        error = estimates.mean(before, pairs.cluster.tolist()).standard_error
        row = _row(task, variant, metric, result, changed, test, pairs.chance, error, pairs.left_out)
        return row.told(note) if note else row

    return finish


def _row(
    task: Task,
    variant: str,
    metric: Metric | None,
    result: MetricResult,
    changed: Change,
    test: str,
    chance: float | None,
    reference_error: float | None,
    left_out: int,
) -> Row:
    """reference_error: standard error of the reference's value, which says whether a relative tax has a meaning."""
    bounds = range_of(result, metric)
    gain = changed.gain
    error = (gain or changed.delta).standard_error
    lost = tax(changed.reference, changed.aligned, result.better)
    scale = None if bounds is None else 100 / (bounds[1] - bounds[0])
    relative = relative_tax(
        changed.reference,
        changed.aligned,
        result.better,
        chance_level(chance, result.better, bounds),
        reference_error,
    )
    return Row(
        task=task.name,
        variant=variant,
        group=task.group,
        metric=result.metric,
        headline=result.metric == task.headline,
        unit=result.unit,
        better=result.better,
        scorer=result.scorer,
        reference=changed.reference,
        aligned=changed.aligned,
        delta=changed.aligned - changed.reference,
        low=changed.delta.low,
        high=changed.delta.high,
        gain=None if gain is None else gain.value,
        standard_error=error,
        p=changed.p,
        test=test,
        p_holm=None,
        verdict="–",
        detectable=detectable(error) if error else None,  # nothing changed: how much it varies is not known
        tax=lost,
        relative_tax=relative,
        tax_of_range=None if lost is None or scale is None else lost * scale,
        tax_error=None if lost is None or scale is None or error is None else error * scale,
        n=changed.delta.n,
        clusters=changed.delta.clusters,
        left_out=left_out,
    )


def _variant(metric: str, folders: Match, matches: Sequence[Match]) -> str:
    """What tells this row from others of its task and metric: the template where one is in use; the metric's scorers,
    baselines, shots, limits and seeds where they differ."""
    same = [own for own in matches if own.reference.task == folders.reference.task and _has(own, metric)]
    several = len({own.template for own in same}) > 1
    parts = [folders.template] if folders.template not in ("", "none") or several else []
    parts = [part for part in parts if UNKNOWN not in part.split(" -> ")]
    if len({_scorers(own, metric) for own in same}) > 1:
        parts.append(_scorers(folders, metric))
    baselines = [baseline_of(own.reference.identity) for own in same]
    if len(set(baselines)) > 1:
        parts.append(f"against {baseline_of(folders.reference.identity)}")
    for key in ("shots", "limit", "seed"):
        if len({own.reference.identity.get(key) for own in same}) > 1:
            chosen = folders.reference.identity.get(key)
            parts.append("no limit" if chosen is None else f"{key} {chosen}")
    return ", ".join(part for part in parts if part)


def _has(own: Match, metric: str) -> bool:
    """Whether the metric of these two folders makes a row: both have it, made with the same scorer."""
    before, after = (
        {m.scorer for m in side.result.metrics if (m.metric, m.category) == (metric, None)}
        for side in (own.reference, own.aligned)
    )
    return bool(before) and before == after


def _scorers(own: Match, metric: str) -> str:
    """Those that made the metric."""
    result = next(m for m in own.reference.result.metrics if (m.metric, m.category) == (metric, None))
    made = (result.scorer or "").split(" + ")
    scorers = own.reference.identity.get("scorers") or ()
    return " ".join(f"{s['kind']}={s['name']}" for s in scorers if f"{s['name']}@{s['revision']}" in made)
