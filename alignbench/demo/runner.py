"""Runs the demo's stages as processes of their own, side by side where there are cores, each once."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import alignbench
from alignbench.console import printable
from alignbench.demo.screen import SIDE_BY_SIDE, Screen
from alignbench.demo.stages import Stage, stamp
from alignbench.errors import AlignbenchError

TIMES = "times.jsonl"  # of each stage that was run
GOES = "goes.jsonl"  # of each time that the demo was at work: its wall time, and whether it came to its end
COMMANDS = "commands.sh"  # all of them in order, to be run by hand
SEED = "seed"
SHORT = 160  # characters of a command that stands whole on the screen
MOST_THREADS = 4  # of a stage: models this small gain nothing from more
PAUSE = 0.1  # seconds between looks at what runs
UNNAMED = ("*.lock", "log.jsonl", "*.pyc")  # files of times, locks and caches, on which nothing depends


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    began: float
    reads: str  # hash of what it reads, taken when it began

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def log(self, out: Path) -> Path:
        return out / "logs" / f"{self.stage.name}.log"


def run(stages: Sequence[Stage], out: Path, cores: int) -> None:
    """Run all stages that are not done yet. Raises AlignbenchError, with the stage's log, for the first that fails.

    A stage is done where its stamp holds the hash of its command, of this version and of what it reads, and where all
    that it makes is there. Stages that were killed go on where they stood: their commands see to that.
    """
    waiting, running = list(stages), list[_Running]()
    with _alone(out), Screen(stages, cores) as screen:
        (out / COMMANDS).write_text(script(stages), encoding="utf-8")
        began, worked, finished = time.monotonic(), False, False
        try:
            while waiting or running:
                while (stage := _next(waiting, running, out, cores)) is not None:
                    waiting.remove(stage)
                    reads = hash_of(stage)
                    if is_done(stage, out, reads):
                        screen.done(stage, None)
                        continue
                    clear(stage, out, reads)
                    screen.say(f"$ {shortened(stage.command, out)}")
                    worked = True
                    running.append(_Running(stage, _start(stage, out, cores), time.monotonic(), reads))
                time.sleep(PAUSE)
                for job in list(running):
                    before = _cpu_seconds()
                    if job.process.poll() is not None:
                        running.remove(job)
                        _finish(job, out, _cpu_seconds() - before)
                        screen.done(job.stage, job.seconds)
                screen.show({job.stage.name: (job.seconds, last_line(job.log(out))) for job in running})
            finished = True
        finally:
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.wait()
            if worked:
                row = {"seconds": round(time.monotonic() - began, 1), "finished": finished}
                _add_line(out / "logs" / GOES, row)


def keep_seed(out: Path, seed: int) -> None:
    """A folder is a demo of one seed. Raises AlignbenchError where it has another, before anything is written."""
    file = out / SEED
    try:
        if (kept := file.read_text(encoding="utf-8").strip() if file.is_file() else str(seed)) != str(seed):
            raise AlignbenchError(f"{out}: a demo of seed {kept}; name another --out for seed {seed}, or --seed {kept}")
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{seed}\n", encoding="utf-8")
    except OSError as error:
        raise AlignbenchError(f"{out}: cannot be written ({error.strerror}); name another --out") from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock against another demo."""
    logs = out / "logs"
    lock = FileLock(logs / ".lock", timeout=0)
    try:
        logs.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:  # an OSError too
        raise AlignbenchError(f"{out}: another demo is at work in it; wait for it, or name another --out") from None
    except OSError as error:
        raise AlignbenchError(f"{out}: cannot be written ({error.strerror}); name another --out") from error
    try:
        yield
    finally:
        lock.release()


def shown(command: Sequence[str]) -> str:
    """As a user types it."""
    return shlex.join(["alignbench", *command])


def shortened(command: Sequence[str], out: Path) -> str:
    """For the screen: of a long command how it begins, and where it stands in full."""
    if len(whole := shown(command)) <= SHORT:
        return whole
    words = list(takewhile(lambda word: not word.startswith("--"), command))
    while len(shown(words)) > SHORT // 2:
        words.pop()
    return f"{shown(words)} … (in full in {out / COMMANDS})"


