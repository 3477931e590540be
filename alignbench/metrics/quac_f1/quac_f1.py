"""QuAC's F1 (alignbench.scorers.quac) as a module of evaluate."""

import math

from alignbench.metrics import module
from alignbench.scorers import quac


class QuacF1(module.TextMetric):
    """QuAC's F1, means over all questions (f1), and the official one over those on which annotators agree (f1_agreed),
    0..100."""

    citation = "Choi et al. 2018, arXiv 1808.07036"
    inputs = "predictions: answers, or CANNOTANSWER; references: the annotators' answers of each."
    scale = 100

    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        f1 = quac.f1(prediction, references)
        return {"f1": f1, "f1_agreed": f1 if quac.agreement(references) >= quac.AGREEMENT else math.nan}
