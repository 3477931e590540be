"""Outputs of any system without a benchmark: the task of `alignbench score FILE`; BLEU and chrF of a corpus.

A metric applies to a document that has what it needs: references for exact match, F1, ROUGE and BLEU, a source text for
entailment scorers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from alignbench.scorers import bleu, squad
from alignbench.scorers.rouge import rouge_l
from alignbench.tasks.declare import generation_task, words
from alignbench.types.task import CorpusMetrics, Document, Estimates, Metric, Output, Record, Resampled, TaskData

_NUMBERS = {"entailment": "flagged"}  # kind of scorer -> its number, where that is not named as the kind


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Means over the document's outputs."""
    metrics: dict[str, list[float]] = {}
    kinds = [(metric.name, kind) for metric in OUTPUTS.metrics for kind in metric.kinds]
    for output in outputs:
        text, references = output.text, document.references
        numbers: dict[str, float | None] = {"words": words(text), "empty": float(not text.strip())}
        if references:
            numbers["exact_match"] = squad.exact_match(text, references)
            numbers["f1"] = squad.f1(text, references)
            numbers["rouge_l"] = max(rouge_l(text, reference) for reference in references)
        numbers |= {name: output.scores.get(kind, {}).get(_NUMBERS.get(kind, kind)) for name, kind in kinds}
        for name, value in numbers.items():
            metrics.setdefault(name, []).extend([] if value is None else [value])
    return {name: sum(own) / len(own) for name, own in metrics.items() if own}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    """n-gram counts of all outputs together, for the corpus BLEU and chrF."""
    if not document.references or not outputs:
        return {}
    each = [ngram_counts(output.text, document.references) for output in outputs]
    if len(each) == 1:
        return each[0]
    together = {column: np.sum([counts[column] for counts in each], axis=0).tolist() for column in each[0]}
    return together | {"references_counted": each[0]["references_counted"]}


_METRICS = {f"{name}_statistics": Metric(name, "points", "higher", bounds=(0, 100)) for name in ("bleu", "chrf")}


def _score_and_signature(
    column: str, counts: bleu.Statistics
) -> tuple[Callable[[bleu.Statistics], float], Callable[[int | str], str]]:
    """The score of a sum of counts, and sacrebleu's signature for a number of references."""
    if column == "chrf_statistics":
        return bleu.corpus_chrf, bleu.chrf_signature
    short = bleu.is_short(counts)
    return partial(bleu.corpus_bleu, short=short), partial(bleu.bleu_signature, short=short)


def ngram_counts(text: str, references: Sequence[str]) -> dict[str, list[float]]:
    """What a document contributes: its n-gram counts, and the number of references that they were made with."""
    return {
        "bleu_statistics": bleu.bleu_statistics(text, references),
        "chrf_statistics": bleu.chrf_statistics(text, references),
        "references_counted": [float(len(references))],
    }


def corpus_scores(records: Sequence[Record], intervals: bool = True) -> Estimates:
    """BLEU and chrF over all documents that have counts, with bootstrap intervals over documents."""
    counted = [record.statistics for record in records if record.statistics]
    if not counted:
        return []
    numbers = {own["references_counted"][0] for own in counted}
    references = int(numbers.pop()) if len(numbers) == 1 else "var"
    found: Estimates = []
    for column, metric in _METRICS.items():
        counts = _table(counted, column)
        score, signature = _score_and_signature(column, counts)
        estimate = bleu.corpus_interval(counts, score, resamples=1000 if intervals else 0)
        found.append((replace(metric, signature=signature(references)), estimate))
    return found


def resampled_scores(records: Sequence[Record]) -> Resampled:
    """BLEU and chrF of each resample, (resamples,), given how often each document was drawn, (resamples, n)."""
    known = [column for column in _METRICS if all(column in record.statistics for record in records)]
    counts = {column: _table([record.statistics for record in records], column) for column in known}
    scores = {column: _score_and_signature(column, counts[column])[0] for column in known}
    return lambda weights: {
        _METRICS[column].name: np.array([scores[column]([row]) for row in (weights @ counts[column]).tolist()])
        for column in known
    }


def _table(counted: Sequence[Mapping[str, Sequence[float]]], column: str) -> NDArray[np.float64]:
    """The counts of all documents, (n, counts)."""
    numbers = np.fromiter(chain.from_iterable(own[column] for own in counted), np.float64)
    return numbers.reshape(len(counted), -1)


CORPUS_SCORES = CorpusMetrics(corpus_scores, resample=resampled_scores)
# without documents of its own: they come from the file
OUTPUTS = generation_task("outputs", lambda options: TaskData([], ()), score, CORPUS_SCORES, statistics=statistics)
