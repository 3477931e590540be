"""Runs the demo's stages as processes of their own, side by side where there are cores, each once."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import alignbench
from alignbench.demo.screen import Screen
from alignbench.demo.stages import Stage, stamp
from alignbench.errors import AlignbenchError
from alignbench.progress import printable
from alignbench.runs import lock_run

SIDE_BY_SIDE = 2  # stages at most: more cores are more threads of each
TIMES = "times.jsonl"  # of each stage that was run
PAUSE = 0.1  # seconds between looks at what runs
UNNAMED = (".lock", "log.jsonl")  # files of times and locks, on which nothing depends


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
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(stages), list[_Running]()
    with lock_run(logs), Screen(stages) as screen:
        try:
            while waiting or running:
                while (stage := _next(waiting, running, out, cores)) is not None:
                    waiting.remove(stage)
                    reads = hash_of(stage)
                    if is_done(stage, out, reads):
                        screen.done(stage, None)
                        continue
                    screen.say(f"$ {shown(stage.command)}")
                    running.append(_Running(stage, _start(stage, out, cores), time.monotonic(), reads))
                time.sleep(PAUSE)
                for job in list(running):
                    before = _cpu_seconds()
                    if job.process.poll() is not None:
                        running.remove(job)
                        _finish(job, out, _cpu_seconds() - before)
                        screen.done(job.stage, job.seconds)
                screen.show({job.stage.name: (job.seconds, last_line(job.log(out))) for job in running}, cores)
        finally:
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.wait()


def shown(command: Sequence[str]) -> str:
    """As a user types it."""
    return shlex.join(["alignbench", *command])


def hash_of(stage: Stage) -> str:
    """sha256 of the stage's command, of this version, and of what stands in all that it reads."""
    digest = hashlib.sha256(repr((alignbench.__version__, stage.command)).encode())
    for path in stage.reads:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.name not in UNNAMED:
                digest.update(f"{file}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


def is_done(stage: Stage, out: Path, reads: str) -> bool:
    file = stamp(out, stage.name)
    made = all(path.exists() for path in stage.makes)
    return made and file.is_file() and file.read_text(encoding="utf-8") == reads


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
    threads = max(1, cores * stage.cores // SIDE_BY_SIDE)
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
    missing = next((path for path in job.stage.makes if not path.exists()), None)
    if missing is not None:
        raise AlignbenchError(f"stage {name} ended, but made no {missing}; its log: {log}")
    stamp(out, name).write_text(job.reads, encoding="utf-8")
    with (out / "logs" / TIMES).open("a", encoding="utf-8") as times:
        row = {"stage": name, "seconds": round(job.seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
        times.write(json.dumps(row) + "\n")


def last_line(log: Path) -> str:
    """What a stage said last, "" where nothing yet; of a bar that overwrites itself, its newest state."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
    return printable(said[-1])[:160] if said else ""
