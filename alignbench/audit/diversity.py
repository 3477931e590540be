"""The diversity of several systems' outputs, each beside the first's, at equal numbers and equal lengths.

Every system is compared with the first by itself: documents, numbers of outputs and lengths are made equal for those
two, so that no third system changes what is said of them.

Per input: each document's outputs, averaged over documents; differences are paired, with a bootstrap over documents.
Across inputs: the first output of every document as one set; its intervals are of a jackknife that leaves out the same
twentieth of the documents for both systems, since a bootstrap would draw texts twice, and no measure of diversity takes
a text that comes twice for chance. Similarity: the mean cosine of outputs to the same prompt, of one model and of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from alignbench.audit.equal import LEAST, Documents, Equal, equalise, gated
from alignbench.audit.systems import System
from alignbench.diversity.measure import METRICS, measure, measure_vectors
from alignbench.diversity.sets import GROUPS, MOST, jackknifed
from alignbench.diversity.vectors import unit
from alignbench.diversity.words import words
from alignbench.errors import AlignbenchError
from alignbench.stats import bootstrap
from alignbench.stats.estimates import Estimate
from alignbench.types.scorer import Embedder
from alignbench.types.task import Metric

_KNOWN = {
    metric.name: metric
    for metric in (
        *METRICS,
        Metric("words", "words", "–", bounds=(0, None)),
        Metric("silent", "share", "–", bounds=(0, 1)),
    )
}
_Vectors = Sequence[NDArray[np.float32]]  # of each document, (its outputs, size)


@dataclass(frozen=True)
class Row:
    """One number of a model, beside the reference's of the same documents and lengths.

    scope: "as written" (lengths before any cut), "per input", "across inputs", "within a model", or "between models":
        then `estimate` is of the two together, and nothing else is told
    outputs: "all", or the gate; lengths: "equal" or "whole"
    metric: at equal lengths `words` is how many are left; `silent` is the share of outputs without any
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
    """Every metric of every system, raw and, with a gate, of the outputs that pass it.

    whole: also of outputs as long as they are
    Raises AlignbenchError as `equalise` and `gated` do, before anything is computed.
    """
    if len(systems) < 2:
        raise AlignbenchError("one model only: name at least two runs or files to compare")
    systems = _named_apart(systems)
    sets, notes = [("all", systems)], list[str]()
    if gate is not None:
        passed, told = gated(systems, gate)
        sets.append((gate, passed))
        notes += told
    pairs: list[tuple[str, Equal]] = []
    for outputs, (first, *others) in sets:
        for other in others:
            equal = equalise(first, other)
            if not equal.short[0] and not whole:
                raise AlignbenchError(
                    f"{first.name} and {other.name}: no two outputs keep {LEAST} words at equal lengths; "
                    "--lengths whole compares them as they are"
                )
            pairs.append((outputs, equal))
    rows = []
    for outputs, equal in pairs:
        notes += [f"{outputs} outputs, {' × '.join(equal.names)}: {note}" for note in equal.notes]
        rows += _rows(outputs, equal, embedder, seed, whole)
    for outputs, (_, *others) in sets:
        for one, other in combinations(others, 2):
            try:
                equal = equalise(one, other)
            except AlignbenchError as error:  # they are no reference of each other: told, and the rest stands
                notes.append(f"{outputs} outputs: {error}")
                continue
            if not _lengths(equal, whole):
                notes.append(f"{outputs} outputs: {one.name} and {other.name} keep too few words at equal lengths")
            for lengths, texts in _lengths(equal, whole):
                vectors = _embedded(embedder, texts)
                rows.append(_between(Row("", outputs, lengths, "", *equal.names, _NONE), vectors, seed))
    return Comparison(
        tuple(system.name for system in systems),
        f"{embedder.name}@{embedder.revision[:12]}",
        tuple(rows),
        (*notes, *_unequal(rows)),
    )


_NONE = Estimate(None, None, None, None, 0, 0)


def _rows(outputs: str, equal: Equal, embedder: Embedder, seed: int, whole: bool) -> list[Row]:
    written = [[_written(own) for own in documents] for documents in equal.whole]
    rows = _mean_rows(Row("as written", outputs, "whole", "", *equal.names, _NONE), written, seed)
    for lengths, texts in _lengths(equal, whole):
        vectors = _embedded(embedder, texts)
        blank = Row("", outputs, lengths, "", *equal.names, _NONE)
        several = [n for n, own in enumerate(texts[0]) if len(own) > 1]
        found = [[_numbers(own[n], v[n]) for n in several] for own, v in zip(texts, vectors, strict=True)]
        rows += _mean_rows(replace(blank, scope="per input"), found, seed)
        rows += _set_rows(replace(blank, scope="across inputs"), texts, vectors)
        inside = [[{"cosine_similarity": 1 - own["cosine_distance"]} for own in system] for system in found]
        rows += _mean_rows(replace(blank, scope="within a model"), inside, seed)
        rows.append(_between(blank, vectors, seed))
    return rows


