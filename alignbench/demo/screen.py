"""What a user sees of stages that run side by side: a status line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from alignbench.console import printable
from alignbench.demo.stages import Stage

if TYPE_CHECKING:
    from rich.status import Status

SIDE_BY_SIDE = 2  # stages at most: more cores are more threads of each
EVERY = 15.0  # seconds between lines where there is no terminal


class Screen:
    """One line of state for all that runs; whatever else is said stands above it. To stderr."""

    def __init__(self, stages: Sequence[Stage], cores: int) -> None:
        self._cores = min(cores, SIDE_BY_SIDE)
        self._busy = {stage.name: min(stage.cores, self._cores) for stage in stages}  # cores of each
        self._left = {stage.name: stage.seconds * stage.cores for stage in stages}  # of one core
        self._began = self._told = time.monotonic()
        self._expected, self._taken = 0.0, 0.0  # seconds of a core, of the stages that ended
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, line: str) -> None:
        if self._status is None:
            print(printable(line), file=sys.stderr, flush=True)
        else:
            self._status.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def done(self, stage: Stage, seconds: float | None) -> None:
        """seconds: that it took; None: an earlier demo had done it."""
        del self._left[stage.name]
        if seconds is None:
            self.say(f"{stage.name}: done before")
            return
        self._expected += stage.seconds * stage.cores
        self._taken += seconds * self._busy[stage.name]
        self.say(f"{stage.name}: done in {seconds:.0f} s")

    def show(self, running: Mapping[str, tuple[float, str]]) -> None:
        """running: stage -> the seconds that it has taken, and what it said last."""
        now = time.monotonic()
        if not running or (self._status is None and now - self._told < EVERY):
            return
        self._told = now
        told = "; ".join(
            f"{name} {seconds:.0f} s" + (f" ({last})" if last else "") for name, (seconds, last) in running.items()
        )
        line = f"{now - self._began:.0f} s, about {self.remaining(running):.0f} s left: {told}"
        if self._status is None:
            self.say(line)
        else:
            from rich.text import Text

            self._status.update(Text(printable(line)))

    def remaining(self, running: Mapping[str, tuple[float, str]]) -> float:
        """Seconds: what is known of the stages, at the pace of those that ended here."""
        pace = self._taken / self._expected if self._expected > 10 else 1.0
        begun = sum(min(seconds * self._busy[name], self._left[name] * pace) for name, (seconds, _) in running.items())
        return max(0.0, (sum(self._left.values()) * pace - begun) / self._cores)
