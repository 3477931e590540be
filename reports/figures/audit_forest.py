"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "audit_forest"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
