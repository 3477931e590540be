"""Calibration: whether the confidence of a model, or another probability, is the frequency of being right."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignbench.stats.bootstrap import weights
from alignbench.stats.estimates import Estimate, Groups, cluster_numbers, share

BINS = 15  # as Guo et al. 2017, arXiv 1706.04599
BLOCK = 100  # simulated samples at once
WIDE = 10  # bins of equal width


def confidence(scores: ArrayLike) -> float:
    """The probability of the chosen answer: the largest of the softmax of the scores that decide, in nats."""
    values = np.asarray(scores, np.float64)
    return float(1 / np.exp(values - values.max()).sum())


def brier_score(scores: ArrayLike, right: int) -> float:
    """Σ (p − o)² over the choices, o being 1 for the right one: 0 to 2 (Brier 1950, doi
    10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2). scores: those that decide, in nats"""
    values = np.asarray(scores, np.float64)
    p = np.exp(values - np.logaddexp.reduce(values))
    p[right] -= 1
    return float(p @ p)


def negative_log_likelihood(scores: ArrayLike, right: int) -> float:
    """−log p of the right choice, in nats. scores: those that decide, in nats"""
    values = np.asarray(scores, np.float64)
    return float(np.logaddexp.reduce(values) - values[right])


def expected_calibration_error(
    confidences: ArrayLike, right: ArrayLike, groups: Groups = None, *, intervals: bool = True
) -> Estimate:
    """Σ n_b/n |mean confidence − accuracy| over bins of equal numbers of documents (arXiv 1706.04599, eq. 3).

    right: 1 for a right choice, 0 for a wrong one, 1/k for one of k tied ones. With few documents the error is biased
    upwards: it is above 0 for a perfectly calibrated model too, see `error_if_calibrated`. The interval is a percentile
    bootstrap over groups of documents, moved by the difference between the bootstrap's mean and the value, since
    resampling adds to the same bias.
    """
    resample = resampled_error(confidences, right)
    cluster = cluster_numbers(groups, len(np.asarray(right)))
    n, clusters = len(cluster), int(cluster.max(initial=-1)) + 1
    value = float(resample(np.ones((1, n)))[0])
    low = high = error = None
    if intervals and clusters > 1:
        found = np.concatenate([resample(block[:, cluster]) for block in weights(clusters, 1_000)])
        low, high = np.clip(np.quantile(found, (0.025, 0.975)) - found.mean() + value, 0, 1).tolist()
        error = float(found.std())
    return Estimate(value, error, low, high, n, clusters)


def resampled_error(confidences: ArrayLike, right: ArrayLike) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A function of weights (resamples, n), how often each document was drawn -> the calibration errors (resamples,).
    A resample without documents has none."""
    values = np.asarray(confidences, np.float64)
    order = _order(values)
    gaps = (values - np.asarray(right, np.float64))[order]

    def error(sample: NDArray[np.float64]) -> float:
        return float(np.abs(np.add.reduceat(sample, _starts(len(sample)))).sum() / len(sample))

    return lambda drawn: np.array([error(gaps.repeat(row)) for row in drawn[:, order].astype(int)])


def error_if_calibrated(confidences: ArrayLike, *, draws: int = 1_000, seed: int = 0) -> float:
    """The expected calibration error that a perfectly calibrated model of these confidences would have on average, by
    simulation: each document is right with the probability of its confidence."""
    values = np.sort(np.asarray(confidences, np.float64))
    random, starts, n = np.random.default_rng([seed, len(values)]), _starts(len(values)), len(values)
    blocks = [min(BLOCK, draws - begin) for begin in range(0, draws, BLOCK)]
    gaps = (np.add.reduceat(values - (random.random((rows, n)) < values), starts, axis=1) for rows in blocks)
    return float(sum(np.abs(own).sum() for own in gaps) / n / draws)


def reliability(confidences: ArrayLike, right: ArrayLike, groups: Groups = None) -> list[tuple[float, Estimate]]:
    """The mean confidence and the accuracy, with its interval, of each bin of `expected_calibration_error`."""
    values, hits = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    cluster, order = cluster_numbers(groups, len(values)), _order(values)
    bins = np.split(order, _starts(len(order))[1:])
    return [(float(values[own].mean()), share(hits[own], cluster[own].tolist())) for own in bins]


def _order(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Documents by rising confidence. Equal ones are in a fixed random order, not in that of the file: a file that is
    sorted by the answer would have bins of right and bins of wrong ones."""
    shuffled = np.random.default_rng(len(values)).permutation(len(values))
    return shuffled[np.argsort(values[shuffled], kind="stable")]


def _starts(n: int) -> NDArray[np.int64]:
    """The first document of each of BINS bins of n sorted documents, which differ by at most one in size."""
    bins = min(BINS, n)
    place = np.arange(bins)
    return place * (n // bins) + np.minimum(place, n % bins)


def calibration(predicted: ArrayLike, observed: ArrayLike, low: float = 0.0) -> tuple[float, list[dict[str, float]]]:
    """The expected calibration error (Naeini et al. 2015; Guo et al., arXiv 1706.04599, eq. 3), and its bins.

    The error is the mean distance between the mean probability and the mean of what was observed in a bin, over ten
    bins of equal width on [low, 1], weighted by their sizes. Each bin that is not empty has from, to, n, predicted and
    share (both means). predicted: probabilities, (n,); observed: 0 or 1, or between for a tie, (n,)
    """
    p, truth = np.asarray(predicted, np.float64), np.asarray(observed, np.float64)
    edges = np.linspace(low, 1, WIDE + 1)
    place = np.digitize(p, edges[1:-1])
    bins = [
        {"from": start, "to": stop, "n": int(m.sum()), "predicted": float(p[m].mean()), "share": float(truth[m].mean())}
        for b, (start, stop) in enumerate(pairwise(edges.tolist()))
        if (m := place == b).any()
    ]
    return sum(b["n"] * abs(b["predicted"] - b["share"]) for b in bins) / len(p), bins
