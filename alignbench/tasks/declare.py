"""Tasks from their declarations (tasks.yaml) and functions; the texts of prompts.yaml and words.yaml.

Answers of one line are those of InstructGPT (Ouyang et al. 2022, arXiv 2203.02155, appendix D; docs/metrics.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from alignbench.types.engine import Loglikelihood, Sampling
from alignbench.types.record import Document, Output
from alignbench.types.scorer import Item
from alignbench.types.task import Check, CorpusMetrics, Generation, Metric, Options, Task, TaskData, default_items

Load = Callable[[Options], TaskData]
Corpus = CorpusMetrics | None
Numbers = dict[str, float]

_TASKS, PROMPTS, WORDS = (
    yaml.load(Path(__file__).with_name(file).read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for file in ("tasks.yaml", "prompts.yaml", "words.yaml")
)


def choice_task(
    name: str, load: Load, score: Callable[[Document, Sequence[Loglikelihood]], Numbers], corpus: Corpus = None
) -> Task:
    """The task `name` of tasks.yaml, in which the log-likelihoods of given choices are scored."""
    return Task(name=name, load=load, score=score, corpus=corpus, **_declared(name))


def generation_task(
    name: str, load: Load, score: Callable[[Document, Sequence[Output]], Numbers], corpus: Corpus = None, **parts: Any
) -> Task:
    """The task `name` of tasks.yaml, in which the model generates text. parts: other fields of `Generation`."""
    fields = _declared(name)
    sampling = Sampling(**_tuples(fields.pop("sampling")))
    parts |= {key: fields.pop(key) for key in ("scorers", "optional_scorers", "plain") if key in fields}
    return Task(name=name, load=load, generation=Generation(sampling, score, **parts), corpus=corpus, **fields)


def one_line_task(
    name: str, load: Load, score: Callable[[Document, Output], Numbers], corpus: Corpus = None, **parts: Any
) -> Task:
    """A `generation_task` of one line. `score`: metrics of the line without outer spaces; `words` is added to them."""

    def score_line(document: Document, outputs: Sequence[Output]) -> Numbers:
        output = first_line(outputs)
        return score(document, output) | {"words": words(output.text)}

    def items(document: Document, outputs: Sequence[Output]) -> list[Item]:
        return default_items(document, [first_line(outputs)])

    return generation_task(name, load, score_line, corpus, **{"items": items, **parts})


def first_line(outputs: Sequence[Output]) -> Output:
    """The first output, cut to its first line: outputs of other systems may have more."""
    return replace(outputs[0], text=outputs[0].text.split("\n", 1)[0].strip())


def check_line(metric: str, normalise: Callable[[str], str]) -> Check:
    """The check of a task of one line: its final answer is the whole line."""
    return Check(metric, lambda document, output: normalise(first_line([output]).text) or None)


def words(text: str) -> float:
    return float(len(text.split()))


def _declared(name: str) -> dict[str, Any]:
    fields = _tuples(_TASKS["tasks"][name])
    return fields | {"metrics": tuple(Metric(metric, **_tuples(own)) for metric, own in fields["metrics"].items())}


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
