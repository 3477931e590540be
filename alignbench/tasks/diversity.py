"""Diversity of answers to instructions: per input (many samples, one prompt) and across inputs (one sample, many).

The two are different things: preference tuning lowers the first much and the second little (Kirk et al. 2024, arXiv
2310.06452, which named them). `diversity`: ten samples at temperature 1 of each of Self-Instruct's 252 user-oriented
instructions, or of --prompts; the first samples are the set across inputs (`across_…`). `diversity_across`: one sample
each, also for outputs that are there already, of which there is only one.

Numbers are of the first 50 words of each output, since longer text repeats more, but for those that say `…_uncut`:
they are of all of it. So are those of vectors: a scorer sees whole outputs.
Semantic entropy (Farquhar et al. 2024, Nature 630) is over the classes of the scorer of the kind "equivalence".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alignbench.diversity.measure import METRICS
from alignbench.diversity.novelty import distinct_classes
from alignbench.diversity.semantic import semantic_entropy
from alignbench.diversity.sets import LENGTHS, OF_TEXTS, UNCUT, of_set, of_texts
from alignbench.diversity.words import LENGTH
from alignbench.tasks.prompts import load_prompts
from alignbench.types.engine import Sampling
from alignbench.types.task import (
    CorpusMetrics,
    Document,
    Estimates,
    Generation,
    Metric,
    Options,
    Output,
    Record,
    Task,
    TaskData,
)

SAMPLES = 10
MAX_TOKENS = 128


def load_per_input(options: Options) -> TaskData:
    return load_prompts(options, "diversity")


def load_across(options: Options) -> TaskData:
    return load_prompts(options, "diversity_across")


def score_per_input(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """What the samples of one prompt have in common. A scorer that failed makes its metrics NaN."""
    found = of_texts([output.text for output in outputs])
    found["cosine_distance_uncut"] = _mean(outputs, "embedding", "distance")
    found["vendi_uncut"] = _mean(outputs, "embedding", "vendi")
    return found | semantic(outputs)


def semantic(outputs: Sequence[Output]) -> dict[str, float]:
    """The number of classes of equivalent outputs, and the entropy over them in bits: by the outputs' log-probabilities
    (for each token, in the mean) where they are known, and by their numbers (discrete)."""
    numbers = [output.scores.get("equivalence", {}).get("class", math.nan) for output in outputs]
    if not all(map(math.isfinite, numbers)):
        return dict.fromkeys(("classes", "semantic_entropy_discrete"), math.nan)
    found = {
        "classes": float(distinct_classes(numbers)),
        "semantic_entropy_discrete": semantic_entropy(numbers) / math.log(2),
    }
    if all(output.logprobs for output in outputs):
        means = [float(np.mean(output.logprobs)) for output in outputs]
        found["semantic_entropy"] = semantic_entropy(numbers, means) / math.log(2)
    return found


def score_single(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    return {"answer_rate": float(bool(outputs[0].text.strip()))}


def corpus_metrics(records: Sequence[Record], intervals: bool) -> Estimates:
    """The first sample of every prompt, as one set."""
    vectors = [record.vectors[0] for record in records if record.vectors is not None]
    texts = [record.outputs[0].text for record in records]
    known = np.stack(vectors) if vectors and len(vectors) == len(texts) else None
    return [
        (replace(metric, name=f"{metric.name}_uncut") if metric.scorer == "embedding" else metric, estimate)
        for metric, estimate in of_set(texts, known, "across_", intervals=intervals)
    ]


def _mean(outputs: Sequence[Output], kind: str, number: str) -> float:
    return float(np.mean([output.scores.get(kind, {}).get(number, math.nan) for output in outputs]))


FIRST_SAMPLES = CorpusMetrics(corpus_metrics, resampling="jackknife", texts=True)
CLASSES = Metric("classes", "number", "higher", bounds=(1, None), scorer="equivalence")
_OF_VECTORS = tuple(
    replace(metric, name=f"{metric.name}_uncut") for metric in METRICS if metric.name in ("cosine_distance", "vendi")
)

TOLD = (
    "answer_rate",
    "distinct_2",
    "self_bleu",
    "classes",
    "semantic_entropy",
    "cosine_distance_uncut",
    "vendi_uncut",
    "words",
    "across_distinct_2",
    "across_self_bleu",
    "across_vendi_uncut",
    "across_words",
    "across_short",
)

TASKS = (
    Task(
        name="diversity",
        version=1,
        title=f"Diversity of {SAMPLES} answers to one instruction (first {LENGTH} words of each)",
        card="self_instruct",
        metrics=(
            *OF_TEXTS,
            CLASSES,
            Metric("semantic_entropy", "bits", "–", bounds=(0, None), scorer="equivalence"),
            Metric("semantic_entropy_discrete", "bits", "–", bounds=(0, None), scorer="equivalence"),
            *UNCUT,
            *_OF_VECTORS,
            *LENGTHS,
        ),
        group="creativity",
        headline="self_bleu",
        load=load_per_input,
        generation=Generation(
            Sampling(MAX_TOKENS, samples=SAMPLES, temperature=1.0),
            score_per_input,
            scorers=("embedding", "equivalence"),
        ),
        corpus=FIRST_SAMPLES,
        takes_prompts=True,
        display_metrics=TOLD,
    ),
    Task(
        name="diversity_across",
        version=1,
        title=f"Diversity of answers to many instructions (first {LENGTH} words of each)",
        card="self_instruct",
        metrics=(Metric("answer_rate", "share", "–", binary=True),),
        group="creativity",
        headline="across_self_bleu",
        load=load_across,
        generation=Generation(Sampling(MAX_TOKENS, temperature=1.0), score_single, scorers=("embedding",)),
        corpus=FIRST_SAMPLES,
        takes_prompts=True,
        display_metrics=TOLD,
    ),
)
