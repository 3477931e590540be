"""The run folder: what was computed, with what, one record a document, written as it comes (docs/run_folder.md).

    runs/
      SmolLM2-135M-Instruct-1f0c9a2e/       one checkpoint with one engine setting
        run.json                            what identifies them, and the software that computed
        log.jsonl                           when it started, resumed, finished; speeds
        hellaswag-5b1d07c3/                 one task with one set of documents
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alignbench.errors import AlignbenchError


def digest(identity: Mapping[str, Any]) -> str:
    """sha256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@contextmanager
def open_run(out: Path, name: str, identity: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Lock the folder of this identity below `out`, making it if need be.

    Raises AlignbenchError where it cannot be written, or where another process is writing to it.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "checkpoint"
    path = out / f"{slug}-{digest(identity)[:8]}"
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise AlignbenchError(
                f"{path}: another alignbench process is writing to this run; wait for it, or choose another --out"
            ) from None
    try:
        yield RunFolder(path)
    finally:
        lock.release()


@dataclass(frozen=True)
class RunFolder:
    """An open run. Made by `open_run`, which holds its lock."""

    path: Path

    def describe(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Write run.json, unless it is there already: then return what the run began with."""
        file = self.path / "run.json"
        if (before := _read_object(file)) is not None:
            return before
        write_json(file, description)
        return dict(description)

    def log(self, event: str, **details: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        _append(self.path / "log.jsonl", _line({"time": now, "event": event, **details}))

    def task(self, name: str, identity: Mapping[str, Any]) -> TaskFolder:
        """The folder of a task with these documents and settings; `identity` goes into its task.json."""
        path = self.path / f"{name}-{digest(identity)[:8]}"
        with _writing(path):
            path.mkdir(exist_ok=True)
        if _read_object(path / "task.json") is None:
            write_json(path / "task.json", identity)
        return TaskFolder(path)


class TaskFolder:
    """The records and the result of one task.

    Records are appended to documents.partial.jsonl in the order in which they are computed; `finish` puts them into
    the task's order as documents.jsonl and adds the result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path / "documents.partial.jsonl"

    def result(self) -> dict[str, Any] | None:
        """The finished result, or None."""
        return _read_object(self.path / "result.json")

    def records(self) -> Iterator[dict[str, Any]]:
        """The records that are there. What a killed process left half-written at the end is cut off."""
        for file in (self._partial, self.path / "documents.jsonl"):
            if file.is_file():
                for _, _, record in _whole_records(file):
                    yield record
                return

    def append(self, record: Mapping[str, Any]) -> None:
        _append(self._partial, _line(record))

    def finish(self, order: Mapping[str, int], result: Mapping[str, Any]) -> None:
        """Sort the records by `order` of their ids into documents.jsonl, then write result.json."""
        final = self.path / "documents.jsonl"
        if self._partial.is_file():
            places = {record["id"]: (start, stop) for start, stop, record in _whole_records(self._partial)}
            temporary = final.with_suffix(".tmp")
            with _writing(final), self._partial.open("rb") as source, temporary.open("wb") as target:
                for identifier in sorted(places, key=order.__getitem__):
                    start, stop = places[identifier]
                    source.seek(start)
                    target.write(source.read(stop - start))
            with _writing(final):
                os.replace(temporary, final)
                self._partial.unlink()
        write_json(self.path / "result.json", result)


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


def _append(file: Path, line: bytes) -> None:
    """Add a line. After a failure (a full disk) the file may end in half of it, which `_whole_records` cuts off."""
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


def _read_object(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AlignbenchError(f"{file}: cannot be read ({error}); remove it, and the task runs again") from error
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
