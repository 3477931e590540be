"""Progress of long operations: a bar on a terminal, plain lines elsewhere, nothing by default in Python."""

import sys
import time
from typing import Self

from alignbench.console import printable

EVERY = 10.0  # seconds between plain lines


class Progress:
    """Silent progress: the default of `alignbench.evaluate`, and the base of the others."""

    _done = _before = 0.0
    _began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End all operations."""

    def start(self, name: str, total: int, done: int = 0, unit: str = "documents") -> None:
        """Begin an operation of `total` units, `done` of which an earlier run completed."""
        self._name, self._unit, self._total, self._done, self._before = name, unit, total, done, done
        self._began = self._printed = time.monotonic()

    def advance(self, detail: str = "", *, units: float = 1, before: bool = False) -> None:
        """More units are done, or were done by an earlier run (`before`). detail: about them"""
        self._done += units
        self._before += units * before
        rate = (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)
        self._show(units, rate, f"{max(self._total - self._done, 0) / rate:.0f} s left" if rate else "", detail)

    def say(self, line: str) -> None:
        """Print a message."""

    def _show(self, units: float, rate: float, left: str, detail: str) -> None:
        """Show the completed units. rate: units per second; left: estimate of the time for the others"""


class PlainProgress(Progress):
    """Lines on stderr: completed units, rate, estimated time left."""

    def start(self, name: str, total: int, done: int = 0, unit: str = "documents") -> None:
        super().start(name, total, done, unit)
        self.say(f"{name}: {total} {unit}{f', {done} already done' if done else ''}")

    def say(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)

    def _show(self, units: float, rate: float, left: str, detail: str) -> None:
        if self._done > self._total - 1e-6 or time.monotonic() - self._printed >= EVERY:
            self._printed = time.monotonic()
            pace = _pace(rate) if self._unit != "%" else ""
            done = [f"{self._name}: {self._done:.0f}/{self._total} {self._unit}", *filter(None, (pace, left))]
            self.say(f"{', '.join(done)}; {detail}" if detail else ", ".join(done))


class BarProgress(Progress):
    """A rich progress bar on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        text, count = TextColumn("{task.description}", markup=False), "{task.completed:.0f}/{task.total:.0f}"
        columns = text, BarColumn(), *map(TextColumn, (count, "{task.fields[rate]}", "{task.fields[left]}"))
        self._bar = RichProgress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def start(self, name: str, total: int, done: int = 0, unit: str = "documents") -> None:
        super().start(name, total, done, unit)
        self._task = self._bar.add_task(printable(name), total=total, completed=done, rate="", left="")

    def say(self, line: str) -> None:
        self._bar.console.print(printable(line), markup=False, highlight=False)

    def _show(self, units: float, rate: float, left: str, detail: str) -> None:
        pace = _pace(rate) if self._unit != "%" else ""
        self._bar.update(self._task, advance=units, rate=pace, left=left)
        if detail:
            self.say(f"{self._name} {self._done}/{self._total}: {detail}")


def _pace(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each" if rate else ""


def for_terminal() -> Progress:
    """The progress display for stderr."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()
