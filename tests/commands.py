"""Run `alignbench` commands in this process, which costs no imports, or in another; their errors; a full disk."""

import contextlib
import io
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest import mock

import pytest

from alignbench.cli.app import main
from alignbench.errors import AlignbenchError


def run(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> CompletedProcess[str]:
    """Run a command in this process, as `alignbench ARGUMENTS` does."""
    argv, code = ["alignbench", *map(str, arguments)], 0
    # strict, as a terminal is
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", how, write_through=True) for how in ("strict", "backslashreplace")
    )
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, env or {}),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))
    return CompletedProcess(argv, code, *texts)


def run_process(*arguments: object, launch: str = "", env: dict[str, str] | None = None) -> CompletedProcess[str]:
    """Run a command in a new process. launch: the module, with its options, that starts the command"""
    command = [sys.executable, *f"-m {launch}".split() * bool(launch), "-m", "alignbench", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes, which a writer sees as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of a run folder except the log, which contains the times, and the lock."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", ".lock")
    }


def assert_one_line_error(done: CompletedProcess[str], *words: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0], errors[0]


def refusal(work: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The one line with which a user's mistake is refused."""
    with pytest.raises(AlignbenchError) as caught:
        work(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_refused(pattern: str, work: Callable[..., object], *arguments: Any, **options: Any) -> None:
    line = refusal(work, *arguments, **options)
    assert re.search(pattern, line), line
