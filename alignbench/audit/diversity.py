"""The diversity of the outputs of several systems, each compared with the first, at equal numbers and equal lengths.

Documents, numbers of outputs and lengths are made equal for each pair, so that a third system changes no comparison.
Per input: the outputs of each document, averaged over documents, with a paired bootstrap. Across inputs: the first
output of every document as one set, with a jackknife that leaves out the same documents of both systems. Similarity:
the mean cosine of outputs for the same prompt, of one model and of two.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from alignbench.audit.systems import LEAST, Documents, Equal, System, equalise, gated
from alignbench.diversity.lexical import words
from alignbench.diversity.semantic import unit
from alignbench.diversity.sets import METRICS, measure, measure_vectors
from alignbench.errors import AlignbenchError
from alignbench.stats import bootstrap, jackknife
from alignbench.stats.estimates import Bounds, Estimate
from alignbench.types.scorer import Embedder

_BOUNDS: dict[str, Bounds] = {metric.name: metric.bounds for metric in METRICS} | {
    "words": (0, None),
    "silent": (0, 1),
    "cosine_similarity": (-1, 1),
}
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
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def compare(
    systems: Sequence[System], embedder: Embedder, gate: str | None = None, seed: int = 0, *, whole: bool = False
) -> Comparison:
    """Every metric of every system on all outputs and, with a gate, on those that pass it.

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
    rows = list[Row]()
    for outputs, equal, similarity in equals:
        rows += _rows(outputs, equal, embedder, seed, whole, similarity=similarity)
    # larger sets repeat more, so lines of sets of different sizes are not comparable with each other
    for outputs, lengths in dict.fromkeys((row.outputs, row.lengths) for row in rows):
        across = [row for row in rows if (row.scope, row.outputs, row.lengths) == ("across inputs", outputs, lengths)]
        sizes = {row.model: row.estimate.n for row in across}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{n} with {model}" for model, n in sizes.items())
            notes.append(f"across inputs, {outputs} outputs, {lengths} lengths: {listed}; compare within a line only")
    embedded_by = f"{embedder.name}@{embedder.revision[:12]}"
    return Comparison(tuple(system.name for system in systems), embedded_by, tuple(rows), tuple(notes))


def _rows(
    outputs: str, equal: Equal, embedder: Embedder, seed: int, whole: bool, *, similarity: bool = False
) -> list[Row]:
    """similarity: only the similarity of the two systems"""
    blank = Row("as written", outputs, "whole", "", *equal.names, Estimate())
    rows = []
    if not similarity:
        rows += _mean_rows(blank, [[_written(own) for own in documents] for documents in equal.whole], seed)
    for lengths, texts in (("equal", equal.short), ("whole", equal.whole))[: 1 + whole]:
        if not texts[0]:
            continue
        vectors = _embedded(embedder, texts)
        blank = replace(blank, lengths=lengths)
        if not similarity:
            several = [n for n, own in enumerate(texts[0]) if len(own) > 1]
            found = [[_numbers(own[n], v[n]) for n in several] for own, v in zip(texts, vectors, strict=True)]
            rows += _mean_rows(replace(blank, scope="per input"), found, seed)
            rows += _set_rows(replace(blank, scope="across inputs"), texts, vectors)
            inside = [[{"cosine_similarity": 1 - own["cosine_distance"]} for own in system] for system in found]
            rows += _mean_rows(replace(blank, scope="within a model"), inside, seed)
        cosines = [
            float(a.sum(axis=0, dtype=np.float64) @ b.sum(axis=0, dtype=np.float64)) / (len(a) * len(b))
            for a, b in zip(*vectors, strict=True)
        ]
        mean = bootstrap.interval(cosines, seed=seed, bounds=(-1, 1))
        rows.append(replace(blank, scope="between models", metric="cosine_similarity", estimate=mean))
    return rows


def _numbers(texts: Sequence[str], vectors: NDArray[np.float32]) -> dict[str, float]:
    return measure(texts) | measure_vectors(vectors, count=False) | {"words": _written(texts)["words"]}


def _written(texts: Sequence[str]) -> dict[str, float]:
    lengths = np.array([len(words(text)) for text in texts])
    return {"words": float(lengths.mean()), "silent": float((lengths == 0).mean())}


def _mean_rows(blank: Row, documents: Sequence[Sequence[Mapping[str, float]]], seed: int) -> list[Row]:
    """documents: of the reference and of the model, the numbers of each document"""
    rows = []
    for name in dict.fromkeys(name for own in documents[0] for name in own):
        both = [(one[name], two[name]) for one, two in zip(*documents, strict=True) if name in one and name in two]
        if both:
            reference, model = np.array(both).T
            estimate, of_reference = (
                bootstrap.interval(values, seed=seed, bounds=_BOUNDS[name]) for values in (model, reference)
            )
            difference = bootstrap.interval(model - reference, seed=seed)
            rows.append(
                replace(blank, metric=name, estimate=estimate, of_reference=of_reference, difference=difference)
            )
    return rows


def _set_rows(blank: Row, texts: Sequence[Documents], vectors: Sequence[_Vectors]) -> list[Row]:
    n = len(texts[0])
    measures = [_of_firsts(*own) for own in zip(texts, vectors, strict=True)]
    found = [numbers(range(n)) for numbers in measures]
    # uncut texts get no intervals: if models write long texts, each measurement takes long
    resampled = blank.lengths == "equal" and 2 * jackknife.GROUPS <= n <= jackknife.MOST
    replicates = [jackknife.replicates(numbers, np.arange(n)) if resampled else {} for numbers in measures]
    rows = []
    for name in (name for name in _BOUNDS if name in found[0] and name in found[1]):
        reference, model = (own[name] for own in found)
        before, after = (own.get(name, jackknife.MISSING) for own in replicates)
        estimate = jackknife.estimate(model, after, n, n, _BOUNDS[name])
        of_reference = jackknife.estimate(reference, before, n, n, _BOUNDS[name])
        difference = jackknife.estimate(model - reference, after - before, n, n)
        rows.append(replace(blank, metric=name, estimate=estimate, of_reference=of_reference, difference=difference))
    return rows


def _of_firsts(texts: Documents, vectors: _Vectors) -> Callable[[Sequence[int]], dict[str, float]]:
    """Documents -> the numbers of their first outputs as one set."""
    firsts, table = [own[0] for own in texts], np.stack([own[0] for own in vectors])
    return lambda rows: _numbers([firsts[row] for row in rows], table[rows])


def _embedded(embedder: Embedder, texts: Sequence[Documents]) -> list[_Vectors]:
    """For each system and document, (outputs, size) unit vectors; embedded together, so that they share a space."""
    counts = [len(own) for documents in texts for own in documents]
    together = unit(embedder.embed([text for documents in texts for own in documents for text in own]))
    split = np.split(together.astype(np.float32), np.cumsum(counts)[:-1])
    return [split[: len(texts[0])], split[len(texts[0]) :]]
