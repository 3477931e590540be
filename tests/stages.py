"""What the tests of the training stages share: tiny models, stock models as their reference, and what a run leaves."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from alignbench.errors import AlignbenchError
from trainers import loop
from trainers.config import StageConfig

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


def tiny_classifier(architecture: str, tokenizer: Any, **overrides: Any) -> Any:
    """A sequence classifier with one label over the weights of `tiny_model`, with a head that is not near zero."""
    causal = tiny_model(architecture, tokenizer, **overrides)
    causal.config.num_labels = 1
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(overrides.get("seed", 0) + 1)
        model = transformers.AutoModelForSequenceClassification.from_config(causal.config)
        getattr(model, model.base_model_prefix).load_state_dict(causal.base_model.state_dict())
        torch.nn.init.normal_(model.score.weight, std=0.5)
    return model.eval()


def an_accelerator(tmp_path_factory: Any) -> Any:
    """An accelerator of one process on the CPU, without trackers; a module-scoped fixture of several test files."""
    return loop.make_accelerator(StageConfig(out=str(tmp_path_factory.mktemp("trackers")), trackers=(), cpu=True))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without those that sum up an epoch."""
    return [line for line in lines_of(out / "metrics.jsonl") if "epoch" not in line]


def recipe_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "final" / "recipe.json").read_text())


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


# Stock models in float64, one response at a time: the reference for packed rows


def exact(model: Any) -> Any:
    return copy.deepcopy(model).double()


def logprobs_alone(model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0) -> Any:
    """(tokens,) of one response after its prompt, from a stock forward of the two alone."""
    logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor([*response])[:, None])[:, 0]


def score_alone(classifier: Any, prompt: Sequence[int], response: Sequence[int] = ()) -> Any:
    """The score at the last token of prompt and response, from a stock forward of the two alone."""
    backbone = getattr(classifier, classifier.base_model_prefix)
    states = backbone(torch.tensor([[*prompt, *response]]), use_cache=False).last_hidden_state
    return classifier.score(states[0, -1])[0]


def gradients_of(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.double() for name, p in module.named_parameters() if p.grad is not None}


def keep_gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The gradients of each step that will be taken."""
    found, take_step = [], loop.take_step

    def keep(module: Any, *arguments: Any) -> float:
        found.append(gradients_of(module))
        return take_step(module, *arguments)

    monkeypatch.setattr(loop, "take_step", keep)
    return found


def assert_same_gradients(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 5e-5) -> None:
    """Each parameter's gradient is within `tolerance` of the largest entry of the expected one."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        worst = float((found[name] - gradient).abs().max())
        assert worst <= tolerance * max(1.0, float(gradient.abs().max())), name
