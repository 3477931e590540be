"""Every metric of diversity for one set of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from alignbench.diversity.compression import compression_ratio
from alignbench.diversity.ngrams import distinct, expectation_adjusted
from alignbench.diversity.overlap import mean_pairwise_rouge_l
from alignbench.diversity.self_bleu import self_bleu
from alignbench.diversity.vectors import clusters, mean_pairwise_distance, vendi
from alignbench.diversity.words import words
from alignbench.types.task import Metric

# The direction is that of more diversity, which is not always what one wants.
METRICS = (
    Metric("distinct_1", "share", "higher", bounds=(0, 1)),
    Metric("distinct_2", "share", "higher", bounds=(0, 1)),
    Metric("distinct_3", "share", "higher", bounds=(0, 1)),
    Metric("ead", "number", "higher", bounds=(0, None)),
    Metric("self_bleu", "points", "lower", bounds=(0, 100)),
    Metric("rouge_l_overlap", "share", "lower", bounds=(0, 1)),
    Metric("compression_ratio", "number", "lower", bounds=(0, None)),
    Metric("cosine_distance", "number", "higher", bounds=(0, 2), scorer="embedding"),
    Metric("vendi", "number", "higher", bounds=(1, None), scorer="embedding"),
    # not the more the better: texts that are all alike are one cluster, and so are texts that have nothing in common
    Metric("clusters", "number", "–", bounds=(1, None), scorer="embedding"),
    Metric("silhouette", "number", "–", bounds=(-1, 1), scorer="embedding"),
)
NOTHING = "<nothing>"  # no word of `words` looks like it


def measure(texts: Sequence[str]) -> dict[str, float]:
    """Those of METRICS that words tell, each a finite number; without texts, none.

    A text without a word is one word of its own kind: empty outputs are like each other and unlike the rest, so that
    a model that falls silent does not count as a diverse one. One text alone has no metric that compares texts.
    """
    if not texts:
        return {}
    tokens = [words(text) or [NOTHING] for text in texts]
    found = {f"distinct_{n}": distinct(tokens, n) for n in (1, 2, 3)}
    found["ead"] = expectation_adjusted(tokens)
    found["self_bleu"] = self_bleu(tokens)
    found["rouge_l_overlap"], _ = mean_pairwise_rouge_l(tokens)
    if len(texts) > 1:
        found["compression_ratio"] = compression_ratio(texts)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def measure_vectors(vectors: ArrayLike, *, count: bool = True) -> dict[str, float]:
    """Those of METRICS that vectors tell, (n, d), from a scorer of the kind "embedding"; of fewer than two, none.

    count: also the clusters, which take the longest
    """
    if len(np.asarray(vectors)) < 2:
        return {}
    found = {"cosine_distance": mean_pairwise_distance(vectors), "vendi": vendi(vectors)}
    if count:
        grouped = clusters(vectors)
        found |= {"clusters": float(grouped.count), "silhouette": grouped.silhouette}
    return {name: value for name, value in found.items() if math.isfinite(value)}
