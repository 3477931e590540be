"""Rewards of texts: a reward model's checkpoint or any Python function, called with strings (details 20, 21)."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from alignbench.errors import AlignbenchError, first_line
from trainers.distributed import map_packed, map_split, split_by_example
from trainers.models import Scalar, Texts, load
from trainers.packing import Example, Packed

Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


class RewardModel:
    """A sequence classifier with one label, read at the end token after each response, with its own tokenizer.

    micro_tokens: tokens of one packed row; accelerator: its processes divide the work (default: this process only)
    """

    def __init__(
        self,
        scalar: Scalar,
        tokenizer: Any,
        window: int | None,
        micro_tokens: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.scalar = scalar
        self.texts = Texts(tokenizer, scalar.model)
        self.window = window
        self.micro_tokens = micro_tokens
        self.accelerator = accelerator or Accelerator(cpu=scalar.model.device.type == "cpu")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """One score per response. Adjacent responses to the same prompt share its computation."""
        examples: list[Example] = []
        for prompt, pairs in groupby(zip(prompts, responses, strict=True), key=lambda pair: pair[0]):
            examples.append(example := self.texts.example(prompt, [response for _, response in pairs]))
            if self.window is not None and example.longest > self.window:
                raise AlignbenchError(
                    f"prompt {prompt[:60]!r}: with its response it has {example.longest} tokens, more than the reward "
                    f"model's window of {self.window}"
                )
        return [score for scores in self.scores(examples) for score in scores]

    def scores(self, examples: Sequence[Example]) -> list[list[float]]:
        """One score per response of each example."""

        def compute(packed: Packed) -> list[list[float]]:
            scores = self.scalar(packed, packed.last)
            return [part.tolist() for part in split_by_example(packed, packed.last, scores)]

        return map_packed(self.accelerator, examples, self.micro_tokens, compute)


def load_reward(spec: str, accelerator: Accelerator, micro_tokens: int) -> Reward:
    """The reward model or function that `spec` names: a checkpoint, or module:function, also of the current folder."""
    module_name, _, function_name = spec.partition(":")
    if is_checkpoint(spec):
        model, tokenizer, checkpoint = load(spec, "reward")
        scalar = Scalar(model.to(accelerator.device))
        return RewardModel(scalar, tokenizer, checkpoint.window, micro_tokens, accelerator)
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # the user's module may raise any exception
        raise AlignbenchError(f"reward {spec}: no such function ({first_line(error)})") from error
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise AlignbenchError(f"reward {spec}: not a function of (prompts, responses)")
    found: Reward = function
    return found


def is_checkpoint(spec: str) -> bool:
    """True if a reward names a checkpoint, not module:function."""
    return ":" not in spec or Path(spec).exists()


def score_all(
    accelerator: Accelerator, reward: Reward, name: str, prompts: Sequence[str], responses: Sequence[str]
) -> list[float]:
    """The rewards of all texts; each process computes a part."""
    if isinstance(reward, RewardModel):  # which divides the work itself
        return checked(reward, name, prompts, responses)
    return map_split(
        accelerator,
        len(prompts),
        lambda indices: checked(reward, name, [prompts[i] for i in indices], [responses[i] for i in indices]),
    )


def checked(reward: Reward, name: str, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The rewards. Raises AlignbenchError unless there is one finite number per response."""
    try:
        scores = list(reward(prompts, responses))
    except AlignbenchError as error:
        raise AlignbenchError(f"reward {name}: {error}") from error
    except Exception as error:  # the user's function may raise any exception
        raise AlignbenchError(f"reward {name}: it raised {type(error).__name__} ({first_line(error)})") from error
    if len(scores) != len(responses):
        raise AlignbenchError(f"reward {name}: {len(scores)} scores for {len(responses)} responses")
    try:
        numbers = [float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise AlignbenchError(f"reward {name}: a score is not a number ({first_line(error)})") from error
    for number, response in zip(numbers, responses, strict=True):
        if not math.isfinite(number):
            raise AlignbenchError(f"reward {name}: {number} for the response {response[:60]!r}; a score must be finite")
    return numbers
