"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "token_entropy_curve"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
