"""All diversity metrics of 10,000 outputs: seconds, peak memory, and agreement with the definitions.

    OMP_NUM_THREADS=1 python benchmarks/diversity.py [--texts 10000] [--seed 0] [--plain 60]

The texts are synthetic: about 60 words each, Zipf-distributed over 20,000, a third of them variations of another text.
The whole computation is timed (hashed vectors, `measure`, `measure_vectors`), then each metric alone. The metrics of
the first `--plain` texts are compared with plain definitions, all pairs (tests/diversity_plain.py). Exit status 1: more
than 60 seconds or 2 GiB for 10,000 texts, or a metric differs by more than 1e-5 of itself.
"""

import sys
import time

import numpy as np
from harness import HERE, arguments, peak_mib

from alignbench.diversity import lexical, semantic
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

    tokens = [lexical.words(text) for text in texts]
    of_words = (lexical.expectation_adjusted, lexical.self_bleu, lexical.mean_pairwise_rouge_l)
    of_vectors = (semantic.mean_pairwise_distance, semantic.vendi, semantic.clusters)
    for metrics, sample in ((of_words, tokens), ((lexical.compression_ratio,), texts), (of_vectors, vectors)):
        for metric in metrics:
            start = time.perf_counter()
            metric(sample)
            print(f"{metric.__name__:24}{time.perf_counter() - start:8.2f} s")
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

    ours, plain = measure(texts) | measure_vectors(vectors), diversity_plain.measure(texts, vectors)
    return max(abs(ours[name] - value) / abs(value) for name, value in plain.items())


if __name__ == "__main__":
    sys.exit(main())
