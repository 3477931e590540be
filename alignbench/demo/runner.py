"""The demo from top to bottom: runs the stages of data/stages.yaml as processes, two side by side, each once.

A stage is done if its stamp has the hash of its command, of this version and of what it reads, and if all that it makes
exists. A stage that was killed resumes: its command sees to that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import joblib
from filelock import FileLock, Timeout

import alignbench
from alignbench.console import printable
from alignbench.demo.lexicon import lexicon
from alignbench.demo.processes import start
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress

CODE = Path(__file__).parent  # a demo of other code is another demo
HASH = "[0-9a-f]" * 8  # ends the name of each folder of a run, and of a task in it
SIDE_BY_SIDE = 2  # stages at most: more cores are more threads of each, up to MOST_THREADS
MOST_THREADS = 4  # models this small gain nothing from more
PAUSE, EVERY = 0.1, 15.0  # seconds between checks of the processes, and between lines about them
BEGUN = re.compile(r": \d+ [a-z]+(?:, \d+ already done)?$")  # lines of progress.py
WORKED = re.compile(r": (\d+)/(\d+) [a-z]+, ")
SHORT = 160  # characters of a command on the screen; commands.sh has all of it
UNNAMED = ("*.lock", "log.jsonl", "*.pyc")  # files of times, locks and caches, on which nothing depends


@dataclass(frozen=True)
class Stage:
    """A command, and what it reads and makes: paths, or patterns of paths, below the demo's folder."""

    name: str
    command: tuple[str, ...]
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    purpose: str = ""
    seconds: float = 1.0  # by which it lengthens the demo, on any machine: only the ratios matter
    operations: int = 1  # whose progress its log shows, one after the other

    @property
    def stamp(self) -> str:
        """The file that says that the stage is done, and with what."""
        return f"logs/{self.name}.done"

    def needs(self, other: Stage) -> bool:
        return any(Path(read).is_relative_to(made) for read in self.reads for made in (*other.makes, other.stamp))

    def hash(self, out: Path) -> str:
        """sha256 of the command, of this version, and of the content of all that the stage reads."""
        digest = hashlib.sha256(repr((alignbench.__version__, self.command)).encode())
        for path in (out / read for read in self.reads):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not any(file.match(name) for name in UNNAMED):
                    digest.update(os.fsencode(f"{file}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0"))
        return digest.hexdigest()

    def missing(self, out: Path) -> str | None:
        """The first of what the stage makes that does not exist."""
        return next((made for made in self.makes if not any(out.glob(made))), None)


