"""The pipeline: records from a source, scored and summarised in a run folder.

A model, a file of outputs, an existing run, and a pair of runs with a judge are sources. Locking is done by
`alignbench.runs.folder`; identity, resuming, sharding, chunking, scoring and summarising are done here, once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.evaluation.scoring import WINDOW, ScorerQueue, chunk_size
from alignbench.evaluation.sources import Source
from alignbench.progress import Progress
from alignbench.provenance import environment, versions
from alignbench.runs.folder import RecordOffset, RunFolder, TaskFolder, digest
from alignbench.runs.read import TaskRun
from alignbench.runs.summary import summarise
from alignbench.scorers.choose import embedder_of
from alignbench.types.engine import Thinking
from alignbench.types.record import Document, Record
from alignbench.types.scorer import Embedder, Scorer, ScorerIdentity
from alignbench.types.task import Task, TaskData


@dataclass(frozen=True)
class Job:
    """A task with its sampled documents and its loaded scorers: the same for every model."""

    task: Task
    data: TaskData
    limit: int | None
    seed: int
    scorers: tuple[Scorer, ...] = ()
    template: str = "auto"
    thinking: Thinking | None = None

    def uses_chat(self, has_template: bool) -> bool:
        """Whether prompts are messages in the chat template. has_template: the model has one"""
        plain = self.task.generation is None or self.task.generation.plain
        return self.template == "chat" or (self.template == "auto" and has_template and not plain)

    def identity(
        self,
        chat: bool,
        thinking: Thinking | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> dict[str, Any]:
        """All that the numbers depend on besides the model; the documents' hash covers data, prompts and seed."""
        identity = {
            "task": self.task.name,
            "version": self.task.version,
            "shots": self.data.shots,
            "limit": self.limit,
            "seed": self.seed,
            "data": [asdict(provenance) for provenance in self.data.provenance],
            "prefix": self.data.prefix,
            "n": len(self.data.documents),
            "documents_sha256": digest({"documents": [d.describe() for d in self.data.documents]}),
            "template": "chat" if chat else "none",
        }
        if self.task.declared:
            identity["declared"] = dict(self.task.declared)
        if self.task.definition:
            identity["definition_sha256"] = self.task.definition
        if chat and template_kwargs:
            identity["template_kwargs"] = dict(template_kwargs)
        if chat and system is not None:
            identity["system"] = system
        if self.task.generation is None:
            return identity | {"window": WINDOW}
        sampling = asdict(self.task.generation.sampling)
        del sampling["top_entropies"], sampling["thinking"]  # no continuation depends on the first
        if not sampling["top_k"]:
            del sampling["top_k"]
        return identity | {
            "sampling": sampling,
            "thinking": thinking and asdict(thinking),
            "scorers": [asdict(ScorerIdentity.of(scorer)) for scorer in self.scorers],
            "judged_with": versions(),
        }


