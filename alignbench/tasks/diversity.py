"""Diversity of answers to instructions: per input (ten samples per prompt) and across inputs (one sample each).

Kirk et al. 2024, arXiv 2310.06452, named the two. The first samples of `diversity` are a set across inputs as well
(`across_…`). Semantic entropy: Farquhar et al. 2024, Nature 630. NoveltyBench: Zhang et al. 2025, arXiv 2504.05228.
Single-cluster rate: arXiv 2603.24124.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from alignbench.diversity.semantic import class_numbers, semantic_entropy, utility
from alignbench.diversity.sets import LENGTHS, METRICS, OF_TEXTS, UNCUT, of_set, of_texts
from alignbench.errors import AlignbenchError
from alignbench.tasks.common import equivalence_classes, first_outputs, load_prompts
from alignbench.tasks.declare import generation_task, words
from alignbench.types.task import CorpusMetrics, Document, Estimates, Options, Output, Record, TaskData

# of NoveltyBench's authors, for the scores of one reward model (docs/metrics.md)
LEVELS = (-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875)


def score_per_input(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Diversity of the samples of one prompt. A metric is NaN if its scorer failed."""
    found = of_texts([output.text for output in outputs])
    for metric, number in (("cosine_distance_uncut", "distance"), ("vendi_uncut", "vendi")):
        values = [output.scores.get("embedding", {}).get(number, math.nan) for output in outputs]
        found[metric] = float(np.mean(values))
    return found | semantic(outputs)


def semantic(outputs: Sequence[Output]) -> dict[str, float]:
    """The number of classes of equivalent outputs, `collapse`, and the entropy over the classes in bits by the outputs'
    mean log-probabilities per token, if they are known."""
    classes = equivalence_classes(outputs)
    found = {"classes": float(len(set(classes))) if classes else math.nan} | collapse(classes)
    if classes and all(output.logprobs for output in outputs):
        means = [float(np.mean(output.logprobs)) for output in outputs]
        found["semantic_entropy"] = semantic_entropy(classes, means) / math.log(2)
    return found


def collapse(classes: Sequence[float] | None) -> dict[str, float]:
    """Numbers of the answers to one prompt, by their classes: the entropy over them in bits, its exponential, and
    whether there is a single one (left out with a single answer). NaN if the classes are unknown."""
    if not classes:
        return dict.fromkeys(("semantic_entropy_discrete", "effective_answers", "single_cluster_rate"), math.nan)
    found = class_numbers(classes)
    wanted = {name: found[name] for name in ("effective_answers", "single_cluster_rate") if name in found}
    return {"semantic_entropy_discrete": semantic_entropy(classes) / math.log(2)} | wanted


def score_single(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    return {"answer_rate": float(bool(outputs[0].text.strip()))}


def across_inputs(records: Sequence[Record], intervals: bool) -> Estimates:
    """The first sample of every prompt, as one set."""
    found = of_set(*first_outputs(records), "across_", intervals=intervals)
    return [(replace(m, name=f"{m.name}_uncut") if m.scorer == "embedding" else m, estimate) for m, estimate in found]


def load_novelty(options: Options) -> TaskData:
    if options.prompts is None:
        raise AlignbenchError(
            "task novelty_bench: name its prompts, as --prompts curated.jsonl "
            "(data/curated.jsonl of github.com/novelty-bench/novelty-bench)"
        )
    return load_prompts("novelty_bench", options)


def score_novelty(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """`distinct`: the number of classes of equivalent outputs (section 3.1). `utility` (section 3.2), with a reward
    scorer: the gain of a user who reads the next output with probability .8, and for whom an output is worth its score
    only if it is the first of its class."""
    classes = equivalence_classes(outputs)
    found = {
        "distinct": float(len(set(classes))) if classes else math.nan,
        "words": sum(words(output.text) for output in outputs) / len(outputs),
        **collapse(classes),
    }
    rewards = [output.scores["reward"]["reward"] for output in outputs if "reward" in output.scores]
    if len(rewards) == len(outputs):
        found["utility"] = utility(classes, list(map(score_of, rewards))) if classes else math.nan
    return found


def score_of(reward: float) -> int:
    """1 to 10: one more than the number of levels below the reward."""
    return bisect.bisect_left(LEVELS, reward) + 1


_ACROSS = CorpusMetrics(across_inputs, resampling="jackknife", texts=True)
_PER_INPUT = generation_task("diversity", partial(load_prompts, "diversity"), score_per_input, _ACROSS)
_OF_VECTORS = tuple(replace(m, name=f"{m.name}_uncut") for m in METRICS if m.name in ("cosine_distance", "vendi"))

TASKS = (
    replace(_PER_INPUT, metrics=(*OF_TEXTS, *_PER_INPUT.metrics, *UNCUT, *_OF_VECTORS, *LENGTHS)),
    generation_task("diversity_across", partial(load_prompts, "diversity_across"), score_single, _ACROSS),
    generation_task("novelty_bench", load_novelty, score_novelty),
)
