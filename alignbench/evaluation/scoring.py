"""From a model's answers to complete records: log-likelihoods of choices, and outputs that scorers judge in chunks.

A chunk contains the same documents on every run: the last digits of a classifier depend on the batch that a text is
in, and a resumed run must produce the same files.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, Self

from alignbench.errors import first_line
from alignbench.progress import Progress
from alignbench.runs.folder import TaskFolder
from alignbench.types.engine import Loglikelihood
from alignbench.types.record import Document, Output, Record, rounded
from alignbench.types.scorer import Explained, Numbers, Scorer, ScorerGoneError
from alignbench.types.task import Task

# Documents whose choices are planned together. More of them share more prefixes and fill batches better; fewer divide
# better among processes. It determines the batches, and with them the last digits, so it is part of a run's identity.
WINDOW = 128
OUTPUTS_PER_CHUNK = 64  # about: enough to fill a scorer's batches, few enough to be written soon
PLACEHOLDER = "one two three four five six seven eight nine ten"
MAX_WAITING = 16  # chunks that may wait for the scorers

Scores = Mapping[str, Sequence[Mapping[str, float]] | str]  # kind -> numbers of each output, or why the scorer failed


def chunk_size(task: Task) -> int:
    """Documents that are computed or scored together. Chunks are also what processes divide among themselves."""
    return WINDOW if task.generation is None else max(1, OUTPUTS_PER_CHUNK // task.generation.sampling.samples)


def choices_record(task: Task, document: Document, answers: Sequence[Loglikelihood]) -> Record:
    """The record of a task with choices. If one choice is unscored, the document is, with the first reason."""
    assert task.score is not None
    reason = next((answer.unscored for answer in answers if answer.unscored), None)
    metrics: dict[str, float | None] = {metric.name: None for metric in task.metrics}
    statistics: Mapping[str, Sequence[Any]] = {}
    if reason is None:
        metrics = dict(task.score(document, answers))
        statistics = task.statistics(document, answers) if task.statistics is not None else statistics
        reason = next((f"{name} is {x}" for name, x in metrics.items() if x is None or not math.isfinite(x)), None)
        if reason is not None:
            metrics = dict.fromkeys(metrics)
    return replace(
        Record.generated(document, ()),
        logprobs=tuple(None if answer.unscored else answer.logprob for answer in answers),
        tokens=tuple(answer.tokens for answer in answers),
        entropies=tuple(rounded(answer.entropies) for answer in answers) if task.entropies else (),
        top_entropies=tuple(rounded(answer.top_entropies) for answer in answers) if task.entropies else (),
        notes=tuple(dict.fromkeys(answer.note for answer in answers if answer.note)),
        statistics=statistics,
        metrics=metrics,
        unscored=reason,
        pending=False,
    )


def scored_record(task: Task, record: Record, scores: Scores) -> Record:
    """The record with the scorers' numbers and the task's metrics.

    A metric that does not apply to the document is missing; one that could not be computed is None, and `unscored`
    gives the reason.
    """
    generation, document = task.generation, record.document
    assert generation is not None
    numbers = {kind: found for kind, found in scores.items() if not isinstance(found, str)}
    failed = {kind: found for kind, found in scores.items() if isinstance(found, str)}
    outputs = tuple(
        replace(
            output,
            scores={**output.scores, **{kind: dict(found[i]) for kind, found in numbers.items()}},
            reasons={
                **output.reasons,
                **{
                    k: own.reasons
                    for k, found in numbers.items()
                    if isinstance(own := found[i], Explained) and own.reasons
                },
            },
        )
        for i, output in enumerate(record.outputs)
    )
    reasons = [output.unscored for output in outputs if output.unscored]
    statistics: Mapping[str, Sequence[Any]] = {}
    if reasons:
        # any text shows which metrics apply to the document; their values are unknown
        texts = [replace(output, text=PLACEHOLDER, unscored=None) for output in outputs]
        metrics = dict.fromkeys(generation.score(document, texts), math.nan)
        metrics |= {m.name: math.nan for m in task.metrics if m.scorer and set(m.kinds) <= set(scores)}
    else:
        metrics = generation.score(document, outputs)
        # a task cannot distinguish an optional scorer that failed from one that was not requested
        missing = set(failed) & set(generation.optional_scorers)
        metrics |= {metric.name: math.nan for metric in task.metrics if missing.intersection(metric.kinds)}
        reasons = [f"{kind}: {found}" for kind, found in failed.items()]
        reasons += [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        metrics |= _metrics_of_other_scorers(task, outputs)
        if generation.statistics is not None:
            statistics = generation.statistics(document, outputs)
    return replace(
        record,
        outputs=outputs,
        statistics=statistics,
        metrics={name: value if math.isfinite(value) else None for name, value in metrics.items()},
        unscored=reasons[0] if reasons else None,
        pending=False,
    )


def _metrics_of_other_scorers(task: Task, outputs: Sequence[Output]) -> dict[str, float]:
    """`kind.number` for scorers that the task does not know: the mean over the outputs."""
    found: dict[str, float] = {}
    for kind in dict.fromkeys(kind for output in outputs for kind in output.scores):
        if kind in task.scorer_kinds:
            continue
        numbers = [output.scores.get(kind, {}) for output in outputs]
        for name in dict.fromkeys(name for own in numbers for name in own):
            found[f"{kind}.{name}"] = sum(own.get(name, math.nan) for own in numbers) / len(numbers)
    return found


class ScorerQueue:
    """Scores pending records in chunks on a thread, while the source produces more, and appends complete ones.

    On exit all records are written; after an error, those that are finished.
    """

    def __init__(
        self,
        task: Task,
        documents: Sequence[Document],
        size: int,
        scorers: Sequence[Scorer],
        folder: TaskFolder,
        progress: Progress,
    ) -> None:
        """size: documents of a chunk"""
        self.task, self.scorers, self.folder, self.progress = task, scorers, folder, progress
        names = [document.id for document in documents]
        chunks = [names[begin : begin + size] for begin in range(0, len(names), size)]
        self._chunk = {name: chunk for chunk in chunks for name in chunk}
        self._waiting: dict[str, Record] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorers")
        self._running: list[Future[list[Record]]] = []

    def put(self, record: Record) -> None:
        """Add a record. One that is pending will be scored and written; a complete one only completes its chunk."""
        self._waiting[record.id] = record
        chunk = self._chunk[record.id]
        if all(name in self._waiting for name in chunk):
            together = [self._waiting.pop(name) for name in chunk]
            if any(record.pending for record in together):
                self._running.append(self._thread.submit(self._score, together))
        self.collect(wait=not self.scorers)

    def collect(self, wait: bool) -> None:
        """Write what the scorers have finished; `wait`: everything. Too many waiting chunks are waited for."""
        while self._running and (wait or self._running[0].done() or len(self._running) > MAX_WAITING):
            records = self._running.pop(0).result()
            self.folder.append(*records)
            for _ in records:
                self.progress.advance()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.collect(wait=kind is None)
        except BaseException:
            self.collect(wait=False)
            raise
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _score(self, together: list[Record]) -> list[Record]:
        scores: list[dict[str, Any]] = [{} for _ in together]
        for scorer in self.scorers:
            for found, answer in zip(scores, self._ask(scorer, together), strict=True):
                found[scorer.kind] = answer
        return [
            scored_record(self.task, record, found)
            for record, found in zip(together, scores, strict=True)
            if record.pending
        ]

    def _ask(self, scorer: Scorer, records: list[Record]) -> list[Sequence[Numbers] | str]:
        """Each record's numbers, one dictionary per output, or why there are none."""
        assert self.task.generation is not None
        items, counts = [], []
        for record in records:
            generated = not any(output.unscored for output in record.outputs)
            own = self.task.generation.items(record.document, record.outputs) if generated else []
            items += own
            counts.append(len(own))
        try:
            numbers = _checked(scorer.score(items), len(items))
        except ScorerGoneError:
            raise
        except Exception as error:  # however it fails, its documents are unscored and the run continues
            if len(records) == 1:
                return [f"{scorer.name} failed ({first_line(error)})"]
            return [answer for record in records for answer in self._ask(scorer, [record])]
        answers, rest = list[Sequence[Numbers] | str](), iter(numbers)
        for count in counts:
            each = list(islice(rest, count))
            failed = [f"{scorer.name} failed ({found})" for found in each if isinstance(found, str)]
            found = [found for found in each if not isinstance(found, str)]
            answers.append(failed[0] if failed else found or "no output was generated")
        return answers


def _checked(numbers: Sequence[Numbers | str], expected: int) -> Sequence[Numbers | str]:
    if len(numbers) != expected:
        raise ValueError(f"{len(numbers)} results for {expected} texts")
    for found in numbers:
        for name, value in found.items() if not isinstance(found, str) else ():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
    return numbers
