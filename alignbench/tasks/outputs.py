"""Outputs of any system without a benchmark: the task of `alignbench score FILE`.

A metric applies to a document that has what it needs: references for exact match, F1, ROUGE and BLEU, a source text for
entailment scorers.
"""

from collections.abc import Sequence

import numpy as np

from alignbench.scorers import squad
from alignbench.scorers.rouge import rouge
from alignbench.tasks import corpus_bleu
from alignbench.tasks.declare import generation_task, words
from alignbench.types.task import Document, Options, Output, TaskData

# kind of scorer, its number, the metric
_OF_SCORERS = (
    ("toxicity", "toxicity", "toxicity"),
    ("entailment", "flagged", "hallucination_rate"),
    ("sentiment", "sentiment", "sentiment"),
    ("truth", "truth", "true"),
    ("info", "info", "info"),
)


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Means over the document's outputs."""
    each = [_score_output(document, output) for output in outputs]
    names = dict.fromkeys(name for numbers in each for name in numbers)
    values = {name: [numbers[name] for numbers in each if name in numbers] for name in names}
    return {name: sum(own) / len(own) for name, own in values.items()}


def _score_output(document: Document, output: Output) -> dict[str, float]:
    text, references = output.text, document.references
    numbers = {"words": words(text), "empty": float(not text.strip())}
    if references:
        numbers["exact_match"] = squad.exact_match(text, references)
        numbers["f1"] = squad.f1(text, references)
        numbers["rouge_l"] = max(rouge(text, reference)["rougeL"] for reference in references)
    scores = ((metric, output.scores.get(kind, {}).get(number)) for kind, number, metric in _OF_SCORERS)
    return numbers | {metric: value for metric, value in scores if value is not None}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    """n-gram counts of all outputs together, for the corpus BLEU and chrF."""
    if not document.references or not outputs:
        return {}
    each = [corpus_bleu.statistics(output.text, document.references) for output in outputs]
    together = {column: np.sum([counts[column] for counts in each], axis=0).tolist() for column in each[0]}
    return together | {"references_counted": each[0]["references_counted"]}


def _load(options: Options) -> TaskData:
    raise AssertionError("its documents come from a file of outputs")


OUTPUTS = generation_task("outputs", _load, score, corpus_bleu.CORPUS_SCORES, statistics=statistics)
