"""Tasks in which the model writes: prompts in, outputs scored, one record a document.

What is written is recorded as it comes (pending), and given to the scorers in chunks while the model goes on writing.
A chunk holds the same documents whatever was asked for or done before: a classifier's last digits depend on the batch
that a text is in, and a resumed run has to give the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from alignbench.errors import first_line
from alignbench.progress import Progress
from alignbench.runs.folder import TaskFolder
from alignbench.runs.summary import document_of, finish_record, outputs_of, pending_record
from alignbench.types.engine import Engine, Prompt
from alignbench.types.scorer import Scorer, ScorerGoneError
from alignbench.types.task import Document, Task, TaskData

CHUNK = 64  # outputs given to a scorer at once, about: enough for its batches, few enough to be written soon
BEHIND = 16  # chunks that may wait for the scorers

Record = dict[str, Any]


class Judging:
    """The scorers' half of the work: takes pending records, and writes whole ones when a chunk is together."""

    def __init__(
        self,
        task: Task,
        documents: Sequence[Document],
        scorers: Sequence[Scorer],
        folder: TaskFolder,
        progress: Progress,
    ) -> None:
        assert task.writing is not None
        self.task = task
        self.scorers = scorers
        self.folder = folder
        self.progress = progress
        size = chunk_size(task)
        self._chunk = {document.id: number // size for number, document in enumerate(documents)}
        self._members: dict[int, list[str]] = {}
        for document in documents:
            self._members.setdefault(self._chunk[document.id], []).append(document.id)
        self._waiting: dict[int, dict[str, tuple[Record, bool]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorers")
        self._running: list[Future[list[Record]]] = []

    def give(self, record: Record) -> None:
        """Hand a record in; one that has been judged before only completes its chunk."""
        new = bool(record.get("pending"))
        if not self.scorers:
            if new:
                self._write([finish_record(self.task, record, {})])
            return
        chunk = self._chunk[record["id"]]
        waiting = self._waiting.setdefault(chunk, {})
        waiting[record["id"]] = (record, new)
        if len(waiting) == len(self._members[chunk]):
            together = [waiting[member] for member in self._members[chunk]]
            del self._waiting[chunk]
            if any(new for _, new in together):
                self._running.append(self._thread.submit(self._judge, together))
        self.collect(wait=False)

    def collect(self, wait: bool) -> None:
        """Write what the scorers have finished; `wait`: all of it. Where they are far behind, wait for them."""
        while self._running and (wait or self._running[0].done() or len(self._running) > BEHIND):
            self._write(self._running.pop(0).result())

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _write(self, records: list[Record]) -> None:
        self.folder.append(*records)
        for _ in records:
            self.progress.advance()

    def _judge(self, together: list[tuple[Record, bool]]) -> list[Record]:
        records = [record for record, _ in together]
        scores: list[dict[str, Any]] = [{} for _ in records]
        for scorer in self.scorers:
            for found, answer in zip(scores, self._ask(scorer, records), strict=True):
                found[scorer.kind] = answer
        return [
            finish_record(self.task, record, found)
            for (record, new), found in zip(together, scores, strict=True)
            if new
        ]

    def _ask(self, scorer: Scorer, records: list[Record]) -> list[list[dict[str, float]] | str]:
        """Each record's numbers, one dictionary an output, or why there are none."""
        assert self.task.writing is not None
        items, counts = [], []
        for record in records:
            written = not any(output["unscored"] for output in record["outputs"])
            own = self.task.writing.items(document_of(record), outputs_of(record)) if written else []
            items += own
            counts.append(len(own))
        try:
            numbers = _checked(scorer.score(items), len(items))
        except ScorerGoneError:
            raise
        except Exception as error:  # in whatever way it fails, its documents are unscored and the run goes on
            if len(records) == 1:
                return [f"{scorer.name} failed ({first_line(error)})"]
            return [answer for record in records for answer in self._ask(scorer, [record])]
        ends = np.cumsum(counts).tolist()
        return [
            numbers[end - count : end] if count else "nothing was written"
            for count, end in zip(counts, ends, strict=True)
        ]


def chunk_size(task: Task) -> int:
    """Documents that are judged together."""
    assert task.writing is not None
    return max(1, CHUNK // task.writing.sampling.samples)


@contextmanager
def judging(
    task: Task, documents: Sequence[Document], scorers: Sequence[Scorer], folder: TaskFolder, progress: Progress
) -> Iterator[Judging]:
    """Judge what is given inside; on the way out all of it is written."""
    judge = Judging(task, documents, scorers, folder, progress)
    try:
        yield judge
        judge.collect(wait=True)
    except BaseException:
        judge.collect(wait=False)  # keep what is finished
        raise
    finally:
        judge.close()


def write_documents(
    engine: Engine | None,
    task: Task,
    data: TaskData,
    mine: Sequence[Document],
    scorers: Sequence[Scorer],
    folder: TaskFolder,
    progress: Progress,
    *,
    seed: int,
    chat: bool,
    done: Collection[str],
    earlier: Mapping[str, Callable[[], Record]],
) -> None:
    """Write and judge this process's documents.

    mine: the documents of this process, whole chunks of the task's
    done: those that need nothing, in chunks of which that is true of all
    earlier: reads the record of another document that is there already, judged or pending
    """
    assert task.writing is not None
    todo = [document for document in mine if document.id not in earlier and document.id not in done]
    with judging(task, mine, scorers, folder, progress) as judge:
        for document in mine:
            if (read := earlier.get(document.id)) is not None:
                judge.give(read())
        if not todo or engine is None:
            return
        prompts = [Prompt(f"{task.name}/{document.id}", data.prefix + document.prompt) for document in todo]
        for index, completions in engine.generate(prompts, task.writing.sampling, seed=seed, chat=chat):
            record = pending_record(todo[index], completions)
            if scorers:  # what has no scorer is judged at once
                folder.append(record)
            judge.give(record)


def unjudged(record: Record, kinds: Collection[str] | None = None) -> Record:
    """The record as it was before the scorers of these kinds (None: of any) saw it."""
    outputs = [
        output | {"scores": {} if kinds is None else {k: v for k, v in output["scores"].items() if k not in kinds}}
        for output in record["outputs"]
    ]
    return record | {"outputs": outputs, "pending": True, "unscored": None}


def _checked(numbers: list[dict[str, float]], expected: int) -> list[dict[str, float]]:
    if len(numbers) != expected:
        raise ValueError(f"{len(numbers)} answers to {expected} texts")
    for found in numbers:
        for name, value in found.items():
            if not np.isfinite(value):
                raise ValueError(f"{name} is {value}")
    return numbers
