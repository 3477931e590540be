"""alignbench measures what aligning a language model gained, and what it cost.

evaluate: models on tasks, into run folders; score: outputs in a file; compare: the audit of an aligned model against
its reference; report: figures and a page; rank: many systems by a judge; train: SFT, a reward model, PPO or RLOO;
read_run: a run folder as a DataFrame; sweep: the checkpoints of one training; AuditCallback: evaluation during
a training.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alignbench.errors import AlignbenchError

__version__ = "0.1.0"
__all__ = [
    "AlignbenchError",
    "AuditCallback",
    "compare",
    "evaluate",
    "rank",
    "read_run",
    "report",
    "score",
    "sweep",
    "train",
]

if TYPE_CHECKING:
    from alignbench.audit.compare import compare
    from alignbench.evaluation.callback import AuditCallback
    from alignbench.evaluation.evaluate import evaluate
    from alignbench.evaluation.rank import rank_specs as rank
    from alignbench.evaluation.score_file import score_file as score
    from alignbench.evaluation.sweep import sweep
    from alignbench.runs.read import read_run
    from reports.report import report
    from trainers.config import train

# torch and transformers are imported on first use, so that `alignbench --help` is fast
_FUNCTIONS = {
    "AuditCallback": "alignbench.evaluation.callback:AuditCallback",
    "compare": "alignbench.audit.compare:compare",
    "evaluate": "alignbench.evaluation.evaluate:evaluate",
    "rank": "alignbench.evaluation.rank:rank_specs",
    "read_run": "alignbench.runs.read:read_run",
    "report": "reports.report:report",
    "score": "alignbench.evaluation.score_file:score_file",
    "sweep": "alignbench.evaluation.sweep:sweep",
    "train": "trainers.config:train",
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        module, _, function = _FUNCTIONS[name].partition(":")
        return getattr(import_module(module), function)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
