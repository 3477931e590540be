"""What the admin view shows of a running study: progress, agreement, screening, win rates and the stopping rule."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import Finding, agreement
from alignbench.labels.screen import Screened, screen
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


def screened(study: Study) -> list[Screened]:
    """The live screening scores: agreement with the reference on the qualification items; [] without any."""
    labels, reference = read_qualification(str(study.path))
    judged = reference and {label.labeler for label in labels} - {reference}
    return screen(labels, reference=reference) if judged else []


def is_qualified(study: Study, labeler: str) -> bool:
    """False if the labeler's agreement with the reference rankings is below the pass mark of the study."""
    mark = study.settings.pass_mark
    scores = screened(study) if mark is not None else []
    return all(
        mark is None or one.estimate.value is None or one.estimate.value >= mark
        for one in scores if (one.labeler, one.criterion) == (labeler, "rankings")
    )  # fmt: skip


def overview(study: Study, rule: Rule) -> dict[str, Any]:
    """Everything that the admin view shows, as JSON."""
    labels = read_labels(str(study.path))
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
        "labelers": list(_labelers(study, findings)),
        "agreement": [
            {"question": own.question, "statistic": own.statistic, **asdict(own.estimate)}
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


def _labelers(study: Study, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Each labeler's progress and agreement. An outlier's whole interval is below the mean agreement of all."""
    of_all = {own.question: own.estimate.value for own in findings if own.who == "all" and own.statistic == OVERALL[0]}
    question = next(iter(of_all), None)
    scores = screened(study)
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
            "agreement": asdict(own),
            "outlier": own.high is not None and own.high < (of_all[question] or 0),  # type: ignore[index]
            "screening": [
                {"criterion": one.criterion, "mark": one.mark, **asdict(one.estimate)}
                for one in scores if one.labeler == name and one.estimate.n
            ],
        }  # fmt: skip


def _rates(labels: Sequence[Label], rule: Rule, judged: int) -> Iterator[dict[str, Any]]:
    """Win rates against the baseline; `more`: judgements that the stopping rule needs if the width falls with the
    square root of their number."""
    for found in win_rates(labels, resamples=RESAMPLES):
        if rule.baseline in (found.model, found.against):
            first = found.against == rule.baseline
            own = found.estimate if first else _reversed(found.estimate)
            width = None if own.low is None or own.high is None else own.high - own.low
            more = None if width is None else max(0, math.ceil(judged * ((width / rule.width) ** 2 - 1)))
            names = {"model": found.model if first else found.against, "baseline": rule.baseline}
            yield names | asdict(own) | {"span": width, "more": more, "enough": more == 0}


def _reversed(own: Estimate) -> Estimate:
    """The win rate of the other model."""
    low, high, value = (None if end is None else 1 - end for end in (own.high, own.low, own.value))
    return Estimate(value, own.standard_error, low, high, own.n, own.clusters)
