"""The software that computed a run: versions, commit, machine, the user's functions."""

import hashlib
import inspect
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType
from typing import Any

import alignbench

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "scipy")
DEEPEST = 8  # levels of values in the identity of a function: three objects in each other
TEXT_PACKAGES = ("sacrebleu", "rouge-score", "py3langid")  # their versions are part of a metric's meaning


def environment() -> dict[str, Any]:
    """Versions, git commit and dirty flag of this source tree (None outside one), machine, and torch's threads (None if
    it is not loaded: it is not needed for outputs and logs)."""
    torch = sys.modules.get("torch")
    return {
        "alignbench": alignbench.__version__,
        "python": sys.version.split()[0],
        **versions(PACKAGES),
        **_commit(Path(alignbench.__file__).parent),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": None if torch is None else torch.get_num_threads(),
    }


def versions(packages: Sequence[str] = TEXT_PACKAGES) -> dict[str, str | None]:
    """Package -> its version, None if it is not installed."""
    return {name: _version(name) for name in packages}


def function_identity(function: Any) -> dict[str, str]:
    """The name of a function or callable object, and a hash of its source and of the values that it was made with.

    Source: bytecode of a lambda, and where there is no source. Values: of a closure, of defaults, of functools.partial,
    of an object's attributes. Global variables, what it calls, and the contents of large objects are not covered.
    """
    text = repr(_parts(function, frozenset()))
    return {"name": function_name(function), "source_sha256": hashlib.sha256(text.encode()).hexdigest()}


def function_name(function: Any) -> str:
    """module.name, also of a callable object."""
    function = function.func if isinstance(function, partial) else function
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _parts(value: Any, inside: frozenset[int]) -> Any:
    """What a value consists of, without addresses. inside: the objects that contain it, which may be in a cycle"""
    if id(value) in inside:
        return "cycle"
    inside |= {id(value)}

    def parts(*values: Any) -> list[Any]:
        return [_parts(own, inside) for own in values]

    if isinstance(value, partial):
        return parts(value.func, value.args, value.keywords)
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, parts(*value.co_consts)]
    if inspect.ismethod(value):
        return parts(value.__func__, value.__self__)
    if inspect.isfunction(value):
        with suppress(ValueError):  # a cell may be empty
            return parts(
                _source(value), value.__defaults__, value.__kwdefaults__, inspect.getclosurevars(value).nonlocals
            )
    if inspect.isclass(value):
        return _source(value) or parts(*(own for own in vars(value).values() if inspect.isfunction(own)))
    if isinstance(value, dict):
        return sorted(repr(parts(*item)) for item in value.items())
    if isinstance(value, list | tuple):
        return parts(*value)
    if isinstance(value, set | frozenset):
        return sorted(repr(parts(own)) for own in value)
    if "object at 0x" in (shown := repr(value)) or callable(value):  # an object whose repr does not show its values
        deep = len(inside) > DEEPEST  # a client or a model has thousands of objects
        return [function_name(value), *([] if deep else parts(type(value), getattr(value, "__dict__", None)))]
    return re.sub(r" at 0x[0-9a-f]+", "", shown)


def _source(value: Any) -> Any:
    """The source of a function or class, else the bytecode of a function. A lambda's source is a whole statement."""
    try:
        if getattr(value, "__name__", "") != "<lambda>":
            return inspect.getsource(value)
    except (OSError, TypeError):  # typed into an interpreter, or not written in Python
        pass
    return getattr(value, "__code__", None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(folder: Path) -> dict[str, Any]:
    """The commit that tracks `folder`; None for a source tree installed into another repository."""
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(folder, "rev-parse", "HEAD") if tracked else None
    if commit is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no", "."))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
