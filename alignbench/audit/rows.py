"""From matched task folders to rows: every metric on the common documents, all resampled together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from alignbench.audit.audit import Row
from alignbench.audit.comparable import UNKNOWN, Match, baseline_of, scorers_of
from alignbench.audit.corpus import RecordCache, compare_corpus
from alignbench.audit.paired import Change, Pairs, pair, paired_change, resample, unpaired
from alignbench.audit.references import task_of
from alignbench.audit.tax import range_of, relative_tax, span_of, tax
from alignbench.progress import Progress
from alignbench.stats import estimates
from alignbench.types.result import MetricResult

SILENT = Progress()
MANY = 200  # tables: fewer take less time than the start of other processes
AT_A_FIXED_COUNT = "_at_50"  # suffix of metrics that do not depend on the number of values


@dataclass(frozen=True)
class Subject:
    """A metric over all documents that both folders have, computed by the same scorer.

    before, after: the runs' own results; pairs: the values per document, or else changed: the change of a corpus
    metric; left_out: documents that one of the two lacks
    """

    match: Match
    variant: str
    before: MetricResult
    after: MetricResult
    pairs: Pairs | None = None
    changed: Change | None = None
    left_out: int = 0


def measure(
    contrasts: Sequence[Sequence[Match]], *, seed: int = 0, resamples: int = 10_000, progress: Progress = SILENT
) -> list[tuple[list[Row], list[str]]]:
    """The rows of each contrast, without verdicts, given its matched folders, and a line for each metric that could not
    be compared. Raises AlignbenchError for records that cannot be read."""
    from joblib import Parallel, delayed

    jobs = [(number, match, matches) for number, matches in enumerate(contrasts) for match in matches]
    # contrasts that share folders are consecutive, so that their records are still in memory
    jobs.sort(key=lambda job: (job[1].reference.task, str(job[1].reference.path), job[0]))
    measured = [(list[Row](), list[str]()) for _ in contrasts]
    subjects: list[tuple[int, Subject]] = []
    progress.start("comparing", len(jobs), unit="tables")
    by_task = [list(own) for _, own in groupby(jobs, lambda job: job[1].reference.task)]
    in_processes = Parallel(1 if len(jobs) < MANY else -1, return_as="generator")
    made = in_processes(delayed(_subjects_of)([job[1:] for job in own], seed) for own in by_task)
    for own, results in zip(by_task, made, strict=True):
        for (number, _, _), (found, left_out) in zip(own, results, strict=True):
            subjects += [(number, subject) for subject in found]
            measured[number][1].extend(left_out)
            progress.advance()
    paired = [(one.pairs, one.before.better) for _, one in subjects if one.pairs is not None]
    draws = iter(resample(paired, seed=seed, resamples=resamples))
    for number, subject in subjects:
        changed, span = subject.changed, span_of(subject.before)
        if subject.pairs is not None:
            both = filter(None, map(task_of, (subject.match.reference, subject.match.aligned)))
            binary = [{m.name for m in task.metrics if m.binary} for task in both]
            zero_or_one = all(subject.before.metric in names for names in binary)  # imported values may be so in one
            changed = paired_change(subject.pairs, next(draws), subject.before.better, span, zero_or_one)
        assert changed is not None
        measured[number][0].append(_row(subject, changed, span))
    return measured


def _subjects_of(jobs: Sequence[tuple[Match, Sequence[Match]]], seed: int) -> list[tuple[list[Subject], list[str]]]:
    cache = RecordCache()
    return [_subjects(match, matches, seed, cache) for match, matches in jobs]


def _subjects(match: Match, matches: Sequence[Match], seed: int, cache: RecordCache) -> tuple[list[Subject], list[str]]:
    """The metrics to compare, and a line for each that cannot be compared. matches: all of the contrast"""
    task = task_of(match.reference)
    assert task is not None
    before, after = match.reference.result.overall, match.aligned.result.overall
    chances = {metric.name: metric.chance for metric in task.metrics}
    records = cache.records(match.reference), cache.records(match.aligned)
    found, corpus = [], []
    for name in [name for name in before if name in after and before[name].scorer == after[name].scorer]:
        subject = Subject(match, _variant(name, match, matches), before[name], after[name])
        pairs = pair(name, *records, chances.get(name))
        if pairs is None:
            corpus.append(subject)
        elif len(pairs.reference):
            found.append(replace(subject, pairs=pairs, left_out=pairs.left_out))
    if not corpus:
        return found, []
    better = {own.before.metric: own.before.better for own in corpus}
    changes, lacking = compare_corpus(task, better, match, cache, seed)
    left_out = []
    for own in corpus:
        name, made = own.before.metric, f" with {own.before.scorer}" if own.before.scorer else ""
        if name not in changes and lacking and task.corpus and task.corpus.resampling == "jackknife":
            left_out.append(f"{task.name}.{name} (cannot be computed{made} on the common documents)")
            continue
        changed, counts = changes.get(name, (unpaired(own.before, own.after), (own.before.n, own.after.n)))
        if changed is None:
            continue
        if counts[0] != counts[1] and not name.endswith(AT_A_FIXED_COUNT):
            changed = replace(changed, note=f"counts differ: {counts[0]} / {counts[1]}")
        found.append(replace(own, changed=changed, left_out=lacking))
    return found, left_out


def _row(own: Subject, changed: Change, span: float | None) -> Row:
    result, error, task = own.before, (changed.gain or changed.delta).standard_error, task_of(own.match.reference)
    assert task is not None
    chance, reference_error, gain = result.chance, result.standard_error, changed.gain or estimates.Estimate()
    if own.pairs is not None:
        chance = own.pairs.chance
        reference_error = estimates.mean(own.pairs.reference, own.pairs.cluster).standard_error
    if chance is None and result.better == "higher" and (range_of(result) or (None,))[0] == 0:
        chance = 0.0  # a score that starts at 0, such as F1 or BLEU
    folder = own.match.reference  # in a family fewer shots, all documents, the chat template and one sample come first
    identity = folder.identity
    settings = identity.get("shots") or 0, identity.get("limit") is not None, identity.get("template") != "chat"
    values = changed.reference, changed.aligned, result.better
    lost = tax(*values)
    row = Row(
        **{name: getattr(task, name) for name in ("ability", "group")},
        **{name: getattr(result, name) for name in ("metric", "unit", "better", "scorer")},
        **{name: getattr(changed, name) for name in ("reference", "aligned", "p", "test")},
        task=task.name,
        variant=own.variant,
        family=task.family or task.name,
        headline=result.metric == task.headline,
        delta=changed.aligned - changed.reference,
        low=changed.delta.low,
        high=changed.delta.high,
        gain=gain.value,
        gain_low=gain.low,
        gain_high=gain.high,
        standard_error=error,
        tax=lost,
        relative_tax=relative_tax(*values, chance, reference_error),
        tax_of_range=None if lost is None or span is None else lost * 100 / span,
        tax_error=None if lost is None or span is None or error is None else error * 100 / span,
        n=changed.delta.n,
        clusters=changed.delta.clusters,
        left_out=own.left_out,
        span=span,
        reference_folder=own.match.reference.path,
        aligned_folder=own.match.aligned.path,
        order=(task.rank, *settings, bool(folder.repeated), own.variant),
    )
    return row.untested(changed.note) if changed.note else row


def _variant(metric: str, match: Match, matches: Sequence[Match]) -> str:
    """What distinguishes this row from others of its task and metric: the template if there is one; scorers of the
    metric, baselines, shots, limits, seeds and repeated samples if they differ."""

    def settings(own: Match) -> list[str]:
        identity = own.reference.identity
        used = (_computed_by(own, metric) or "").split(" + ")
        scorers = " ".join(f"{s.kind}={s.name}" for s in scorers_of(identity) if str(s) in used)
        counts = ((key, identity.get(key)) for key in ("shots", "limit", "seed"))
        shown = (f"no {key}" if value is None else f"{key} {value}" for key, value in counts)
        sampled = own.reference.repeated or "one sample"
        return [own.template, scorers, f"against {baseline_of(identity)}", *shown, sampled]

    same = [own for own in matches if own.reference.task == match.reference.task]
    others = [settings(own) for own in same if _computed_by(own, metric) is not None]
    template, *rest = settings(match)
    differ = [len(set(values)) > 1 for values in zip(*others, strict=True)]
    shown = (differ[0] or template != "none") and UNKNOWN not in template.split(" -> ")
    parts = [template] * shown + [part for part, unlike in zip(rest, differ[1:], strict=True) if unlike]
    return ", ".join(part for part in parts if part)


def _computed_by(own: Match, metric: str) -> str | None:
    """The scorer that computed the metric in both folders, "" without one; None if they do not have it in common."""
    before, after = (side.result.overall.get(metric) for side in (own.reference, own.aligned))
    return before.scorer or "" if before and after and before.scorer == after.scorer else None
