"""BLEU and chrF from sacrebleu (Post 2018, arXiv 1804.08771; Popović 2015, W15-3049).

Both are functions of counts that add up over sentences. So a document's counts are kept in its record, a corpus's score
is that of their sum, and the bootstrap resamples counts, not texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from alignbench.stats.estimates import CONFIDENCE, Estimate

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

_ORDERS = 4
_RESAMPLES_AT_ONCE = 100  # keeps the weights of a bootstrap over 10,000 documents below 10 MB


def bleu_signature(references: int | str = 1) -> str:
    """sacrebleu's signature of `corpus_bleu`; references: how many each sentence has, or "var"."""
    return f"nrefs:{references}|case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}"


def chrf_signature(references: int | str = 1) -> str:
    """sacrebleu's signature of `corpus_chrf`: chrF2, characters up to 6-grams, no words."""
    return f"nrefs:{references}|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version('sacrebleu')}"


BLEU_SIGNATURE = bleu_signature()
CHRF_SIGNATURE = chrf_signature()


def bleu_statistics(hypothesis: str, references: Sequence[str]) -> list[float]:
    """A sentence's ten counts: n-grams also in a reference (n = 1..4), n-grams (n = 1..4), words, and the words of the
    reference nearest in length."""
    # the effective order changes the sentence's own score alone, and without it sacrebleu warns at each sentence
    score = _bleu("13a", True).sentence_score(hypothesis, list(references))
    return [float(count) for count in (*score.counts, *score.totals, score.sys_len, score.ref_len)]


def corpus_bleu(statistics: Sequence[Sequence[float]]) -> float:
    """BLEU of a corpus, 0..100, from its sentences' `bleu_statistics`, shape (n, 10)."""
    total = _sum(statistics)
    score = _bleu("13a", False).compute_bleu(
        correct=total[:_ORDERS],
        total=total[_ORDERS : 2 * _ORDERS],
        sys_len=total[-2],
        ref_len=total[-1],
        smooth_method="exp",
    )
    return _percent(score.score)


def chrf_statistics(hypothesis: str, references: Sequence[str]) -> list[float]:
    """A sentence's eighteen counts: for n = 1..6 its character n-grams, the reference's, and those in both; against
    the reference with which it scores best."""
    # sacrebleu has no public way to a sentence's counts; its own bootstrap takes this one
    counts = _chrf()._extract_corpus_statistics([hypothesis], [[reference] for reference in references])
    return [float(count) for count in counts[0]]


def corpus_chrf(statistics: Sequence[Sequence[float]]) -> float:
    """chrF of a corpus, 0..100, from its sentences' `chrf_statistics`, shape (n, 18)."""
    return _percent(_chrf()._compute_score_from_stats(_sum(statistics)).score)


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """BLEU of one answer against one reference, 0..100, as TruthfulQA has it: international tokenisation, exponential
    smoothing, all four orders (Lin et al. 2022, arXiv 2109.07958; the authors' metrics.py)."""
    return _percent(_bleu("intl", False).corpus_score([hypothesis], [[reference]]).score)


def corpus_interval(
    statistics: Sequence[Sequence[float]],
    corpus_function: Callable[[Sequence[Sequence[float]]], float],
    *,
    resamples: int = 1000,
    seed: int = 12345,
) -> Estimate:
    """A corpus's score with the percentile interval of a bootstrap over its documents (Koehn 2004, W04-3250).

    statistics: (n, k), a document's counts a row; corpus_function: their score, a function of the sum of the rows.
    resamples: 0 for no interval
    """
    counts = np.asarray(statistics, np.float64)
    n = len(counts)
    if not n:
        return Estimate(None, None, None, None, 0, 0)
    value = corpus_function(statistics)
    if n < 2 or not resamples:
        return Estimate(value, None, None, None, n, n)
    generator = np.random.default_rng(seed)
    scores = np.empty(resamples)
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        some = min(_RESAMPLES_AT_ONCE, resamples - start)
        # how often each document was drawn: what a resample sums to is one product of matrices
        drawn = generator.multinomial(n, np.full(n, 1 / n), size=some)
        scores[start : start + some] = [corpus_function([row]) for row in (drawn @ counts).tolist()]
    low, high = np.quantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(scores.std(ddof=1)), float(low), float(high), n, n)


def _percent(score: float) -> float:
    return min(100.0, float(score))  # the geometric mean of four hundreds is 100.00000000000004


def _sum(statistics: Sequence[Sequence[float]]) -> list[int]:
    return [round(total) for total in np.asarray(statistics, np.float64).sum(axis=0).tolist()]


@cache
def _bleu(tokeniser: str, effective_order: bool) -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    # force: text that looks tokenised is a model's business, not worth a warning a sentence
    return BLEU(tokenize=tokeniser, effective_order=effective_order, force=True)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
