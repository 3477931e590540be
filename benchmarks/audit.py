"""The paired bootstrap of an audit: 30 tasks of 10,000 documents, 10,000 resamples; and against a plain reading.

    python benchmarks/audit.py [--tasks 30] [--documents 10000] [--resamples 10000] [--loop 1]

Three kinds of tasks: all with equally many documents; each with a number of its own (so that no draws are shared); and
in clusters of about five. `--loop` also times so many of them by a loop over resamples with numpy's `choice`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from alignbench.audit.paired import Pairs, change, resample
from alignbench.stats import bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--loop", type=int, default=1)
    arguments = parser.parse_args()
    n, many = arguments.documents, range(arguments.tasks)
    equal = [make(n, number) for number in many]
    kinds = {
        "equally many": equal,
        "numbers of their own": [make(n - number, number) for number in many],
        "clusters": [make(n, number, clusters=n // 5 - number) for number in many],
    }
    found = {}
    for name, pairs in kinds.items():
        begin, work = time.perf_counter(), time.process_time()
        draws = resample(pairs, resamples=arguments.resamples)
        changes = [interval(own, drawn) for own, drawn in zip(pairs, draws, strict=True)]
        found[name] = round(time.perf_counter() - begin, 2), round(time.process_time() - work, 2)
        print(f"{name}: {found[name][0]} s, processor {found[name][1]} s, for {len(changes)} tasks", flush=True)
    for number in range(arguments.loop):
        compare_with_loop(equal[number], arguments.resamples, number)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"seconds, of the processor": found, "peak_mib": round(peak)}))


def make(n: int, seed: int, clusters: int | None = None) -> Pairs:
    """A score and what became of it; documents of one cluster lie near each other."""
    draw = np.random.default_rng(seed)
    cluster = np.arange(n)
    if clusters is not None:
        cluster = np.sort(np.r_[np.arange(clusters), draw.integers(0, clusters, n - clusters)])
    before = np.clip(0.5 + 0.2 * draw.normal(size=n) + 0.1 * draw.normal(size=n)[cluster], 0, 1)
    after = np.clip(before - 0.002 + 0.1 * draw.normal(size=n), 0, 1)
    return Pairs(before, after, cluster, int(cluster.max()) + 1, None, 0)


def interval(pairs: Pairs, draws: np.ndarray) -> object:
    before, after = float(pairs.reference.mean()), float(pairs.aligned.mean())
    return change(before, after, draws, len(pairs.reference), pairs.clusters, "higher")


def compare_with_loop(pairs: Pairs, resamples: int, seed: int) -> None:
    """The definition, read plainly: draw documents, take the mean, again and again."""
    begin = time.perf_counter()
    draw, delta = np.random.default_rng(seed), pairs.aligned - pairs.reference
    deltas = np.array([delta[draw.choice(len(delta), len(delta))].mean() for _ in range(resamples)])
    low, high = bootstrap.percentiles(deltas, pairs.clusters)
    p = bootstrap.p_value(float(delta.mean()), deltas, pairs.clusters)
    seconds = time.perf_counter() - begin
    (draws,) = resample([pairs], resamples=resamples)
    ours = interval(pairs, draws)
    print(f"a loop: {seconds:.1f} s for one task: {low:+.6f} … {high:+.6f}, p {p:.4f}")
    print(f"ours:   {ours.delta.low:+.6f} … {ours.delta.high:+.6f}, p {ours.p:.4f}")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
