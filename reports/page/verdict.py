"""The verdict: what alignment gained, what it cost and what is not decided, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from alignbench.audit.audit import Audit, Contrast, MeanTax, Row
from alignbench.audit.read import find
from reports.evidence import Evidence
from reports.page.blocks import told, told_interval
from reports.page.samples import sets_of

BETTER = {"higher": "higher is better", "lower": "lower is better", "0.5": "0.5 is best", "0": "0 is best", "–": ""}
WIN_RATE = "win_rate"
SHORT = 8  # so many sentences of one kind are shown at once


@dataclass(frozen=True)
class Sentence:
    """link, title: what was measured; numbers: from where to where, by how much; how: the metric; tail: what remains"""

    link: str
    title: str
    numbers: str
    how: str
    tail: str


@dataclass(frozen=True)
class Mean:
    """The tax of a group. kind: "cost", "gain", or "open" where the interval holds 0."""

    name: str
    value: str
    interval: str
    tasks: str
    kind: str


@dataclass(frozen=True)
class Verdict:
    """One aligned system against one reference. told: headline metrics without a direction or a test."""

    aligned: str
    reference: str
    role: str
    summary: str
    gains: tuple[Sentence, ...]
    costs: tuple[Sentence, ...]
    open: tuple[Sentence, ...]
    told: tuple[Sentence, ...]
    means: tuple[Mean, ...]
    notes: tuple[str, ...]


def verdicts(audit: Audit) -> list[Verdict]:
    return [_verdict(contrast) for contrast in audit.contrasts]


def win_rates(evidence: Evidence) -> dict[str, list[Sentence]]:
    """What a judge preferred: "gain", "cost" or "open", by where the interval of a win rate lies to one half.

    A win rate is a comparison in itself, of a system with its baseline, and stands beside those of the audit.
    """
    found: dict[str, list[Sentence]] = {"gain": [], "cost": [], "open": []}
    folders = [(one.number, *both) for one in sets_of(evidence, WIN_RATE) for both in one.folders]
    for number, system, own in folders:
        for metric in own.result.metrics:
            if (metric.metric, metric.category) != (WIN_RATE, None) or metric.value is None:
                continue
            low, high = metric.low, metric.high
            above, below = low is not None and low > 0.5, high is not None and high < 0.5
            baseline = (own.identity.get("baseline") or {}).get("name") or "its baseline"
            interval = told_interval(low, high, metric.unit)
            judge = f"judged by {metric.scorer.partition('@')[0]}; " if metric.scorer else ""
            title, numbers = (
                f"{system.name} against {baseline}",
                f"win rate {told(metric.value, metric.unit)} {interval}",
            )
            found["gain" if above else "cost" if below else "open"].append(
                Sentence(
                    link_to(WIN_RATE, number),
                    title,
                    numbers.strip(),
                    "one half: as good as the other",
                    f"{judge}n = {metric.n:,}",
                )
            )
    return found


def _verdict(contrast: Contrast) -> Verdict:
    headline = [row for row in contrast.rows if row.headline]
    of_kind = {kind: [row for row in headline if row.verdict == kind] for kind in ("gain", "cost", "not decided", "–")}
    means = (*contrast.groups, *([contrast.mean] if contrast.mean and len(contrast.groups) > 1 else []))
    return Verdict(
        contrast.aligned,
        contrast.reference,
        _role(contrast),
        _summary(contrast, of_kind["gain"], of_kind["cost"], of_kind["not decided"]),
        tuple(map(_decided, of_kind["gain"])),
        tuple(map(_decided, of_kind["cost"])),
        tuple(map(_open, of_kind["not decided"])),
        tuple(map(_told, of_kind["–"])),
        tuple(map(_mean, means)),
        (*(f"not compared: {line}" for line in contrast.left_out), *contrast.notes),
    )


def _role(contrast: Contrast) -> str:
    asked = "" if contrast.templates == "same" else "each asked with its own chat template"
    role = "" if contrast.role == "reference" else f"the {contrast.role} model that it was made from"
    return "; ".join(part for part in (role, asked) if part)


def _summary(contrast: Contrast, gains: Sequence[Row], costs: Sequence[Row], undecided: Sequence[Row]) -> str:
    judged = len(gains) + len(costs) + len(undecided)
    if not judged:
        return "Nothing could be judged: no headline metric of these tasks has a direction and a test."
    if judged == 1:
        what = "a gain" if gains else "a cost" if costs else "not decided"
        text = f"The one headline metric that can be judged is {what}."
    else:
        left = {0: "none is", 1: "one is"}.get(len(undecided), f"{len(undecided)} are")
        gained, paid = len(gains) or "none", len(costs) or "none"
        text = f"Of {judged} headline metrics, {gained} gained and {paid} paid; {left} not decided."
    return f"{text} {_mean_summary(contrast.mean)}".strip()


def _mean_summary(mean: MeanTax | None) -> str:
    if mean is None:
        return ""
    shown = _mean(mean)
    what = {"cost": "a cost", "gain": "a gain", "open": "not decided"}[shown.kind]
    return f"The mean tax is {shown.value} % of the metrics' range {shown.interval}: {what}.".replace(" :", ":")


def _decided(row: Row) -> Sentence:
    p = "" if row.p_holm is None else f"p (Holm) {'< .001' if row.p_holm < 0.001 else f'= {row.p_holm:.3f}'}; "
    return _sentence(row, p + _documents(row))


def _open(row: Row) -> Sentence:
    if row.detectable is None:
        return _sentence(row, f"how small a change could have been seen is not known; {_documents(row)}")
    seen = f"a change of {told(row.detectable, row.unit)} would have been seen (power 80 %)"
    return _sentence(row, f"{seen}; {_documents(row)}")


def _told(row: Row) -> Sentence:
    why = row.note or ("neither direction is better" if row.better == "–" else "without a test")
    return _sentence(row, f"told, not judged: {why}; {_documents(row)}")


def _sentence(row: Row, tail: str) -> Sentence:
    interval = told_interval(row.low, row.high, row.unit, sign=True)
    numbers = f"{told(row.reference, row.unit)} → {told(row.aligned, row.unit)}, {told(row.delta, row.unit, sign=True)}"
    how = ", ".join(part for part in (row.metric, row.unit, BETTER[row.better], row.variant) if part)
    return Sentence(link_to(row.task), title_of(row.task), f"{numbers} {interval}".strip(), how, tail)


def _documents(row: Row) -> str:
    grouped = "" if row.clusters == row.n else f" in {row.clusters:,} groups"
    return f"n = {row.n:,}{grouped}"


def _mean(mean: MeanTax) -> Mean:
    decided = mean.low is not None and mean.high is not None and (mean.low > 0 or mean.high < 0)
    kind = ("cost" if mean.value > 0 else "gain") if decided else "open"
    return Mean(
        "mean of groups" if mean.name == "all" else mean.name,
        told(mean.value, "points", sign=True),
        told_interval(mean.low, mean.high, "points", sign=True),
        ", ".join(mean.tasks),
        kind,
    )


def link_to(task: str, number: int = 0) -> str:
    """Of a task's page; number: which set of its folders."""
    return f"#task/{quote(task, safe='')}" + (f"/{number + 1}" if number else "")


def title_of(task: str) -> str:
    """The task's title, or its name where this alignbench does not know it."""
    found = find(task)
    return task if found is None else found.title
