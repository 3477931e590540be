"""The verdict: what alignment gained, what it cost and what is not decided, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignbench.audit.audit import Audit, Contrast, MeanTax, Row
from alignbench.audit.references import find
from reports.page.blocks import told, told_interval
from reports.page.sets import Sets, TaskSet, fitting, link_to, set_of

BETTER = {"higher": "higher is better", "lower": "lower is better", "0.5": "0.5 is best", "0": "0 is best", "–": ""}
HOW = {"none": "without a template", "chat": "with its chat template", "unknown": "as its file was made"}
SHORT = 8  # so many sentences of one kind are shown at once
FIRST = 4  # so many comparisons are shown whole; the others are folded
BIAS = ("crows_pairs", "winogender")  # their headline, an entropy, also rises where a model is merely less sure
DIRECTED = ("pct_stereotype", "pct_she")  # what says of a bias which way it goes
Kind = Literal["gain", "cost", "open"]


@dataclass(frozen=True)
class Sentence:
    """link, title: what was measured; numbers: from where to where, by how much; caveat: what else it may mean, or "";
    how: the metric; tail: what remains"""

    link: str
    title: str
    numbers: str
    caveat: str
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


def verdicts(audit: Audit, sets: Sets) -> list[Verdict]:
    return [_verdict(contrast, sets) for contrast in audit.contrasts]


def methods(audit: Audit) -> str:
    """How the intervals and p of the rows in the verdict came about: of the methods that were used, and no other."""
    used = {row.test for contrast in audit.contrasts for row in contrast.rows if row.headline}
    yes_or_no = "McNemar" in used  # its interval is of the resamples, or adjusted Wald: the row does not tell which
    parts = {
        f"of {audit.resamples:,} paired resamples (seed {audit.seed})": yes_or_no or "bootstrap" in used,
        "adjusted Wald where few documents changed": yes_or_no or "adjusted Wald" in used,
        "the jackknife's for measures of a whole set of outputs": "jackknife" in used,
        "unpaired, of both standard errors, where single documents have no value": "unpaired" in used,
    }
    found = "; ".join(text for text, so in parts.items() if so)
    intervals = f"Intervals are 95 %: {found}." if found else "Intervals are 95 %."
    return f"{intervals} For yes or no, p is McNemar's." if yes_or_no else intervals


def _verdict(contrast: Contrast, sets: Sets) -> Verdict:
    headline = [row for row in contrast.rows if row.headline]
    of_kind = {kind: [row for row in headline if row.verdict == kind] for kind in ("gain", "cost", "not decided", "–")}
    means = (*contrast.groups, *([contrast.mean] if contrast.mean and len(contrast.groups) > 1 else []))
    templates = _templates(headline)
    sentences = {
        kind: tuple(_sentence(row, contrast, sets, several=len(templates) > 1) for row in rows)
        for kind, rows in of_kind.items()
    }
    return Verdict(
        contrast.aligned,
        contrast.reference,
        _role(contrast, templates),
        _summary(contrast, of_kind["gain"], of_kind["cost"], of_kind["not decided"]),
        sentences["gain"],
        sentences["cost"],
        sentences["not decided"],
        sentences["–"],
        tuple(map(_mean, means)),
        (*(f"not compared: {line}" for line in contrast.left_out), *contrast.notes),
    )


def _templates(rows: Sequence[Row]) -> set[str]:
    """Of the tasks in which a model writes."""
    return {template for row in rows for template in [_template(row)] if template}


def _template(row: Row) -> str:
    """The template that a row was asked with, or both ("none -> chat"); "" where the model does not write."""
    task = find(row.task)
    if task is None or task.generation is None:
        return ""
    first = row.variant.split(", ")[0]
    return first if " -> " in first or first == "chat" else "none"


def _role(contrast: Contrast, templates: set[str]) -> str:
    asked = "both asked with their chat template" if templates == {"chat"} else ""
    if contrast.templates == "own":
        asked = "each asked with its own chat template, where it has one"
        if len(templates) == 1:
            reference, _, aligned = next(iter(templates)).partition(" -> ")
            asked = f"the first {HOW.get(aligned, aligned)}, the second {HOW.get(reference, reference)}"
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
    return f"The mean tax is {shown.value}\u00a0% of the metrics' range {shown.interval}: {what}.".replace(" :", ":")


def _sentence(row: Row, contrast: Contrast, sets: Sets, *, several: bool) -> Sentence:
    """several: whether the rows of the comparison were asked with different templates."""
    chosen = set_of(row, contrast, sets.get(row.task, ()))
    interval = told_interval(row.low, row.high, row.unit, sign=True)
    numbers = f"{told(row.reference, row.unit)} → {told(row.aligned, row.unit)}, {told(row.delta, row.unit, sign=True)}"
    template = f"template {_template(row)}" if several and _template(row) else ""
    apart = "" if chosen is None else chosen.note
    how = ", ".join(part for part in (row.metric, row.unit, BETTER[row.better], apart, template) if part)
    tail = f"{_certainty(row)}; {_documents(row)}"
    caveat = _caveat(row, _beside(row, contrast, sets, chosen))
    return Sentence(link_to(row.task, chosen), title_of(row.task), f"{numbers} {interval}".strip(), caveat, how, tail)


def _certainty(row: Row) -> str:
    if row.verdict == "–":
        why = row.note or ("neither direction is better" if row.better == "–" else "without a test")
        return f"told, not judged: {why}"
    if row.verdict == "not decided":
        if row.detectable is None:
            return "how small a change could have been seen is not known"
        return f"a change of {told(row.detectable, row.unit)} would have been seen (power 80 %)"
    assert row.p_holm is not None
    return f"p (Holm) {'< .001' if row.p_holm < 0.001 else f'= {row.p_holm:.3f}'}"


def _beside(row: Row, contrast: Contrast, sets: Sets, chosen: TaskSet | None) -> dict[str, Row]:
    """The other metrics of the same task folders."""
    same = [own for own in contrast.rows if own.task == row.task and _template(own) == _template(row)]
    return {own.metric: own for own in same if chosen in fitting(own, contrast, sets.get(row.task, ()))}


def _caveat(row: Row, beside: dict[str, Row]) -> str:
    """What a number alone would hide: of an entropy, which way the bias goes; of a win rate, the lengths."""
    if row.task.startswith(BIAS) and row.metric == "entropy":
        words = {"gain": "more even, or only less sure: ", "cost": "less even, or only surer: "}.get(row.verdict, "")
        return next((words + _from_to(beside[name]) for name in DIRECTED if name in beside), "")
    if row.metric != "win_rate":
        return ""
    parts = [
        _from_to(beside[name]) for name in ("words", "agrees_with_longer", "position_consistency") if name in beside
    ]
    equal = beside.get("win_rate_length_controlled")
    if equal is None:
        return "; ".join(["lengths were not controlled", *parts])
    found = f"{_from_to(equal)} {told_interval(equal.low, equal.high, equal.unit, sign=True)}".strip()
    return "; ".join([f"{at_equal_lengths(row.delta, equal.low, equal.high)} ({found})", *parts])


def at_equal_lengths(change: float, low: float | None, high: float | None) -> str:
    """What is left of a change of a win rate for two texts of one length, given the interval of that change."""
    if low is None or high is None or low <= 0 <= high:
        return "not decided at equal lengths"
    return "the same way at equal lengths" if (low > 0) == (change > 0) else "the other way at equal lengths"


def _from_to(row: Row) -> str:
    return f"{row.metric} {told(row.reference, row.unit)} → {told(row.aligned, row.unit)}"


def _documents(row: Row) -> str:
    grouped = "" if row.clusters == row.n else f" in {row.clusters:,} groups"
    return counted(row.n, row.left_out, grouped)


def counted(n: int, unscored: int, grouped: str = "") -> str:
    """Of how many documents a number is, and how many it ought to be of besides."""
    return f"n = {n:,}{grouped}" + (f", {unscored:,} unscored" if unscored else "")


def _mean(mean: MeanTax) -> Mean:
    decided = mean.low is not None and mean.high is not None and (mean.low > 0 or mean.high < 0)
    kind = ("cost" if mean.value > 0 else "gain") if decided else "open"
    return Mean(
        "mean of groups" if mean.name == "all" else mean.name,
        told(mean.value, "points", sign=True),
        told_interval(mean.low, mean.high, "points", sign=True),
        f"{len(mean.tasks)}: {', '.join(mean.tasks)}",
        kind,
    )


def title_of(task: str) -> str:
    """The task's title, or its name where this alignbench does not know it."""
    found = find(task)
    return task if found is None else found.title
