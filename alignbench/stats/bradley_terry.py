"""Bradley–Terry strengths of models from pairwise battles, with ties, and their ranking.

P(i beats j) = σ(θi − θj − τ), τ = log η ≥ 0, and a tie has the rest (Rao & Kupper 1967, JASA 62); η = 1 is Bradley &
Terry 1952. A weak ridge keeps strengths finite if a model wins all battles. It pulls towards the models' mean, which
also fixes the shift: no strength depends on the choice of the baseline. A fit is (…, models + 1): θ and τ, in nats.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, maximum_flow
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from alignbench.errors import AlignbenchError
from alignbench.stats import bootstrap
from alignbench.stats.bootstrap import RESAMPLES, Array
from alignbench.stats.estimates import CONFIDENCE, NORMAL_QUANTILE, Estimate, cluster_numbers
from alignbench.stats.significance import least_p
from alignbench.stats.win_rate import LOSS, TIE, WIN, Derivatives, derivatives, maximise

Integers = NDArray[np.int64]
RIDGE = 0.1  # a Gaussian prior of 3.2 nats: a model this strong wins 96 % of its battles with the mean model
TOLERANCE = 1e-7  # nats
BLOCK = 2**22  # numbers in the matrices of one batch
FEW = 5  # minority outcomes below which large-sample intervals are not trusted
LEAST = 0.5  # losses of a model without losses: its strength has an upper limit


@dataclass(frozen=True)
class Battle:
    """Two models on one prompt. outcome: 1 (`a` wins), .5 (a tie) or 0 (`b` wins)"""

    prompt: str
    a: str
    b: str
    outcome: float


@dataclass(frozen=True)
class Sample:
    """The fit of all battles (models + 1,) and those of the resamples (resamples, models + 1).
    pairs: (pairs, 2) numbers of models; shown: (pairs, 3) prompts with a win, a loss, a tie; errors: see `errors`"""

    pairs: Integers
    shown: Integers
    fitted: Array
    draws: Array
    errors: Array
    prompts: int


@dataclass(frozen=True)
class Ranked:
    """One model. strength: nats above the baseline; win_rate: expected against the baseline, ties count half;
    p_next: two-sided, of being as strong as the next model in the ranking (None for the last)."""

    name: str
    strength: Estimate
    win_rate: Estimate
    battles: int
    p_next: float | None


def rank(
    battles: Sequence[Battle], baseline: str, models: Iterable[str] = (), *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[list[Ranked], float]:
    """All models in `battles`, the strongest first, with bootstrap intervals over prompts, the baseline at 0; and Rao
    and Kupper's η, 1 without ties.
    models: names that must occur. Raises AlignbenchError for an outcome that is none, and if the strengths are not
    comparable: one model only, a model or a baseline without battles, groups of models without battles between them."""
    names = sorted({name for battle in battles for name in (battle.a, battle.b)})
    if len(names) < 2:
        raise AlignbenchError("a ranking needs battles between at least two models: there are none")
    if baseline not in names:
        raise AlignbenchError(f"the baseline {baseline!r} has no battles; the models that have: {', '.join(names)}")
    if missing := [name for name in models if name not in names]:
        raise AlignbenchError(f"the model {missing[0]!r} has no battles: compare it with another one, or leave it out")
    pairs, counts = _count(battles, names)
    met = coo_array((np.ones(len(pairs)), pairs.T), (len(names), len(names)))
    parts, part = connected_components(met, directed=False)
    if parts > 1:
        groups = "; ".join(", ".join(n for n, p in zip(names, part, strict=True) if p == k) for k in range(parts))
        raise AlignbenchError(f"strengths need battles that connect all models; there are none between: {groups}")

    prompts = counts.shape[0]
    whole = np.asarray(counts.sum(axis=0)).reshape(-1, 3)
    shown = np.asarray((counts > 0).sum(axis=0), np.int64).reshape(-1, 3)
    fitted = fit(pairs, whole, len(names))
    drawn = np.concatenate([weights @ counts for weights in bootstrap.weights(prompts, resamples, seed)])
    draws = fit(pairs, drawn.reshape(-1, len(pairs), 3), len(names), start=fitted)
    sample = Sample(pairs, shown, fitted, draws, errors(pairs, whole, fitted), prompts)
    battles_of = np.bincount(pairs.ravel(), np.repeat(whole.sum(1), 2), len(names)).astype(int).tolist()
    order = np.argsort(-fitted[:-1], kind="stable").tolist()
    ranked = []
    for model, below in zip(order, [*order[1:], None], strict=True):
        strength, rate, _ = compare(sample, model, names.index(baseline), battles_of[model])
        p_next = None if below is None else compare(sample, model, below)[2]
        ranked.append(Ranked(names[model], strength, rate, battles_of[model], p_next))
    return ranked, float(np.exp(fitted[-1]))


def _count(battles: Sequence[Battle], names: Sequence[str]) -> tuple[Integers, csr_array]:
    """Pairs with battles, (pairs, 2), and sparse counts (prompts, pairs · 3): wins of the first, the second, ties."""
    kinds, ends, columns = (WIN, LOSS, TIE), [], []
    for battle in battles:
        a, b, outcome = names.index(battle.a), names.index(battle.b), battle.outcome
        if outcome not in kinds:
            where = f"prompt {battle.prompt!r}, {battle.a!r} against {battle.b!r}"
            raise AlignbenchError(f"{where}: the outcome is {outcome}, not 1 (a wins), .5 (a tie) or 0 (b wins)")
        ends.append((min(a, b), max(a, b)))
        columns.append(kinds.index(outcome if a < b else 1 - outcome))
    rows = cluster_numbers([battle.prompt for battle in battles], len(battles))
    pairs = np.array(list(dict.fromkeys(ends)), np.int64)
    places = rows, 3 * cluster_numbers(ends, len(ends)) + columns
    return pairs, coo_array((np.ones(len(rows)), places), (rows.max() + 1, 3 * len(pairs))).tocsr()


def fit(pairs: ArrayLike, counts: ArrayLike, models: int, start: Array | None = None) -> Array:
    """The fit of maximum penalised likelihood, (…, models + 1), from counts of wins, losses and ties; mean strength 0.
    pairs: (pairs, 2) numbers of models, no pair twice; counts: (…, pairs, 3) wins of the first, wins of the second,
    ties; leading axes are separate fits. start: fits to start from, whose leading axes broadcast."""
    design, y = _design(pairs, models), np.asarray(counts, np.float64)
    tied = y[..., 2].sum(-1)
    found = np.zeros((*tied.shape, models + 1))
    if start is None:  # equal strengths, and the τ of the proportion of ties there
        found[..., -1] = 2 * np.arctanh(np.minimum(tied / np.maximum(y.sum((-1, -2)), 1), 0.99))
    else:
        found[:] = start
    found[..., -1] = np.where(tied > 0, np.maximum(found[..., -1], 1e-3), 0.0)
    flat, x = y.reshape(-1, *y.shape[-2:]), found.reshape(-1, models + 1)
    rows = max(1, BLOCK // max(len(design) * 3, (models + 1) ** 2))
    for block in np.split(np.arange(len(flat)), range(rows, len(flat), rows)):
        x[block] = maximise(partial(_derivatives, design=design, counts=flat[block]), x[block], TOLERANCE, _before_zero)
    return found


def _design(pairs: ArrayLike, models: int) -> Array:
    """(2 · pairs, models + 1): θi − θj − τ of each pair, then θj − θi − τ."""
    i, j = np.asarray(pairs, np.int64).reshape(-1, 2).T
    sides = np.eye(models + 1)[i] - np.eye(models + 1)[j]
    return np.asarray(np.concatenate([sides, -sides]) - np.eye(models + 1)[models])


def _derivatives(x: Array, moving: Integers, design: Array, counts: Array) -> Derivatives:
    """Of the penalised log-likelihood at x (k, models + 1) with `counts[moving]`, (k, pairs, 3).
    The log-probability of a tie is log(e^2τ − 1) + log σ(θi − θj − τ) + log σ(θj − θi − τ): a tie is a win of both plus
    a term of τ, so the likelihood is concave. Without ties τ stays at 0."""
    own = counts[moving]
    wins = (own[..., :2] + own[..., 2:]).transpose(0, 2, 1).reshape(len(x), -1)
    gradient, curvature = derivatives(x, design, 1.0, wins, np.full(x.shape[1], RIDGE))
    tied = own[..., 2].sum(-1)
    without = tied == 0
    slope = 2 / -np.expm1(-2 * np.where(without, 1.0, x[:, -1]))
    gradient[:, -1] += tied * slope
    curvature[:, -1, -1] += tied * slope * (slope - 2)
    gradient[without, -1] = curvature[without, :-1, -1] = curvature[without, -1, :-1] = 0.0
    return gradient, curvature


def _before_zero(step: Array, x: Array) -> Array:
    """Factors to divide the steps by so that τ, which is positive, does not reach 0."""
    tau = x[:, -1]
    return np.asarray(np.where(tau > 0, np.maximum(-step[:, -1] / np.maximum(0.9 * tau, 1e-300), 0.0), 0.0))


def win_rates(fitted: Array, baseline: int) -> Array:
    """Expected win rates (…, models) against the baseline, ties count half; the baseline's own is ½."""
    ahead = fitted[..., :-1] - fitted[..., [baseline]]
    # σ(d − τ) − σ(−d − τ), in a form that is exactly 0 at d = 0
    return np.asarray((1 + np.sinh(ahead) / (np.cosh(ahead) + np.cosh(fitted[..., -1:]))) / 2)


