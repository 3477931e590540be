"""ROUGE from Google's rouge-score (Lin 2004, W04-1013): F-measures, 0..1.

ROUGE-1.5.5 and the literature on summaries use Porter's stemmer. t5's evaluation (whose ROUGE TruthfulQA and lm-eval
use) and Hugging Face's `rouge` metric do not. InstructGPT (arXiv 2203.02155) does not say.
"""

from functools import cache
from typing import Any

from alignbench.scorers.sentences import sentences


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """rouge1, rouge2, rougeL and rougeLsum of a summary, with Porter's stemmer; rougeLsum is computed by sentence."""
    return _score("\n".join(sentences(prediction)), "\n".join(sentences(reference)), stemmer=True)


def truthfulqa_rouge(prediction: str, reference: str) -> dict[str, float]:
    """The same as in TruthfulQA: without a stemmer; for rougeLsum, which the authors report as ROUGE-L, only line
    breaks and " . " end a sentence (arXiv 2109.07958; t5's evaluation/metrics.py)."""
    return _score(prediction.replace(" . ", " .\n"), reference.replace(" . ", " .\n"), stemmer=False)


def _score(prediction: str, reference: str, *, stemmer: bool) -> dict[str, float]:
    return {name: float(score.fmeasure) for name, score in _scorer(stemmer).score(reference, prediction).items()}


@cache
def _scorer(stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=stemmer)
