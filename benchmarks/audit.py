"""The paired bootstrap of an audit: 30 tasks of 10,000 documents, 10,000 resamples.

    python benchmarks/audit.py [--tasks 30] [--documents 10000] [--resamples 10000]

Three kinds of tasks: all with the same number of documents; each with another number (so no draws are shared); and in
clusters of about five.
"""

import time
from functools import partial

import numpy as np
from harness import arguments, peak_mib

from alignbench.audit.paired import Pairs, paired_change, resample

interval = partial(paired_change, better="higher", span=1.0, binary=False)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    args = parser.parse_args()
    n, numbers = args.documents, range(args.tasks)
    kinds = {
        "the same number of documents": [make(n, number) for number in numbers],
        "different numbers": [make(n - number, number) for number in numbers],
        "clusters": [make(n, number, clusters=n // 5 - number) for number in numbers],
    }
    for name, pairs in kinds.items():
        begin, cpu = time.perf_counter(), time.process_time()
        draws = resample([(own, "higher") for own in pairs], resamples=args.resamples)
        changes = [interval(*both) for both in zip(pairs, draws, strict=True)]
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        print(f"{name}: {seconds:.2f} s, CPU {cpu:.2f} s, for {len(changes)} tasks", flush=True)
    print(f"peak {peak_mib():.0f} MiB")


def make(n: int, seed: int, clusters: int | None = None) -> Pairs:
    """Scores before and after; documents of a cluster have similar scores."""
    draw = np.random.default_rng(seed)
    cluster = np.arange(n)
    if clusters is not None:
        cluster = np.sort(np.r_[np.arange(clusters), draw.integers(0, clusters, n - clusters)])
    before = np.clip(0.5 + 0.2 * draw.normal(size=n) + 0.1 * draw.normal(size=n)[cluster], 0, 1)
    after = np.clip(before - 0.002 + 0.1 * draw.normal(size=n), 0, 1)
    return Pairs(before, after, cluster, None, 0)


if __name__ == "__main__":
    main()
