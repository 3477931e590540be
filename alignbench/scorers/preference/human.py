"""People as judges: what labelers said of the two answers, from a label table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import AlignbenchError
from alignbench.labels.table import read_labels
from alignbench.labels.wins import Verdicts
from alignbench.scorers.preference.pairs import pair, win
from alignbench.types.scorer import Item


class HumanLabels:
    """`preference=labels:FILE`: win by the majority of the labelers who compare the two answers, found by their texts;
    and "share", how many of them prefer the output, ties half. A pair that nobody compares is unscored."""

    weights_sha256: str | None = None

    def __init__(self, path: str) -> None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise AlignbenchError(f"labels {path}: no such file")
        labels = read_labels(str(file))
        if not any(label.prompt for label in labels):
            raise AlignbenchError(
                f"labels {path}: no prompt's text, by which a judge finds labels; add a column prompt"
            )
        self.kind, self.name = "preference", f"labels:{file.name}"
        self.revision = hashlib.sha256(file.read_bytes()).hexdigest()
        self._verdicts = Verdicts(labels)

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        """Raises ValueError for a pair without labels."""
        found = []
        for prompt, own, other in map(pair, items):
            share = self._verdicts.verdict(prompt, own, other)
            if share is None:
                raise ValueError("no labeler compares these two answers to this prompt")
            found.append({"win": win(share, 1 - share), "share": share})
        return found
