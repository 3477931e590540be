"""Reward models: any sequence classifier with one output that reads a prompt and a response.

A decoder's output is read at the last token that is not padding, as in transformers. The bias that our trainers write
into the configuration is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import nn

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.template import render
from alignbench.parse import read_object
from alignbench.scorers.preference import LastCallCache, pair, win
from alignbench.scorers.sequence import SequenceModel, Text, encodable, load_sequence_classifier, window
from alignbench.types.scorer import Item
from trainers.data import Render, chat_template, render_pair
from trainers.models import BIAS, Texts

Form = Literal["continued", "continued chat", "chat", "pair"]
UNBOUNDED = 2**31


@dataclass(frozen=True)
class RewardReader(SequenceModel):
    """form: how prompt and response become one input; bias: added to the output"""

    form: Form
    bias: float

    def rewards(self, pairs: Sequence[tuple[str, str]]) -> list[float | str]:
        """The reward of each (prompt, response), or why there is none.

        A text longer than the window is not truncated: the reward of a part is not that of the whole.
        """
        lengths = [len(row["input_ids"]) for row in self._encode(pairs, truncation=False)]
        fitting = [i for i, length in enumerate(lengths) if length <= self.window]
        logits, _ = self.logits([pairs[i] for i in fitting])
        found: list[float | str] = [
            f"{length} tokens do not fit the reward model's window of {self.window}" for length in lengths
        ]
        for i, reward in zip(fitting, logits[:, 0].tolist(), strict=True):
            found[i] = reward + self.bias
        return found

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.tokenizer, self.model)

    @cached_property
    def _template(self) -> Render:
        return chat_template(self.tokenizer)

    def _encode(self, texts: Sequence[Text], truncation: bool) -> list[dict[str, list[int]]]:
        if self.form == "pair":
            return super()._encode(texts, truncation)
        return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in map(self._ids, texts)]

    def _ids(self, text: Text) -> list[int]:
        """The tokens of (prompt, response) for a decoder."""
        prompt, response = (encodable(part) for part in text)
        if self.form == "chat":
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            try:
                rendered = render(self.tokenizer, messages, add_generation_prompt=False)
            except ValueError as error:
                raise ValueError(f"the chat template does not take prompt and response ({error})") from error
            return list(self.tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])
        if self.form == "continued chat":
            messages = [{"role": "user", "content": prompt}]
            answer = [{"role": "assistant", "content": response.strip()}]
            prompt, response = render_pair(messages, answer, self._template)
        example = self._texts.example(prompt, [response])
        return [*example.prompt, *example.responses[0]]


class RewardScorer:
    """`reward=model:FOLDER-OR-HUB-ID`, in fp32. Numbers: "reward", the model's output.

    weights_sha256: of the model, as in a recipe.json, to recognise policies that were trained against it
    """

    def __init__(self, kind: str, name: str, path: str, device: str, trust_remote_code: bool) -> None:
        self.reader, self.weights_sha256 = load_reward_model(path, device, trust_remote_code)
        self.kind, self.name, self.revision = kind, f"{name}:{self.reader.name}", self.reader.revision
        self._rewards: LastCallCache[tuple[str, str]] = LastCallCache(self.reader.rewards)

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        """Raises ValueError for a text that does not fit the window."""
        return [{"reward": reward} for reward in self._rewards([(item.prompt, item.output) for item in items])]


class RewardJudge(RewardScorer):
    """`preference=reward:FOLDER-OR-HUB-ID`: the answer with the higher reward wins. Numbers: win, and both rewards."""

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        pairs = [pair(item) for item in items]
        rewards = self._rewards([(prompt, answer) for prompt, own, other in pairs for answer in (own, other)])
        return [
            {"win": win(own, other), "reward": own, "baseline_reward": other}
            for own, other in zip(rewards[::2], rewards[1::2], strict=True)
        ]


def load_reward_model(path: str, device: str, trust_remote_code: bool) -> tuple[RewardReader, str]:
    """Return the model and its weights_sha256. Raises AlignbenchError if it does not have one output."""
    checkpoint = find_checkpoint(path, trust_remote_code=trust_remote_code)
    found = load_sequence_classifier(path, device, trust_remote_code)
    if len(found.labels) != 1:
        raise AlignbenchError(f"reward model {found.name}: it has {len(found.labels)} outputs; a reward model has one")
    config, tokenizer = found.model.config, found.tokenizer
    decoder = isinstance(getattr(found.model, "score", None), nn.Linear)
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    if decoder:
        if checkpoint.window is None:  # no limit of positions
            values["window"] = window(UNBOUNDED, config, tokenizer)
        if config.get_text_config().pad_token_id != tokenizer.pad_token_id:
            tokenizer.pad_token = None  # the class would read the output at padding: one text per batch
    tokenizer.padding_side = "right"
    form = _form(checkpoint.path / "recipe.json", bool(tokenizer.chat_template), decoder)
    return RewardReader(**values, form=form, bias=float(getattr(config, BIAS, 0.0))), checkpoint.weights_sha256


def _form(file: Path, has_template: bool, decoder: bool) -> Form:
    """By the first rule that applies (file: recipe.json, which `find_checkpoint` has checked, if there is one):

    - a checkpoint of our trainers (recipe.json, stage "reward"): the prompt's tokens (with the chat template if it was
      trained with it), the response's, and the end token; its scores are those of `trainers.reward.RewardModel`;
    - a tokenizer with a chat template: a message of the user and one of the assistant;
    - an encoder: a pair of texts; another decoder: as our own.
    """
    recipe = read_object(file) if file.is_file() else {}
    if recipe.get("stage") == "reward":
        return "continued chat" if recipe.get("config", {}).get("template") else "continued"
    if has_template:
        return "chat"
    return "continued" if decoder else "pair"
