"""Coverage of the audit's nominal 95 % intervals, in simulations with a known truth.

    python benchmarks/coverage.py [--simulations 2000] [--resamples 2000] [--only TEXT]

A row is a statistic and a kind of data; a column is a number of documents (prompts). The goal is 95 ± 1.5 %; with 2,000
simulations the standard error of a cell is half a point. "Nearly all agree" are preferences of which nearly all are the
same: their intervals may be too wide, but should cover the truth in at least 93.5 %. "Limits" are data with few
informative documents or few different values, on which no cheap interval does that at n = 50.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from alignbench.stats import bootstrap, bradley_terry, estimates
from alignbench.stats.bradley_terry import FEW, minority_outcomes
from alignbench.stats.significance import few_changed, rare_changes
from alignbench.stats.win_rate import length_controlled, nearly_all_agree, win_rate

SIZES = (20, 50, 200, 800)
AT_ONCE = 2000  # simulations that share the draws of their resamples: all of it fits into memory
BLOCK = 50  # simulations of rankings at once: their counts fit into memory

Array = NDArray[np.float64]
Held = NDArray[np.bool_]  # (simulations,) or (simulations, intervals): did the interval hold the truth?
Simulation = Callable[[int, int, int, np.random.Generator], Held]  # n, simulations, resamples, random
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]  # of values of this shape, (simulations, n) if grouped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    args = parser.parse_args()
    print("| % of 95 % intervals that hold the truth | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for title, cases in ("", CASES), ("nearly all agree: ", NEARLY_ALL_AGREE), ("limits: ", LIMITS):
        for name, simulate in cases.items():
            if args.only in name:
                cells = [coverage(simulate, n, args.simulations, args.resamples) for n in SIZES]
                row = [", ".join(f"{100 * share:.1f}" for share in cell) for cell in cells]
                print(f"| {title}{name} | " + " | ".join(row) + " |", flush=True)


def coverage(simulate: Simulation, n: int, simulations: int, resamples: int) -> Array:
    """Proportion of simulations in which each interval held the truth, (intervals,)."""
    random = np.random.default_rng([0, n])
    held = [simulate(n, min(AT_ONCE, simulations - k), resamples, random) for k in range(0, simulations, AT_ONCE)]
    return np.atleast_1d(np.concatenate(held).mean(axis=0))


def within(low: ArrayLike, truth: ArrayLike, high: ArrayLike) -> Held:
    return (np.asarray(low) <= truth) & (np.asarray(truth) <= high)


def bootstrap_holds(
    values: Array, truth: float, resamples: int, groups: Sequence[int] | None = None, span: float | None = None
) -> Held:
    """values: (n, simulations); span: differences are in [-span, span]"""
    cluster = estimates.cluster_numbers(groups, len(values))
    sums = bootstrap.cluster_sums(values, cluster)
    means, errors = bootstrap.studentised(*sums, seed=1, resamples=resamples)
    held = []
    for column, draws, own in zip(values.T, means.T, errors.T, strict=True):
        found = estimates.mean(column, groups, (None, None) if span is None else (-span, span))
        if span is not None and few_changed(column, cluster):
            found, _ = rare_changes(column, cluster, span)
        elif found.standard_error:
            found, _ = bootstrap.by_t(found, draws, own)
        held.append(found.low is not None and found.high is not None and found.low <= truth <= found.high)
    return np.array(held)


def groups_of(n: int) -> list[int]:
    """Documents in groups of 1 to 4: passages, templates, samples of one prompt."""
    return np.repeat(np.arange(n), np.tile([1, 2, 3, 4], n)[:n])[:n].tolist()


def bootstrapped(draw: Draw, truth: float, grouped: bool = False, span: float | None = None) -> Simulation:
    def simulate(n: int, simulations: int, resamples: int, random: np.random.Generator) -> Held:
        if grouped:
            return bootstrap_holds(draw(random, (simulations, n)).T, truth, resamples, groups_of(n))
        return bootstrap_holds(draw(random, (n, simulations)), truth, resamples, span=span)

    return simulate


def each(interval: Callable[..., estimates.Estimate], draw: Draw, truth: float, grouped: bool = False) -> Simulation:
    """Intervals that are computed for one sample at a time."""

    def simulate(n: int, simulations: int, resamples: int, random: np.random.Generator) -> Held:
        groups = groups_of(n) if grouped else None
        found = [interval(values, groups) for values in draw(random, (simulations, n))]
        return within([f.low for f in found], truth, [f.high for f in found])

    return simulate


# Values: paired differences are what the aligned model scored less what its reference did


def f1_deltas(random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """60 % of the answers do not change; of the others many go from right to wrong, or nearly so."""

    def f1(right: float, wrong: float) -> Array:
        kind = random.random(shape)
        return np.where(kind < right, 1.0, np.where(kind < right + wrong, 0.0, random.beta(2, 2, shape)))

    return np.where(random.random(shape) < 0.4, f1(0.35, 0.35) - f1(0.5, 0.2), 0.0)


def losses_alone(random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """A fifth of the answers get worse, most of them by a lot, and none gets better."""
    return np.where(random.random(shape) < 0.2, -random.beta(2, 1, shape), 0.0)


def flips(gained: float, lost: float) -> Simulation:
    """Right or wrong: so many answers become right, so many wrong."""

    def draw(random: np.random.Generator, shape: tuple[int, int]) -> Array:
        kind = random.random(shape)
        return 1.0 * (kind < gained) - 1.0 * (kind > 1 - lost)

    return bootstrapped(draw, gained - lost, span=1.0)


def skewed(skewness: float) -> Draw:
    """A gamma distribution with mean 0 and this skewness."""
    shape = 4 / skewness**2

    def draw(random: np.random.Generator, size: tuple[int, int]) -> Array:
        return np.sign(skewness) * (random.gamma(shape, 1, size) - shape)

    return draw


def grouped_values(random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Mean 0: half of the variance is the group's."""
    return random.normal(size=shape) + random.normal(size=shape)[:, groups_of(shape[1])]


