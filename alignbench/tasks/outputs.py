"""Outputs of any system without a benchmark: the task of `alignbench score FILE`.

A metric applies to a document that has what it needs: references for exact match, F1, ROUGE and BLEU, a source text for
entailment scorers.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from alignbench.scorers import squad
from alignbench.scorers.rouge import rouge
from alignbench.tasks import corpus_bleu
from alignbench.tasks.common import WORDS, words
from alignbench.types.engine import Sampling
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

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


_rate = partial(Metric, unit="share", bounds=(0, 1))

OUTPUTS = Task(
    name="outputs",
    title="outputs of a file",
    metrics=(
        _rate("exact_match", better="higher"),
        _rate("f1", better="higher"),
        _rate("rouge_l", better="higher"),
        _rate("toxicity", better="lower", scorer="toxicity"),
        _rate("hallucination_rate", better="lower", scorer="entailment"),
        Metric("sentiment", "share", "–", bounds=(-1, 1), scorer="sentiment"),
        _rate("true", better="higher", scorer="truth"),
        _rate("info", better="higher", scorer="info"),
        WORDS,
        _rate("empty", better="lower"),
    ),
    group="outputs",
    headline="rouge_l",
    load=_load,
    generation=Generation(
        Sampling(max_tokens=0), score, optional_scorers=tuple(kind for kind, *_ in _OF_SCORERS), statistics=statistics
    ),
    corpus=corpus_bleu.CORPUS_SCORES,
)
