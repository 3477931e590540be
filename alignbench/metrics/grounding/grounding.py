"""Signs of hallucination without a model (alignbench.scorers.extractive) as a module of evaluate."""

from alignbench.metrics import module
from alignbench.scorers import extractive


class Grounding(module.TextMetric):
    """Numbers and names per text that its source does not have, the proportion of texts with any (flagged), and the
    mean proportion of bigrams that the source has (rouge2_precision, over texts of two words or more)."""

    citation = "Maynez et al. 2020, arXiv 2005.00661 (definition of hallucination)"
    inputs = "predictions: outputs; references: the source of each, not its right answer."
    options = ((module.TEXT, module.TEXT),)

    def score(self, prediction: str, references: list[str]) -> dict[str, float]:
        return extractive.flags(prediction, references[0])
