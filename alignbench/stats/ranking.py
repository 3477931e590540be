"""Many models in one order: battles between pairs of them to strengths against a baseline, with intervals.

The bootstrap draws prompts, not battles: a prompt that suits one model moves all of that model's battles on it. Where
too few battles stray for a bootstrap, intervals are exact ones (alignbench/preferences/strays.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtr, ndtri

from alignbench.errors import AlignbenchError
from alignbench.stats import bootstrap
from alignbench.stats.bradley_terry import Array, Fit, errors, fit, strengths_at, win_rates
from alignbench.stats.estimates import CONFIDENCE, Estimate
from alignbench.stats.separation import FEW, Exact, exact, strays_between
from alignbench.stats.significance import least_p
from alignbench.stats.win_rate import LOSS, WIN, Battle


@dataclass(frozen=True)
class Ranked:
    """One model. strength: nats above the baseline; win_rate: expected against the baseline, ties counted half;
    p_next: two-sided, that it is as strong as the next one down (None for the last)."""

    name: str
    strength: Estimate
    win_rate: Estimate
    battles: int
    p_next: float | None


@dataclass(frozen=True)
class Ranking:
    """Models from the strongest down. eta: Rao and Kupper's η, 1 where nothing is tied."""

    baseline: str
    models: tuple[Ranked, ...]
    eta: float
    prompts: int
    battles: int


def rank(
    battles: Sequence[Battle],
    baseline: str,
    models: Iterable[str] = (),
    *,
    seed: int = 0,
    resamples: int = bootstrap.RESAMPLES,
) -> Ranking:
    """Bradley–Terry strengths of all models in `battles`, the baseline at 0, with bootstrap intervals over prompts.

    models: names that must be there. Raises AlignbenchError where the strengths cannot be compared: one model only, a
    model or a baseline without battles, models in parts that never met.
    """
    names = sorted({name for battle in battles for name in (battle.a, battle.b)})
    _check_names(names, baseline, models)
    number = {name: index for index, name in enumerate(names)}
    pairs, counts = _count(battles, number)
    _check_connected(names, pairs)

    prompts = counts.shape[0]
    whole = np.asarray(counts.sum(axis=0)).reshape(-1, 3)
    shown = np.asarray((counts > 0).sum(axis=0), np.int64).reshape(-1, 3)
    fitted = fit(pairs, whole, len(names))
    drawn = np.concatenate([weights @ counts for weights in bootstrap.weights(prompts, resamples, seed)])
    draws = fit(pairs, drawn.reshape(-1, len(pairs), 3), len(names), start=fitted)
    found = Found(pairs, shown, fitted, draws, errors(pairs, whole, fitted), prompts)
    battles_of = np.bincount(pairs.ravel(), np.repeat(whole.sum(1), 2), len(names)).astype(int)
    order = np.argsort(-fitted.strengths, kind="stable").tolist()

    ranked = []
    for model, below in zip(order, [*order[1:], None], strict=True):
        strength, rate = compare(found, model, number[baseline], int(battles_of[model]))
        p_next = None if below is None or prompts < 2 else p_equal(found, model, below)
        ranked.append(Ranked(names[model], strength, rate, strength.n, p_next))
    return Ranking(baseline, tuple(ranked), float(np.exp(fitted.tau)), prompts, len(battles))


@dataclass(frozen=True)
class Found:
    """What the battles gave. pairs: (pairs, 2); shown: (pairs, 3) prompts with a win, a loss, a tie; draws: the fits of
    the resamples; errors: (models, models) standard errors of differences of strengths, were all battles independent"""

    pairs: NDArray[np.int64]
    shown: NDArray[np.int64]
    fitted: Fit
    draws: Fit
    errors: Array
    prompts: int


def compare(found: Found, model: int, other: int, battles: int) -> tuple[Estimate, Estimate]:
    """Strength of one model above another, and its expected win rate against it, with intervals."""
    ahead, drawn_ahead, rate, drawn_rate = _differences(found, model, other)
    if found.prompts < 2:
        bare = [Estimate(value, None, None, None, battles, found.prompts) for value in (ahead, rate)]
        return bare[0], bare[1]
    few = _exact(found, model, other)
    if few:
        ends = strengths_at([few.low, few.high], found.fitted.tau).tolist()
        error = float(found.errors[model, other])
        return (
            Estimate(ahead, error, ends[0], ends[1], battles, found.prompts),
            Estimate(rate, few.error, few.low, few.high, battles, found.prompts),
        )
    drawn = np.column_stack([drawn_ahead, drawn_rate])
    bounds = bias_corrected(np.array([ahead, rate]), drawn, found.prompts).T
    strength, win = (
        replace(bootstrap.estimate(value, draws, battles, found.prompts), low=float(low), high=float(high))
        for value, draws, (low, high) in zip((ahead, rate), drawn.T, bounds, strict=True)
    )
    return strength, win


