"""Toxicity by alt-profanity-check: a linear model over word counts that its PyPI package carries. No download.

English only, trained on comments and tweets. It knows words, not who they are said of: see its false alarms with
`alignbench scorers validate toxicity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from alignbench.errors import AlignbenchError
from alignbench.types.scorer import Item

PACKAGE = "alt-profanity-check"


class ProfanityCheck:
    """Numbers: "toxicity", the probability (0..1) that the text is profane or offensive."""

    kind = "toxicity"
    name = PACKAGE

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob

            self.revision = version(PACKAGE)
        except (ImportError, PackageNotFoundError):
            raise AlignbenchError(f"toxicity scorer {PACKAGE}: not installed; pip install {PACKAGE}") from None
        self._predict = predict_prob

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        if not items:
            return []
        return [{"toxicity": float(p)} for p in self._predict([item.output for item in items])]
