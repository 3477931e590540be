"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "metadata_flags"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
