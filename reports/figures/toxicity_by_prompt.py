"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "toxicity_by_prompt"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