def strengths_at(rates: ArrayLike, tau: ArrayLike) -> Array:
    """Differences of strengths (…), nats, at these expected win rates: the inverse of `win_rates`; ±∞ at 1 and 0."""
    difference, cosh = 2 * np.asarray(rates, np.float64) - 1, np.cosh(tau)
    with np.errstate(divide="ignore"):
        return np.asarray(np.arcsinh(difference * cosh / np.sqrt(1 - difference**2)) + np.arctanh(difference))


def errors(pairs: ArrayLike, counts: ArrayLike, fitted: Array) -> Array:
    """Standard errors (models, models) of differences of one fit's strengths if all battles were independent."""
    design, y = _design(pairs, len(fitted) - 1), np.asarray(counts, np.float64)[None]
    _, curvature = _derivatives(fitted[None], np.array([0]), design, y)
    covariance = np.linalg.inv(curvature[0])[:-1, :-1]
    own = np.diag(covariance)
    return np.asarray(np.sqrt(np.maximum(own[:, None] + own - 2 * covariance, 0)))


def compare(sample: Sample, model: int, other: int, battles: int = 0) -> tuple[Estimate, Estimate, float | None]:
    """Strength of one model above another, its expected win rate against it, and the p-value of equal strengths.
    p is below 5 % exactly if the interval of the strength excludes 0. battles: the n of the estimates
    If nearly all battles end alike, so they do in nearly every resample, and a bootstrap interval is too narrow. The
    interval is then an exact one of a proportion, at the number of wins and losses with the same standard error."""
    n = sample.prompts
    values, drawn = (
        np.stack([own[..., model] - own[..., other], win_rates(own, other)[..., model]], -1)
        for own in (sample.fitted, sample.draws)
    )
    ahead, rate = values.tolist()
    if n < 2:
        return Estimate(ahead, n=battles, clusters=n), Estimate(rate, n=battles, clusters=n), None
    if model != other and minority_outcomes(sample.pairs, sample.shown, len(sample.errors), model, other) < FEW:
        tau, error = sample.fitted[-1], float(sample.errors[model, other])
        cosh, cosh_tau = np.cosh(ahead), np.cosh(tau)
        slope = (1 + cosh * cosh_tau) / (cosh + cosh_tau) ** 2 / 2  # d rate / d strength
        error_of_rate = max(float(slope * error), float(drawn[:, 1].std() * np.sqrt(n / (n - 1))))
        low, high, p = exact_interval(rate, error_of_rate, n)
        least, most = strengths_at([low, high], tau).tolist()
        win = Estimate(rate, error_of_rate, low, high, battles, n)
        return Estimate(ahead, error, least, most, battles, n), win, p
    spreads = (drawn.std(0) * np.sqrt(n / (n - 1))).tolist()
    parts = zip((ahead, rate), spreads, *bias_corrected(values, drawn, n).tolist(), strict=True)
    strength, win = (Estimate(value, spread, low, high, battles, n) for value, spread, low, high in parts)
    # resamples in which both are equally strong are equal up to rounding
    below = ndtri(bootstrap.share_below(np.where(np.abs(drawn[:, 0]) < TOLERANCE, 0.0, drawn[:, 0])))
    reach = abs(2 * float(_bias(values, drawn)[0]) - below) * np.sqrt((n - 1) / n)
    return strength, win, max(2 * float(ndtr(-reach)), 1 / (1 + len(drawn)), least_p(n))


