"""The run folder: what was computed, with what, one record a document, written as it comes (docs/run_folder.md).

    runs/
      SmolLM2-135M-Instruct-1f0c9a2e/       one checkpoint with one engine setting
        run.json                            what identifies them, and the software that computed
        log.jsonl                           when it started, resumed, finished; speeds
        hellaswag-5b1d07c3/                 one task with one set of documents, and the scorers of what was written
          task.json                         data revisions, settings, the prefix of all prompts
          documents.jsonl                   one record a document, in the task's order
          result.json                       the metrics; written last, so it marks the task as finished

The names end in a hash of all that the numbers depend on: work done with another model, prompt, data revision or
setting lies in another folder and is never reused. Times stand in log.jsonl alone, so that a resumed run's other
files equal an uninterrupted one's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alignbench.errors import AlignbenchError
from alignbench.shards import ALONE, Shard


def digest(identity: Mapping[str, Any]) -> str:
    """sha256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@contextmanager
def open_run(out: Path, name: str, identity: Mapping[str, Any], shard: Shard = ALONE) -> Iterator[RunFolder]:
    """Lock the folder of this identity below `out`, making it if need be.

    Raises AlignbenchError where it cannot be written, or where another run is writing to it.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "checkpoint"
    path = out / f"{slug}-{digest(identity)[:8]}"
    if not shard.first:
        shard.wait()
        yield RunFolder(path, shard)
        return
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with lock_run(path):
        shard.wait()
        yield RunFolder(path, shard)


@contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Hold the lock of a run that is there."""
    lock = FileLock(path / ".lock", timeout=0)
    with _writing(path):
        try:
            lock.acquire()
        except Timeout:  # an OSError too
            raise AlignbenchError(
                f"{path}: another alignbench process is writing to this run; wait for it, or choose another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class RunFolder:
    """An open run. Made by `open_run`, which holds its lock."""

    path: Path
    shard: Shard = ALONE

    def describe(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Write run.json, unless it is there already: return what the run began with."""
        file = self.path / "run.json"
        if self.shard.first and read_object(file) is None:
            write_json(file, description)
        self.shard.wait()
        return read_object(file) or dict(description)

    def log(self, event: str, **details: Any) -> None:
        if self.shard.first:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            _append(self.path / "log.jsonl", [{"time": now, "event": event, **details}])

    def task(self, name: str, identity: Mapping[str, Any]) -> TaskFolder:
        """The folder of a task with these documents and settings; `identity` goes into its task.json."""
        path = self.path / f"{name}-{digest(identity)[:8]}"
        if self.shard.first:
            with _writing(path):
                path.mkdir(exist_ok=True)
            if read_object(path / "task.json") is None:
                write_json(path / "task.json", identity)
        self.shard.wait()
        return TaskFolder(path, self.shard)

    def tasks(self) -> list[TaskFolder]:
        """The task folders that are there, in alphabetical order."""
        return [TaskFolder(file.parent, self.shard) for file in sorted(self.path.glob("*/task.json"))]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies: bytes `start` to `stop` of a file. transient: a fault on the way took one of its outputs."""

    file: Path
    start: int
    stop: int
    pending: bool
    transient: bool

    @property
    def whole(self) -> bool:
        """Whether nothing is left to do for this document."""
        return not self.pending and not self.transient

    def read(self) -> dict[str, Any]:
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            record: dict[str, Any] = json.loads(stream.read(self.stop - self.start))
        return record


class TaskFolder:
    """The records and the result of one task.

    Records are appended to documents.partial.jsonl in the order in which they are computed, by each process of
    several to a file of its own; `finish` puts them into the task's order as documents.jsonl and adds the result.
    A record may be *pending*: the model has written, the scorers have not judged. A later one takes its place.
    """

    def __init__(self, path: Path, shard: Shard = ALONE) -> None:
        self.path = path
        self.shard = shard
        own = "documents.partial.jsonl" if shard.world == 1 else f"documents.partial-{shard.rank}.jsonl"
        self._own = path / own
        self._final = path / "documents.jsonl"

    def identity(self) -> dict[str, Any]:
        """What task.json says."""
        return read_object(self.path / "task.json") or {}

    def result(self) -> dict[str, Any] | None:
        """The finished result, or None."""
        return read_object(self.path / "result.json")

    def records(self) -> Iterator[dict[str, Any]]:
        """One record of each document that has one. What a killed process left half-written at the end is cut off."""
        for place in self.places().values():
            yield place.read()

    def append(self, *records: Mapping[str, Any]) -> None:
        _append(self._own, records)

    def reopen(self) -> None:
        """Take the result back: records will be added."""
        with _writing(self.path):
            (self.path / "result.json").unlink(missing_ok=True)
            if self._final.is_file() and not self._partial():
                os.replace(self._final, self._own)

    def finish(self, order: Mapping[str, int], result: Mapping[str, Any]) -> None:
        """Sort the records by `order` of their ids into documents.jsonl, then write result.json."""
        if partial := self._partial():
            places = self.places()
            temporary = self._final.with_suffix(".tmp")
            with _writing(self._final), ExitStack() as stack:
                sources = {file: stack.enter_context(file.open("rb")) for file in self._files()}
                target = stack.enter_context(temporary.open("wb"))
                for identifier in sorted(places, key=order.__getitem__):
                    place = places[identifier]
                    sources[place.file].seek(place.start)
                    target.write(sources[place.file].read(place.stop - place.start))
            with _writing(self._final):
                os.replace(temporary, self._final)
                for file in partial:
                    file.unlink()
        write_json(self.path / "result.json", result)

    def _partial(self) -> list[Path]:
        return sorted(self.path.glob("documents.partial*.jsonl"))

    def _files(self) -> list[Path]:
        # both are there where a process was killed after the one was made and before the other was removed
        return [file for file in (self._final,) if file.is_file()] + self._partial()

    def places(self) -> dict[str, Place]:
        """Where each document's record lies; a whole one goes before a pending one, and a later before an earlier."""
        places: dict[str, Place] = {}
        for file in self._files():
            for start, stop, record in _whole_records(file):
                identifier, pending = record["id"], bool(record.get("pending"))
                if pending and identifier in places and not places[identifier].pending:
                    continue
                transient = any(output.get("transient") for output in record.get("outputs", ()))
                places[identifier] = Place(file, start, stop, pending, transient)
        return places


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all. NaN and infinity are refused: what is unscored is null."""
    temporary = file.with_suffix(".tmp")
    with _writing(file):
        temporary.write_text(
            json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        os.replace(temporary, file)


def _line(record: Mapping[str, Any]) -> bytes:
    # lone surrogates can stand in data; they are escaped, since UTF-8 cannot hold them
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", errors="backslashreplace")


def _append(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add lines. After a failure (a full disk) the file may end in half of one, which `_whole_records` cuts off."""
    line = b"".join(map(_line, records))
    with _writing(file), file.open("ab", buffering=0) as stream:
        while line:
            line = line[stream.write(line) :]


def _whole_records(file: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(start, stop, record) of each whole line; a torn last line is removed from the file."""
    start = 0
    with file.open("rb") as stream:
        for line in stream:
            stop = start + len(line)
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if record is not None:
                yield start, stop, record
            elif not line.endswith(b"\n"):
                with _writing(file):
                    os.truncate(file, start)
                return
            start = stop


def read_object(file: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is no such file."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AlignbenchError(
            f"{file}: cannot be read ({error}); mend it, or remove it and run the same command again"
        ) from error
    return found


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AlignbenchError(
            f"{path}: cannot be written ({error.strerror or error}); what was computed is kept: "
            "mend it and run the same command again"
        ) from error
