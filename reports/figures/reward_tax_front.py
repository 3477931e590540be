"""Placeholder."""

from reports.drawing import Drawing, NoDataError
from reports.evidence import Evidence

TITLE = "reward_tax_front"


def draw(evidence: Evidence) -> list[Drawing]:
    raise NoDataError("not drawn yet")
