"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "persona_clouds"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
