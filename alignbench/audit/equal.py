"""Outputs of two systems brought to equal numbers and equal lengths, and through a gate of quality."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignbench.audit.systems import Sample, System, check_comparable
from alignbench.diversity.words import LENGTH, cut, words
from alignbench.errors import AlignbenchError

LEAST = 10  # words; of texts cut shorter than that, nothing can be told
_GATE = re.compile(r"\s*([\w-]+\.[\w-]+)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*", re.IGNORECASE)
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}

Documents = tuple[tuple[str, ...], ...]  # of each document, its outputs


@dataclass(frozen=True)
class Equal:
    """The same documents of two systems, with as many outputs each.

    whole: of each system, of each document, its outputs
    short: the same, cut in pairs (first with first, second with second, …) to the first LENGTH words, or to as many as
        the shorter of the two has. Pairs of which fewer than LEAST words would remain are left out, and documents
        without a pair. A silent output stays as it is, and the other is cut to LENGTH: there is no length to cut to.
    notes: what was left out, and what else is to be told
    """

    names: tuple[str, str]
    whole: tuple[Documents, Documents]
    short: tuple[Documents, Documents]
    notes: tuple[str, ...]


def equalise(first: System, other: System) -> Equal:
    """Documents that both systems have outputs for, and of each as many outputs as the one with fewer has.

    Raises AlignbenchError where they cannot be compared, have no document in common, or one never wrote a word.
    """
    notes = check_comparable(first, other)
    every = dict.fromkeys([*first.documents, *other.documents])
    both = [i for i in every if i in first.documents and i in other.documents]
    if not both:
        raise AlignbenchError(f"{first.name} and {other.name} have no documents in common: their ids differ")
    ids = [i for i in both if first.documents[i] and other.documents[i]]
    if not ids:
        raise AlignbenchError(f"no document has outputs of both {first.name} and {other.name}")
    if len(ids) < len(every):
        notes.append(f"{len(every) - len(ids)} of {len(every)} documents left out: one of the two has no outputs")
    pairs = [list(zip(first.documents[i], other.documents[i], strict=False)) for i in ids]
    surplus = sum(len(system.documents[i]) for system in (first, other) for i in ids) - 2 * sum(map(len, pairs))
    if surplus:
        notes.append(f"{surplus} outputs left out: as many of each document as the one with fewer has")
    texts = [[(one.text, two.text) for one, two in own] for own in pairs]
    for place, system in enumerate((first, other)):
        if not any(words(pair[place]) for own in texts for pair in own):
            raise AlignbenchError(f"{system.name}: all of its {sum(map(len, texts))} outputs are empty")
    short = [[cut_alike(*pair) for pair in own] for own in texts]
    kept = [[pair for pair in own if pair is not None] for own in short]
    left, total = sum(map(len, kept)), sum(map(len, texts))
    if left < total:
        gone = sum(not own for own in kept)
        notes.append(
            f"{total - left} of {total} pairs of outputs left out at equal lengths, and with them {gone} of "
            f"{len(ids)} documents: fewer than {LEAST} words would remain"
        )
    return Equal((first.name, other.name), _apart(texts), _apart([own for own in kept if own]), tuple(notes))


def cut_alike(one: str, other: str) -> tuple[str, str] | None:
    """Both at equal lengths, as `Equal` says; None where too little would remain."""
    lengths = [n for n in (len(words(one)), len(words(other))) if n]
    if len(lengths) == 2 and min(lengths) < LEAST:
        return None
    n = min([LENGTH, *lengths]) if len(lengths) == 2 else LENGTH
    return cut(one, n), cut(other, n)


def gated(systems: Sequence[System], gate: str) -> tuple[list[System], list[str]]:
    """The systems with the outputs alone that pass KIND.NUMBER>=X, and a line for each on how many did.

    Raises AlignbenchError for a gate that cannot be read, a system without such scores, scores of different scorers,
    and where no document has an output of the first and of another model that passes.
    """
    match = _GATE.fullmatch(gate)
    if match is None:
        raise AlignbenchError(f"gate {gate!r}: write KIND.NUMBER>=X, such as reward.reward>=0")
    number, compare, limit = match[1], _COMPARE[match[2]], float(match[3])
    kind = number.partition(".")[0]
    _check_judges(systems, gate, kind)
    found, notes = [], []
    for system in systems:
        samples = [sample for own in system.documents.values() for sample in own]
        known = sorted({name for sample in samples for name in sample.scores})
        if number not in known:
            raise AlignbenchError(
                f"gate {gate}: {system.name} has no scores {number} (it has {', '.join(known) or 'none'}); "
                f"`alignbench rescore` its run with a scorer of the kind {kind}"
            )

        def passes(sample: Sample) -> bool:
            return number in sample.scores and bool(compare(sample.scores[number], limit))

        documents = {i: tuple(filter(passes, own)) for i, own in system.documents.items()}
        passed = sum(map(len, documents.values()))
        notes.append(f"gate {gate}: {passed} of {len(samples)} outputs of {system.name} pass")
        found.append(replace(system, documents={i: own for i, own in documents.items() if own}))
    for other in found[1:]:
        if not set(found[0].documents) & set(other.documents):
            raise AlignbenchError(
                f"no document has an output of both {found[0].name} and {other.name} that passes ({'; '.join(notes)})"
            )
    return found, notes


def _check_judges(systems: Sequence[System], gate: str, kind: str) -> None:
    judges = {
        system.name: f"{scorer['name']}@{str(scorer['revision'])[:12]}"
        for system in systems
        for scorer in system.identity.get("scorers") or ()
        if scorer["kind"] == kind
    }
    if len(set(judges.values())) > 1:
        told = ", ".join(f"{name} with {judge}" for name, judge in judges.items())
        raise AlignbenchError(f"gate {gate}: scored by different scorers ({told}); `alignbench rescore` with one")


def _apart(pairs: Sequence[Sequence[tuple[str, str]]]) -> tuple[Documents, Documents]:
    return tuple(tuple(one for one, _ in own) for own in pairs), tuple(tuple(two for _, two in own) for own in pairs)
