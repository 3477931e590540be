"""The rows of all audits, as the table of the page wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.audit.audit import Audit, Contrast, Row
from reports.page.sets import Sets, set_of
from reports.page.verdict import title_of

COLUMNS = (
    "task", "variant", "group", "metric", "headline", "unit", "better", "scorer", "reference", "aligned", "delta",
    "low", "high", "gain", "standard_error", "p", "test", "p_holm", "verdict", "detectable", "tax", "relative_tax",
    "tax_of_range", "n", "clusters", "left_out", "note",
)  # fmt: skip


def audit_data(audits: Mapping[str, Audit], sets: Sets) -> dict[str, Any]:
    """columns; contrasts, each once; audits: reference -> places of its contrasts; titles of the tasks.

    sets: of a contrast: for each of its rows, the number of the set of task folders that it is of
    """
    contrasts: dict[str, int] = {}
    told: list[dict[str, Any]] = []
    by_reference: dict[str, list[int]] = {}
    for reference, audit in audits.items():
        by_reference[reference] = []
        for contrast in audit.contrasts:
            key = repr((contrast.reference, contrast.aligned, contrast.templates, contrast.rows))
            if key not in contrasts:
                contrasts[key] = len(told)
                told.append(_contrast(contrast, sets))
            by_reference[reference].append(contrasts[key])
    tasks = sorted({row.task for audit in audits.values() for own in audit.contrasts for row in own.rows})
    return {
        "columns": COLUMNS,
        "contrasts": told,
        "audits": by_reference,
        "titles": {task: title_of(task) for task in tasks},
    }


def _contrast(contrast: Contrast, sets: Sets) -> dict[str, Any]:
    notes = [*(f"not compared: {line}" for line in contrast.left_out), *contrast.notes]
    return {
        "reference": contrast.reference,
        "aligned": contrast.aligned,
        "templates": contrast.templates,
        "rows": [_cells(row) for row in contrast.rows],
        "sets": [_number(row, contrast, sets) for row in contrast.rows],
        "notes": notes,
    }


def _cells(row: Row) -> list[Any]:
    return [getattr(row, column) for column in COLUMNS]


def _number(row: Row, contrast: Contrast, sets: Sets) -> int:
    found = set_of(row, contrast, sets.get(row.task, ()))
    return 0 if found is None else found.number
