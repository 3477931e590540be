"""Each labeler against the rest, or against a reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alignbench.labels.judgements import Judgements
from alignbench.stats import estimates
from alignbench.stats.estimates import Estimate


def with_others(judgements: Judgements, labeler: int) -> Estimate:
    """Mean over the units this labeler judged of the share of the other labelers there who said the same."""
    units, categories = _of(judgements, labeler)
    counts = judgements.counts()[units]
    others = counts.sum(1) - 1
    there = others > 0
    same = counts[np.arange(len(units)), categories] - 1
    return _share(same[there] / others[there], judgements.prompt[units[there]])


def with_majority(judgements: Judgements, labeler: int) -> Estimate:
    """Share of units on which this labeler said what most of the others did; units without such a category are out."""
    units, categories = _of(judgements, labeler)
    counts = judgements.counts()[units]
    counts[np.arange(len(units)), categories] -= 1
    most = counts.max(1, initial=0)
    there = (most > 0) & ((counts == most[:, None]).sum(1) == 1)
    return _share((counts.argmax(1) == categories)[there], judgements.prompt[units[there]])


def with_reference(judgements: Judgements, labeler: int, reference: int) -> Estimate:
    """Share of the units both judged on which this labeler said what the reference did."""
    units, categories = _of(judgements, labeler)
    theirs = np.full(len(judgements.prompt), -1)
    reference_units, reference_categories = _of(judgements, reference)
    theirs[reference_units] = reference_categories
    there = theirs[units] >= 0
    return _share((theirs[units] == categories)[there], judgements.prompt[units[there]])


def _of(judgements: Judgements, labeler: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    mine = judgements.labeler == labeler
    return judgements.unit[mine], judgements.category[mine]


def _share(values: NDArray[np.generic], prompts: NDArray[np.int64]) -> Estimate:
    # not a bootstrap: a labeler may have judged few units and agreed on all, which a resample repeats for ever
    return estimates.share(values.astype(np.float64), prompts.tolist())