def bias_corrected(values: Array, draws: Array, clusters: int) -> Array:
    """(2, k): bias-corrected percentiles (Efron 1981) of (resamples, k) draws of (k,) values, expanded by
    √(n / (n − 1)) for n clusters, since the variance of a bootstrap is that of the sample divided by n.

    Estimated strengths are further apart than the true ones, and those of resamples further still: plain percentiles
    have this bias twice. For the same reason the spread of the draws is wide enough for the normal quantile: with
    Student's, intervals at 50 prompts cover the truth in up to 96.8 % of simulations (benchmarks/coverage.py).
    """
    reach = NORMAL_QUANTILE * np.sqrt(clusters / (clusters - 1))
    places = ndtr(2 * _bias(values, draws) + np.array([[-reach], [reach]]))
    return np.stack([np.quantile(own, at, method="weibull") for own, at in zip(draws.T, places.T, strict=True)], -1)


def _bias(values: Array, draws: Array) -> Array:
    # resamples with the counts of the sample equal it up to rounding
    below = ((draws < values - TOLERANCE).mean(0) + (draws <= values + TOLERANCE).mean(0)) / 2
    return np.asarray(np.clip(ndtri(below), -1, 1))  # a larger value is not a bias but an uninformative resample


def minority_outcomes(pairs: Integers, counts: ArrayLike, models: int, one: int, other: int) -> int:
    """The number of outcomes, of counts (pairs, 3), that differ from the most common one of their pair, in the minimum
    cut between two models."""
    minority = (np.sum(counts, 1) - np.max(counts, 1)).astype(np.int32)
    edges = np.concatenate([pairs, pairs[:, ::-1]])
    graph = coo_array((np.tile(minority, 2), edges.T), (models, models)).tocsr()
    return int(maximum_flow(graph, one, other).flow_value)


def exact_interval(rate: float, error: float, prompts: int) -> tuple[float, float, float]:
    """Clopper & Pearson's interval of a win rate, and the two-sided p-value of ½.
    At the number of battles with this standard error, at most one per prompt (Korn & Graubard 1998, for clustered
    proportions). p is below 5 % if ½ is outside, and never below that of a sign test on the prompts."""
    n = min(prompts, rate * (1 - rate) / error**2)
    won, lost = max(n * rate, LEAST), max(n * (1 - rate), LEAST)
    tail = (1 - CONFIDENCE) / 2
    low, high = beta.ppf(tail, won, lost + 1), beta.ppf(1 - tail, won + 1, lost)
    p = 2 * min(beta.cdf(0.5, won, lost + 1), beta.sf(0.5, won + 1, lost))
    return float(low), float(high), min(1.0, max(float(p), least_p(prompts)))