def p_equal(found: Found, model: int, other: int) -> float:
    """Two-sided, that two models are equally strong: below 5 % where their difference's interval leaves 0 out."""
    few = _exact(found, model, other)
    if few:
        return few.p
    ahead, drawn, _, _ = _differences(found, model, other)
    bias = float(_bias(np.array([ahead]), drawn[:, None])[0])
    reach = abs(2 * bias - ndtri(bootstrap.share_below(drawn))) * np.sqrt((found.prompts - 1) / found.prompts)
    return max(2 * float(ndtr(-reach)), 1 / (1 + len(drawn)), least_p(found.prompts))


def bias_corrected(values: Array, draws: Array, clusters: int) -> Array:
    """(2, k): bias-corrected percentiles (Efron 1981) of (resamples, k) draws of (k,) values, expanded by
    √(n / (n − 1)) for n clusters, since a bootstrap's spread is that of a sample divided by n.

    Estimated strengths lie further apart than the true ones, those of resamples further still: plain percentiles have
    that bias twice. How far the draws' median is from the estimate says how much it is. For the same reason their
    spread is wide enough for the normal's quantile: with Student's, intervals at 50 prompts held the truth up to
    96.8 % of the time (benchmarks/coverage.py).
    """
    bias = _bias(values, draws)
    reach = ndtri(0.5 + CONFIDENCE / 2) * np.sqrt(clusters / (clusters - 1))
    place = ndtr(2 * bias + np.array([[-reach], [reach]])) * (len(draws) + 1) - 1  # Davison & Hinkley 1997, 5.2
    place = np.clip(place, 0, len(draws) - 1)
    before = np.floor(place).astype(np.int64)
    ordered = np.sort(draws, axis=0)
    low, high = (np.take_along_axis(ordered, at, 0) for at in (before, np.minimum(before + 1, len(draws) - 1)))
    return np.asarray(low + (place - before) * (high - low))


def _bias(values: Array, draws: Array) -> Array:
    below = ((draws < values).mean(0) + (draws <= values).mean(0)) / 2
    return np.asarray(np.clip(ndtri(below), -1, 1))  # more is not a bias but a resample that shows nothing


def _differences(found: Found, model: int, other: int) -> tuple[float, Array, float, Array]:
    """Strength above the other and those of resamples, win rate against the other and those of resamples."""
    ahead, drawn_ahead = (f.strengths[..., model] - f.strengths[..., other] for f in (found.fitted, found.draws))
    rate, drawn_rate = (win_rates(f, other)[..., model] for f in (found.fitted, found.draws))
    return float(ahead), drawn_ahead, float(rate), drawn_rate


def _exact(found: Found, model: int, other: int) -> Exact | None:
    """Where few battles stray; None elsewhere, and for a model against itself."""
    if model == other or strays_between(found.pairs, found.shown, found.errors.shape[0], model, other) >= FEW:
        return None
    ahead, _, rate, drawn_rate = _differences(found, model, other)
    # d rate / d strength
    cosh, tau = np.cosh(ahead), np.cosh(found.fitted.tau)
    slope = (1 + cosh * tau) / (cosh + tau) ** 2 / 2
    resampled = drawn_rate.std() * np.sqrt(found.prompts / (found.prompts - 1))
    return exact(rate, max(float(slope * found.errors[model, other]), float(resampled)), found.prompts)


def _count(battles: Sequence[Battle], number: dict[str, int]) -> tuple[NDArray[np.int64], csr_array]:
    """Pairs that met, (pairs, 2), and sparse counts (prompts, pairs · 3): wins of the first, of the second, ties."""
    pairs: dict[tuple[int, int], int] = {}
    prompts: dict[str, int] = {}
    rows, columns = [], []
    for battle in battles:
        a, b, outcome = number[battle.a], number[battle.b], battle.outcome
        if a > b:
            a, b, outcome = b, a, 1 - outcome
        pair = pairs.setdefault((a, b), len(pairs))
        rows.append(prompts.setdefault(battle.prompt, len(prompts)))
        columns.append(3 * pair + (0 if outcome == WIN else 1 if outcome == LOSS else 2))
    shape = (len(prompts), 3 * len(pairs))
    return np.array(list(pairs), np.int64), coo_array((np.ones(len(rows)), (rows, columns)), shape).tocsr()


def _check_names(names: Sequence[str], baseline: str, models: Iterable[str]) -> None:
    if len(names) < 2:
        raise AlignbenchError("a ranking needs battles between at least two models: there are none")
    if baseline not in names:
        raise AlignbenchError(f"the baseline {baseline!r} has no battles; the models that have: {', '.join(names)}")
    for name in models:
        if name not in names:
            raise AlignbenchError(f"the model {name!r} has no battles: compare it with another model, or leave it out")


def _check_connected(names: Sequence[str], pairs: NDArray[np.int64]) -> None:
    met = coo_array((np.ones(len(pairs)), pairs.T), (len(names), len(names)))
    count, part = connected_components(met, directed=False)
    if count > 1:
        parts = "; ".join(", ".join(n for n, p in zip(names, part, strict=True) if p == k) for k in range(count))
        raise AlignbenchError(f"strengths need battles that connect all models; these never met: {parts}")