def ones(p: float, random: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 1.0 * (random.random(shape) < p)


def ones_of_groups(a: float, b: float, random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Each group has its own proportion, Beta(a, b)."""
    return 1.0 * (random.beta(a, b, shape)[:, groups_of(shape[1])] > random.random(shape))


def wins(won: float, tied: float) -> Simulation:
    def simulate(n: int, simulations: int, resamples: int, random: np.random.Generator) -> Held:
        kind = random.random((n, simulations))
        outcomes = np.where(kind < won, 1.0, np.where(kind < won + tied, 0.5, 0.0))
        held = bootstrap_holds(outcomes, truth := won + tied / 2, resamples)
        for k in np.flatnonzero([nearly_all_agree(column) for column in outcomes.T]):
            rate = win_rate(outcomes[:, k])
            held[k] = within(rate.low, truth, rate.high)
        return held

    return simulate


def at_equal_lengths(rate: float, liking: float) -> Simulation:
    """The model is longer by half a standard deviation; rate: at equal lengths; the judge likes length: φ."""
    better = float(logit(rate))

    def simulate(n: int, simulations: int, resamples: int, random: np.random.Generator) -> Held:
        held = []
        for _ in range(simulations):
            delta = random.normal(0.5, 1, n)
            outcomes = 1.0 * (random.random(n) < expit(better + liking * np.tanh(delta)))
            found = length_controlled(outcomes, delta)
            held.append(within(found.low, rate, found.high))
        return np.array(held)

    return simulate


def rankings(strengths: Sequence[float], tau: float, spread: float = 0.7, judged_share: float = 0.4) -> Simulation:
    """Strengths of all models but the baseline, the first. A prompt suits some models better than others (`spread`,
    nats), and is judged for a share of the pairs, at least one, drawn anew for each prompt."""
    theta, models = np.array(strengths), len(strengths)
    i, j = np.triu_indices(models, 1)
    pairs = np.column_stack([i, j])

    def simulate(n: int, simulations: int, resamples: int, random: np.random.Generator) -> Held:
        truth = relative(limit())
        weights = np.concatenate(list(bootstrap.weights(n, resamples, 1)))
        held = []
        for start in range(0, simulations, BLOCK):
            counts = draw(n, min(BLOCK, simulations - start), random)
            total = counts.sum(0)
            fitted = bradley_terry.fit(pairs, total, models)
            drawn = (weights @ counts.reshape(n, -1)).reshape(resamples, *counts.shape[1:])
            draws = bradley_terry.fit(pairs, drawn, models, start=fitted)
            ends = bradley_terry.bias_corrected(relative(fitted).ravel(), relative(draws).reshape(resamples, -1), n)
            low, high = ends.reshape(2, -1, len(truth))
            held.append(within(low, truth, high))
            minority = (total.sum(-1) - total.max(-1)).min(-1)  # a cut between two models goes through a pair
            for k in np.flatnonzero(minority < FEW):
                few_minority(held[-1][k], total[k], fitted[k], draws[:, k], truth, n)
        return np.concatenate(held)

    def few_minority(held: Held, total: Array, fitted: Array, draws: Array, truth: Array, n: int) -> None:
        """Insert the intervals that `bradley_terry.compare` gives models whose battles nearly all end alike."""
        errors = bradley_terry.errors(pairs, total, fitted)
        sample = bradley_terry.Sample(pairs, total.astype(int), fitted, draws, errors, n)
        for model in range(1, models):
            if minority_outcomes(pairs, total, models, model, 0) < FEW:
                strength, rate, _ = bradley_terry.compare(sample, model, 0, n)
                for place, estimate in ((model - 1, strength), (model + models - 2, rate)):
                    held[place] = within(estimate.low, truth[place], estimate.high)

    def draw(n: int, simulations: int, random: np.random.Generator) -> Array:
        """Counts (n, simulations, pairs, 3)."""
        own = theta + spread * random.normal(size=(n, simulations, models))
        ahead = own[..., i] - own[..., j]
        kind = random.random(ahead.shape)
        won, lost = kind < expit(ahead - tau), kind > 1 - expit(-ahead - tau)
        judged = random.random(ahead.shape) < judged_share
        np.put_along_axis(judged, random.integers(0, len(pairs), (n, simulations, 1)), True, -1)
        return (np.stack([won, lost, ~(won | lost)], -1) & judged[..., None]).astype(float)

    def limit() -> Array:
        """What infinitely many prompts would give: the fit of the proportions of wins, losses and ties over prompts."""
        node, weight = np.polynomial.hermite_e.hermegauss(40)
        ahead = (theta[i] - theta[j])[:, None] + np.sqrt(2) * spread * node
        won, lost = (expit(sign * ahead - tau) @ weight / weight.sum() for sign in (1, -1))
        ties = np.maximum((1 - won - lost).round(9), 0)
        return bradley_terry.fit(pairs, 1e6 * np.stack([won, lost, ties], -1), models)

    def relative(fitted: Array) -> Array:
        """Strengths and win rates against the baseline, (…, 2 (models − 1))."""
        ahead = fitted[..., 1:-1] - fitted[..., :1]
        return np.concatenate([ahead, bradley_terry.win_rates(fitted, 0)[..., 1:]], -1)

    return simulate


KINDS: dict[str, Callable[..., Simulation]] = {
    "f1": lambda: bootstrapped(f1_deltas, 0.4 * (0.5 - 0.65), span=1.0),
    "losses": lambda: bootstrapped(losses_alone, -0.2 * 2 / 3, span=1.0),
    "skewed": lambda skewness: bootstrapped(skewed(skewness), 0),
    "skewed mean": lambda skewness: each(estimates.mean, skewed(skewness), 0),
    "flips": flips,
    "grouped": lambda: bootstrapped(grouped_values, 0, grouped=True),
    "clustered mean": lambda: each(estimates.mean, grouped_values, 0, grouped=True),
    "proportion": lambda p: each(estimates.share, partial(ones, p), p),
    "proportion of groups": lambda a, b: each(
        estimates.share, partial(ones_of_groups, a, b), a / (a + b), grouped=True
    ),
    "wins": wins,
    "equal lengths": at_equal_lengths,
    "rankings": rankings,
    "rankings at rates": lambda rates, *others: rankings(logit(rates), *others),
}
ROWS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CASES, NEARLY_ALL_AGREE, LIMITS = (
    {name: KINDS[kind](*arguments) for name, (kind, *arguments) in rows.items()} for rows in ROWS.values()
)

if __name__ == "__main__":
    main()
