"""The run folder: one record per document, written as it is computed (docs/run_folder.md).

The names of the folders of models and tasks end in a hash of everything that the numbers depend on: results for another
model, prompt, data revision or setting are in another folder and are never reused. result.json is written last, so it
marks a task as finished. Times are in log.jsonl only, so that the other files of a resumed run equal those of an
uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from alignbench import parse
from alignbench.errors import AlignbenchError, first_line
from alignbench.runs.schema import RunFile, TaskFile, check
from alignbench.shards import SINGLE_PROCESS, Shard
from alignbench.types.record import Record
from alignbench.types.result import TaskResult

AGAIN = "evaluate this task again"


def digest(identity: Mapping[str, Any]) -> str:
    """sha256 of a JSON object, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@contextmanager
def open_run(
    out: str | Path, name: str, identity: Mapping[str, Any], shard: Shard = SINGLE_PROCESS
) -> Iterator[RunFolder]:
    """Create the folder of this identity in `out` if necessary, and lock it.

    Raises AlignbenchError if it cannot be written, or if another process is writing to it.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "checkpoint"
    path = parse.find_path(out) / f"{slug}-{digest(identity)[:8]}"
    if not shard.is_main:
        shard.wait_for_everyone()
        yield RunFolder(path, shard)
        return
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with lock_run(path):
        shard.wait_for_everyone()
        yield RunFolder(path, shard)


@contextmanager
def lock_run(path: Path) -> Iterator[RunFolder]:
    """Hold the lock of an existing run. Raises AlignbenchError if another process holds it."""
    lock = FileLock(path / ".lock", timeout=0)
    with writing(path):
        try:
            lock.acquire()
        except Timeout:  # an OSError too
            raise AlignbenchError(
                f"{path}: another alignbench process is writing to this run; wait for it, or choose another --out"
            ) from None
    try:
        yield RunFolder(path)
    finally:
        lock.release()


@dataclass(frozen=True)
class RunFolder:
    """An open run. Created by `open_run`, which holds its lock."""

    path: Path
    shard: Shard = SINGLE_PROCESS

    def description(self) -> dict[str, Any]:
        """The content of run.json. Raises AlignbenchError if the folder is not a run folder."""
        found = read_object(self.path / "run.json")
        if found is None:
            raise AlignbenchError(f"{self.path}: not a run folder (no run.json)")
        check(found, RunFile, self.path / "run.json", AGAIN)
        return found

    def describe(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Write run.json unless it exists; return what the run began with."""
        file = self.path / "run.json"
        if self.shard.is_main and read_object(file) is None:
            write_json(file, description)
        self.shard.wait_for_everyone()
        return read_object(file) or dict(description)

    def keep(self, settings: str) -> None:
        """Keep the settings of a command, a YAML text, beside those of earlier ones."""
        if self.shard.is_main:
            name = f"settings-{hashlib.sha256(settings.encode()).hexdigest()[:8]}.yaml"
            with writing(self.path):
                (self.path / name).write_text(settings, encoding="utf-8")

    def log(self, event: str, **details: Any) -> None:
        if self.shard.is_main:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            append_lines(self.path / "log.jsonl", [{"time": now, "event": event, **details}])

    def task_folder(self, name: str, identity: Mapping[str, Any]) -> TaskFolder:
        """The folder of a task with these documents and settings, which may not exist yet."""
        slug = re.sub(r"[^\w.-]+", "-", name)
        return TaskFolder(self.path / f"{slug}-{digest(identity)[:8]}", self.shard)

    def create_task_folder(self, name: str, identity: Mapping[str, Any]) -> TaskFolder:
        """The same, created if necessary; `identity` becomes its task.json."""
        folder = self.task_folder(name, identity)
        if self.shard.is_main:
            with writing(folder.path):
                folder.path.mkdir(exist_ok=True)
            if read_object(folder.path / "task.json") is None:
                write_json(folder.path / "task.json", identity)
        self.shard.wait_for_everyone()
        return folder

    def tasks(self) -> list[TaskFolder]:
        """The existing task folders, in alphabetical order."""
        return [TaskFolder(file.parent, self.shard) for file in sorted(self.path.glob("*/task.json"))]


