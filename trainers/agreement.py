"""How a reward model agrees with people's rankings: accuracy, the baseline of length alone, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.stats import estimates
from trainers.data import Ranking

BINS = np.linspace(0.5, 1, 11)  # of the predicted winner's probability


@dataclass(frozen=True)
class Agreement:
    """How scores agree with rankings.

    bins: from, to, pairs, mean prediction, share of pairs in which the predicted winner was preferred
    """

    metrics: dict[str, float]
    bins: list[dict[str, float]]


def agreement(
    rankings: Sequence[Ranking], scores: Sequence[Sequence[float]], *, longer_is_better: bool = True
) -> Agreement:
    """Accuracy on all pairs that are no ties, with intervals clustered by prompt, beside a preference for length alone.

    longer_is_better: what that preference is, found on other rows (see `longer_wins`)
    Calibration asks of each pair whether the response with the higher score was preferred, as often as σ(|r_i − r_j|)
    predicts: no matter which of the two the row names first. Equal scores count half. The expected calibration error
    (Guo et al., arXiv 1706.04599, eq. 3) is over ten bins on [.5, 1].
    """
    found = [
        (1 if better else -1, mine[i] - mine[j], _longer(ranking, i, j), ranking.prompt)
        for ranking, mine in zip(rankings, scores, strict=True)
        for i, j, better in pairs(ranking)
    ]
    if not found:
        raise AlignbenchError("no pair to validate on: give more rankings, or validation=FILE")
    won, margin, longer = np.array([row[:3] for row in found], float).T
    prompts = [prompt for *_, prompt in found]
    right = (1 + np.sign(margin) * won) / 2
    by_length = (1 + np.sign(longer) * won * (1 if longer_is_better else -1)) / 2
    metrics: dict[str, float] = {"pairs": len(found)}
    for name, estimate in (
        ("accuracy", estimates.share(right, prompts)),
        ("length_accuracy", estimates.share(by_length, prompts)),
        ("over_length", estimates.mean(right - by_length, prompts)),
    ):
        values = (estimate.value, estimate.low, estimate.high)
        for suffix, value in zip(("", "_low", "_high"), values, strict=True):
            metrics[name + suffix] = float("nan") if value is None else value
    metrics["log_loss"] = float(np.logaddexp(0, -margin * won).mean())
    predicted = 1 / (1 + np.exp(-abs(margin)))
    place = np.digitize(predicted, BINS[1:-1])
    bins = [
        {"from": start, "to": stop, "pairs": int(m.sum()), "predicted": predicted[m].mean(), "share": right[m].mean()}
        for b, (start, stop) in enumerate(pairwise(BINS.tolist()))
        if (m := place == b).any()
    ]
    error = sum(b["pairs"] * abs(b["predicted"] - b["share"]) for b in bins) / len(found)
    return Agreement(metrics | {"calibration_error": float(error)}, bins)


def longer_wins(rankings: Sequence[Ranking]) -> bool:
    """Whether the longer response is preferred more often than not."""
    votes = [np.sign(_longer(r, i, j)) * (1 if better else -1) for r in rankings for i, j, better in pairs(r)]
    return bool(sum(votes) >= 0)


def pairs(ranking: Ranking) -> list[tuple[int, int, bool]]:
    """(i, j, whether i was preferred) for each pair of a ranking that is no tie."""
    ranks = ranking.ranks
    both = [(i, j) for i in range(len(ranks)) for j in range(i + 1, len(ranks))]
    return [(i, j, ranks[i] < ranks[j]) for i, j in both if ranks[i] != ranks[j]]


def _longer(ranking: Ranking, i: int, j: int) -> int:
    return len(ranking.responses[i]) - len(ranking.responses[j])
