"""HellaSwag: which of four endings continues an everyday scene?

Zellers et al. 2019, arXiv 1905.07830. Two forms: the plain one of lm-evaluation-harness (its text clean-up, `acc`
by total log-probability and `acc_norm` by log-probability per character), and InstructGPT's (arXiv 2203.02155,
appendix D: an instruction, "activity: context", the highest mean log-probability per token).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from alignbench.data import load
from alignbench.errors import AlignbenchError
from alignbench.types.engine import Loglikelihood
from alignbench.types.task import Document, Metric, Options, Task, TaskData

INSTRUCTION = "Complete each independent paragraph using common-sense reasoning."


@dataclass(frozen=True)
class Scene:
    """An item: the scene's text, cleaned, its four endings and the right one (0..3)."""

    ind: str
    text: str
    endings: tuple[str, ...]
    label: int
    source: str | None


def load_plain(options: Options) -> TaskData:
    return _load(options, instruction="")


def load_instructgpt(options: Options) -> TaskData:
    return _load(options, instruction=INSTRUCTION + "\n\n")


def score_plain(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    """Right by total log-probability (`acc`), and by log-probability per character of the ending (`acc_norm`)."""
    logprobs = np.array([answer.logprob for answer in answers])
    characters = np.array([len(choice) - 1 for choice in document.choices])  # without the leading space
    label = document.target["label"]
    return {
        "acc": float(np.argmax(logprobs) == label),
        "acc_norm": float(np.argmax(logprobs / characters) == label),
    }


def score_instructgpt(document: Document, answers: Sequence[Loglikelihood]) -> dict[str, float]:
    """Right by mean log-probability per token."""
    means = [answer.logprob / answer.tokens for answer in answers]
    return {"acc": float(np.argmax(means) == document.target["label"])}


def clean(text: str) -> str:
    """Take out the marks that WikiHow left: " [title]" ends a sentence.

    To the letter what lm-evaluation-harness does, so that numbers compare: an ending that began with a mark keeps a
    space before its first word.
    """
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _load(options: Options, instruction: str) -> TaskData:
    scenes = load("hellaswag", "validation", parse_scene, data_dir=options.data_dir)
    provenance = [scenes.provenance]
    examples: list[Scene] = []
    shots = options.shots or 0
    if shots:
        train = load("hellaswag", "train", parse_scene, data_dir=options.data_dir)
        if shots > len(train.items):
            raise AlignbenchError(f"hellaswag: {shots} shots asked for, the training split has {len(train.items)}")
        examples = random.Random(options.seed).sample(train.items, shots)
        provenance.append(train.provenance)
    if instruction:
        scenes = replace(scenes, items=[_stripped(scene) for scene in scenes.items])
        examples = [_stripped(scene) for scene in examples]
    prefix = instruction + "".join(f"{scene.text} {scene.endings[scene.label]}\n\n" for scene in examples)
    documents = [_document(number, scene) for number, scene in enumerate(scenes.items)]
    return TaskData(documents, tuple(provenance), prefix, shots)


def _stripped(scene: Scene) -> Scene:
    return replace(scene, text=scene.text.strip(), endings=tuple(ending.strip() for ending in scene.endings))


def _document(number: int, scene: Scene) -> Document:
    return Document(
        id=str(number),  # the data's own index is not always one item's alone
        prompt=scene.text,
        choices=tuple(f" {ending}" for ending in scene.endings),
        target={"label": scene.label, "ind": scene.ind},
        group=scene.source,
    )


def parse_scene(row: dict[str, Any], schema: str | None) -> Scene:
    """Read a row of the authors' layout or of AbstainQA's, which has no activity label."""
    if schema == "abstainqa":
        letters = sorted(row["choices"])
        endings = [row["choices"][letter] for letter in letters]
        text, label, identifier, source = row["question"], letters.index(row["answer"]), row["id"], None
    else:
        text = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        endings, label, identifier, source = row["endings"], int(row["label"]), row["ind"], row.get("source_id")
    if not 0 <= label < len(endings):
        raise ValueError(f"label {label} names none of the {len(endings)} endings")
    return Scene(str(identifier), clean(text).lstrip(), tuple(clean(ending) for ending in endings), label, source)


def _task(name: str, title: str, **parts: Any) -> Task:
    return Task(name=name, version=1, title=title, card="hellaswag", group="common sense", takes_shots=True, **parts)


_accuracy = partial(Metric, unit="share", better="higher", binary=True, chance=0.25)

TASKS = (
    _task(
        "hellaswag",
        "HellaSwag, plain form",
        metrics=(_accuracy("acc"), _accuracy("acc_norm")),
        headline="acc_norm",
        load=load_plain,
        score=score_plain,
    ),
    _task(
        "hellaswag_instructgpt",
        "HellaSwag, InstructGPT's form",
        metrics=(_accuracy("acc"),),
        headline="acc",
        load=load_instructgpt,
        score=score_instructgpt,
    ),
)
