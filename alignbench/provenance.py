"""The software that computed a run: versions, commit, machine, the user's functions."""

import hashlib
import inspect
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import alignbench

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "scipy")
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
    """The name of a function or callable object, and a hash of its source, or of its bytecode where there is none."""
    kind = inspect.unwrap(function) if inspect.isroutine(function) else type(function)
    try:
        text = inspect.getsource(kind)
    except (OSError, TypeError):  # typed into an interpreter, or not written in Python
        code = getattr(kind, "__code__", None)
        text = repr((code.co_code, code.co_names, [c for c in code.co_consts if not inspect.iscode(c)])) if code else ""
    return {"name": function_name(function), "source_sha256": hashlib.sha256(text.encode()).hexdigest()}


def function_name(function: Any) -> str:
    """module.name, also of a callable object."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


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
