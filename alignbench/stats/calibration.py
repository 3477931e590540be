"""Calibration: whether probabilities are the frequencies of what they predict."""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

BINS = 10


def calibration(predicted: ArrayLike, observed: ArrayLike, low: float = 0.0) -> tuple[float, list[dict[str, float]]]:
    """The expected calibration error (Naeini et al. 2015; Guo et al., arXiv 1706.04599, eq. 3), and its bins.

    The error is the mean distance between the mean probability and the mean of what was observed in a bin, over ten
    bins of equal width on [low, 1], weighted by their sizes. Each bin that is not empty has from, to, n, predicted and
    share (both means). predicted: probabilities, (n,); observed: 0 or 1, or between for a tie, (n,)
    """
    p, truth = np.asarray(predicted, np.float64), np.asarray(observed, np.float64)
    edges = np.linspace(low, 1, BINS + 1)
    place = np.digitize(p, edges[1:-1])
    bins = [
        {"from": start, "to": stop, "n": int(m.sum()), "predicted": float(p[m].mean()), "share": float(truth[m].mean())}
        for b, (start, stop) in enumerate(pairwise(edges.tolist()))
        if (m := place == b).any()
    ]
    return sum(b["n"] * abs(b["predicted"] - b["share"]) for b in bins) / len(p), bins
