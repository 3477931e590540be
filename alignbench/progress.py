"""Progress of long operations: a bar on a terminal, plain lines elsewhere, nothing by default in Python."""

import sys
import time
from types import TracebackType
from typing import Self

from alignbench.console import printable

EVERY = 10.0  # seconds between plain lines


class Progress:
    """Silent progress: the default of `alignbench.evaluate`, and the interface of the others."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, name: str, total: int, done: int = 0, unit: str = "documents") -> None:
        """Begin an operation of `total` units, `done` of which an earlier run completed."""

    def advance(self) -> None:
        """One more unit is done."""

    def say(self, line: str) -> None:
        """Print a message."""

    def close(self) -> None:
        """End all operations."""


class PlainProgress(Progress):
    """Lines on stderr: completed units, rate, estimated time left."""

    def start(self, name: str, total: int, done: int = 0, unit: str = "documents") -> None:
        self._name, self._unit, self._total, self._done, self._before = name, unit, total, done, done
        self._began = self._printed = time.monotonic()
        resumed = f", {done} already done" if done else ""
        self.say(f"{name}: {total} {unit}{resumed}")

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._done == self._total or now - self._printed >= EVERY:
            self._printed = now
            rate = (self._done - self._before) / max(now - self._began, 1e-9)
            left = (self._total - self._done) / rate
            self.say(f"{self._name}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left")

    def say(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)


class BarProgress(Progress):
    """A rich progress bar on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def start(self, name: str, total: int, done: int = 0, unit: str = "documents") -> None:
        self._before, self._done, self._began = done, done, time.monotonic()
        self._task = self._bar.add_task(printable(name), total=total, completed=done, rate="")

    def advance(self) -> None:
        self._done += 1
        rate = (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:.1f}/s")

    def say(self, line: str) -> None:
        self._bar.console.print(printable(line), markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()


def for_terminal() -> Progress:
    """The progress display for stderr."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()
