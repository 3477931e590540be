"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "win_rate_by_size"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
