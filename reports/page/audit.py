"""The audit and the win rates as the page shows them: findings by verdict, and the data of the table."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from alignbench.audit.audit import Audit, Contrast
from alignbench.types.result import MetricResult
from reports.evidence import Evidence
from reports.page.sets import Sets, sets_by_folder, task_link

VERDICTS = ("gain", "loss", "inconclusive", "–")
EVEN = 0.5
COLUMNS = (
    "task", "variant", "group", "metric", "headline", "unit", "better", "scorer", "reference", "aligned", "delta",
    "low", "high", "gain", "standard_error", "p", "test", "p_holm", "verdict", "detectable", "tax", "relative_tax",
    "tax_of_range", "n", "clusters", "left_out", "note",
)  # fmt: skip


def findings(audit: Audit, sets: Sets) -> list[tuple[Contrast, dict[str, list[dict[str, Any]]]]]:
    """Return the contrasts, each with its headline metrics by verdict.

    row: of the contrast; samples: its set of task folders; link: to the samples; beside: all metrics of these folders
    """
    of_folder = sets_by_folder(sets)
    found = []
    for contrast in audit.contrasts:
        beside: dict[Any, dict[str, Any]] = defaultdict(dict)
        for row in contrast.rows:
            beside[row.reference_folder, row.aligned_folder][row.metric] = row
        by_verdict: dict[str, list[dict[str, Any]]] = {verdict: [] for verdict in VERDICTS}
        for row in contrast.rows:
            if row.headline:
                samples = of_folder.get(row.aligned_folder)
                link = samples.link if samples else task_link(row.task)
                same = beside[row.reference_folder, row.aligned_folder]
                by_verdict[row.verdict].append({"row": row, "samples": samples, "link": link, "beside": same})
        found.append((contrast, by_verdict))
    return found


def win_rates(sets: Sets) -> dict[str, list[dict[str, Any]]]:
    """Return the win rates of all systems against their baselines by verdict.

    metrics: over all prompts, those with a value; side, equal: 1 if the whole interval of the rate, and of that at
    equal lengths, is above ½, -1 if it is below, otherwise 0, None without the rate.
    Inconclusive: ½ is in the interval, or the rate at equal lengths is not on the same side (AlpacaEval 2, arXiv
    2404.04475).
    """
    found: dict[str, list[dict[str, Any]]] = {verdict: [] for verdict in VERDICTS[:3]}
    for one in sets.get("win_rate", ()):
        for system, own in one.folders:
            metrics = {m.metric: m for m in own.result.metrics if m.category is None and m.value is not None}
            side, equal = (_side(metrics.get(name)) for name in ("win_rate", "win_rate_length_controlled"))
            if side is not None:
                verdict = "inconclusive" if not side or equal not in (None, side) else "gain" if side > 0 else "loss"
                baseline = (own.identity.get("baseline") or {}).get("name") or "its baseline"
                facts = {"system": system.name, "baseline": baseline, "samples": one, "metrics": metrics}
                found[verdict].append({**facts, "side": side, "equal": equal})
    return found


def _side(rate: MetricResult | None) -> int | None:
    if rate is None or rate.low is None or rate.high is None:
        return None if rate is None else 0
    return int(rate.low > EVEN) - int(rate.high < EVEN)


def audit_data(evidence: Evidence, sets: Sets) -> dict[str, Any]:
    """Return the data of the table: columns; contrasts, each once; audits: reference -> places of its contrasts.

    sets: of a contrast: for each row the number of its set of task folders
    """
    numbers = {folder: one.number for folder, one in sets_by_folder(sets).items()}
    places: dict[tuple[object, ...], int] = {}
    contrasts: list[dict[str, Any]] = []
    audits: dict[str, list[int]] = {reference: [] for reference in evidence.audits}
    for reference, audit in evidence.audits.items():
        for own in audit.contrasts:
            place = places.setdefault((own.reference, own.aligned, own.templates, own.rows), len(contrasts))
            audits[reference].append(place)
            if place == len(contrasts):
                contrasts.append(
                    {"reference": own.reference, "aligned": own.aligned, "templates": own.templates}
                    | {"rows": [[getattr(row, column) for column in COLUMNS] for row in own.rows]}
                    | {"sets": [numbers.get(row.aligned_folder, 0) for row in own.rows]}
                    | {"notes": [*(f"not compared: {line}" for line in own.left_out), *own.notes]}
                )
    return {"columns": COLUMNS, "contrasts": contrasts, "audits": audits}