@dataclass(frozen=True, slots=True)
class RecordOffset:
    """Position of a record: bytes `start` to `stop` of a file.

    transient: at least one of its outputs failed with a transient error
    """

    file: Path
    start: int
    stop: int
    pending: bool
    transient: bool

    def read(
        self, read: Callable[[Mapping[str, Any]], Record] = Record.from_json, stream: BinaryIO | None = None
    ) -> Record:
        """stream: of `file`, if it is open. Raises AlignbenchError if there is no record."""
        try:
            with nullcontext(stream) if stream else parse.open_file(self.file) as opened:
                return read(parse.parse_line(self.bytes(opened)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"its record at byte {self.start} cannot be read ({first_line(error)})"
            raise AlignbenchError(f"{self.file}: {reason}; {AGAIN}") from None

    def bytes(self, stream: BinaryIO) -> bytes:
        """The line of the record. stream: of `file`"""
        stream.seek(self.start)
        return stream.read(self.stop - self.start)


class TaskFolder:
    """The records and the result of one task.

    Records are appended to documents.partial.jsonl in the order in which they are computed; each of several processes
    has its own file. `finish` sorts them into documents.jsonl and adds the result. A record may be *pending*: the
    outputs are generated but not scored. A later record of the same document replaces it.
    """

    def __init__(self, path: Path, shard: Shard = SINGLE_PROCESS) -> None:
        self.path = path
        self.shard = shard
        own = "documents.partial.jsonl" if shard.world == 1 else f"documents.partial-{shard.rank}.jsonl"
        self._own = path / own
        self._final = path / "documents.jsonl"

    def identity(self) -> dict[str, Any]:
        """The content of task.json. Raises AlignbenchError if it cannot be read."""
        found = read_object(self.path / "task.json") or {}
        check(found, TaskFile, self.path / "task.json", AGAIN)
        return found

    def result(self) -> TaskResult | None:
        """The finished result, or None. Raises AlignbenchError if it cannot be read."""
        found = read_object(self.path / "result.json")
        return None if found is None else check(found, TaskResult, self.path / "result.json", AGAIN)

    def records(self, read: Callable[[Mapping[str, Any]], Record] = Record.from_json) -> Iterator[Record]:
        """One record of each document that has one. An incomplete last line of a killed process is cut off."""
        offsets = self.offsets()
        with self._open() as sources:
            for offset in offsets.values():
                yield offset.read(read, sources[offset.file])

    def append(self, *records: Record) -> None:
        append_lines(self._own, [record.to_json() for record in records])

    def reopen(self) -> None:
        """Remove the result: records will be added."""
        with writing(self.path):
            (self.path / "result.json").unlink(missing_ok=True)
            if self._final.is_file() and not self._partial():
                os.replace(self._final, self._own)

    def finish(self, order: Mapping[str, int], result: Mapping[str, Any]) -> None:
        """Sort the records by `order` of their ids into documents.jsonl, then write result.json with their hash."""
        if partial := self._partial():
            offsets = self.offsets()
            temporary = self._final.with_suffix(".tmp")
            with writing(self._final):
                with self._open() as sources, temporary.open("wb") as target:
                    for identifier in sorted(offsets.keys() & order.keys(), key=order.__getitem__):
                        target.write(offsets[identifier].bytes(sources[offsets[identifier].file]))
                os.replace(temporary, self._final)
                for file in partial:
                    file.unlink()
        with self._final.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        write_json(self.path / "result.json", {**result, "records_sha256": sha256})

    def _partial(self) -> list[Path]:
        return sorted(self.path.glob("documents.partial*.jsonl"))

    def _files(self) -> list[Path]:
        # both exist if a process was killed between creating the one and removing the other
        return [file for file in (self._final,) if file.is_file()] + self._partial()

    @contextmanager
    def _open(self) -> Iterator[dict[Path, BinaryIO]]:
        with ExitStack() as stack:
            yield {file: stack.enter_context(file.open("rb")) for file in self._files()}

    def offsets(self) -> dict[str, RecordOffset]:
        """Position of each document's record. A complete record precedes a pending one, a later one an earlier one."""
        offsets: dict[str, RecordOffset] = {}
        for file in self._files():
            for start, stop, record in _complete_lines(file):
                identifier, pending = record["id"], bool(record.get("pending"))
                if pending and identifier in offsets and not offsets[identifier].pending:
                    continue
                outputs = record["outputs"] if isinstance(record.get("outputs"), list) else []
                transient = any(isinstance(output, dict) and output.get("transient") for output in outputs)
                offsets[identifier] = RecordOffset(file, start, stop, pending, transient)
        return offsets


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object completely or not at all. NaN and infinity are refused: what is unscored is null."""
    temporary = file.with_suffix(".tmp")
    with writing(file):
        temporary.write_text(
            json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8", "backslashreplace"
        )
        os.replace(temporary, file)


def _line(content: Mapping[str, Any]) -> bytes:
    # lone surrogates may occur in data; they are escaped, since UTF-8 cannot hold them
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", errors="backslashreplace")


def append_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append lines. After a failure (a full disk) the file may end in part of one, which `_complete_lines` cuts off."""
    content = b"".join(map(_line, lines))
    with writing(file), file.open("ab", buffering=0) as stream:
        while content:
            content = content[stream.write(content) :]


def _complete_lines(file: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(start, stop, object) of each complete line with an id; an incomplete last line is removed from the file."""
    start = 0
    try:
        stream = parse.open_file(file)
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be read ({error.strerror or error}); {AGAIN}") from None
    with stream:
        for line in stream:
            stop = start + len(line)
            try:
                record = parse.parse_line(line) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if isinstance(record, dict) and isinstance(record.get("id"), str):
                yield start, stop, record
            elif not line.endswith(b"\n"):
                with writing(file):
                    os.truncate(file, start)
                return
            start = stop


def read_object(file: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file. Raises AlignbenchError if it cannot be read."""
    try:
        return parse.read_object(file)
    except FileNotFoundError:
        return None
    except AlignbenchError as error:
        raise AlignbenchError(f"{error}; fix it, or remove it and run the same command again") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise AlignbenchError if a file cannot be written inside the `with` block."""
    try:
        yield
    except AlignbenchError:
        raise
    except Exception as error:
        # safetensors ("I/O error") and torch.save ("inline_container") have their own errors for a full disk
        if not isinstance(error, OSError) and not any(t in str(error) for t in ("I/O error", "inline_container")):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        advice = "computed results are kept: fix the cause and run the same command again"
        raise AlignbenchError(f"{path}: cannot be written ({reason}); {advice}") from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def difference(before: Any, now: Any, name: str = "") -> str | None:
    """The first difference between two JSON values, such as `config.lr was 1, now 2`."""
    one, other = (dict(enumerate(v)) if isinstance(v, list) else v for v in (before, now))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None if one == other else f"{name} was {before}, now {now}"
    parts = (difference(one.get(key), other.get(key), f"{name}.{key}".lstrip(".")) for key in {**one, **other})
    return next(filter(None, parts), None)
