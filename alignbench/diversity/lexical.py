"""Diversity of the wording of texts: distinct-n, Self-BLEU, pairwise ROUGE-L, compression."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LENGTH = 50  # words of each output that are compared, unless a metric is of whole outputs
VOCABULARY = 50_257  # of expectation-adjusted distinct-n: GPT-2's. The same number for all texts that are compared.
LONGEST = 500  # words of a text in ROUGE-L: the time of a pair grows with the product of both lengths
PAIRS = 50_000  # of texts in ROUGE-L
_WORD = re.compile(r"\w+|[^\w\s]")

Texts = Sequence[Sequence[str]]  # the words of each text
Integers = NDArray[np.int64]


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores in lower case; any other mark is a word.

    In a script without spaces between words, such as Chinese, each run is one word.
    """
    return [found.group().lower() for found in _WORD.finditer(text)]


def cut(text: str, n: int) -> str:
    """The text up to its n-th word, in its own spelling; the whole text if it has no more than n."""
    if n < 1:
        return ""
    for number, found in enumerate(_WORD.finditer(text), 1):
        if number == n:
            end = found.end()
        if number > n:
            return text[:end]
    return text


@dataclass(frozen=True)
class NGrams:
    """All n-grams of one order, none across two texts. ids: 0..different − 1; owners: the text of each."""

    ids: Integers
    owners: Integers
    different: int


def ngrams(texts: Texts, longest: int) -> Iterator[NGrams]:
    """The n-grams of orders 1 to `longest`, each order computed from the previous: memory is linear in the words."""
    known: dict[str, int] = {}
    flat = np.array([known.setdefault(word, len(known)) for text in texts for word in text], np.int64)
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    starts = np.arange(len(flat))
    ids = flat.copy()  # of the n-gram that starts at each word
    yield NGrams(flat, owners, len(known))
    for n in range(2, longest + 1):
        starts = starts[starts + n <= len(flat)]
        starts = starts[owners[starts] == owners[starts + n - 1]]
        codes = ids[starts] * len(known) + flat[starts + n - 1]  # below the square of the number of words, so exact
        values, compact = np.unique(codes, return_inverse=True)
        ids[starts] = compact
        yield NGrams(compact, owners[starts], len(values))


def distinct(texts: Texts, n: int) -> float:
    """Different n-grams / all n-grams of all texts (Li et al. 2016, arXiv 1510.03055), 0..1; NaN without n-grams.

    It decreases with the number of words: only sets of equal size are comparable.
    """
    *_, found = ngrams(texts, n)
    return found.different / len(found.ids) if len(found.ids) else math.nan


def expectation_adjusted(texts: Texts, orders: Sequence[int] = (1, 2, 3, 4, 5), vocabulary: int = VOCABULARY) -> float:
    """Expectation-adjusted distinct-n (Liu et al. 2022, arXiv 2202.13587), mean over the orders; NaN without words.

    Different n-grams / their expected number if each were drawn at random from as many as there are words in the
    vocabulary. Orders above 1 have more to draw from, so varied texts can exceed 1; only sets of equal size are
    comparable. Orders that no text is long enough for are left out.
    """
    values = [
        adjusted(found.different, len(found.ids), vocabulary)
        for n, found in enumerate(ngrams(texts, max(orders)), 1)
        if n in orders and len(found.ids)
    ]
    return sum(values) / len(values) if values else math.nan


def adjusted(different: int, total: int, vocabulary: int) -> float:
    """U / (V · [1 − ((V − 1) / V)^C]) of U different ones among C n-grams and a vocabulary of V."""
    return different / (-vocabulary * math.expm1(total * math.log1p(-1 / vocabulary)))