def plan(out: Path, seed: int = 0, sizes: Mapping[str, Any] | None = None, methods: str = "ppo") -> tuple[Stage, ...]:
    """The stages of data/stages.yaml for a demo below `out`. sizes: instead of those of the file; methods: "ppo" or
    "all", with DPO, RLOO and best-of-n"""
    file = lexicon("stages")
    values = {**file, **file["sizes"], **(sizes or {}), "out": out, "seed": seed, "code": CODE, "hash": HASH}
    for name, group in values["evaluations"].items():
        scorers = [f"{kind}=demo-world:{{out}}/world" for kind in group.get("scorers", ())]
        scorers += ["sentiment=textblob"] if "personas" in group["tasks"] and find_spec("textblob") else []
        values[name] = ("--tasks", ",".join(group["tasks"]), *(word for s in scorers for word in ("--scorer", s)))
        values[f"{name}_runs"] = tuple(f"runs/{{model}}-{HASH}/{n}-{HASH}" for n in group["tasks"])
    values["checkpoints"] = tuple(f"{{out}}/ppo/checkpoints/iteration-{n}" for n in values["iterations"])
    values["checkpoint_runs"] = tuple(f"runs/ppo-iteration-{n}-{HASH}" for n in values["iterations"])

    more = ("{out}/dpo", "{out}/rloo") if methods == "all" else ()
    best = ("sft-best-of-{best_of}",) if methods == "all" else ()  # the beginning of its run folder's name
    values |= {"others": (*(f"{folder}/final" for folder in more), *best), "other_folders": more}

    def filled(words: Iterable[str]) -> tuple[str, ...]:
        found = (values[word[1:-1]] if word.startswith("{") and word.endswith("}") else word for word in words)
        parts = (part if isinstance(part, tuple) else (str(part),) for part in found)
        return tuple(word.format_map(values) for part in parts for word in part)

    stages: list[Stage] = []
    chosen = {name: stage for name, stage in file["stages"].items() if stage.get("methods", methods) == methods}
    for name, stage in chosen.items():
        for values["model"] in file["models"] if "{model}" in name else ("",):
            after = [each for each in stage.get("after", ()) if each != "methods" or each in chosen]
            reads = (*stage.get("reads", ()), *(f"logs/{other}.done" for other in after))
            parts = map(filled, (stage["command"].split(), reads, stage["makes"]))
            command, reads, makes = parts
            purpose, operations = stage["purpose"].format_map(values), stage.get("operations", 1)
            if "--tasks" in command:  # "evaluate MODEL … --tasks TASK,…": one operation for each task of each model
                at = command.index("--tasks")
                operations = (at - 2) * len(command[at + 1].split(","))
            stages.append(Stage(name.format_map(values), command, reads, makes, purpose, stage["seconds"], operations))
    return tuple(stages)


@dataclass
class _Job:
    stage: Stage
    process: Any  # of multiprocessing
    cpu_seconds: Any  # a shared number, which the process sets when it ends
    reads: str  # the hash of what it reads, computed when it began
    log: Path
    began: float

    worked: float = 0.0  # proportion of the stage that was reported to be done

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 1)


def run(
    stages: Sequence[Stage], out: Path, seed: int = 0, cores: int | None = None, progress: Progress | None = None
) -> None:
    """Run all stages that are not done yet. Raises AlignbenchError, with the stage's log, for the first that fails."""
    progress, cores = progress or Progress(), cores or joblib.cpu_count()
    order = TopologicalSorter({stage: [other for other in stages if stage.needs(other)] for stage in stages})
    order.prepare()
    ready, running, worked = list[Stage](), list[_Job](), False
    percent = {stage: 100 * stage.seconds / sum(each.seconds for each in stages) for stage in stages}

    with _open(out, seed):
        commands = [f"# {stage.name}\n{shlex.join(stage.command)}\n" for stage in stages]
        head = f"#!/bin/sh\nset -e\n{shlex.join(['cd', str(Path.cwd())])}\n"
        (out / "commands.sh").write_text("\n".join([head, *commands]), "utf-8", "surrogateescape")
        began = shown = time.monotonic()
        progress.start("demo", 100, unit="%")
        try:
            while order.is_active():
                ready = sorted([*ready, *order.get_ready()], key=stages.index)
                if not ready or len(running) == min(cores, SIDE_BY_SIDE):
                    time.sleep(PAUSE)
                elif job := _begin(stage := ready.pop(0), out, cores):
                    running, worked = [*running, job], True
                    progress.say(f"{stage.name}: {stage.purpose}")
                    progress.say(f"  {shorten(shlex.join(stage.command), SHORT, placeholder=' …')}")
                else:
                    progress.say(f"{stage.name}: done before")
                    progress.advance(units=percent[stage], before=True)
                    order.done(stage)
                news = time.monotonic() - shown > EVERY
                shown = time.monotonic() if news else shown
                for job in list(running):
                    stage, ended = job.stage, job.process.exitcode is not None
                    if ended:
                        running.remove(job)
                        _finish(job, out)
                        progress.say(f"{stage.name}: done in {job.seconds:.0f} s")
                        order.done(stage)
                    elif news:
                        progress.say(f"{stage.name}: {job.seconds:.0f} s: {last_line(job.log)}")
                    if ended or news:
                        done = 1.0 if ended else max(job.worked, worked_so_far(job.log, stage.operations))
                        progress.advance(units=percent[stage] * (done - job.worked))
                        job.worked = done
        finally:
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.join()
            if worked:
                row = {"seconds": round(time.monotonic() - began, 1), "finished": not order.is_active()}
                with (out / "logs" / "goes.jsonl").open("a") as lines:
                    lines.write(json.dumps(row) + "\n")


