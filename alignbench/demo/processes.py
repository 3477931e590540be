"""Processes of the demo's stages: forks of one process that has imported torch, transformers and the trainers."""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path
from typing import Any

from joblib.externals.loky import get_reusable_executor

PRELOADED = ("alignbench.demo.pretrain", "alignbench.evaluation.evaluate", "alignbench.models.local", "reports.report",
    "trainers.ppo", "trainers.reward", "trainers.sft", "transformers.models.llama.modeling_llama")  # fmt: skip
FORKS = sys.platform == "linux"  # elsewhere, a fork of a process with these libraries may crash


def start(command: Sequence[str], log: Path, threads: int) -> tuple[Any, Any]:
    """Start a command in the current folder, with its output at the end of `log`. Returns the process, and a shared
    number: its CPU seconds, once it has ended."""
    own: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if FORKS:
        own.set_forkserver_preload(list(PRELOADED))
        _run_server({"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": str(threads)})
    cpu_seconds = own.Value("d", 0.0, lock=False)
    process = own.Process(target=run_command, args=(command, Path.cwd(), environment, log, threads, cpu_seconds))
    process.start()
    return process, cpu_seconds


def _run_server(variables: Mapping[str, str]) -> None:
    """Start the process that others are forked from, if it does not run: with environment variables of its own, without
    the modules of the current folder, and deaf to Ctrl-C, which would end its imports with a traceback."""
    before = dict(os.environ)
    resource_tracker.ensure_running()  # when it starts, it unblocks the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ |= {**variables, "PYTHONSAFEPATH": "1"}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def run_command(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path, threads: int, cpu_seconds: Any
) -> None:
    """Run a command in this process, as a shell in `folder` would: as the main program, with its output in the log."""
    if FORKS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # else a stage whose demo was killed would hold its run's lock against the demo that resumes
    threading.Thread(target=_end_with_the_demo, daemon=True).start()
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    with log.open("ab") as stream, Path(os.devnull).open() as nothing:
        for file, number in ((nothing, 0), (stream, 1), (stream, 2)):
            os.dup2(file.fileno(), number)
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    program, *sys.argv[1:] = command
    module = {"torchrun": "torch.distributed.run"}.get(program, program)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        get_reusable_executor().shutdown()  # this process would wait for joblib's idle ones
        cpu_seconds.value = sum(os.times()[:4])


def _end_with_the_demo() -> None:
    demo = multiprocessing.parent_process()
    assert demo is not None
    connection.wait([demo.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
