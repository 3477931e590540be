"""Agreement of scores, such as those of a reward model, with rankings of responses. Pure functions."""

from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.stats import estimates
from alignbench.stats.calibration import calibration


class Ranking(Protocol):
    """Responses to a prompt. Rank 1 is the best; equal ranks are ties."""

    @property
    def prompt(self) -> str: ...
    @property
    def responses(self) -> Sequence[str]: ...
    @property
    def ranks(self) -> Sequence[float]: ...


def agreement(
    rankings: Sequence[Ranking], scores: Sequence[Sequence[float]], *, longer_is_better: bool = True
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Accuracy on all pairs that are not ties, with intervals clustered by prompt, and that of a length baseline.

    longer_is_better: the baseline's preference, from other rows (see `prefers_longer`)
    Calibration compares, per pair, σ(|r_i − r_j|) with the frequency at which the higher score was preferred, whichever
    response the row names first. Equal scores count half. The second value are the bins of `calibration` on [.5, 1].
    """
    pairs = [(*pair, r.prompt) for r, own in zip(rankings, scores, strict=True) for pair in _pairs(r, own)]
    if not pairs:
        raise AlignbenchError("no pair to validate on: give more rankings, or validation=FILE")
    won, longer, margin = np.array([pair[:3] for pair in pairs], float).T
    prompts = [prompt for *_, prompt in pairs]
    right = (1 + np.sign(margin) * won) / 2
    by_length = (1 + np.sign(longer) * won * (1 if longer_is_better else -1)) / 2
    metrics: dict[str, float] = {"pairs": len(pairs)}
    found = {"accuracy": estimates.share(right, prompts), "length_accuracy": estimates.share(by_length, prompts)}
    for name, estimate in (found | {"over_length": estimates.mean(right - by_length, prompts, (-1, 1))}).items():
        for suffix, value in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
            metrics[name + suffix] = float("nan") if value is None else value
    metrics["log_loss"] = float(np.logaddexp(0, -margin * won).mean())
    error, bins = calibration(1 / (1 + np.exp(-abs(margin))), right, low=0.5)
    return metrics | {"calibration_error": error}, bins


def prefers_longer(rankings: Sequence[Ranking]) -> bool:
    """True unless the shorter response is preferred more often."""
    votes = [np.sign(longer) * won for r in rankings for won, longer, _ in _pairs(r, [0.0] * len(r.ranks))]
    return bool(sum(votes) >= 0)


def _pairs(ranking: Ranking, scores: Sequence[float]) -> list[tuple[int, int, float]]:
    """Pairs that are not ties: 1 if the first is preferred, else −1; its characters and score minus the second's."""
    both = combinations(zip(ranking.ranks, map(len, ranking.responses), scores, strict=True), 2)
    return [(1 if a[0] < b[0] else -1, a[1] - b[1], a[2] - b[2]) for a, b in both if a[0] != b[0]]