@contextmanager
def _open(out: Path, seed: int) -> Iterator[None]:
    """Lock the folder, which is a demo of one seed. Raises AlignbenchError if it is in use, has another seed, or cannot
    be written."""
    file, lock = out / "seed", FileLock(out / "logs" / ".lock", timeout=0)
    try:
        kept = file.read_text(encoding="utf-8").strip() if file.is_file() else str(seed)
        if kept != str(seed):
            raise AlignbenchError(f"{out}: a demo of seed {kept}; choose another --out, or --seed {kept}")
        (out / "logs").mkdir(parents=True, exist_ok=True)
        locked = lock.acquire()
        file.write_text(f"{seed}\n", encoding="utf-8")
    except Timeout:  # an OSError too
        raise AlignbenchError(f"{out}: another demo is running in it; wait for it, or choose another --out") from None
    except OSError as error:
        raise AlignbenchError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    with locked:
        yield


def _begin(stage: Stage, out: Path, cores: int) -> _Job | None:
    """Start the stage's process, unless the stage is done. What it began with other input is removed: its command would
    refuse to resume it, or leave it beside the new."""
    reads, stamp, began = stage.hash(out), out / stage.stamp, out / "logs" / f"{stage.name}.began"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == reads and stage.missing(out) is None:
        return None
    before = next((file.read_text(encoding="utf-8") for file in (began, stamp) if file.is_file()), reads)
    for path in [path for made in (*stage.makes, stage.stamp) for path in out.glob(made) if before != reads]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    began.write_text(reads, encoding="utf-8")
    log = out / "logs" / f"{stage.name}.log"
    with log.open("ab") as stream:
        stream.write(os.fsencode(f"$ {shlex.join(stage.command)}\n"))
    process, cpu_seconds = start(stage.command, log, min(MOST_THREADS, max(1, cores // SIDE_BY_SIDE)))
    return _Job(stage, process, cpu_seconds, reads, log, time.monotonic())


def _finish(job: _Job, out: Path) -> None:
    name = job.stage.name
    if job.process.exitcode != 0:
        reason = last_line(job.log, "error: ") or last_line(job.log)
        raise AlignbenchError(f"stage {name} failed: {reason}; log: {job.log}; run the same command again to resume")
    if (gone := job.stage.missing(out)) is not None:
        raise AlignbenchError(f"stage {name} ended, but did not make {out / gone}; log: {job.log}")
    (out / job.stage.stamp).write_text(job.reads, encoding="utf-8")
    row = {"stage": name, "seconds": job.seconds, "cpu_seconds": round(job.cpu_seconds.value, 1)}
    with (out / "logs" / "times.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def last_line(log: Path, start: str = "") -> str:
    """The last line of a log that begins with `start`, without it; the newest state of a bar that overwrites itself."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("$ ") and line.startswith(start)]
    return printable(said[-1].removeprefix(start))[:160] if said else ""


def worked_so_far(log: Path, operations: int) -> float:
    """Proportion of a stage that is done, by the progress of its `operations` operations in its log."""
    lines = log.read_text("utf-8", "replace").rpartition("\n$ ")[2].replace("\r", "\n").splitlines()
    begun = sum(BEGUN.search(line) is not None for line in lines)
    shown = next((found for line in reversed(lines) if (found := WORKED.search(line) or BEGUN.search(line))), None)
    part = int(shown[1]) / max(int(shown[2]), 1) if shown and shown.re is WORKED else 0.0
    return min(1.0, (max(begun, 1) - 1 + part) / operations)
