"""Outputs of any system without a benchmark: the task of `alignbench score FILE`; BLEU and chrF of a corpus.

A metric applies to a document that has what it needs: references for exact match, F1, ROUGE and BLEU, a source text for
entailment scorers.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from alignbench.scorers import bleu, squad
from alignbench.scorers.rouge import rouge_l
from alignbench.tasks.common import Sums, estimates_of_sums, resampled_sums
from alignbench.tasks.declare import generation_task, words
from alignbench.types.task import CorpusMetrics, Document, Estimates, Metric, Output, Record, TaskData

NUMBERS = {"entailment": "flagged"}  # kind of scorer -> its number, where that is not named as the kind


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
        numbers |= {name: output.scores.get(kind, {}).get(NUMBERS.get(kind, kind)) for name, kind in kinds}
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


def ngram_counts(text: str, references: Sequence[str]) -> dict[str, list[float]]:
    """What a document contributes: its n-gram counts, and the number of references that they were made with."""
    return {
        "bleu_statistics": bleu.bleu_statistics(text, references),
        "chrf_statistics": bleu.chrf_statistics(text, references),
        "references_counted": [float(len(references))],
    }


def sums_of(records: Sequence[Record]) -> Sums:
    """BLEU and chrF with sacrebleu's signatures, for the records that have counts."""
    counted = [record.statistics for record in records if record.statistics]
    numbers = {own["references_counted"][0] for own in counted}
    references = int(numbers.pop()) if len(numbers) == 1 else "var"
    short = bleu.is_short([own["bleu_statistics"] for own in counted])
    metric = partial(Metric, unit="points", better="higher", bounds=(0, 100))
    of_bleu, of_chrf = bleu.bleu_signature(references, short), bleu.chrf_signature(references)
    return {
        "bleu_statistics": (metric("bleu", signature=of_bleu), partial(bleu.corpus_bleu, short=short)),
        "chrf_statistics": (metric("chrf", signature=of_chrf), bleu.corpus_chrf),
    }


def corpus_scores(records: Sequence[Record], intervals: bool = True) -> Estimates:
    return estimates_of_sums(sums_of(records), records, intervals)


CORPUS_SCORES = CorpusMetrics(corpus_scores, resample=resampled_sums(sums_of))
# without documents of its own: they come from the file
OUTPUTS = generation_task("outputs", lambda options: TaskData([], ()), score, CORPUS_SCORES, statistics=statistics)
