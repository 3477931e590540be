"""Rewards of finished texts: a reward model's folder, or any Python function, behind one call on strings."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignbench.errors import AlignbenchError, first_line
from trainers.models import Scalar, Texts, load
from trainers.packing import Example, Packed, micro_batches, pack
from trainers.steps import by_example, look, share

if TYPE_CHECKING:
    from accelerate import Accelerator

Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


class RewardModel:
    """A sequence classifier with one label, read at the end token that follows each response. Its tokenizer is its own.

    micro_tokens: tokens of one packed row
    """

    def __init__(self, scalar: Scalar, tokenizer: Any, window: int | None, micro_tokens: int) -> None:
        self.scalar = scalar
        self.texts = Texts(tokenizer, scalar.model)
        self.window = window
        self.micro_tokens = micro_tokens

    def __call__(
        self, prompts: Sequence[str], responses: Sequence[str], accelerator: Accelerator | None = None
    ) -> list[float]:
        """Neighbours with one prompt share its computation; with an accelerator, its processes share the work."""
        examples: list[Example] = []
        for prompt, pairs in groupby(zip(prompts, responses, strict=True), key=lambda pair: pair[0]):
            example = self.texts.example(prompt, [response for _, response in pairs])
            examples.append(example)
            longest = len(example.prompt) + max(map(len, example.responses))
            if self.window is not None and longest > self.window:
                raise AlignbenchError(
                    f"prompt {prompt[:60]!r}: with its response it has {longest} tokens, which do not fit the reward "
                    f"model's window of {self.window}"
                )
        return [score for scores in self.scores(examples, accelerator) for score in scores]

    @torch.no_grad()
    def scores(self, examples: Sequence[Example], accelerator: Accelerator | None = None) -> list[list[float]]:
        """One score a response, example by example."""

        def compute(packed: Packed) -> list[list[float]]:
            scores = self.scalar(packed, packed.last)
            return [some.tolist() for some in by_example(packed, packed.last, scores)]

        if accelerator is not None:
            return look(accelerator, examples, self.micro_tokens, compute)
        found: dict[int, list[float]] = {}
        (batches,) = micro_batches([len(example) for example in examples], 1, self.micro_tokens)
        for batch in batches:
            packed = pack([examples[i] for i in batch], self.scalar.model.device)
            found |= zip(batch, compute(packed), strict=True)
        return [found[i] for i in range(len(examples))]


def load_reward(spec: str, accelerator: Accelerator, micro_tokens: int) -> Reward:
    """The reward that `spec` names: a checkpoint, or module:function, looked for in the working folder too."""
    module_name, _, function_name = spec.partition(":")
    if is_checkpoint(spec):
        model, tokenizer, checkpoint = load(spec, "reward")
        return RewardModel(Scalar(model.to(accelerator.device)), tokenizer, checkpoint.window, micro_tokens)
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a module of the user's raises what it likes
        raise AlignbenchError(f"reward {spec}: no such function ({first_line(error)})") from error
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise AlignbenchError(f"reward {spec}: not a function of (prompts, responses)")
    found: Reward = function
    return found


def is_checkpoint(spec: str) -> bool:
    """Whether a reward names a checkpoint, not module:function."""
    return ":" not in spec or Path(spec).exists()


def score_all(
    accelerator: Accelerator, reward: Reward, name: str, prompts: Sequence[str], responses: Sequence[str]
) -> list[float]:
    """The rewards of all texts, each process computing its share."""
    if isinstance(reward, RewardModel):
        return checked(partial(reward, accelerator=accelerator), name, prompts, responses)
    return share(
        accelerator,
        len(prompts),
        lambda places: checked(reward, name, [prompts[i] for i in places], [responses[i] for i in places]),
    )


def checked(reward: Reward, name: str, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The rewards, one finite number a response; anything else raises AlignbenchError."""
    try:
        scores = list(reward(prompts, responses))
    except AlignbenchError as error:
        raise AlignbenchError(f"reward {name}: {error}") from error
    except Exception as error:  # a function of the user's raises what it likes
        raise AlignbenchError(f"reward {name}: it raised {type(error).__name__} ({first_line(error)})") from error
    if len(scores) != len(responses):
        raise AlignbenchError(f"reward {name}: {len(scores)} scores for {len(responses)} responses")
    try:
        numbers = [float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise AlignbenchError(f"reward {name}: a score is no number ({first_line(error)})") from error
    for number, response in zip(numbers, responses, strict=True):
        if not math.isfinite(number):
            raise AlignbenchError(f"reward {name}: {number} for the response {response[:60]!r}; a score must be finite")
    return numbers
