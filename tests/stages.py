"""What the tests of the training stages share: tiny checkpoints, made-up data, and what a run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from alignbench.errors import AlignbenchError

torch.set_num_threads(1)  # more only get in each other's way on models this small
HERE = {"cpu": True, "trackers": ()}
THINGS = ("bees", "honey", "the nurse", "the red planet", "bleach", "vinegar", "the hive", "flowers", "wax", "Mars")
QUESTIONS = tuple(f"Question: What is known about {thing}? Answer:" for thing in THINGS)


def checkpoint(folder: Path, *, tokenizer: Any = None, seed: int = 0, **overrides: Any) -> str:
    """A tiny Llama of one layer and its tokenizer, saved."""
    tokenizer = tokenizer or tiny_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    tiny_model("llama", tokenizer, seed=seed, **(small | overrides)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without those that sum up an epoch."""
    return [line for line in lines_of(out / "metrics.jsonl") if "epoch" not in line]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(work: Callable[[], object]) -> str:
    """The one line that a user reads."""
    with pytest.raises(AlignbenchError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def plain_logprobs(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of a response's tokens as the stock model gives them, one sequence at a time."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(list(response))[:, None])[:, 0]


def reward_module(folder: Path, name: str, body: str) -> str:
    """A module of the user's in the working folder, and how a setting names its function."""
    (folder / f"{name}.py").write_text(body)
    return f"{name}:score"
