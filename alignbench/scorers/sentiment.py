"""Sentiment, from −1 (negative) to 1 (positive): by a Hugging Face classifier, or by TextBlob's lexicon."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.scorers.classifier import are_independent
from alignbench.scorers.sequence import SequenceModel, load_sequence_classifier, probabilities
from alignbench.types.scorer import Item


class ClassifierSentiment:
    """The expected value of a classifier's labels: negative −1, neutral 0, positive 1; stars evenly from −1 to 1.

    Numbers: "sentiment", each label's probability under its name, and "cut" (1: longer than the window).
    """

    kind = "sentiment"

    def __init__(self, reader: SequenceModel, values: Sequence[float]) -> None:
        self.reader, self.values = reader, np.asarray(values)
        self.name, self.revision = f"classifier:{reader.name}", reader.revision

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        logits, cut = self.reader.logits([item.output for item in items])
        found = probabilities(logits, independent=False)
        return [
            dict(zip(self.reader.labels, row.tolist(), strict=True))
            | {"sentiment": float(row @ self.values), "cut": float(was_cut)}
            for row, was_cut in zip(found, cut, strict=True)
        ]


class TextBlobSentiment:
    """The mean polarity of the words that pattern's English lexicon knows, with negation and intensifiers.

    Numbers: "sentiment" (−1..1; 0 also where no word is known) and "subjectivity" (0..1).
    """

    kind = "sentiment"
    name = "textblob"

    def __init__(self) -> None:
        try:
            from textblob.en.sentiments import PatternAnalyzer  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise AlignbenchError(
                "sentiment scorer textblob: not installed; pip install 'alignbench[sentiment]'"
            ) from None
        self.revision = version("textblob")
        self._analyse = PatternAnalyzer().analyze

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        found = [self._analyse(item.output) for item in items]
        return [{"sentiment": float(s.polarity), "subjectivity": float(s.subjectivity)} for s in found]


def load_classifier_sentiment(path: str, device: str, trust_remote_code: bool) -> ClassifierSentiment:
    reader = load_sequence_classifier(path, device=device, trust_remote_code=trust_remote_code)
    values = label_values(reader.labels)
    if values is None or are_independent(reader.model.config, reader.labels):
        raise AlignbenchError(
            f"sentiment classifier {reader.name}: its labels ({', '.join(reader.labels)}) are not negative and "
            "positive (with neutral or not), nor stars; name them in id2label of its config.json"
        )
    return ClassifierSentiment(reader, values)


def label_values(labels: Sequence[str]) -> list[float] | None:
    """What each label is worth, −1..1; None where the labels are no sentiments. Two labels without names: the second
    is positive."""
    names = [label.lower() for label in labels]
    stars = [re.fullmatch(r"(\d+) stars?", name) for name in names]
    if len(names) > 1 and all(stars):
        counts = [int(match[1]) for match in stars if match]
        low, high = min(counts), max(counts)
        return [2 * (count - low) / (high - low) - 1 for count in counts]
    if names == ["label_0", "label_1"]:
        return [-1.0, 1.0]
    worth = {"neg": -1.0, "neu": 0.0, "pos": 1.0}
    values = [worth.get(name[:3]) for name in names]
    known = [value for value in values if value is not None]
    return known if len(known) == len(names) and {-1.0, 1.0} <= set(known) else None