def script(stages: Sequence[Stage]) -> str:
    """All commands in their order, each under its stage's name."""
    parts = [f"# {stage.name}\n{shown(stage.command)}\n" for stage in stages]
    return "\n".join(["#!/bin/sh\nset -e\n" + shlex.join(["cd", str(Path.cwd())]) + "\n", *parts])


def hash_of(stage: Stage) -> str:
    """sha256 of the stage's command, of this version, and of what stands in all that it reads."""
    digest = hashlib.sha256(repr((alignbench.__version__, stage.command)).encode())
    for path in stage.reads:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not any(file.match(name) for name in UNNAMED):
                digest.update(f"{file}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


def is_done(stage: Stage, out: Path, reads: str) -> bool:
    file = stamp(out, stage.name)
    return missing(stage, out) is None and file.is_file() and file.read_text(encoding="utf-8") == reads


def missing(stage: Stage, out: Path) -> Path | None:
    """The first of what the stage is to leave that is not there."""
    runs = out / "runs"
    gone = (path for path in stage.makes if not path.exists())
    return next(gone, next((runs / fill for fill in stage.fills if not any(runs.glob(fill))), None))


def clear(stage: Stage, out: Path, reads: str) -> None:
    """Remove what the stage began with other input, which it would refuse to go on with, or leave beside the new."""
    began, done = out / "logs" / f"{stage.name}.began", stamp(out, stage.name)
    before = next((file.read_text(encoding="utf-8") for file in (began, done) if file.is_file()), reads)
    if before != reads:
        for path in [*stage.makes, *(path for fill in stage.fills for path in (out / "runs").glob(fill))]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        done.unlink(missing_ok=True)
    began.write_text(reads, encoding="utf-8")


def needs(stage: Stage, other: Stage, out: Path) -> bool:
    """Whether `stage` reads what `other` makes."""
    made = (*other.makes, stamp(out, other.name))
    return any(read == path or path in read.parents for read in stage.reads for path in made)


def _next(waiting: Sequence[Stage], running: Sequence[_Running], out: Path, cores: int) -> Stage | None:
    """The first stage whose inputs are all made and for which there are cores."""
    unfinished = [*waiting, *(job.stage for job in running)]
    free = min(cores, SIDE_BY_SIDE) - sum(min(job.stage.cores, cores) for job in running)
    return next(
        (
            stage
            for stage in waiting
            if min(stage.cores, cores) <= free and not any(needs(stage, other, out) for other in unfinished)
        ),
        None,
    )


def _start(stage: Stage, out: Path, cores: int) -> subprocess.Popen[bytes]:
    threads = min(MOST_THREADS, max(1, cores * stage.cores // SIDE_BY_SIDE))
    with (out / "logs" / f"{stage.name}.log").open("ab") as log:
        log.write(f"$ {shown(stage.command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "alignbench", *stage.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
            preexec_fn=_end_with_the_parent if sys.platform == "linux" else None,
        )


def _end_with_the_parent() -> None:
    """Else a stage whose demo was killed would hold its run's lock against the demo that goes on (prctl(2))."""
    pdeathsig = 1
    ctypes.CDLL(None).prctl(pdeathsig, signal.SIGTERM)


def _cpu_seconds() -> float:
    """Of all processes that ended below this one."""
    times = os.times()
    return times.children_user + times.children_system


def _finish(job: _Running, out: Path, cpu_seconds: float) -> None:
    name, log = job.stage.name, job.log(out)
    if job.process.returncode != 0:
        reason = last_line(log).removeprefix("error: ")
        raise AlignbenchError(f"stage {name} failed: {reason}; its log: {log}; the same command begins again there")
    if (gone := missing(job.stage, out)) is not None:
        raise AlignbenchError(f"stage {name} ended, but made no {gone}; its log: {log}")
    stamp(out, name).write_text(job.reads, encoding="utf-8")
    row = {"stage": name, "seconds": round(job.seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
    _add_line(out / "logs" / TIMES, row)


def _add_line(file: Path, row: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def last_line(log: Path) -> str:
    """What a stage said last, "" where nothing yet; of a bar that overwrites itself, its newest state."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return printable(said[-1])[:160] if said else ""
