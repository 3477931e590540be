"""The lineage of a checkpoint: recipe.json says which stage made it, from what, on what data, with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alignbench
from alignbench.models.checkpoint import Ancestor, Checkpoint, find_checkpoint
from alignbench.provenance import versions
from alignbench.runs.folder import write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGES = ("torch", "transformers", "accelerate", "peft")


def identify(spec: str) -> dict[str, str]:
    """Which checkpoint a folder or hub id is: name, path, weights_sha256. Raises AlignbenchError as find_checkpoint."""
    return _entry(find_checkpoint(spec))


def _entry(found: Checkpoint) -> dict[str, str]:
    return {"name": found.name, "path": str(found.path.resolve()), "weights_sha256": found.weights_sha256}


def write_recipe(
    folder: Path,
    *,
    stage: str,
    parent: str,
    models: Mapping[str, str],
    data: Sequence[Mapping[str, Any]],
    config: DataclassInstance,
    metrics: Mapping[str, float],
) -> None:
    """Write recipe.json into a checkpoint's folder.

    stage: sft, reward, ppo or ppo-ptx
    parent: folder or hub id of the checkpoint that training started from
    models: role -> folder or hub id of the other checkpoints that had a part (the reward model of PPO)
    data: what identifies each data file
    """
    found = find_checkpoint(parent)
    lineage = found.lineage or (Ancestor("base", found.name, found.weights_sha256),)
    recipe = {
        "stage": stage,
        "parent": _entry(found),
        "models": {role: identify(spec) for role, spec in models.items()},
        "data": list(data),
        "config": asdict(config),
        "versions": {"alignbench": alignbench.__version__, **versions(PACKAGES)},
        "metrics": in_json(metrics),
        "lineage": [asdict(ancestor) for ancestor in lineage],
    }
    write_json(folder / "recipe.json", recipe)


def in_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Numbers as JSON can hold them: those that are not finite as text ("nan", "inf", "-inf")."""
    return {name: x if abs(x) < float("inf") else str(float(x)) for name, x in metrics.items()}
