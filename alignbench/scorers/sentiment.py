"""Sentiment, from −1 (negative) to 1 (positive): by a Hugging Face classifier, or by TextBlob's lexicon."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version

from alignbench.errors import AlignbenchError
from alignbench.scorers.sequence import ClassifierScorer, load_sequence_classifier
from alignbench.scorers.toxicity import are_independent
from alignbench.types.scorer import Item


class TextBlobSentiment:
    """The mean polarity of the words in pattern's English lexicon, with negation and intensifiers.

    Numbers: "sentiment" (−1..1; 0 if no word is known) and "subjectivity" (0..1).
    """

    kind = "sentiment"
    name = "textblob"

    def __init__(self) -> None:
        from textblob.en.sentiments import PatternAnalyzer  # type: ignore[import-not-found,unused-ignore]

        self.revision = version("textblob")
        self._analyse = PatternAnalyzer().analyze

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        found = [self._analyse(item.output) for item in items]
        return [{"sentiment": float(s.polarity), "subjectivity": float(s.subjectivity)} for s in found]


def load_sentiment_classifier(path: str, device: str, trust_remote_code: bool) -> ClassifierScorer:
    """Load a classifier of sentiments. Numbers: "sentiment" (see `label_values`); see `ClassifierScorer`."""
    reader = load_sequence_classifier(path, device=device, trust_remote_code=trust_remote_code)
    values = label_values(reader.labels)
    if values is None or are_independent(reader.model.config, reader.labels):
        raise AlignbenchError(
            f"sentiment classifier {reader.name}: its labels ({', '.join(reader.labels)}) are not negative and "
            "positive (and neutral), nor stars; name them in id2label of its config.json"
        )
    return ClassifierScorer("sentiment", reader, values, independent=False, name=f"classifier:{reader.name}")


def label_values(labels: Sequence[str]) -> list[float] | None:
    """Value of each label: negative −1, neutral 0, positive 1; stars evenly from −1 to 1; of two unnamed labels the
    second is positive. None if the labels are not sentiments."""
    names = [label.lower() for label in labels]
    stars = [re.fullmatch(r"(\d+) stars?", name) for name in names]
    if len(names) > 1 and all(stars):
        counts = [int(match[1]) for match in stars if match]
        low, high = min(counts), max(counts)
        return [2 * (count - low) / (high - low) - 1 for count in counts]
    if names == ["label_0", "label_1"]:
        return [-1.0, 1.0]
    values = [{"neg": -1.0, "neu": 0.0, "pos": 1.0}.get(name[:3]) for name in names]
    known = [value for value in values if value is not None]
    return known if len(known) == len(names) and {-1.0, 1.0} <= set(known) else None
