"""alignbench measures what aligning a language model gained, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AlignbenchError", "evaluate"]

from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from alignbench.evaluation.evaluate import evaluate


def __getattr__(name: str) -> Any:
    # torch and transformers are imported when an evaluation is, so that `alignbench --help` answers at once
    if name == "evaluate":
        from alignbench.evaluation.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
