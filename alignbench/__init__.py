"""alignbench measures what aligning a language model gained, and what it cost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AlignbenchError", "evaluate", "read_run"]

from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.evaluation.evaluate import evaluate
    from alignbench.runs.read import read_run


def __getattr__(name: str) -> Any:
    # torch and transformers are imported on first use, so that `alignbench --help` is fast
    modules = {"evaluate": "alignbench.evaluation.evaluate", "read_run": "alignbench.runs.read"}
    if name in modules:
        return getattr(import_module(modules[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
