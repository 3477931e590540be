"""What the admin view shows of a running study: progress, agreement, screening, win rates and the stopping rule."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import Finding, agreement, rankings, with_reference
from alignbench.labels.screen import screen
from alignbench.labels.study.store import Study
from alignbench.labels.summary import win_rates
from alignbench.labels.table import Label, read_labels, read_qualification
from alignbench.stats.estimates import Estimate

RESAMPLES = 2_000
OVERALL = ("agreement", "agreement_ties_dropped", "fleiss_kappa", "alpha_ordinal")
NOTES = 200  # the latest


@dataclass(frozen=True)
class Rule:
    """Stop when the win rate of each system against `baseline` has an interval of at most this width."""

    baseline: str
    width: float


def score(labels: Sequence[Label], labeler: str, reference: str | None) -> Estimate:
    """The live screening score: agreement with the reference on pairs of outputs that neither ties."""
    found = rankings(labels).without_ties()
    if reference not in found.labelers or labeler not in found.labelers:
        return Estimate()
    return with_reference(found, found.labelers.index(labeler), found.labelers.index(reference))


def is_qualified(study: Study, labeler: str) -> bool:
    """False if the labeler's score is below the pass mark of the study."""
    if study.settings.pass_mark is None:
        return True
    labels, reference = read_qualification(str(study.path))
    value = score(labels, labeler, reference).value
    return value is None or value >= study.settings.pass_mark


def overview(study: Study, rule: Rule) -> dict[str, Any]:
    """Everything that the admin view shows, as JSON."""
    labels = read_labels(str(study.path))
    gold, reference = read_qualification(str(study.path))
    (judged,) = study.table(
        "select count(*) from submissions s join items i on i.id = s.item "
        "where s.withdrawn is null and s.answer is not null and i.gold is null"
    )[0]
    (items,) = study.table("select count(*) from items where gold is null")[0]
    try:
        findings, notes = agreement(labels, resamples=RESAMPLES) if labels else ([], [])
    except AlignbenchError as error:
        findings, notes = [], [str(error)]
    rates = list(_rates(labels, rule, judged))
    return {
        "done": judged,
        "needed": items * study.settings.overlap,
        "labelers": list(_labelers(study, findings, gold, reference)),
        "pass_mark": study.settings.pass_mark,
        "agreement": [
            {"question": own.question, "statistic": own.statistic, **_estimate(own.estimate)}
            for own in findings
            if own.who == "all" and own.statistic in OVERALL
        ],
        "rates": rates,
        "width": rule.width,
        "stop": bool(rates) and all(own["enough"] for own in rates),
        "notes": notes,
        "remarks": [
            {"labeler": labeler, "item": item, "skipped": reason, "note": note}
            for labeler, item, reason, note in study.table(
                "select labeler, item, reason, note from submissions where withdrawn is null and "
                "(reason is not null or note <> '') order by rowid desc limit ?", NOTES,
            )
        ],
    }  # fmt: skip


def _labelers(
    study: Study, findings: Sequence[Finding], gold: list[Label], reference: str | None
) -> Iterator[dict[str, Any]]:
    """Each labeler's progress and agreement. An outlier's whole interval is below the mean agreement of all."""
    of_all = {own.question: own.estimate.value for own in findings if own.who == "all" and own.statistic == OVERALL[0]}
    question = next(iter(of_all), None)
    screened = screen(gold, reference=reference) if reference and len({own.labeler for own in gold}) > 1 else []
    for name, group, active in study.table('select name, "group", active from labelers order by name'):
        rows = study.table(
            "select s.answer is null, s.seconds, i.gold is not null from submissions s join items i on i.id = s.item "
            "where s.labeler = ? and s.withdrawn is null", name,
        )  # fmt: skip
        own = next((one.estimate for one in findings if one.who == f"labeler {name}" and one.question == question
                    and one.statistic == "agreement_with_others"), Estimate())  # fmt: skip
        yield {
            "labeler": name, "group": group, "active": bool(active),
            "done": sum(not skipped and not of_gold for skipped, _, of_gold in rows),
            "skipped": sum(skipped for skipped, _, _ in rows),
            "seconds": median([seconds for _, seconds, _ in rows]) if rows else None,
            "agreement": _estimate(own),
            "outlier": own.high is not None and own.high < (of_all[question] or 0),  # type: ignore[index]
            "screening": [
                {"criterion": one.criterion, "cut_off": one.cut_off, "mark": one.mark, **_estimate(one.estimate)}
                for one in screened if one.labeler == name and one.estimate.n
            ],
        }  # fmt: skip


def _rates(labels: Sequence[Label], rule: Rule, judged: int) -> Iterator[dict[str, Any]]:
    """Win rates against the baseline; `more`: judgements that the stopping rule needs if the width falls with the
    square root of their number."""
    against = [own for own in labels if own.model is not None]
    for model in sorted({own.model or "" for own in against} - {rule.baseline}):
        pair = [own for own in against if own.model in (model, rule.baseline)]
        for found in win_rates(pair, resamples=RESAMPLES):
            own = found.estimate if found.model == model else _reversed(found.estimate)
            width = None if own.low is None or own.high is None else own.high - own.low
            more = None if width is None else max(0, math.ceil(judged * ((width / rule.width) ** 2 - 1)))
            yield {"model": model, "baseline": rule.baseline, **_estimate(own), "prompts": own.clusters} | {
                "span": width,
                "more": more,
                "enough": width is not None and width <= rule.width,
            }


def _reversed(own: Estimate) -> Estimate:
    """The win rate of the other model."""
    low, high, value = (None if end is None else 1 - end for end in (own.high, own.low, own.value))
    return Estimate(value, own.standard_error, low, high, own.n, own.clusters)


def _estimate(own: Estimate) -> dict[str, Any]:
    return {"value": own.value, "low": own.low, "high": own.high, "n": own.n}
