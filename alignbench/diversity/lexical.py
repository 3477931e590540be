"""Diversity of the wording of texts: distinct-n, Self-BLEU, pairwise ROUGE-L, compression."""

import gzip
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

LENGTH = 50  # words of each output that are compared, unless a metric is of whole outputs
VOCABULARY = 50_257  # of expectation-adjusted distinct-n: GPT-2's. The same number for all texts that are compared.
LONGEST = 500  # words of a text in ROUGE-L: the time of a pair grows with the product of both lengths
PAIRS = 50_000  # of texts in ROUGE-L
_WORD = re.compile(r"\w+|[^\w\s]")

Texts = Sequence[Sequence[str]]  # the words of each text
Integers = NDArray[np.int64]


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores in lower case (in Chinese many words); any other mark is a word."""
    return [found.group().lower() for found in _WORD.finditer(text)]


def cut(text: str, n: int) -> str:
    """The text up to its n-th word, in its own spelling; the whole text if it has no more than n."""
    found = list(islice(_WORD.finditer(text), n + 1))
    return text if len(found) <= n and n else text[: found[n - 1].end() if n else 0]


def ngrams(texts: Texts, longest: int) -> Iterator[tuple[Integers, Integers]]:
    """The n-grams of orders 1 to `longest`, none across two texts: numbers from 0 without a gap, and the text of each.
    Each order is computed from the previous: memory is linear in the words."""
    known: dict[str, int] = {}
    flat = np.array([known.setdefault(word, len(known)) for text in texts for word in text], np.int64)
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    starts = np.arange(len(flat))
    ids = flat.copy()  # of the n-gram that starts at each word
    yield flat, owners
    for n in range(2, longest + 1):
        starts = starts[starts + n <= len(flat)]
        starts = starts[owners[starts] == owners[starts + n - 1]]
        codes = ids[starts] * len(known) + flat[starts + n - 1]  # below the square of the number of words, so exact
        _, ids[starts] = np.unique(codes, return_inverse=True)
        yield ids[starts], owners[starts]


def distinct(texts: Texts, n: int) -> float:
    """Different n-grams / all n-grams of all texts (Li et al. 2016, arXiv 1510.03055), 0..1; NaN without n-grams.
    It decreases with the number of words: only sets of equal size are comparable."""
    *_, (ids, _) = ngrams(texts, n)
    return (int(ids.max()) + 1) / len(ids) if len(ids) else math.nan


def expectation_adjusted(texts: Texts, vocabulary: int = VOCABULARY) -> float:
    """Expectation-adjusted distinct-n (Liu et al. 2022, arXiv 2202.13587), mean over n = 1..5; NaN without words.
    Different n-grams / their expected number if each were drawn at random from as many as there are words in the
    vocabulary. Orders above 1 have more to draw from, so varied texts can exceed 1; only sets of equal size are
    comparable. Orders that no text is long enough for are left out."""
    # U / (V · [1 − ((V − 1) / V)^C]) of U different ones among C n-grams and a vocabulary of V
    values = [
        (int(ids.max()) + 1) / (-vocabulary * math.expm1(len(ids) * math.log1p(-1 / vocabulary)))
        for ids, _ in ngrams(texts, 5)
        if len(ids)
    ]
    return sum(values) / len(values) if values else math.nan


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
    logs, orders, halvings = np.zeros((3, len(texts)))  # halvings of the smoothed counts
    matched = np.zeros(len(texts), bool)
    for n, (ids, owners) in enumerate(ngrams(texts, order), 1):
        total = np.maximum(lengths - n + 1, 0)
        correct = _matches(ids, owners, len(texts))
        exists = total > 0
        none = exists & (correct == 0)
        halvings += none
        precision = np.where(none, 0.5**halvings, correct) / np.maximum(total, 1)
        logs[exists] += np.log(precision[exists])
        orders += exists
        matched |= correct > 0
    shortage = 1 - _closest_other(lengths) / np.maximum(lengths, 1)
    scores = 100 * np.exp(np.minimum(shortage, 0) + logs / np.maximum(orders, 1))
    return float(np.where(matched, scores, 0.0).mean())


def _matches(ids: Integers, owners: Integers, texts: int) -> Integers:
    """(texts,): n-grams of each text that occur in another, each at most as often as in the text that has most."""
    pairs, counts = np.unique(ids * texts + owners, return_counts=True)
    order = np.lexsort((-counts, pairs // texts))  # the highest count of each n-gram first, then its second highest
    grams, owners = np.divmod(pairs[order], texts)
    counts = counts[order]
    highest = np.diff(grams, prepend=-1) > 0
    second = np.append(np.where(highest, 0, counts)[1:], 0)
    return np.bincount(owners, np.where(highest, second[: len(counts)], counts), texts).astype(np.int64)


def _closest_other(lengths: Integers) -> Integers:
    """(texts,): the length among the other texts that is closest to each; of two, the shorter."""
    order, far = np.argsort(lengths), np.iinfo(np.int64).max // 2
    below, own, above = sliding_window_view(np.concatenate([[-far], lengths[order], [far]]), 3).T
    closest = np.empty_like(lengths)
    closest[order] = np.where(own - below <= above - own, below, above)
    return closest


def mean_pairwise_rouge_l(texts: Texts, pairs: int = PAIRS, seed: int = 0) -> float:
    """Mean ROUGE-L F1 (Lin 2004, W04-1013) of all pairs, or of `pairs` random ones, 0..1; NaN if there is no pair.
    Equal to the package rouge-score without its stemmer, on the first LONGEST words of each text."""
    if len(texts) < 2:
        return math.nan
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cpdist

    first, second = distinct_pairs(len(texts), pairs, seed)
    known: dict[str, int] = {}
    numbers = [[known.setdefault(word, len(known)) for word in text[:LONGEST]] for text in texts]
    one, other = [numbers[i] for i in first], [numbers[j] for j in second]
    common = cpdist(one, other, scorer=LCSseq.similarity, dtype=np.float64)
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
    """Bytes of the texts (UTF-8, one per line) / bytes of their gzip (Shaib et al. 2024, arXiv 2403.00553).
    It depends on the number of the texts, slightly on their order, and has a window of 32 KiB."""
    raw = "\n".join(texts).encode("utf-8", "replace")
    return len(raw) / len(gzip.compress(raw, compresslevel=9, mtime=0))
