"""Means of judgements with labelers and prompts both random, so that the interval holds for other labelers too.

Labelers and prompts are crossed: judgements of one prompt are dependent, and so are those of one labeler. Resampling
both (the pigeonhole bootstrap, Owen 2007, doi 10.1214/07-AOAS122) gives the shape of the distribution, but up to three
times the variance of single judgements. So the deviations of the resamples are scaled to the variance of Cameron,
Gelbach and Miller (2011, doi 10.1198/jbes.2010.07136): that between prompts, plus that between labelers, minus that of
single judgements, which both contain. It is unbiased if each prompt has few of the labelers, chosen at random; if all
of them judge every prompt, it lacks the n-th part of the variances of prompts and of labelers.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from alignbench.stats.bootstrap import RESAMPLES, Array, estimate, p_value, weights
from alignbench.stats.estimates import Bounds, Estimate, Groups, cluster_numbers, t_quantile

REACH = 3.0  # standard errors; few of the resamples are further out, and Student's distribution takes their place
Ints = NDArray[np.int64]


def two_way(
    values: ArrayLike,
    prompts: Groups,
    labelers: Groups,
    *,
    null: float = 0.0,
    by_prompt: bool = True,
    seed: int = 0,
    resamples: int = RESAMPLES,
    bounds: Bounds = (None, None),
) -> tuple[Estimate, float | None]:
    """Mean over prompts of the labelers' mean, its 95 % interval, and the two-sided p-value of `null`.

    values: (n,) judgements; prompts, labelers: (n,) of each; by_prompt: False for the mean over judgements
    The estimate's clusters are prompts. Neither interval nor p-value with fewer than two prompts or labelers, or if all
    judgements are equal.
    """
    y = np.asarray(values, np.float64)
    prompt, labeler = cluster_numbers(prompts, len(y)), cluster_numbers(labelers, len(y))
    if not len(y):
        return Estimate(), None
    share = 1 / np.bincount(prompt)[prompt] if by_prompt else np.ones(len(y))
    centre = float(np.average(y, weights=share))
    p, k = int(prompt.max()) + 1, int(labeler.max()) + 1
    plain = Estimate(centre, n=len(y), clusters=p)
    if p < 2 or k < 2:
        return plain, None
    variance, degrees = crossed_variance(share * (y - centre) / share.sum(), prompt, labeler)
    if variance <= 1e-24 * (1 + centre**2):
        return plain, None
    error = float(np.sqrt(variance))
    correction = np.sqrt((degrees + 1) / degrees)  # `estimate` expects the variance of a bootstrap: too small by this
    if t_quantile(degrees) * correction > REACH:
        p_of_null = float(2 * stats.t.sf(abs(centre - null) / error, degrees))
        return Estimate.symmetric(centre, error, t_quantile(degrees), len(y), p, bounds), p_of_null
    draws = _resampled(y, share, prompt, labeler, seed, resamples)
    draws = centre + (draws - draws.mean()) * (error / correction / draws.std())
    found = estimate(centre, draws, len(y), degrees + 1, bounds)  # type: ignore[arg-type]
    return replace(found, clusters=p), p_value(centre - null, draws - null, degrees + 1)  # type: ignore[arg-type]


def crossed_variance(residuals: Array, prompt: Ints, labeler: Ints) -> tuple[float, float]:
    """Variance of the sum of (n,) residuals, and its degrees of freedom (Satterthwaite 1946).
    At least the variance between prompts, and that between labelers: the difference of estimates may be negative."""
    count = int(prompt.max()) + 1, int(labeler.max()) + 1
    of_prompts, of_labelers = (
        size / (size - 1) * float((np.bincount(own, residuals) ** 2).sum())
        for size, own in zip(count, (prompt, labeler), strict=True)
    )
    single = float((np.bincount(prompt * count[1] + labeler, residuals) ** 2).sum())
    total = max(of_prompts + of_labelers - single, of_prompts, of_labelers)
    parts = of_prompts**2 / (count[0] - 1) + of_labelers**2 / (count[1] - 1)
    return total, total**2 / parts if parts else float(count[0] - 1)


def _resampled(y: Array, share: Array, prompt: Ints, labeler: Ints, seed: int, resamples: int) -> Array:
    """(k,) means of resamples of prompts and labelers; a resample without a judgement is left out."""
    shape = int(prompt.max()) + 1, int(labeler.max()) + 1
    cell, size = prompt * shape[1] + labeler, shape[0] * shape[1]
    tables = [np.bincount(cell, values, size).reshape(shape) for values in (share * y, share)]
    of_labelers = np.concatenate(list(weights(shape[1], resamples, seed + 1)))
    found, start = [], 0
    for of_prompts in weights(shape[0], resamples, seed):
        drawn = of_labelers[start : (start := start + len(of_prompts))]
        above, below = ((of_prompts @ table * drawn).sum(1) for table in tables)
        found.append(above[below > 0] / below[below > 0])
    return np.concatenate(found)


def wider(one: Estimate, other: Estimate) -> Estimate:
    """The first estimate with an interval that contains that of the other."""
    if other.low is None or other.high is None:
        return one
    if one.low is None or one.high is None:
        return replace(one, low=other.low, high=other.high, standard_error=other.standard_error)
    error = max(one.standard_error or 0.0, other.standard_error or 0.0) or None
    return replace(one, low=min(one.low, other.low), high=max(one.high, other.high), standard_error=error)
