"""The diversity of the outputs of several systems, each compared with the first, at equal numbers and equal lengths.

Documents, numbers of outputs and lengths are made equal for each pair, so that a third system changes no comparison.
Per input: the outputs of each document, averaged over documents, with a paired bootstrap. Across inputs: the first
output of every document as one set, with a jackknife that leaves out the same documents of both systems. Homogeneity
of one model and of two (Jiang et al. 2025, arXiv 2510.22954): the mean cosine of outputs for the same prompt, and the
proportion of their pairs that are in one class of equivalent outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from alignbench.audit.systems import LEAST, Documents, Equal, System, equalise, gated
from alignbench.diversity.lexical import words
from alignbench.diversity.semantic import class_numbers, shared_class, unit
from alignbench.diversity.sets import METRICS, measure, measure_vectors
from alignbench.errors import AlignbenchError
from alignbench.stats import bootstrap, jackknife
from alignbench.stats.estimates import Bounds, Estimate
from alignbench.types.scorer import Embedder, Item, Scorer

_BOUNDS: dict[str, Bounds] = {metric.name: metric.bounds for metric in METRICS}
_BOUNDS |= {"words": (0, None), "silent": (0, 1), "cosine_similarity": (-1, 1)}
_BOUNDS |= {"classes": (1, None), "effective_answers": (1, None), "single_cluster_rate": (0, 1), "same_class": (0, 1)}
_Vectors = Sequence[NDArray[np.float32]]  # of each document, (its outputs, size)


@dataclass(frozen=True)
class Row:
    """One metric of a model, and of the reference on the same documents at the same lengths.

    scope: "as written" (lengths before cutting), "per input", "across inputs", "within a model", or "between models",
        where `estimate` is of both together
    outputs: "all", or the gate; lengths: "equal" or "whole"
    metric: at equal lengths, `words` is the number of words that remain; `silent` is the proportion of empty outputs
    """

    scope: str
    outputs: str
    lengths: str
    metric: str
    reference: str
    model: str
    estimate: Estimate
    of_reference: Estimate | None = None
    difference: Estimate | None = None


@dataclass(frozen=True)
class Comparison:
    models: tuple[str, ...]
    embedder: str
    equivalence: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def compare(
    systems: Sequence[System],
    embedder: Embedder,
    equivalence: Scorer,
    gate: str | None = None,
    seed: int = 0,
    *,
    whole: bool = False,
) -> Comparison:
    """Every metric of every system on all outputs and, with a gate, on those that pass it.

    equivalence: the scorer of the kind "equivalence" that finds the classes
    whole: also on uncut outputs
    Raises AlignbenchError as `equalise` and `gated` do, before anything is computed.
    """
    if len(systems) < 2:
        raise AlignbenchError("one model only: name at least two runs or files to compare")
    names = [system.name for system in systems]
    systems = [
        replace(s, name=f"{s.name} #{n}") if names.count(s.name) > 1 else s for n, s in enumerate(systems, start=1)
    ]
    sets, notes = [("all", systems)], list[str]()
    if gate is not None:
        passed, gate_notes = gated(systems, gate)
        sets.append((gate, passed))
        notes += gate_notes
    pairs = [(outputs, *pair) for outputs, own in sets for pair in combinations(own, 2)]
    pairs.sort(key=lambda pair: pair[1].name != systems[0].name)  # those with the reference first
    equals: list[tuple[str, Equal, bool]] = []
    for outputs, one, other in pairs:
        similarity = one.name != systems[0].name
        try:
            equal = equalise(one, other)
            if not equal.short[0] and not whole:
                few = f"no two outputs keep {LEAST} words at equal lengths; --lengths whole compares them uncut"
                raise AlignbenchError(f"{one.name} and {other.name}: {few}")
        except AlignbenchError as error:
            if not similarity:
                raise
            notes.append(f"{outputs} outputs: {error}")  # the other comparisons do not depend on it
            continue
        equals.append((outputs, equal, similarity))
        added = [] if similarity else equal.notes
        notes += [f"{outputs} outputs, {' × '.join(equal.names)}: {note}" for note in added]
    rows = [row for equal in equals for row in _rows(*equal, embedder, equivalence, seed, whole)]
    # larger sets repeat more, so lines of sets of different sizes are not comparable with each other
    for outputs, lengths in dict.fromkeys((row.outputs, row.lengths) for row in rows):
        across = [row for row in rows if (row.scope, row.outputs, row.lengths) == ("across inputs", outputs, lengths)]
        sizes = {row.model: row.estimate.n for row in across}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{n} with {model}" for model, n in sizes.items())
            notes.append(f"across inputs, {outputs} outputs, {lengths} lengths: {listed}; compare within a line only")
    vectors, classes = (f"{scorer.name}@{scorer.revision[:12]}" for scorer in (embedder, equivalence))
    return Comparison(tuple(system.name for system in systems), vectors, classes, tuple(rows), tuple(notes))


def _rows(
    outputs: str, equal: Equal, similarity: bool, embedder: Embedder, equivalence: Scorer, seed: int, whole: bool
) -> Iterator[Row]:
    """similarity: only the similarity of the two systems"""
    blank = Row("as written", outputs, "whole", "", *equal.names, Estimate())
    if not similarity:
        yield from _mean_rows(blank, [[_written(own) for own in documents] for documents in equal.whole], seed)
    sets = (("equal", equal.short, equal.prompts[1]), ("whole", equal.whole, equal.prompts[0]))
    for lengths, texts, prompts in sets[: 1 + whole]:
        if not texts[0]:
            continue
        vectors = _embedded(embedder, texts)
        blank = replace(blank, lengths=lengths)
        if not similarity:
            several = [n for n, own in enumerate(texts[0]) if len(own) > 1]
            classes = [[class_numbers(labels) for labels in _classes(equivalence, own, prompts)] for own in texts]
            found = [
                [_numbers(own[n], v[n]) | c[n] for n in several]
                for own, v, c in zip(texts, vectors, classes, strict=True)
            ]
            inside = [
                [{"cosine_similarity": 1 - own["cosine_distance"], "same_class": own.pop("same_class")} for own in each]
                for each in found
            ]
            yield from _mean_rows(replace(blank, scope="per input"), found, seed)
            yield from _set_rows(replace(blank, scope="across inputs"), texts, vectors)
            yield from _mean_rows(replace(blank, scope="within a model"), inside, seed)
        cosines = [
            float(a.sum(axis=0, dtype=np.float64) @ b.sum(axis=0, dtype=np.float64)) / (len(a) * len(b))
            for a, b in zip(*vectors, strict=True)
        ]
        # classes over the outputs of both, in pairs, so that either may be the first of a class
        mixed = tuple(tuple(chain.from_iterable(zip(*both, strict=True))) for both in zip(*texts, strict=True))
        shared = [shared_class(own[::2], own[1::2]) for own in _classes(equivalence, mixed, prompts)]
        for metric, values in (("cosine_similarity", cosines), ("same_class", shared)):
            mean = bootstrap.interval(values, seed=seed, bounds=_BOUNDS[metric])
            yield replace(blank, scope="between models", metric=metric, estimate=mean)


def _numbers(texts: Sequence[str], vectors: NDArray[np.float32]) -> dict[str, float]:
    return measure(texts) | measure_vectors(vectors, count=False) | {"words": _written(texts)["words"]}


def _written(texts: Sequence[str]) -> dict[str, float]:
    lengths = np.array([len(words(text)) for text in texts])
    return {"words": float(lengths.mean()), "silent": float((lengths == 0).mean())}


def _mean_rows(blank: Row, documents: Sequence[Sequence[Mapping[str, float]]], seed: int) -> Iterator[Row]:
    """documents: of the reference and of the model, the numbers of each document"""
    for name in dict.fromkeys(name for own in documents[0] for name in own):
        both = [(one[name], two[name]) for one, two in zip(*documents, strict=True) if name in one and name in two]
        if both:
            reference, model = np.array(both).T
            estimates = [bootstrap.interval(own, seed=seed, bounds=_BOUNDS[name]) for own in (model, reference)]
            yield _row(blank, name, [*estimates, bootstrap.interval(model - reference, seed=seed)])


def _set_rows(blank: Row, texts: Sequence[Documents], vectors: Sequence[_Vectors]) -> Iterator[Row]:
    """Of the first outputs of all documents, as one set for each system."""
    n = len(texts[0])
    firsts, tables = (
        [[own[0] for own in system] for system in texts],
        [np.stack([v[0] for v in own]) for own in vectors],
    )

    def numbers(system: int, rows: Sequence[int]) -> dict[str, float]:
        return _numbers([firsts[system][row] for row in rows], tables[system][rows])

    measures = [partial(numbers, system) for system in (0, 1)]
    before, after = (measure(range(n)) for measure in measures)
    # uncut texts get no intervals: if models write long texts, each measurement takes long
    resampled = blank.lengths == "equal" and 2 * jackknife.GROUPS <= n <= jackknife.MOST
    replicates = [jackknife.replicates(measure, np.arange(n)) if resampled else {} for measure in measures]
    of = partial(jackknife.estimate, n=n, clusters=n)
    for name in (name for name in _BOUNDS if name in before and name in after):
        one, other = (own.get(name, jackknife.MISSING) for own in replicates)
        estimates = [of(after[name], other, bounds=_BOUNDS[name]), of(before[name], one, bounds=_BOUNDS[name])]
        yield _row(blank, name, [*estimates, of(after[name] - before[name], other - one)])


def _row(blank: Row, metric: str, estimates: Sequence[Estimate]) -> Row:
    """estimates: of the model, of the reference, of the difference"""
    estimate, of_reference, difference = estimates
    return replace(blank, metric=metric, estimate=estimate, of_reference=of_reference, difference=difference)


def _classes(equivalence: Scorer, texts: Documents, prompts: Sequence[str]) -> list[list[float]]:
    """For each document, the class of each of its outputs."""
    items = [Item(t, p, group=str(n)) for n, (own, p) in enumerate(zip(texts, prompts, strict=True)) for t in own]
    labels = list[float]()
    for numbers in equivalence.score(items):
        if isinstance(numbers, str):
            raise AlignbenchError(f"equivalence scorer {equivalence.name}: it failed ({numbers})")
        labels.append(numbers["class"])
    found = iter(labels)
    return [[next(found) for _ in own] for own in texts]


def _embedded(embedder: Embedder, texts: Sequence[Documents]) -> list[_Vectors]:
    """For each system and document, (outputs, size) unit vectors; embedded together, so that they share a space."""
    counts = [len(own) for documents in texts for own in documents]
    together = unit(embedder.embed([text for documents in texts for own in documents for text in own]))
    split = np.split(together.astype(np.float32), np.cumsum(counts)[:-1])
    return [split[: len(texts[0])], split[len(texts[0]) :]]
