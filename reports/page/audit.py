"""The audit and the win rates as the page shows them: findings by verdict, and the data of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignbench.audit.audit import Audit, Contrast, Row
from alignbench.types.result import MetricResult
from reports.evidence import Evidence
from reports.page.sets import Sets, TaskSet, sets_by_folder, task_link

VERDICTS = ("gain", "loss", "inconclusive", "–")
WIN_RATE, EQUAL_LENGTHS = "win_rate", "win_rate_length_controlled"
EVEN = 0.5
COLUMNS = (
    "task", "variant", "group", "metric", "headline", "unit", "better", "scorer", "reference", "aligned", "delta",
    "low", "high", "gain", "standard_error", "p", "test", "p_holm", "verdict", "detectable", "tax", "relative_tax",
    "tax_of_range", "n", "clusters", "left_out", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A headline metric of a contrast. samples: its set of task folders; beside: all metrics of the same folders."""

    row: Row
    samples: TaskSet | None
    beside: Mapping[str, Row]

    @property
    def link(self) -> str:
        return task_link(self.row.task) if self.samples is None else self.samples.link


def findings(audit: Audit, sets: Sets) -> list[tuple[Contrast, dict[str, list[Finding]]]]:
    """Return the contrasts, each with its headline metrics by verdict."""
    of_folder = sets_by_folder(sets)
    found = []
    for contrast in audit.contrasts:
        by_verdict: dict[str, list[Finding]] = {verdict: [] for verdict in VERDICTS}
        for row in contrast.rows:
            if row.headline:
                folders = (row.reference_folder, row.aligned_folder)
                same = [own for own in contrast.rows if (own.reference_folder, own.aligned_folder) == folders]
                beside = {own.metric: own for own in same}
                by_verdict[row.verdict].append(Finding(row, of_folder.get(row.aligned_folder), beside))
        found.append((contrast, by_verdict))
    return found


@dataclass(frozen=True)
class WinRate:
    """A win rate of a system against its baseline. metrics: its results over all prompts that have a value."""

    system: str
    baseline: str
    samples: TaskSet
    metrics: Mapping[str, MetricResult]

    def side(self, name: str) -> int | None:
        """Return 1 if the whole interval of a rate is above ½, -1 if it is below, otherwise 0; None without it."""
        rate = self.metrics.get(name)
        if rate is None or rate.low is None or rate.high is None:
            return None if rate is None else 0
        return int(rate.low > EVEN) - int(rate.high < EVEN)

    @property
    def verdict(self) -> str:
        """Inconclusive: ½ is in the interval, or the length-controlled rate is not on the same side (AlpacaEval 2,
        arXiv 2404.04475)."""
        side, equal = self.side(WIN_RATE), self.side(EQUAL_LENGTHS)
        return "inconclusive" if not side or equal not in (None, side) else "gain" if side > 0 else "loss"


def win_rates(sets: Sets) -> dict[str, list[WinRate]]:
    """Return the win rates of all systems by verdict."""
    found: dict[str, list[WinRate]] = {verdict: [] for verdict in VERDICTS[:3]}
    for one in sets.get(WIN_RATE, ()):
        for system, own in one.folders:
            metrics = {m.metric: m for m in own.result.metrics if m.category is None and m.value is not None}
            if WIN_RATE in metrics:
                baseline = (own.identity.get("baseline") or {}).get("name") or "its baseline"
                rate = WinRate(system.name, baseline, one, metrics)
                found[rate.verdict].append(rate)
    return found


def audit_data(evidence: Evidence, sets: Sets) -> dict[str, Any]:
    """Return the data of the table: columns; contrasts, each once; audits: reference -> places of its contrasts.

    sets: of a contrast: for each row the number of its set of task folders
    """
    of_folder = sets_by_folder(sets)
    places: dict[tuple[object, ...], int] = {}
    contrasts: list[dict[str, Any]] = []
    audits: dict[str, list[int]] = {}
    for reference, audit in evidence.audits.items():
        audits[reference] = []
        for own in audit.contrasts:
            place = places.setdefault((own.reference, own.aligned, own.templates, own.rows), len(contrasts))
            audits[reference].append(place)
            if place == len(contrasts):
                found = [of_folder.get(row.aligned_folder) for row in own.rows]
                contrasts.append(
                    {name: getattr(own, name) for name in ("reference", "aligned", "templates")}
                    | {"rows": [[getattr(row, column) for column in COLUMNS] for row in own.rows]}
                    | {"sets": [0 if one is None else one.number for one in found]}
                    | {"notes": [*(f"not compared: {line}" for line in own.left_out), *own.notes]}
                )
    return {"columns": COLUMNS, "contrasts": contrasts, "audits": audits}
