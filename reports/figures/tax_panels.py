"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "tax_panels"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
