"""The definitions of diversity written out, comparing all pairs: the reference for the linear implementations."""

import gzip
import io
from itertools import combinations
from types import SimpleNamespace

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from alignbench.diversity.lexical import words


def ngrams_of(texts, n):
    return [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]


def distinct(texts, n):
    found = ngrams_of(texts, n)
    return len(set(found)) / len(found) if found else np.nan


def expectation_adjusted(texts, vocabulary=50257):
    orders = [found for n in range(1, 6) if (found := ngrams_of(texts, n))]
    expected = [vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** len(found)) for found in orders]
    return float(np.mean([len(set(found)) / number for found, number in zip(orders, expected, strict=True)] or np.nan))


def self_bleu(texts, order=4):
    metric = BLEU(tokenize="none", effective_order=True, max_ngram_order=order)
    lines = [" ".join(text) for text in texts]
    return float(np.mean([metric.sentence_score(own, lines[:i] + lines[i + 1 :]).score for i, own in enumerate(lines)]))


def rouge_l(texts):
    scorer = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=str.split))
    pairs = combinations([" ".join(text) for text in texts], 2)
    return float(np.mean([scorer.score(one, two)["rougeL"].fmeasure for one, two in pairs]))


def compression_ratio(texts):
    raw, packed = "\n".join(texts).encode(), io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(raw)
    return len(raw) / len(packed.getvalue())


def cosines(vectors):
    """(n, n); a row of zeros is equal to other such rows only."""
    rows = [vector / (np.linalg.norm(vector) or 1) for vector in np.asarray(vectors, np.float64)]
    return np.array([[one @ two if one.any() or two.any() else 1.0 for two in rows] for one in rows])


def cosine_distance(kernel):
    return float(np.mean([1 - kernel[i, j] for i, j in combinations(range(len(kernel)), 2)]))


def vendi(kernel):
    values = np.linalg.eigvalsh(kernel / len(kernel))
    return float(np.exp(-sum(value * np.log(value) for value in values if value > 1e-12)))


def measure(texts, vectors):
    """All metrics with a closed form, for texts with at least one word."""
    tokens, kernel = [words(text) for text in texts], cosines(vectors)
    return {f"distinct_{n}": distinct(tokens, n) for n in (1, 2, 3)} | {
        "ead": expectation_adjusted(tokens), "self_bleu": self_bleu(tokens), "rouge_l_overlap": rouge_l(tokens),
        "compression_ratio": compression_ratio(texts), "cosine_distance": cosine_distance(kernel),
        "vendi": vendi(kernel),
    }  # fmt: skip
