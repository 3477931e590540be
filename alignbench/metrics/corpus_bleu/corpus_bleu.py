"""sacrebleu's BLEU and chrF (alignbench.scorers.bleu) as a module of evaluate."""

from typing import Any

from alignbench.metrics import module
from alignbench.scorers import bleu


class CorpusBleu(module.TextMetric):
    """Corpus BLEU and chrF2 as sacrebleu's command line gives them, 0..100, with their signatures."""

    citation = "Post 2018, arXiv 1804.08771"
    inputs = "predictions: translations; references: of each, a string or a list."

    def _compute(self, predictions: list[str], references: list[Any]) -> dict[str, Any]:
        pairs = list(zip(predictions, map(module.as_list, references), strict=True))
        counts = {len(right) for _, right in pairs}
        number = counts.pop() if len(counts) == 1 else "var"
        return {
            "bleu": bleu.corpus_bleu([bleu.bleu_statistics(*pair) for pair in pairs]),
            "bleu_signature": bleu.bleu_signature(number),
            "chrf": bleu.corpus_chrf([bleu.chrf_statistics(*pair) for pair in pairs]),
            "chrf_signature": bleu.chrf_signature(number),
        }
