"""Shared parts of the tasks that make documents, and of those that compute corpus metrics."""

import math
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignbench.data import Provenance, Row, load
from alignbench.data.conversations import read_conversations
from alignbench.data.messages import joined
from alignbench.data.tables import SourceRow, fingerprint
from alignbench.errors import AlignbenchError
from alignbench.scorers import bleu
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

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)
Sum = Callable[[bleu.Statistics], float]  # a function of the sum of the rows
Sums = Mapping[str, tuple[Metric, Sum]]  # column of the records' statistics -> metric of a corpus


def load_documents(card: str, split: str, parse: Callable[[Row], Document], options: Options) -> TaskData:
    """A split whose rows are documents. A document without an id gets the number of its row, from 0."""
    loaded = load(card, split, parse, options.data_dir)
    return TaskData([replace(d, id=d.id or str(number)) for number, d in enumerate(loaded.items)], (loaded.provenance,))


def few_shot(
    card: str,
    parse: Callable[[Row], Document],
    options: Options,
    instruction: str = "",
    usable: Callable[[Document], bool] = lambda document: True,
) -> TaskData:
    """The validation split, after `options.shots` usable documents of the training split with their answers."""
    data = load_documents(card, "validation", parse, options)
    if not options.shots:
        return replace(data, prefix=prefix(instruction, ()))
    train = load_documents(card, "train", parse, options)
    examples, _ = take_examples(list(filter(usable, train.documents)), options, card)
    shown = prefix(instruction, map(solved, examples))
    return TaskData(data.documents, data.provenance + train.provenance, shown, len(examples))


def load_prompts(
    task: str, options: Options, complete: Callable[[SourceRow, Document], Document] = lambda row, document: document
) -> TaskData:
    """A document per prompt of `options.prompts`, or of Self-Instruct's user-oriented ones (arXiv 2212.10560).

    The rows of a file have any format of `alignbench.data.conversations`, with one message of the user; `id` (default:
    "row N"; MT-bench's `question_id`) and `category` are optional.
    complete: adds what else a task reads from a row; may raise ValueError
    Raises AlignbenchError with task, file and line for a row without a prompt and for a repeated id.
    """
    if options.prompts is None:
        return load_documents("self_instruct", "user_oriented", parse_instruction, options)
    source = str(options.prompts)
    try:
        found = read_conversations(source, "prompts")
    except AlignbenchError as error:
        raise AlignbenchError(f"task {task}, {error}") from None
    documents: dict[str, Document] = {}
    for number, (row, before) in enumerate(((own.row, own.before) for own in found), start=1):
        try:
            if not isinstance(before, str) and len(before) > 1:
                raise ValueError(f"the prompt has {len(before)} messages; a prompt of {task} is one")
            prompt = before.rstrip() if isinstance(before, str) else before[0]["content"]
            if not prompt.strip():
                raise ValueError("the prompt is empty")
            given = (row.fields.get("id", row.fields.get("question_id")), row.fields.get("category"))
            identifier, category = (None if value in (None, "") else str(value) for value in given)
            identifier = identifier or f"row {number}"
            if identifier in documents:
                raise ValueError(f"id {identifier!r} is used by an earlier row")
            documents[identifier] = complete(row, Document(identifier, prompt, category=category))
        except ValueError as error:
            raise AlignbenchError(f"task {task}, {row.where}: {error}") from None
    mark = fingerprint(source, len(found))
    revision = mark.get("sha256") or mark.get("revision") or "unknown"
    return TaskData(list(documents.values()), (Provenance("", "", mark["source"], revision, len(found), pinned=False),))


def parse_instruction(row: Row) -> Document:
    """Parse a row of Self-Instruct."""
    return Document(row["id"], joined(row["instruction"], row["instances"][0]["input"]))


def take_examples(items: Sequence[T], options: Options, task: str) -> tuple[list[T], list[T]]:
    """`options.shots` items drawn with the seed as examples, and the other items, which are scored."""
    shots = options.shots or 0
    if shots >= len(items) and shots:
        raise AlignbenchError(f"{task}: {shots} shots requested, but there are only {len(items)} items to draw from")
    rows = random.Random(options.seed).sample(range(len(items)), shots)
    taken = set(rows)
    return [items[row] for row in rows], [item for row, item in enumerate(items) if row not in taken]


