"""Runs of the three stages that other processes do: `python training_runs.py FOLDER` trains all, one after another.

Under torchrun they are trained by all its processes together.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from stages import HERE, QUESTIONS, checkpoint, write_rows
from tiny import SENTENCES

STAGES = {"sft": "SFTConfig", "reward": "RewardConfig", "ppo": "PPOConfig"}
ANSWERS = (" honey, and wax.", " No.", " It is smaller than the Earth.")


def prepare(folder: Path) -> None:
    """A tiny model and the data of all stages."""
    checkpoint(folder / "model")
    write_rows(folder / "sft.jsonl", [{"prompt": q, "response": ANSWERS[i % 3]} for i, q in enumerate(QUESTIONS)])
    rankings = [{"prompt": q, "responses": list(ANSWERS), "ranks": [1 + i % 2, 2, 3]} for i, q in enumerate(QUESTIONS)]
    write_rows(folder / "rankings.jsonl", rankings)
    (folder / "text.txt").write_text("\n\n".join(SENTENCES))
    train(folder, "reward", "judge")


def train(folder: Path, stage: str, out: str, **changed: Any) -> Path:
    """Train one stage into folder/out; the folder it leaves."""
    model, text, both = str(folder / "model"), str(folder / "text.txt"), {"lr": 1e-2, "save_every": 1}
    settings = {
        "sft": {"data": str(folder / "sft.jsonl"), "epochs": 3, "batch": 4, "pretraining": text}
        | {"validation": str(folder / "sft.jsonl")},
        "reward": {"data": str(folder / "rankings.jsonl"), "epochs": 3, "batch": 4}
        | {"demonstrations": str(folder / "sft.jsonl"), "validation_share": 0.2},
        "ppo": {"prompts": str(folder / "sft.jsonl"), "reward": str(folder / "judge" / "final"), "value_lr": 1e-2}
        | {"episodes": 48, "batch": 8, "minibatch": 4, "max_tokens": 6, "target_kl": 1.0, "horizon": 50}
        | {"ptx": 1.0, "ptx_examples": 1, "pretraining": text, "no_end_score": None, "ema": 0.9},
    }
    module = import_module(f"trainers.{stage}")
    kind = getattr(module, STAGES[stage])
    module.train(kind(**(HERE | both | settings[stage] | {"model": model, "out": str(folder / out)} | changed)))
    return folder / out


if __name__ == "__main__":
    for stage, changed in (("sft", {"dropout": 0.0}), ("reward", {}), ("ppo", {})):
        train(Path(sys.argv[1]), stage, f"two-{stage}", micro_tokens=64, **changed)
