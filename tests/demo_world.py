"""The demo world of seed 0, written once in a process for all tests that read it."""

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from cases import read_lines

from alignbench.demo.world import FOLDER, make_world
from alignbench.demo.write import write_world


@lru_cache
def world():
    return make_world(0)


@lru_cache
def written():
    """The folder of its files; tests do not write to it."""
    folder = Path(tempfile.mkdtemp(prefix="demo-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_world(folder, 0)
    return folder


@lru_cache
def rows(name):
    """The rows of one of the world's own files."""
    return read_lines(written() / FOLDER / f"{name}.jsonl")


def pages():
    """The pretraining text."""
    return [row["text"] for row in rows("pretraining")]
