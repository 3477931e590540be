"""ROUGE (alignbench.scorers.rouge) as a module of evaluate."""

from alignbench.metrics import module
from alignbench.scorers.rouge import rouge


class RougeL(module.TextMetric):
    """Mean ROUGE-1, -2, -L and -Lsum F-measures with Porter's stemmer, 0..1; of several references the one with the
    best ROUGE-L."""

    citation = "Lin 2004, W04-1013"
    inputs = "predictions: summaries; references: of each, a string or a list."

    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        return max((rouge(prediction, reference) for reference in references), key=lambda scores: scores["rougeL"])
