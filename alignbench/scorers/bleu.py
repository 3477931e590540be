"""BLEU and chrF from sacrebleu (Post 2018, arXiv 1804.08771; Popović 2015, W15-3049).

Both are functions of counts that add up over sentences. A record keeps its document's counts, a corpus's score is that
of their sum, and the bootstrap resamples counts. Texts are compared in NFC.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.stats.bootstrap import MOST, cluster_sums
from alignbench.stats.estimates import CONFIDENCE, Estimate

Statistics = Sequence[Sequence[float]] | NDArray[np.float64]  # the counts of each sentence
_BLOCK = 100  # resamples at once: the weights of 10,000 documents take less than 10 MB


def bleu_signature(references: int | str = 1, short: bool = False) -> str:
    """sacrebleu's signature of `corpus_bleu`. references: number per sentence, or "var"; short: see `is_short`."""
    orders = f"eff:{'yes' if short else 'no'}"
    return f"nrefs:{references}|case:mixed|{orders}|tok:13a|smooth:exp|version:{version('sacrebleu')}"


def chrf_signature(references: int | str = 1) -> str:
    """sacrebleu's signature of `corpus_chrf`: chrF2, characters up to 6-grams, no words."""
    return f"nrefs:{references}|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version('sacrebleu')}"


BLEU_SIGNATURE, CHRF_SIGNATURE = bleu_signature(), chrf_signature()


def bleu_statistics(hypothesis: str, references: Sequence[str]) -> list[float]:
    """A sentence's ten counts: n-grams in a reference (n = 1..4), n-grams (n = 1..4), words, and the words of the
    reference nearest in length."""
    words, nearest, *grams = _counts(_metric("BLEU", force=True), hypothesis, references)  # force: without warnings
    return [*grams, words, nearest]


def is_short(statistics: Statistics) -> bool:
    """True if no sentence has four words, from `bleu_statistics`. Its BLEU of four orders is 0, right or wrong."""
    return not any(row[7] for row in statistics)


def corpus_bleu(statistics: Statistics, short: bool = False) -> float:
    """BLEU of a corpus, 0..100, from the `bleu_statistics` of its sentences, shape (n, 10).

    short: for a corpus that `is_short`: of the orders that its sentences are long enough for (sacrebleu's effective
        order)
    """
    total = _sum(statistics)
    orders = {"smooth_method": "exp", "effective_order": short}
    return _percent(_metric("BLEU").compute_bleu(total[:4], total[4:8], *total[8:], **orders))


def chrf_statistics(hypothesis: str, references: Sequence[str]) -> list[float]:
    """A sentence's eighteen counts: for n = 1..6 its character n-grams, the reference's, and the common ones; for the
    reference with the best score."""
    return _counts(_metric("CHRF"), hypothesis, references)


def corpus_chrf(statistics: Statistics) -> float:
    """chrF of a corpus, 0..100, from the `chrf_statistics` of its sentences, shape (n, 18)."""
    return _percent(_metric("CHRF")._compute_score_from_stats(_sum(statistics)))


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """BLEU of one answer against one reference, 0..100, as in TruthfulQA: international tokenisation, exponential
    smoothing, all four orders (Lin et al. 2022, arXiv 2109.07958; the authors' metrics.py)."""
    metric = _metric("BLEU", tokenize="intl", force=True)
    return _percent(metric.corpus_score([_composed(hypothesis)], [[_composed(reference)]]))


def corpus_interval(
    statistics: Statistics, corpus_function: Callable[[Statistics], float], *, resamples: int = 1000, seed: int = 12345
) -> Estimate:
    """A corpus's score with the percentile interval of a bootstrap over its documents (Koehn 2004, W04-3250).

    statistics: (n, k), a row per document; corpus_function: statistics -> score, a function of their sum
    resamples: 0 for no interval
    """
    counts = np.asarray(statistics, np.float64)
    n = len(counts)
    value = corpus_function(statistics) if n else None
    if n < 2 or not resamples:
        return Estimate(value, None, None, None, n, n)
    generator = np.random.default_rng(seed)
    if n > MOST:  # blocks of documents drawn at random are resampled: the same sums in less time
        counts = cluster_sums(counts, generator.permutation(n) % MOST)[0]
    scores, equal = list[float](), np.full(len(counts), 1 / len(counts))
    for start in range(0, resamples, _BLOCK):
        # (block, documents): how often each was drawn
        drawn = generator.multinomial(len(counts), equal, min(_BLOCK, resamples - start))
        scores += [corpus_function([row]) for row in (drawn @ counts).tolist()]
    low, high = np.quantile(scores, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(np.std(scores, ddof=1)), float(low), float(high), n, n)


def _counts(metric: Any, hypothesis: str, references: Sequence[str]) -> list[float]:
    # sacrebleu's bootstrap uses this method; there is no public one
    (counts,) = metric._extract_corpus_statistics([_composed(hypothesis)], [[_composed(own)] for own in references])
    return [float(count) for count in counts]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _percent(score: Any) -> float:
    return min(100.0, float(score.score))  # the geometric mean of four hundreds is 100.00000000000004


def _sum(statistics: Statistics) -> list[int]:
    return [round(total) for total in np.asarray(statistics, np.float64).sum(axis=0).tolist()]


@cache
def _metric(name: str, **options: Any) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, name)(**options)
