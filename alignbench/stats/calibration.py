"""Calibration: whether the confidence of a model, or another probability, is the frequency of being right."""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from alignbench.stats.bootstrap import weights
from alignbench.stats.estimates import Estimate

BINS = 15  # as Guo et al. 2017, arXiv 1706.04599
WIDE = 10  # bins of equal width


def confidence(scores: ArrayLike) -> float:
    """The probability of the chosen answer: the largest of the softmax of the scores that decide, in nats."""
    values = np.asarray(scores, np.float64)
    return float(1 / np.exp(values - values.max()).sum())


def expected_calibration_error(confidences: ArrayLike, right: ArrayLike, *, intervals: bool = True) -> Estimate:
    """Σ n_b/n |mean confidence − accuracy| over bins of equal numbers of documents (arXiv 1706.04599, eq. 3).

    right: 1 for a right choice, 0 for a wrong one, 1/k for one of k tied ones. With few documents the error is biased
    upwards: it is above 0 for a perfectly calibrated model too. The interval is a percentile bootstrap over documents,
    moved by the difference between the bootstrap's mean and the value, since resampling adds to the same bias.
    """
    values, hits = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    order = np.argsort(values, kind="stable")
    gaps = (values - hits)[order]

    def error(sample: np.ndarray) -> float:
        return sum(abs(float(part.sum())) for part in np.array_split(sample, min(BINS, len(sample)))) / len(sample)

    low = high = None
    if intervals and len(gaps) > 1:
        drawn = (gaps.repeat(row.astype(int)) for block in weights(len(gaps), 1_000) for row in block)
        found = np.array([error(sample) for sample in drawn])
        low, high = np.clip(np.quantile(found, (0.025, 0.975)) - found.mean() + error(gaps), 0, 1).tolist()
    return Estimate(error(gaps), low=low, high=high, n=len(gaps), clusters=len(gaps))


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
