"""Diversity of answers to instructions: per input (ten samples per prompt) and across inputs (one sample each).

Kirk et al. 2024, arXiv 2310.06452, named the two. The first samples of `diversity` are a set across inputs as well
(`across_…`). Metrics use the first 50 words of each output, those named `…_uncut` and of vectors all of it. Semantic
entropy: Farquhar et al. 2024, Nature 630.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from alignbench.diversity.lexical import LENGTH
from alignbench.diversity.semantic import semantic_entropy
from alignbench.diversity.sets import LENGTHS, METRICS, OF_TEXTS, UNCUT, of_set, of_texts
from alignbench.tasks.common import ANSWER_RATE, equivalence_classes, first_outputs
from alignbench.tasks.prompts import load_prompts
from alignbench.types.engine import Sampling
from alignbench.types.task import CorpusMetrics, Document, Estimates, Generation, Metric, Output, Record, Task

SAMPLES = 10
MAX_TOKENS = 128


def score_per_input(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Diversity of the samples of one prompt. A metric is NaN if its scorer failed."""
    found = of_texts([output.text for output in outputs])
    for metric, number in (("cosine_distance_uncut", "distance"), ("vendi_uncut", "vendi")):
        values = [output.scores.get("embedding", {}).get(number, math.nan) for output in outputs]
        found[metric] = float(np.mean(values))
    return found | semantic(outputs)


def semantic(outputs: Sequence[Output]) -> dict[str, float]:
    """The number of classes of equivalent outputs, and the entropy over them in bits: by the outputs' mean
    log-probabilities per token if they are known, and by their numbers (discrete)."""
    classes = equivalence_classes(outputs)
    if classes is None:
        return {"classes": math.nan, "semantic_entropy_discrete": math.nan}
    found = {
        "classes": float(len(set(classes))),
        "semantic_entropy_discrete": semantic_entropy(classes) / math.log(2),
    }
    if all(output.logprobs for output in outputs):
        means = [float(np.mean(output.logprobs)) for output in outputs]
        found["semantic_entropy"] = semantic_entropy(classes, means) / math.log(2)
    return found


def score_single(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    return {"answer_rate": float(bool(outputs[0].text.strip()))}


def across_inputs(records: Sequence[Record], intervals: bool) -> Estimates:
    """The first sample of every prompt, as one set."""
    found = of_set(*first_outputs(records), "across_", intervals=intervals)
    return [(replace(m, name=f"{m.name}_uncut") if m.scorer == "embedding" else m, estimate) for m, estimate in found]


_OF_VECTORS = tuple(replace(m, name=f"{m.name}_uncut") for m in METRICS if m.name in ("cosine_distance", "vendi"))
_of_classes = partial(Metric, scorer="equivalence")
_entropy = partial(_of_classes, unit="bits", better="–", bounds=(0, None))
_task = partial(
    Task,
    card="self_instruct",
    group="creativity",
    corpus=CorpusMetrics(across_inputs, resampling="jackknife", texts=True),
    takes_prompts=True,
    display_metrics=(
        "answer_rate", "distinct_2", "self_bleu", "classes", "semantic_entropy", "cosine_distance_uncut",
        "vendi_uncut", "words", "across_distinct_2", "across_self_bleu", "across_vendi_uncut", "across_words",
        "across_short",
    ),
)  # fmt: skip

TASKS = (
    _task(
        name="diversity",
        title=f"Diversity of {SAMPLES} answers to one instruction (first {LENGTH} words of each)",
        metrics=(
            *OF_TEXTS,
            _of_classes("classes", "number", "higher", bounds=(1, None)),
            _entropy("semantic_entropy"),
            _entropy("semantic_entropy_discrete"),
            *UNCUT,
            *_OF_VECTORS,
            *LENGTHS,
        ),
        headline="self_bleu",
        load=partial(load_prompts, "diversity"),
        generation=Generation(
            Sampling(MAX_TOKENS, samples=SAMPLES, temperature=1.0),
            score_per_input,
            scorers=("embedding", "equivalence"),
        ),
    ),
    _task(
        name="diversity_across",
        title=f"Diversity of answers to many instructions (first {LENGTH} words of each)",
        metrics=(ANSWER_RATE,),
        headline="across_self_bleu",
        load=partial(load_prompts, "diversity_across"),
        generation=Generation(Sampling(MAX_TOKENS, temperature=1.0), score_single, scorers=("embedding",)),
    ),
)