def draw(items: Sequence[T], n: int, seed: int) -> list[T]:
    """`n` of the items, drawn with `seed`, in their order; all items if there are no more than `n`."""
    if n >= len(items):
        return list(items)
    return [items[row] for row in sorted(random.Random(seed).sample(range(len(items)), n))]


def grouped(items: Iterable[T], key: Callable[[T], Key]) -> dict[Key, list[T]]:
    """Key -> its items; keys and items in their order."""
    groups: dict[Key, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def solved(document: Document) -> str:
    """The document as a few-shot example: its prompt with the right choice or the first reference."""
    answer = document.choices[document.target["label"]] if document.choices else f" {document.references[0]}"
    return document.prompt + answer


def prefix(instruction: str, examples: Iterable[str]) -> str:
    """The text before every prompt: the instruction and the examples, each followed by a blank line."""
    return "".join(f"{part}\n\n" for part in (instruction, *examples) if part)


def share_of_best(scores: ArrayLike, right: int) -> float:
    """1 if choice `right` has the highest score, else 0; if k choices share it exactly, 1 / k, as if one were drawn."""
    best = np.flatnonzero(np.asarray(scores) == np.max(scores))
    return float(right in best) / len(best)


def estimates_of_sums(sums: Sums, records: Sequence[Record], intervals: bool) -> Estimates:
    """Metrics over the documents whose record has the column, with bootstrap intervals over documents."""
    found: Estimates = []
    for column, (metric, value) in sums.items():
        if counts := [record.statistics[column] for record in records if column in record.statistics]:
            found.append((metric, bleu.corpus_interval(counts, value, resamples=1000 if intervals else 0)))
    return found


def resampled_sums(sums_of: Callable[[Sequence[Record]], Sums]) -> Callable[[Sequence[Record]], Resampled]:
    """What `CorpusMetrics.resample` is for such metrics; a record without a column has zeros there."""

    def resample(records: Sequence[Record]) -> Resampled:
        tables, sums = dict[str, NDArray[np.float64]](), sums_of(records)
        for column in sums:
            width = max(len(record.statistics.get(column, ())) for record in records)
            if width:
                rows = [record.statistics.get(column, [0.0] * width) for record in records]
                tables[column] = np.array(rows, np.float64)
        return lambda weights: {
            sums[column][0].name: np.array([sums[column][1]([row]) for row in (weights @ table).tolist()])
            for column, table in tables.items()
        }

    return resample


def ngram_counts(text: str, references: Sequence[str]) -> dict[str, list[float]]:
    """What a document contributes: its n-gram counts, and the number of references that they were made with."""
    return {
        "bleu_statistics": bleu.bleu_statistics(text, references),
        "chrf_statistics": bleu.chrf_statistics(text, references),
        "references_counted": [float(len(references))],
    }


def _bleu_and_chrf(records: Sequence[Record]) -> Sums:
    """BLEU and chrF with sacrebleu's signatures, for the records that have counts."""
    counted = [record.statistics for record in records if record.statistics]
    numbers = {own["references_counted"][0] for own in counted}
    references = int(numbers.pop()) if len(numbers) == 1 else "var"
    short = bleu.is_short([own["bleu_statistics"] for own in counted])
    metric = partial(Metric, unit="points", better="higher", bounds=(0, 100))
    of_bleu, of_chrf = bleu.bleu_signature(references, short), bleu.chrf_signature(references)
    return {
        "bleu_statistics": (metric("bleu", signature=of_bleu), partial(bleu.corpus_bleu, short=short)),
        "chrf_statistics": (metric("chrf", signature=of_chrf), bleu.corpus_chrf),
    }


CORPUS_SCORES = CorpusMetrics(
    lambda records, intervals: estimates_of_sums(_bleu_and_chrf(records), records, intervals),
    resample=resampled_sums(_bleu_and_chrf),
)


def equivalence_classes(outputs: Sequence[Output]) -> list[float] | None:
    """The class of each output, by a scorer of the kind "equivalence"; None if it failed."""
    classes = [output.scores.get("equivalence", {}).get("class", math.nan) for output in outputs]
    return classes if all(map(math.isfinite, classes)) else None


def first_outputs(records: Sequence[Record]) -> tuple[list[str], NDArray[np.float32] | None]:
    """The text of each record's first output, and their (n, d) embedding vectors; None unless all have one."""
    vectors = [record.vectors[0] for record in records if record.vectors is not None]
    known = np.stack(vectors) if vectors and len(vectors) == len(records) else None
    return [record.outputs[0].text for record in records], known
