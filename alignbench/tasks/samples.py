"""Several samples of a task that takes one output, if it can check an answer (`Generation.check`): pass@k, majority
votes, and how much the answers differ (docs/metrics.md, several samples)."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignbench.diversity.entropy import plug_in
from alignbench.stats.samples import majority_at_k, pass_at_k, sizes
from alignbench.types.record import Document, Output
from alignbench.types.scorer import Item
from alignbench.types.task import Metric, Task


def with_samples(task: Task, samples: int) -> Task:
    """The task with this number of outputs per document. If it checks answers and there are several, a metric is the
    mean over the outputs, and the metrics of `measure` are added."""
    generation = task.generation
    assert generation is not None
    changed = replace(generation, sampling=replace(generation.sampling, samples=samples))
    if (check := generation.check) is None or samples == 1:
        return replace(task, generation=changed)

    def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
        each = [generation.score(document, [output]) for output in outputs]
        found = {name: _mean([own[name] for own in each if name in own]) for name in each[0]}
        answers = [check.answer(document, output) for output in outputs]
        return found | measure([own[check.metric] for own in each], answers, [output.text for output in outputs])

    def items(document: Document, outputs: Sequence[Output]) -> list[Item]:
        return [item for output in outputs for item in generation.items(document, [output])]

    def statistics(document: Document, outputs: Sequence[Output]) -> Mapping[str, Sequence[Any]]:
        assert generation.statistics is not None
        if task.corpus is not None:  # corpus metrics are of one output per document
            return generation.statistics(document, outputs[:1])
        each = [generation.statistics(document, [output]) for output in outputs]
        return {name: [value for own in each for value in own.get(name, ())] for name in each[0]}

    means = (replace(m, binary=False, bounds=(0, 1)) if m.binary else m for m in task.metrics)
    changed = replace(changed, score=score, items=items, statistics=generation.statistics and statistics)
    return replace(task, generation=changed, metrics=(*means, *metrics_of(samples)))


def metrics_of(samples: int) -> list[Metric]:
    """What `measure` computes from this number of outputs."""
    names = [f"{kind}_at_{k}" for kind in ("pass", "maj") for k in sizes(samples)]
    binary = f"pass_at_{samples}"  # 1 if any output is right, otherwise 0
    return [
        *(Metric(name, "proportion", "higher", name == binary, bounds=(0, 1)) for name in names),
        Metric("distinct_answers", "number", "–", bounds=(0, samples)),
        Metric("answer_entropy", "bits", "–", bounds=(0, math.log2(samples))),
        Metric("single_answer", "proportion", "–", binary=True),
        Metric("distinct_solutions", "number", "higher", bounds=(0, samples)),
    ]


def measure(right: Sequence[float], answers: Sequence[str | None], texts: Sequence[str]) -> dict[str, float]:
    """pass_at_k, maj_at_k: for k = 1, 2, 4, … and the number of outputs
    distinct_answers: different final answers; single_answer: 1 if all outputs give one and the same
    answer_entropy: of the answers, in bits; no answer is a value of its own
    distinct_solutions: different texts among the right outputs, apart from white space

    right: of each output 1, or another value if it is wrong; NaN if that could not be determined: so are all metrics
    answers: of each output its final answer, None without one; all right outputs have the same answer
    """
    n = len(right)
    if any(map(math.isnan, right)):
        return {metric.name: math.nan for metric in metrics_of(n)}
    is_right = [value == 1 for value in right]
    given = Counter(own for good, own in zip(is_right, answers, strict=True) if not good and own is not None)
    c, wrong = sum(is_right), list(given.values())
    silent = n - c - sum(wrong)
    solutions = {" ".join(text.split()) for good, text in zip(is_right, texts, strict=True) if good}
    return {
        **{f"pass_at_{k}": pass_at_k(n, c, k) for k in sizes(n)},
        **{f"maj_at_{k}": majority_at_k(c, wrong, k, silent) for k in sizes(n)},
        "distinct_answers": float(len(wrong) + (c > 0)),
        "answer_entropy": plug_in([c, silent, *wrong]) / math.log(2),
        "single_answer": float(n in (c, *wrong)),
        "distinct_solutions": float(len(solutions)),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
