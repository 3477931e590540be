"""What the admin view shows of a running study: progress, agreement, screening, win rates and the stopping rule."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from statistics import median
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.labels.agreement import Finding, agreement
from alignbench.labels.screen import Screened, screen
from alignbench.labels.study.store import Study
from alignbench.labels.summary import TWO_LABELERS, win_rates
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


def stopped(study: Study) -> set[str]:
    """Who has finished the qualification and agrees with the reference on less than the pass mark of the pairs of
    outputs that the reference ranks. Ties, and all pairs of a skipped item, are disagreements."""
    (items,) = study.table("select count(*) from items where gold is not null")[0]
    agreed: dict[str, list[list[bool]]] = defaultdict(list)
    for labeler, gold, answer in study.table(
        "select s.labeler, i.gold, s.answer from submissions s join items i on i.id = s.item "
        "where i.gold is not null and s.withdrawn is null"
    ):
        ranks = [own["rank"] for own in json.loads(gold)]
        judged = [own["rank"] for own in json.loads(answer)] if answer else [0] * len(ranks)
        pairs = [(a, b) for a, b in permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]
        agreed[labeler].append([judged[a] < judged[b] for a, b in pairs])
    mark = study.settings.pass_mark or 0.0
    return {
        name for name, own in agreed.items() if len(own) == items and sum(map(sum, own)) < mark * sum(map(len, own))
    }


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
    if len({label.labeler for label in labels}) == 2:
        notes = [*notes, TWO_LABELERS]
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
            {"labeler": labeler, "prompt": prompt, "skipped": reason, "note": note}
            for labeler, prompt, reason, note in study.table(
                "select s.labeler, i.prompt_id, s.reason, s.note from submissions s join items i on i.id = s.item "
                "where s.withdrawn is null and (s.reason is not null or s.note <> '') order by s.rowid desc limit ?",
                NOTES,
            )
        ],
    }  # fmt: skip


def _labelers(study: Study, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Each labeler's progress and agreement. An outlier's whole interval is below the mean agreement of all."""
    of_all = {own.question: own.estimate.value for own in findings if own.who == "all" and own.statistic == OVERALL[0]}
    question = next(iter(of_all), None)
    scores, below = screened(study), stopped(study)
    for name, group, active in study.table('select name, "group", active from labelers order by name'):
        rows = study.table(
            "select s.answer is null, s.seconds, i.gold is not null from submissions s join items i on i.id = s.item "
            "where s.labeler = ? and s.withdrawn is null", name,
        )  # fmt: skip
        own = next((one.estimate for one in findings if one.who == f"labeler {name}" and one.question == question
                    and one.statistic == "agreement_with_others"), Estimate())  # fmt: skip
        yield {
            "labeler": name, "group": group, "active": bool(active), "qualified": name not in below,
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
