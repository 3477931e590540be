"""Refusal: how often a model refuses safe prompts, and how often unsafe ones.

XSTest (Röttger et al. 2024, arXiv 2308.01263): 250 safe prompts that look unsafe, and 200 unsafe contrasts. OR-Bench
(Cui et al. 2024, arXiv 2405.20947) and JailbreakBench (Chao et al. 2024, arXiv 2404.01318): others of both kinds.
`refusal`: any prompts with labels. Headline: the proportion of refused unsafe prompts minus that of safe ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench.data import Row
from alignbench.errors import AlignbenchError
from alignbench.stats.estimates import Estimate, difference, share
from alignbench.tasks.common import load_documents, load_prompts
from alignbench.tasks.declare import generation_task, words
from alignbench.types.task import (
    CorpusMetrics,
    Document,
    Estimates,
    Metric,
    Options,
    Output,
    Record,
    Resampled,
    TaskData,
)

SAFE, UNSAFE = "safe", "unsafe"
LABELS = {SAFE: SAFE, "benign": SAFE, "harmless": SAFE, UNSAFE: UNSAFE, "harmful": UNSAFE, "toxic": UNSAFE}
NUMBERS = {"refused": "refusal", "full_refusal": "full", "partial_refusal": "partial"}  # metric -> of the scorer
DIFFERENCE = Metric("refusal_difference", "proportion", "higher", bounds=(-1, 1), scorer="refusal")


def load_splits(card: str, prompt: str, splits: Sequence[str], options: Options) -> TaskData:
    """The rows of several splits, each with the label that its name means. prompt: the column"""

    def parse(split: str, row: Row) -> Document:
        text, category = row[prompt].strip(), row.get("category") or row["Category"]
        return Document("", text, target={"label": LABELS[split]}, category=category)

    found = {split: load_documents(card, split, partial(parse, split), options) for split in splits}
    documents = [replace(d, id=f"{split} {d.id}") for split, data in found.items() for d in data.documents]
    return TaskData(documents, tuple(chain(*(data.provenance for data in found.values()))))


def parse_xstest(row: Row) -> Document:
    """Parse a prompt; its id is that of the authors' saved completions."""
    return labelled(row["label"], Document(f"v2-{row['id']}", row["prompt"].strip(), category=row["type"]))


def load_labelled(options: Options) -> TaskData:
    if options.prompts is None:
        raise AlignbenchError(
            "task refusal: name its prompts, as --prompts FILE with the columns prompt and label (safe or unsafe)"
        )
    return load_prompts("refusal", options, lambda row, document: labelled(row.field("label"), document))


def labelled(label: Any, document: Document) -> Document:
    """The document with its label, which is also its category if it has none. Raises ValueError for another label."""
    known = LABELS.get(str(label).strip().lower())
    if known is None:
        raise ValueError(f"label is {label!r}; it must be one of {', '.join(LABELS)}")
    return replace(document, target={"label": known}, category=document.category or known)


def score_refusal(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """Whether the answer refuses, as a metric of the safe or of the unsafe prompts."""
    text, verdict = outputs[0].text, outputs[0].scores.get("refusal", {})
    found = {f"{name}_{document.target['label']}": verdict.get(key, math.nan) for name, key in NUMBERS.items()}
    return found | {"answer_rate": float(bool(text.strip())), "words": words(text)}


def refused(record: Record) -> float | None:
    """1 if the answer refuses, fully or in part; None if it is not known."""
    return record.values.get(f"refused_{record.target.get('label')}")


def refusal_difference(records: Sequence[Record], intervals: bool) -> Estimates:
    """Refused of the unsafe prompts minus refused of the safe ones; nothing without prompts of both labels."""

    def rate(label: str) -> Estimate:
        own = [record for record in records if record.target.get("label") == label and refused(record) is not None]
        return share([record.values[f"refused_{label}"] for record in own], [record.cluster for record in own])

    found = difference(rate(UNSAFE), rate(SAFE), (-1, 1))
    return [] if found.value is None else [(DIFFERENCE, found)]


def weights(records: Sequence[Record]) -> NDArray[np.float64]:
    """(n,) n / (number of unsafe prompts) of the unsafe ones, -n / (number of safe ones) of the others: the difference
    is the mean of weight × refused."""
    unsafe = np.array([record.target.get("label") == UNSAFE for record in records])
    sizes = np.where(unsafe, max(1, unsafe.sum()), -max(1, (~unsafe).sum()))
    return np.asarray(len(records) / sizes, np.float64)


def resampled_differences(records: Sequence[Record]) -> Resampled:
    """The difference on each resample, (resamples,), given how often each document was drawn."""
    values = np.array([refused(record) for record in records], np.float64)
    unsafe = np.array([record.target.get("label") == UNSAFE for record in records], np.float64)

    @np.errstate(invalid="ignore")  # a resample without prompts of one label
    def rate(weights: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights @ (values * of) / (weights @ of))

    return lambda weights: {DIFFERENCE.name: rate(weights, unsafe) - rate(weights, 1 - unsafe)}


_CORPUS = CorpusMetrics(
    refusal_difference,
    usable=lambda record: refused(record) is not None,
    resample=resampled_differences,
    outcome=lambda record: refused(record) or 0.0,
    weights=weights,
)
_LOADERS: Mapping[str, Any] = {
    "xstest": partial(load_documents, "xstest", "prompts", parse_xstest),
    "or_bench": partial(load_splits, "or_bench", "prompt", ("harmless", "toxic")),
    "jailbreakbench": partial(load_splits, "jailbreakbench", "Goal", ("benign", "harmful")),
    "refusal": load_labelled,
}
TASKS = tuple(generation_task(name, load, score_refusal, _CORPUS) for name, load in _LOADERS.items())
