"""Tasks, scorers and engines of other packages (entry points) and of the user's files (`--include-path`).

A module's TASKS, SCORERS and ENGINES are added to ours; an entry point of the group alignbench.tasks,
alignbench.scorers or alignbench.engines names a module or such a value. Their Python code
runs, as that of any installed package.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.parse import find_path

_included: dict[Path, "tuple[ModuleType, str]"] = {}  # file -> its module, sha256


@dataclass(frozen=True)
class Plugin:
    """A task, a scorer or an engine. sha256: of the Python files that define it; origin: for messages"""

    value: Any
    sha256: str
    origin: str


def include(path: str | Path) -> None:
    """Load the plug-ins of a Python file, or of all in a folder. Raises AlignbenchError if one does not load."""
    path = Path(os.path.realpath(find_path(path)))  # Path.resolve fails on a loop of links
    files = [path] if path.suffix == ".py" and path.is_file() else sorted(path.glob("[!_]*.py"))
    if not files:
        raise AlignbenchError(f"--include-path {path}: neither a Python file nor a folder with one")
    sha256 = sha256_of(files if path.is_file() else path.rglob("*.py"))
    if path.is_dir() and str(path) not in sys.path:
        sys.path.append(str(path))  # its files may import each other
    for file in files:
        if _included.get(file, (None, ""))[1] == sha256:
            continue
        spec = importlib.util.spec_from_file_location(f"alignbench_plugin_{sha256[:8]}_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # of any kind: it is the user's code
            raise AlignbenchError(f"{file}: it does not load ({type(error).__name__}: {first_line(error)})") from error
        _included[file] = module, sha256


def plugins(kind: str) -> list[Plugin]:
    """All of a kind: "tasks", "scorers" or "engines". Raises AlignbenchError if an entry point does not load."""
    own = [(module, sha256, str(file)) for file, (module, sha256) in _included.items()]
    return [
        Plugin(value, sha256, origin)
        for source, sha256, origin in (*own, *_installed(kind))
        for value in (getattr(source, kind.upper(), ()) if isinstance(source, ModuleType) else source)
    ]


@cache
def _installed(kind: str) -> list[tuple[Any, str, str]]:
    found = []
    for entry in entry_points(group=f"alignbench.{kind}"):
        try:
            value, module = entry.load(), importlib.import_module(entry.module.partition(".")[0])
        except Exception as error:
            raise AlignbenchError(f"plug-in {entry.name} ({entry.value}) does not load: {first_line(error)}") from error
        folders = map(Path, getattr(module, "__path__", ()))
        files = [file for folder in folders for file in folder.rglob("*.py")] or [Path(str(module.__file__))]
        found.append((value, sha256_of(files), f"plug-in {entry.name}"))
    return found


def sha256_of(files: Iterable[Path]) -> str:
    """The sha256 of the contents of files, in the order of their names."""
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(hashlib.sha256(file.read_bytes()).digest() + file.name.encode())
    return whole.hexdigest()
