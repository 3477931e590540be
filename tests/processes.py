"""Processes that cost no imports: forks of one that has imported torch, transformers and the trainers."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["stages", "alignbench.evaluation.evaluate", "transformers.models.llama.modeling_llama"])


def fork(
    work: Callable[..., object], *arguments: Any, out: str | Path = os.devnull, err: str | Path = os.devnull,
    cwd: Path | None = None, env: dict[str, str] | None = None,
) -> BaseProcess:  # fmt: skip
    """Start `work(*arguments)` in a process. out, err: the files of what it prints"""
    # until Python 3.13 the server of forks does not look for modules where this process does
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}):
        forkserver.ensure_running()
    where = (str(out), str(err), cwd or Path.cwd(), env or {})
    process = FORKS.Process(target=_redirected, args=(work, arguments, *where))
    process.start()
    return process


def _redirected(
    work: Callable[..., object], arguments: Sequence[Any], out: str, err: str, cwd: Path, env: dict[str, str]
) -> None:
    os.chdir(cwd)
    os.environ |= env
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    work(*arguments)


def start(*arguments: object, **options: Any) -> BaseProcess:
    """Start `alignbench ARGUMENTS`. options: as of `fork`"""
    return fork(run_command, *arguments, **options)


def run_command(*arguments: object) -> None:
    from alignbench.cli.app import main

    sys.argv = ["alignbench", *map(str, arguments)]
    main()


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def two_ranks() -> list[dict[str, str]]:
    """The variables by which launchers such as torchrun tell two processes of one machine how to find each other."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def in_two_processes(folder: Path, work: Callable[..., object], *arguments: Any) -> None:
    """Do the work in two processes. What they print is in folder/out-0, folder/err-0 and so on."""
    running = [
        fork(work, *arguments, out=folder / f"out-{rank}", err=folder / f"err-{rank}", env=env)
        for rank, env in enumerate(two_ranks())
    ]
    processes = list(running)
    while running:
        ended = connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.sentinel not in ended]
        if any(process.exitcode for process in processes):  # the other one would wait for it
            for process in running:
                kill(process)
    errors = [(folder / f"err-{rank}").read_text()[-3000:] for rank in (0, 1)]
    assert [process.exitcode for process in processes] == [0, 0], "\n".join(errors)
