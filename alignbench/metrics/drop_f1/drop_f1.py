"""DROP's exact match and F1 (alignbench.scorers.drop) as a module of evaluate."""

import datasets

from alignbench.metrics import module
from alignbench.scorers import drop


class DropF1(module.TextMetric):
    """DROP's number-aware exact match and F1 over aligned spans, means over the questions, 0..100."""

    citation = "Dua et al. 2019, arXiv 1903.00161"
    inputs = (
        "predictions: answers, each a string or the list of its spans; references: right answers of each: a string, a "
        "list of strings, or a list of lists of spans."
    )
    scale = 100
    options = tuple(
        (prediction, reference)
        for prediction in (module.TEXT, module.TEXTS)
        for reference in (datasets.Sequence(module.TEXTS), module.TEXTS, module.TEXT)
    )

    def score(self, prediction: str | list[str], references: list[str | list[str]]) -> dict[str, float]:
        return dict(zip(("exact_match", "f1"), drop.scores(prediction, references), strict=True))
