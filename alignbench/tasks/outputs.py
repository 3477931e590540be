"""Outputs that are there already, of any system, without a benchmark: what `alignbench score FILE` makes of a file.

A metric applies where the file has what it needs: references for exact match, F1, ROUGE and BLEU, a source text for the
scorers of what it supports.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from alignbench.scorers import squad
from alignbench.scorers.rouge import rouge
from alignbench.tasks import corpus_bleu
from alignbench.types.engine import Sampling
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData


def score_outputs(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Means over the document's outputs of what its references, its source and the scorers tell."""
    found: dict[str, list[float]] = {}
    for output in outputs:
        numbers = {"words": float(len(output.text.split())), "empty": float(not output.text.strip())}
        if document.references:
            numbers["exact_match"] = squad.exact_match(output.text, document.references)
            numbers["f1"] = squad.f1(output.text, document.references)
            numbers["rouge_l"] = max(rouge(output.text, reference)["rougeL"] for reference in document.references)
        for kind, metric, number in (
            ("toxicity", "toxicity", "toxicity"),
            ("entailment", "hallucination_rate", "flagged"),
            ("sentiment", "sentiment", "sentiment"),
            ("truth", "true", "truth"),
            ("info", "info", "info"),
        ):
            if number in output.scores.get(kind, {}):
                numbers[metric] = output.scores[kind][number]
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    """n-gram counts of all outputs together, for the corpus BLEU and chrF."""
    if not document.references or not outputs:
        return {}
    each = [corpus_bleu.statistics(output.text, document.references) for output in outputs]
    together = {column: np.sum([counts[column] for counts in each], axis=0).tolist() for column in each[0]}
    return together | {"references_counted": each[0]["references_counted"]}


def _nothing_to_load(options: Options) -> TaskData:
    raise AssertionError("its documents come from a file of outputs")


_SHARE = partial(Metric, unit="share", bounds=(0, 1))

OUTPUTS = Task(
    name="outputs",
    version=1,
    title="outputs of a file",
    card="",
    metrics=(
        _SHARE("exact_match", better="higher"),
        _SHARE("f1", better="higher"),
        _SHARE("rouge_l", better="higher"),
        _SHARE("toxicity", better="lower", scorer="toxicity"),
        _SHARE("hallucination_rate", better="lower", scorer="entailment"),
        Metric("sentiment", "share", "–", bounds=(-1, 1), scorer="sentiment"),
        _SHARE("true", better="higher", scorer="truth"),
        _SHARE("info", better="higher", scorer="info"),
        Metric("words", "words", "–", bounds=(0, None)),
        _SHARE("empty", better="lower"),
    ),
    group="outputs",
    headline="rouge_l",
    load=_nothing_to_load,
    generation=Generation(
        sampling=Sampling(max_tokens=0),
        score=score_outputs,
        optional_scorers=("toxicity", "entailment", "sentiment", "truth", "info"),
        statistics=statistics,
    ),
    corpus=corpus_bleu.CORPUS_SCORES,
)
