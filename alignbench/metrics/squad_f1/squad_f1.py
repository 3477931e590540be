"""SQuAD's exact match and F1 (alignbench.scorers.squad) as a module of evaluate."""

from alignbench.metrics import module
from alignbench.scorers import squad


class SquadF1(module.TextMetric):
    """SQuAD 2.0's exact match and F1, means over the questions, 0..100 as in the official script."""

    citation = "Rajpurkar et al. 2018, arXiv 1806.03822"
    inputs = "predictions: answers; references: right answers of each (a string or a list; empty if it has none)."
    scale = 100

    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        return {"exact_match": squad.exact_match(prediction, references), "f1": squad.f1(prediction, references)}
