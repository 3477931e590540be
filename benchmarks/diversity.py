"""All diversity metrics of 10,000 outputs: seconds, peak memory, and agreement with the definitions.

    OMP_NUM_THREADS=1 python benchmarks/diversity.py [--texts 10000] [--seed 0] [--plain 60]

The texts are synthetic: about 60 words each, Zipf-distributed over 20,000, a third of them variations of another text.
The whole computation is timed (hashed vectors, `measure`, `measure_vectors`), then each metric alone. The metrics of
the first `--plain` texts are compared with plain definitions, all pairs (tests/diversity_plain.py). Exit status 1: more
than 60 seconds or 2 GiB for 10,000 texts, or a metric differs by more than 1e-5 of itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from harness import HERE, arguments, peak_mib

from alignbench.diversity.lexical import (
    compression_ratio,
    distinct,
    expectation_adjusted,
    mean_pairwise_rouge_l,
    self_bleu,
    words,
)
from alignbench.diversity.semantic import clusters, mean_pairwise_distance, vendi
from alignbench.diversity.sets import measure, measure_vectors
from alignbench.scorers.embeddings import HashedEmbedder

VOCABULARY = 20_000
SECONDS, MIB, DIFFERENCE = 60, 2048, 1e-5


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", type=int, default=60, help="texts to compare with the definitions")
    args = parser.parse_args()
    texts = make_texts(args.texts, args.seed)
    count = sum(len(text.split()) for text in texts)
    print(f"{len(texts)} texts, {count / len(texts):.1f} words each; {peak_mib():.0f} MiB before")

    start, start_cpu = time.perf_counter(), time.process_time()
    vectors = HashedEmbedder().embed(texts)
    embedded = time.perf_counter() - start
    found = measure(texts) | measure_vectors(vectors)
    seconds, cpu, mib = time.perf_counter() - start, time.process_time() - start_cpu, peak_mib()
    print(f"all: {seconds:.1f} s ({cpu:.1f} s CPU), the vectors {embedded:.1f} s; peak {mib:.0f} MiB\n")

    tokens = [words(text) for text in texts]
    alone: dict[str, Callable[[], object]] = {
        "distinct_1, 2, 3": lambda: [distinct(tokens, n) for n in (1, 2, 3)],
        "ead": lambda: expectation_adjusted(tokens),
        "self_bleu": lambda: self_bleu(tokens),
        "rouge_l_overlap": lambda: mean_pairwise_rouge_l(tokens),
        "compression_ratio": lambda: compression_ratio(texts),
        "cosine_distance": lambda: mean_pairwise_distance(vectors),
        "vendi": lambda: vendi(vectors),
        "clusters, silhouette": lambda: clusters(vectors),
    }
    for name, compute in alone.items():
        start = time.perf_counter()
        compute()
        print(f"{name:22}{time.perf_counter() - start:8.2f} s")
    print()
    for name, value in found.items():
        print(f"{name:22}{value:12.5f}")

    worst = compare(texts[: args.plain], vectors[: args.plain])
    print(f"\ncompared with the definitions on {args.plain} texts: largest relative difference {worst:.1e}")
    return int(seconds > SECONDS or mib > MIB or worst > DIFFERENCE)


def make_texts(n: int, seed: int) -> list[str]:
    """Every third text is an earlier one with a fifth of its words replaced; the others are new."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    vocabulary = np.array(["".join(letters[draw.integers(0, 26, draw.integers(2, 10))]) for _ in range(VOCABULARY)])
    chances = 1 / np.arange(1, VOCABULARY + 1)
    chances /= chances.sum()
    drawn: list[np.ndarray] = []
    for number in range(n):
        if number % 3 == 2:
            text = drawn[draw.integers(len(drawn))].copy()
            replaced = draw.random(len(text)) < 0.2
            text[replaced] = draw.choice(VOCABULARY, replaced.sum(), p=chances)
        else:
            text = draw.choice(VOCABULARY, draw.integers(30, 91), p=chances)
        drawn.append(text)
    return [" ".join(vocabulary[text]).capitalize() + "." for text in drawn]


def compare(texts: list[str], vectors: np.ndarray) -> float:
    sys.path.insert(0, str(HERE.parent / "tests"))
    import diversity_plain

    ours = measure(texts) | measure_vectors(vectors)
    start = time.perf_counter()
    plain = diversity_plain.measure(texts, vectors)
    print(f"\nthe plain definitions on {len(texts)} texts: {time.perf_counter() - start:.1f} s")
    return max(abs(ours[name] - value) / abs(value) for name, value in plain.items())


if __name__ == "__main__":
    sys.exit(main())
