"""All metrics of diversity of one set of texts: at equal lengths, and of whole texts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from alignbench.diversity import lexical
from alignbench.diversity.lexical import LENGTH
from alignbench.diversity.semantic import clusters, mean_pairwise_distance, vendi
from alignbench.stats import jackknife
from alignbench.stats.estimates import Estimate
from alignbench.types.task import Metric


def _declared(group: str) -> tuple[Metric, ...]:
    content = yaml.safe_load(Path(__file__).with_name("metrics.yaml").read_text("utf-8"))[group]
    return tuple(Metric(name, **{**own, "bounds": tuple(own["bounds"])}) for name, own in content.items())


OF_TEXTS, OF_VECTORS, LENGTHS = map(_declared, ("of_texts", "of_vectors", "lengths"))
METRICS = (*OF_TEXTS, *OF_VECTORS)
UNCUT = tuple(replace(OF_TEXTS[i], name=f"{OF_TEXTS[i].name}_uncut") for i in (0, 1, 2, 6))
EMPTY = "<empty>"  # no word of `words` looks like it


def measure(texts: Sequence[str]) -> dict[str, float]:
    """OF_TEXTS, each a finite number; with one text only those that compare no texts.
    An empty text is one special word: empty outputs are equal to each other and unlike all others, so a model that
    writes nothing is not diverse."""
    tokens = [lexical.words(text) or [EMPTY] for text in texts]
    return _finite(
        _linear(texts, tokens)
        | {"ead": lexical.expectation_adjusted(tokens), "self_bleu": lexical.self_bleu(tokens)}
        | {"rouge_l_overlap": lexical.mean_pairwise_rouge_l(tokens)}
    )


def measure_vectors(vectors: ArrayLike, *, count: bool = True) -> dict[str, float]:
    """The other METRICS of (n, d) vectors, each a finite number; none with fewer than two.
    count: also the clusters, which take the longest"""
    if len(np.asarray(vectors)) < 2:
        return {}
    found = {"cosine_distance": mean_pairwise_distance(vectors), "vendi": vendi(vectors)}
    if count:
        grouped = clusters(vectors)
        found |= {"clusters": float(grouped.count), "silhouette": grouped.silhouette}
    return _finite(found)


def of_texts(texts: Sequence[str]) -> dict[str, float]:
    """OF_TEXTS on the first LENGTH words of each text, since longer texts repeat more; UNCUT on whole texts; LENGTHS:
    the proportion of texts with fewer words, and the mean number of words."""
    tokens = [lexical.words(text) or [EMPTY] for text in texts]
    lengths = np.array([0 if own == [EMPTY] else len(own) for own in tokens])
    whole = {f"{name}_uncut": value for name, value in _finite(_linear(texts, tokens)).items()}
    found = measure([lexical.cut(text, LENGTH) for text in texts]) | whole
    return found | {"short": float((lengths < LENGTH).mean()), "words": float(lengths.mean())}


def _linear(texts: Sequence[str], tokens: lexical.Texts) -> dict[str, float]:
    """The metrics that are also computed on whole texts."""
    found = {f"distinct_{n}": lexical.distinct(tokens, n) for n in (1, 2, 3)}
    return found | ({"compression_ratio": lexical.compression_ratio(texts)} if len(texts) > 1 else {})


def _finite(found: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if math.isfinite(value)}


def of_set(
    texts: Sequence[str], vectors: NDArray[np.float32] | None = None, prefix: str = "", *, intervals: bool = True
) -> list[tuple[Metric, Estimate]]:
    """`of_texts` and `measure_vectors` of a set of single outputs, with jackknife intervals, as corpus metrics.
    vectors: (texts, d), of the part of the texts that the caller chose. Clusters have no intervals."""
    if not texts:
        return []

    def numbers(rows: Sequence[int], count: bool = False) -> dict[str, float]:
        some = {} if vectors is None else measure_vectors(vectors[rows], count=count)
        return of_texts([texts[row] for row in rows]) | some

    n = len(texts)
    found = numbers(range(n), count=intervals)
    jackknifed = intervals and 2 * jackknife.GROUPS <= n <= jackknife.MOST
    replicates = jackknife.replicates(numbers, np.arange(n)) if jackknifed else {}
    return [
        (
            replace(metric, name=f"{prefix}{metric.name}"),
            jackknife.estimate(found[metric.name], replicates.get(metric.name, jackknife.MISSING), n, n, metric.bounds),
        )
        for metric in (*METRICS, *UNCUT, *LENGTHS)
        if metric.name in found
    ]