def self_bleu(texts: Texts, order: int = 4) -> float:
    """Mean BLEU of each text with all others as references (Zhu et al. 2018, arXiv 1802.01886), 0..100; NaN if n < 2.

    Equal to sacrebleu's `sentence_bleu` of each text's words: exponential smoothing, effective order (orders that a
    text is too short for do not count), closest reference length. A text without words scores 0.

    Exact without comparing all pairs: the highest count of an n-gram among the others is its highest count or, for the
    text with that count, its second highest; the closest length is a neighbour among the sorted lengths.
    """
    if len(texts) < 2:
        return math.nan
    lengths = np.array([len(text) for text in texts], np.int64)
    logs, orders = np.zeros(len(texts)), np.zeros(len(texts))
    halvings = np.zeros(len(texts))  # of the smoothed counts
    matched = np.zeros(len(texts), bool)
    for n, found in enumerate(ngrams(texts, order), 1):
        total = np.maximum(lengths - n + 1, 0)
        correct = _matches(found, len(texts))
        exists = total > 0
        none = exists & (correct == 0)
        halvings[none] += 1
        precision = np.where(none, 0.5**halvings, correct) / np.maximum(total, 1)
        logs[exists] += np.log(precision[exists])
        orders += exists
        matched |= correct > 0
    shortage = 1 - _closest_other(lengths) / np.maximum(lengths, 1)
    scores = 100 * np.exp(np.minimum(shortage, 0) + logs / np.maximum(orders, 1))
    return float(np.where(matched, scores, 0.0).mean())


def _matches(found: NGrams, texts: int) -> Integers:
    """(texts,): n-grams of each text that occur in another, each at most as often as in the text that has most."""
    size = max(found.different, 1)
    pairs, counts = np.unique(found.owners * size + found.ids, return_counts=True)
    owners, grams = np.divmod(pairs, size)
    by_count = np.lexsort((-counts, grams))  # the highest count of each n-gram first
    starts = np.flatnonzero(np.diff(grams[by_count], prepend=-1))
    highest = by_count[starts]
    second = np.zeros(len(starts), np.int64)
    several = np.diff(starts, append=len(by_count)) > 1
    second[several] = counts[by_count[starts[several] + 1]]
    elsewhere = counts[highest][grams]
    own = owners == owners[highest][grams]
    elsewhere[own] = second[grams[own]]
    return np.bincount(owners, np.minimum(counts, elsewhere), texts).astype(np.int64)


def _closest_other(lengths: Integers) -> Integers:
    """(texts,): the length among the other texts that is closest to each; of two, the shorter."""
    ordered = np.sort(lengths)
    first = np.searchsorted(ordered, lengths)
    last = np.searchsorted(ordered, lengths, side="right")
    far = np.iinfo(np.int64).max // 2
    below = np.where(first > 0, ordered[first - 1], -far)
    above = np.where(last < len(ordered), ordered[np.minimum(last, len(ordered) - 1)], far)
    beside = np.where(lengths - below <= above - lengths, below, above)
    return np.where(last - first > 1, lengths, beside)


def mean_pairwise_rouge_l(texts: Texts, pairs: int = PAIRS, seed: int = 0) -> float:
    """Mean ROUGE-L F1 (Lin 2004, W04-1013) of all pairs, or of `pairs` random ones, 0..1; NaN if there is no pair.

    Equal to the package rouge-score without its stemmer, on the first LONGEST words of each text.
    """
    if len(texts) < 2:
        return math.nan
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cpdist

    first, second = distinct_pairs(len(texts), pairs, seed)
    known: dict[str, int] = {}
    numbers = [[known.setdefault(word, len(known)) for word in text[:LONGEST]] for text in texts]
    common = cpdist(
        [numbers[i] for i in first], [numbers[j] for j in second], scorer=LCSseq.similarity, dtype=np.float64
    )
    lengths = np.array([len(text) for text in numbers])
    return float((2 * common / np.maximum(lengths[first] + lengths[second], 1)).mean())


def distinct_pairs(n: int, most: int, seed: int) -> tuple[Integers, Integers]:
    """Pairs of different numbers below n, none twice: all of them, or `most` random ones."""
    total = n * (n - 1) // 2
    numbers = np.arange(total) if total <= most else np.random.default_rng(seed).choice(total, most, replace=False)
    # pair k of (0,1), (0,2), (1,2), (0,3), …: its larger member is the triangular root of k
    larger = np.floor((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
    larger -= larger * (larger - 1) // 2 > numbers
    larger += larger * (larger + 1) // 2 <= numbers
    return numbers - larger * (larger - 1) // 2, larger


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts (UTF-8, one per line) / bytes of their gzip (Shaib et al. 2024, arXiv 2403.00553); or NaN.

    Higher: more repetitions, within a window of 32 KiB. It depends slightly on the order of the texts, and on their
    number: only sets of equal size are comparable.
    """
    if not texts:
        return math.nan
    raw = "\n".join(texts).encode("utf-8", "replace")
    return len(raw) / len(gzip.compress(raw, compresslevel=9, mtime=0))
