"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): problems of grade-school mathematics with solutions in words, which end
in "#### " and a number.

Prompt, stop strings, and the strict and flexible extraction of the final answer are those of lm-evaluation-harness
(task gsm8k, version 3), except that the examples are the same for all documents (docs/metrics.md).
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from alignbench.data import Row
from alignbench.tasks.common import load_documents, prefix, solved, take_examples
from alignbench.tasks.declare import generation_task, words
from alignbench.types.task import Check, Document, Options, Output, TaskData

SHOTS = 5
MARK = "#### "
STRICT = re.compile(rf"{MARK}(-?[0-9.,]+)")
FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")  # the second alternative: a single digit


def load(options: Options) -> TaskData:
    """The test split, after `options.shots` (default: 5) problems of the training split with their solutions."""
    options = replace(options, shots=SHOTS if options.shots is None else options.shots)
    data = load_documents("gsm8k", "test", parse, options)
    if not options.shots:
        return data
    train = load_documents("gsm8k", "train", parse, options)
    examples, _ = take_examples(train.documents, options, "gsm8k")
    shown = prefix("", map(solved, examples))
    return TaskData(data.documents, data.provenance + train.provenance, shown, len(examples))


def parse(row: Row) -> Document:
    if MARK not in row["answer"]:
        raise ValueError(f'no "{MARK}" before the final answer')
    return Document("", f"Question: {row['question']}\nAnswer:", references=(row["answer"],))


def strict_answer(text: str) -> str | None:
    """The number after the first "#### "; None without one."""
    found = STRICT.search(text)
    return found and normalise(found[1])


def flexible_answer(text: str) -> str | None:
    """The last number, with its signs of thousands and dollars; None without one. Two or more of `$.,` alone are a
    number too, as in lm-evaluation-harness."""
    found = FLEXIBLE.findall(text)
    return normalise(found[-1]) if found else None


def normalise(answer: str) -> str:
    """The text after "#### ", if it has that mark, without commas, dollar signs, and a full stop at its end."""
    return answer.replace(",", "").replace("$", "").rpartition(MARK)[2].removesuffix(".").lower()


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text, right = outputs[0].text, normalise(document.references[0])
    return {
        "flexible_extract": float(flexible_answer(text) == right),
        "strict_match": float(strict_answer(text) == right),
        "answer_rate": float(flexible_answer(text) is not None),
        "words": words(text),
    }


_CHECK = Check("flexible_extract", lambda document, output: flexible_answer(output.text))
TASKS = (generation_task("gsm8k", load, score, check=_CHECK),)
