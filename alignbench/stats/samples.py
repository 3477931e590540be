"""Several answers to one problem whose solution can be checked: how many contain a right one, and majority votes.

Functions of k are expectations over all subsets of k of the n answers, computed exactly.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom


def sizes(n: int) -> list[int]:
    """The powers of two up to n, and n."""
    return sorted({*(2**power for power in range(n.bit_length())), n})


def pass_at_k(n: int, right: int, k: int) -> float:
    """Probability that k of the n answers contain a right one: 1 − C(n − right, k) / C(n, k) (Chen et al. 2021,
    arXiv 2107.03374, equation 1). Raises ValueError unless 0 <= right <= n and 1 <= k <= n."""
    _check(n, right, k)
    every = math.comb(n, k)
    return (every - math.comb(n - right, k)) / every


def majority_at_k(right: int, wrong: Sequence[int], k: int, silent: int = 0) -> float:
    """Probability that the most frequent one of k answers is right; of equally frequent ones, one is drawn
    (self-consistency: Wang et al. 2023, arXiv 2203.11171).

    right: answers that are right, which count as one; wrong: number of answers of each wrong value
    silent: outputs without an answer, which have no vote; the result is wrong if none of the k has one
    Raises ValueError unless 1 <= k <= the number of all answers.

    Independent binomial counts with p = k / n, given that their sum is k, are those of a subset drawn without
    replacement. Probabilities of the former are therefore divided by that of the sum.
    """
    n = right + sum(wrong) + silent
    _check(n, right, k)
    p, total = k / n, 0.0
    for votes in range(1, min(right, k) + 1):
        # [ties, drawn]: probability that so many wrong values have as many votes as the right one, and none has more
        rivals = [m for m in wrong if m >= votes]
        table = np.zeros((min(len(rivals), k // votes) + 1, k - votes + 1))
        others = np.arange(k - votes + 1)
        table[0] = binom.pmf(others, silent + sum(m for m in wrong if m < votes), p)
        for m in rivals:
            table = _with_rival(table, binom.pmf(np.arange(votes + 1), m, p))
        shared = float((table[:, -1] / np.arange(1, len(table) + 1)).sum())
        total += float(binom.pmf(votes, right, p)) * shared
    return min(1.0, total / float(binom.pmf(k, n, p)))


def _with_rival(table: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """weights: probability that the rival is drawn 0, 1, … times; the last one is a tie"""
    found, width, tie = np.zeros_like(table), table.shape[1], len(weights) - 1
    for drawn, weight in enumerate(weights[:width]):
        moved = weight * table[:, : width - drawn]
        if drawn < tie:
            found[:, drawn:] += moved
        else:
            found[1:, drawn:] += moved[:-1]
    return found


def _check(n: int, right: int, k: int) -> None:
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"{right} right ones of {n} answers, k = {k}: expected 0 <= right <= n and 1 <= k <= n")
