"""Diversity of what texts mean: distances and clusters of their vectors, classes of equivalent outputs.

Rows of vectors are scaled to length 1. A row of zeros (a text of white space) is a direction of its own: equal to other
such rows, and at distance 1 from all others.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

from alignbench.diversity.entropy import entropy_of, hill, plug_in
from alignbench.stats.estimates import cluster_numbers

BLOCK = 1024  # rows converted to double precision at once
# Texts this close to their mean direction are one cluster. Hashed vectors of copies of a text of 60 words are at most
# .024 from it if one word of each is replaced, and .068 if three are.
ALIKE = 0.05
MOST_CLUSTERS = 10
SAMPLE = 1000  # rows for k-means and the silhouette; the others join the nearest centre
CLOUDS = 19  # samples without clusters that a partition has to beat, all of them: by chance one in twenty does
PATIENCE = 0.8  # the probability that a user reads one more output (NoveltyBench, section 3.2)


def unit(vectors: ArrayLike) -> NDArray[np.float32] | NDArray[np.float64]:
    """(n, d) rows scaled to length 1; a further column for rows of zeros, if there are any."""
    rows = np.asarray(vectors)
    if rows.dtype != np.float32:
        rows = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    nothing = lengths == 0
    lengths[nothing] = 1
    rows = rows / lengths[:, None].astype(rows.dtype)
    return np.hstack([rows, nothing[:, None].astype(rows.dtype)]) if nothing.any() else rows


def mean_pairwise_distance(vectors: ArrayLike) -> float:
    """1 − mean cosine of all pairs of rows of (n, d), 0..2; NaN with fewer than two rows.
    Linear in n: the cosines of all pairs add up to the squared length of the sum of all rows."""
    rows = unit(vectors)
    n = len(rows)
    if n < 2:
        return math.nan
    total = rows.sum(axis=0, dtype=np.float64)
    return max(0.0, 1 - (float(total @ total) - n) / (n * (n - 1)))


def distances_to_others(vectors: ArrayLike) -> NDArray[np.float64]:
    """(n,): 1 − mean cosine of each row with all others; NaN with a single row."""
    rows = unit(vectors)
    if len(rows) < 2:
        return np.full(len(rows), math.nan)
    total = rows.sum(axis=0, dtype=np.float64)
    return np.asarray(np.maximum(0.0, 1 - (rows @ total - 1) / (len(rows) - 1)))


def vendi(vectors: ArrayLike) -> float:
    """Vendi score with the cosine as kernel (Friedman & Dieng 2023, arXiv 2210.02410), 1..n; NaN without rows.
    The eigenvalues of K = X Xᵀ / n are those of Xᵀ X / n and zeros, so the smaller of the two is decomposed: memory
    is n · d plus the square of the smaller side."""
    rows = unit(vectors)
    n, d = rows.shape
    if not n:
        return math.nan
    sides = rows if n > d else rows.T
    gram = np.zeros((min(n, d),) * 2)
    for start in range(0, len(sides), BLOCK):
        block = sides[start : start + BLOCK].astype(np.float64)
        gram += block.T @ block
    return math.exp(entropy_of(np.linalg.eigvalsh(gram / n)))


@dataclass(frozen=True)
class Clusters:
    """labels: (n,) the cluster of each row, numbered in order of appearance; silhouette: mean over rows, −1..1, NaN for
    a single cluster."""

    labels: NDArray[np.int64]
    count: int
    silhouette: float


def clusters(vectors: ArrayLike, seed: int = 0) -> Clusters:
    """k-means with the k of 2..10 that has the highest mean silhouette (Rousseeuw 1987) by cosine distance.

    A single cluster if all rows are nearly equal, if there are fewer than three, or if samples without clusters can be
    partitioned as well: the silhouette must exceed 0 and that of each of CLOUDS normal samples with the number, mean
    and covariance of the rows, at the same k (the null of Liu, Hayes, Nobel & Marron 2008, JASA 103, SigClust). With
    many rows, a random sample decides, and the others join the nearest centre.
    """
    rows = unit(vectors)
    single = Clusters(np.zeros(len(rows), np.int64), min(len(rows), 1), math.nan)
    if len(rows) < 3:
        return single
    centre = rows.mean(axis=0, dtype=np.float64)
    if float((rows @ centre).min()) >= (1 - ALIKE) * float(np.linalg.norm(centre)):
        return single

    random, sample = np.random.default_rng(seed), rows
    if len(rows) > SAMPLE:
        sample = rows[np.sort(random.choice(len(rows), SAMPLE, replace=False))]
    most = min(MOST_CLUSTERS, len({row.tobytes() for row in sample.round(5) + 0.0}), len(sample) - 1)
    partitions = [_k_means(sample, k, seed) for k in range(2, most + 1)]
    best, silhouette = max(partitions, key=lambda found: found[1], default=(None, 0.0))
    if best is None or silhouette <= 0:
        return single
    middle, n = sample.mean(axis=0), len(sample)
    for _ in range(CLOUDS):
        mixed = random.standard_normal((n, n), dtype=np.float32) / np.float32(math.sqrt(n))
        if _k_means(unit(middle + mixed @ (sample - middle)), best.n_clusters, seed)[1] >= silhouette:
            return single
    labels = cluster_numbers(best.predict(rows).tolist(), len(rows))
    return Clusters(labels, int(labels.max()) + 1, silhouette)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _k_means(rows: NDArray[np.floating], k: int, seed: int) -> tuple[Any, float]:
    """k-means of unit rows, and its mean silhouette by cosine distance; −1 if it finds a single cluster."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import silhouette_score

    # on this few rows, threads wait for each other longer than they work
    with _threads().limit(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than k
        found = KMeans(k, n_init=3, random_state=seed).fit(rows)
    if len(set(found.labels_.tolist())) < 2:
        return found, -1.0
    distances = np.maximum(1 - rows @ rows.T, 0)
    np.fill_diagonal(distances, 0)
    return found, float(silhouette_score(distances, found.labels_, metric="precomputed"))


def partition(find: Callable[[int, Sequence[int]], int | None], n: int) -> list[int]:
    """(n,) class of each output, numbered in order of appearance (NoveltyBench, Zhang et al. 2025, arXiv 2504.05228).
    find: an output and the first members of all classes -> the position of the class that it joins, or None
    NoveltyBench compares with a random member of each class; the first one makes the classes a function of the outputs
    alone."""
    firsts: list[int] = []
    labels = []
    for new in range(n):
        found = find(new, firsts)
        if found is None:
            found = len(firsts)
            firsts.append(new)
        labels.append(found)
    return labels


def utility(labels: Sequence[Hashable], scores: Sequence[float]) -> float:
    """Utility for a user who reads the outputs in order and continues with probability p = PATIENCE after each: the
    score of an output counts if it is the first of its class. NaN without outputs.
    (1 − p) / (1 − pⁿ) · Σ pⁱ · score_i, i from 0, over the first outputs of their classes; in the unit of the scores.
    """
    if not labels:
        return math.nan
    weights = [PATIENCE**i for i in range(len(labels))]
    return sum(weights[i] * scores[i] for i in map(labels.index, dict.fromkeys(labels))) / sum(weights)


def class_numbers(labels: Sequence[Hashable]) -> dict[str, float]:
    """Of the classes of the outputs of one prompt; the last two only with two outputs or more.

    classes: their number
    effective_answers: exp of the entropy over them in nats, which is 2 to the power of that in bits: the number of
        equally frequent classes with the same entropy, 1..outputs (Hill number of order 1)
    single_cluster_rate: 1 if all outputs are in one class, else 0 (arXiv 2603.24124)
    same_class: the proportion of pairs of outputs that are in one class
    """
    n, counts = len(labels), np.array(list(Counter(labels).values()))
    if not n:
        return {}
    found = {"classes": float(len(counts)), "effective_answers": hill(counts, 1)}
    if n > 1:
        same = float((counts * (counts - 1)).sum()) / (n * (n - 1))
        found |= {"single_cluster_rate": float(len(counts) == 1), "same_class": same}
    return found


def shared_class(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """The proportion of pairs of an output of one model and an output of another, for one prompt, that are in one
    class: homogeneity between models (arXiv 2510.22954), by classes. NaN without outputs."""
    counts, others, pairs = Counter(one), Counter(other), len(one) * len(other)
    return sum(own * others[label] for label, own in counts.items()) / pairs if pairs else math.nan


def semantic_entropy(labels: Sequence[Hashable], logprobs: Sequence[float] | None = None) -> float:
    """Entropy over classes of equivalent outputs, in nats; NaN without outputs.
    Kuhn et al. 2023 (arXiv 2302.09664), in the form of Farquhar et al. 2024 (Nature 630).
    logprobs: log-probability of each output in nats divided by its tokens. The probability of a class is then the sum
        of those of its outputs, normalised over classes; without them it is the proportion of outputs."""
    if logprobs is None:
        return plug_in(list(Counter(labels).values()))
    if not labels:
        return math.nan
    of_class = np.full(len(set(labels)), -np.inf)
    np.logaddexp.at(of_class, cluster_numbers(labels, len(logprobs)), np.asarray(logprobs, np.float64))
    return entropy_of(np.exp(of_class - np.logaddexp.reduce(of_class)))