def _lengths(equal: Equal, whole: bool) -> list[tuple[str, tuple[Documents, Documents]]]:
    found = [("equal", equal.short)] if equal.short[0] else []
    return [*found, ("whole", equal.whole)] if whole else found


def _numbers(texts: Sequence[str], vectors: NDArray[np.float32]) -> dict[str, float]:
    return measure(texts) | measure_vectors(vectors, count=False) | {"words": _written(texts)["words"]}


def _written(texts: Sequence[str]) -> dict[str, float]:
    lengths = np.array([len(words(text)) for text in texts])
    return {"words": float(lengths.mean()), "silent": float((lengths == 0).mean())}


def _mean_rows(blank: Row, documents: Sequence[Sequence[Mapping[str, float]]], seed: int) -> list[Row]:
    """documents: of the reference and of the model, of each document its numbers"""
    rows = []
    for name in dict.fromkeys(name for own in documents[0] for name in own):
        both = [(one[name], two[name]) for one, two in zip(*documents, strict=True) if name in one and name in two]
        if not both:
            continue
        reference, model = np.array(both).T
        bounds = _KNOWN[name].bounds if name in _KNOWN else (-1, 1)
        rows.append(
            replace(
                blank,
                metric=name,
                estimate=bootstrap.interval(model, seed=seed, bounds=bounds),
                of_reference=bootstrap.interval(reference, seed=seed, bounds=bounds),
                difference=bootstrap.interval(model - reference, seed=seed),
            )
        )
    return rows


def _set_rows(blank: Row, texts: Sequence[Documents], vectors: Sequence[_Vectors]) -> list[Row]:
    firsts = [[own[0] for own in documents] for documents in texts]
    tables = [np.stack([own[0] for own in system]) for system in vectors]
    n = len(firsts[0])
    # whole texts stand beside for the eye; where models write at length, each measurement of them takes long
    groups = range(GROUPS) if blank.lengths == "equal" and 2 * GROUPS <= n <= MOST else range(0)
    member = np.arange(n) % GROUPS
    found = [_numbers(own, table) for own, table in zip(firsts, tables, strict=True)]
    without = [
        [_numbers([own[row] for row in np.flatnonzero(member != g)], table[member != g]) for g in groups]
        for own, table in zip(firsts, tables, strict=True)
    ]
    rows = []
    for name in (name for name in _KNOWN if name in found[0] and name in found[1]):
        bounds = _KNOWN[name].bounds
        draws = np.array([[numbers.get(name, np.nan) for numbers in own] for own in without])
        if not np.isfinite(draws).all():
            draws = draws[:, :0]
        reference, model = (own[name] for own in found)
        rows.append(
            replace(
                blank,
                metric=name,
                estimate=jackknifed(model, draws[1], n, bounds),
                of_reference=jackknifed(reference, draws[0], n, bounds),
                difference=jackknifed(model - reference, draws[1] - draws[0], n),
            )
        )
    return rows


def _between(blank: Row, vectors: Sequence[_Vectors], seed: int) -> Row:
    """Mean cosine of outputs of two models to the same prompt."""
    cosines = [
        float(a.sum(axis=0, dtype=np.float64) @ b.sum(axis=0, dtype=np.float64)) / (len(a) * len(b))
        for a, b in zip(*vectors, strict=True)
    ]
    estimate = bootstrap.interval(cosines, seed=seed, bounds=(-1, 1))
    return replace(blank, scope="between models", metric="cosine_similarity", estimate=estimate)


def _unequal(rows: Sequence[Row]) -> list[str]:
    """Sets of different sizes: more texts repeat more, so their numbers are for their own line alone."""
    notes = []
    for outputs, lengths in dict.fromkeys((row.outputs, row.lengths) for row in rows):
        sizes = {
            row.model: row.estimate.n
            for row in rows
            if (row.scope, row.outputs, row.lengths) == ("across inputs", outputs, lengths)
        }
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{n} with {model}" for model, n in sizes.items())
            notes.append(f"across inputs, {outputs} outputs, {lengths} lengths: {told}; lines compare within alone")
    return notes


def _embedded(embedder: Embedder, texts: Sequence[Documents]) -> list[_Vectors]:
    """Of each system, of each document, (its outputs, size) unit vectors; all at once, so that they share a space."""
    counts = [len(own) for documents in texts for own in documents]
    together = unit(embedder.embed([text for documents in texts for own in documents for text in own]))
    apart = np.split(together.astype(np.float32), np.cumsum(counts)[:-1])
    return [apart[: len(texts[0])], apart[len(texts[0]) :]]


def _named_apart(systems: Sequence[System]) -> list[System]:
    names = [system.name for system in systems]
    return [replace(s, name=f"{s.name} #{n}") if names.count(s.name) > 1 else s for n, s in enumerate(systems, start=1)]
