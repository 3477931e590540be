"""Checkpoints saved during a training: of which training they are, and after how many steps."""

import hashlib
import re
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.parse import parse_json, read_text

# checkpoint-500 of transformers' Trainer, and so of TRL; epoch-2 and iteration-10 of our trainers, in checkpoints/
NAME = re.compile(r"(?:checkpoint|epoch|iteration)-(\d+)")


def saved_during(folder: Path) -> dict[str, Any]:
    """The fields `run`, `run_id` and `step` of a checkpoint's record of its training; {} for a folder that has another
    name. step: of trainer_state.json if there is one, otherwise of the name"""
    folder = folder.resolve()
    match = NAME.fullmatch(folder.name)
    if match is None:
        return {}
    step = trainer_state(folder).get("global_step")
    of_run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    return {**training_in(of_run), "step": step if isinstance(step, int) else int(match[1])}


def training_in(folder: Path) -> dict[str, str]:
    """The fields `run` and `run_id` of the training in a folder. The id is a hash of the path."""
    folder = folder.resolve()
    return {"run": folder.name, "run_id": hashlib.sha256(str(folder).encode()).hexdigest()[:16]}


def trainer_state(folder: Path) -> dict[str, Any]:
    """The content of transformers' trainer_state.json, with its numbers (which may be NaN) as text; {} without one.
    Raises AlignbenchError if it is damaged."""
    file = folder / "trainer_state.json"
    try:
        found = parse_json(read_text(file), number=str)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise AlignbenchError(f"{file}: not valid JSON ({first_line(error)})") from None
    return found if isinstance(found, dict) else {}