def run_task(
    source: Source,
    run: RunFolder,
    task: Task,
    documents: Sequence[Document],
    scorers: Sequence[Scorer],
    identity: Mapping[str, Any],
    progress: Progress,
    *,
    embedder: Embedder | None = None,
) -> TaskRun:
    """Produce, score and summarise the records of a task, as far as they do not exist yet.

    identity: the content of task.json: all that the numbers depend on besides the model
    embedder: computes the vectors of outputs; None: the one among `scorers`, if any
    Each of several processes handles its own chunks; the first one creates the folder and summarises.
    """
    order = {document.id: number for number, document in enumerate(documents)}
    if len(order) < len(documents):
        raise AlignbenchError(f"{task.name}: two documents have the same id")
    shard, label = run.shard, f"{source.name} {task.name}"
    folder = run.create_task_folder(task.name, identity)
    finished, failed = TaskRun.of(folder), False
    if finished is not None and finished.result.unscored:
        failed = not all(map(source.usable, folder.offsets().values()))
    shard.wait_for_everyone()
    if finished is not None and not failed:
        progress.say(f"{label}: already finished in {folder.path}")
        return finished
    if failed:
        progress.say(f"{label}: retrying documents that failed")
    if shard.is_main:
        folder.reopen()
    shard.wait_for_everyone()
    before = source.work()
    size = chunk_size(task)
    mine = [document for number, document in enumerate(documents) if shard.owns(number // size)]
    reusable = reusable_outputs(run, folder, identity) if source.computes and task.generation is not None else {}
    missing, records, complete = resume(mine, size, folder.offsets(), source.usable, reusable)
    shard.wait_for_everyone()  # no process writes while another reads
    where = {"task": task.name, "folder": folder.path.name}
    run.log("start", **where, already=complete, environment=environment(), **source.details)
    progress.start(label, len(mine), complete)
    # what is computed without scorers is complete, and written at once
    together = 1 if source.computes and not scorers else size
    with ScorerQueue(task, mine, together, scorers, folder, progress) as queue:
        for read in records:
            queue.put(read())
        for record in source.records(task, mine, missing):
            if not record.pending:
                folder.append(record)
                progress.advance()
                continue
            if source.computes and scorers:
                folder.append(record)
            queue.put(record)
    shard.wait_for_everyone()
    if shard.is_main:
        _summarise(task, folder, order, embedder or embedder_of(scorers))
    shard.wait_for_everyone()
    after = source.work()
    work = {k: v - before[k] if isinstance(v, int) and isinstance(before.get(k), int) else v for k, v in after.items()}
    run.log("finish", **where, **work)
    done = TaskRun.of(folder)
    assert done is not None
    return done


def _summarise(task: Task, folder: TaskFolder, order: Mapping[str, int], embedder: Embedder | None) -> None:
    slim = partial(Record.slim, keep_texts=task.keeps_texts)
    records = [record for record in folder.records(slim) if record.id in order]
    records.sort(key=lambda record: order[record.id])
    identity = folder.identity()
    scorers = [ScorerIdentity(**entry) for entry in identity.get("scorers", ())]
    result = summarise(
        task,
        records,
        shots=identity["shots"],
        limit=identity["limit"],
        seed=identity["seed"],
        scorers={scorer.kind: str(scorer) for scorer in scorers},
        template=identity.get("template"),
        embedder=embedder if task.keeps_texts else None,
    )
    folder.finish(order, asdict(result))


def resume(
    documents: Sequence[Document],
    size: int,
    offsets: Mapping[str, RecordOffset],
    usable: Callable[[RecordOffset], bool],
    reusable: Mapping[str, RecordOffset],
) -> tuple[set[str], list[Callable[[], Record]], int]:
    """What exists already: the documents without a record; a reader of each existing record, pending or complete, in
    chunks of `size` that are not complete, since a chunk is scored together; and the number of complete records.

    reusable: records of another folder, whose scores are those of other scorers
    If a document of a chunk failed with a transient error when the others were scored, all are scored again.
    """
    missing: set[str] = set()
    records: list[Callable[[], Record]] = []
    complete = 0
    for begin in range(0, len(documents), size):
        chunk = [document.id for document in documents[begin : begin + size]]
        known = {name: offsets[name] for name in chunk if name in offsets}
        good = {name: offset for name, offset in known.items() if usable(offset)}
        finished = sum(not offset.pending for offset in good.values())
        complete += finished
        again = any(offset.transient for name, offset in known.items() if name not in good)
        for name in chunk if finished < len(chunk) else ():
            if name in good:
                records.append(_unjudged(good[name]) if again else good[name].read)
            elif name in reusable:
                records.append(_unjudged(reusable[name]))
            else:
                missing.add(name)
    return missing, records, complete


def _unjudged(offset: RecordOffset) -> Callable[[], Record]:
    return lambda: offset.read().unjudged()


def reusable_outputs(run: RunFolder, folder: TaskFolder, identity: Mapping[str, Any]) -> dict[str, RecordOffset]:
    """Outputs of the same model for the same prompts, in a folder with other scorers."""
    found: dict[str, RecordOffset] = {}
    for other in run.tasks():
        if other.path != folder.path and outputs_key(other.identity()) == outputs_key(identity):
            found |= {name: offset for name, offset in other.offsets().items() if not offset.transient}
    return found


def outputs_key(identity: Mapping[str, Any]) -> str:
    """What the task folders with the same outputs have in common: all but how the outputs were scored."""
    return digest({**identity, "scorers": "scorers" in identity, "judged_with": None})
