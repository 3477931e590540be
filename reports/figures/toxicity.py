"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "toxicity"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
