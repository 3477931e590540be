"""Training data as plain text: demonstrations, rankings, prompts and pretraining text; templates render messages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from alignbench.data.tables import SourceRow, checked_messages, dialogue_messages, read_source, shared_prompt
from alignbench.errors import AlignbenchError
from alignbench.models.template import end_of_turn
from alignbench.models.template import render as render_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
Messages = list[dict[str, str]]
Render = Callable[[Messages, bool], str]  # (messages, add_generation_prompt) -> text


@dataclass(frozen=True, slots=True)
class Demonstration:
    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """K responses to a prompt. Rank 1 is the best; equal ranks are ties. A pair has the ranks (1, 2)."""

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    labeler: str | None


def read_demonstrations(source: str, template: Render | None = None) -> list[Demonstration]:
    """Rows {prompt, response} (or completion), or {messages} whose last message is the assistant's response."""

    def parse(row: SourceRow) -> Demonstration:
        if "prompt" not in row.fields and "messages" in row.fields:
            messages = checked_messages(row.fields["messages"], "messages")
            return Demonstration(*_render(messages[:-1], messages[-1:], template))
        return Demonstration(*_render(row.field("prompt"), row.field("response", "completion"), template))

    return _parse(source, parse)


def read_rankings(source: str, template: Render | None = None) -> list[Ranking]:
    """Rows {prompt, responses, ranks, labeler?}, or pairs {prompt, chosen, rejected}.

    `chosen` and `rejected` are strings or chat messages; without a prompt they are whole dialogues, as chat messages or
    in the form of HH-RLHF, "\\n\\nHuman: …\\n\\nAssistant: …". In CSV, responses and ranks are JSON lists.
    """

    def parse(row: SourceRow) -> Ranking:
        if "responses" not in row.fields and "chosen" in row.fields:
            (prompt, responses), ranks = _pair(row, template), [1, 2]
        else:
            prompt, responses, ranks = row.field("prompt"), row.list("responses"), row.list("ranks")
        if len(responses) < 2:
            raise ValueError(f"a ranking needs at least two responses, not {len(responses)}")
        if len(ranks) != len(responses):
            raise ValueError(f"{len(ranks)} ranks for {len(responses)} responses")
        for rank in ranks:
            if type(rank) not in (int, float) or not math.isfinite(rank):
                raise ValueError(f"ranks contains {json.dumps(rank, default=str)}, which is not a finite number")
        if len(set(ranks)) == 1:
            raise ValueError("all responses are tied, so there is no pair to learn from: remove the row")
        labeler = row.fields.get("labeler")
        if not isinstance(labeler, str | int | None):
            raise ValueError(f"labeler is {type(labeler).__name__}, not a name or a number")
        rendered = [_render(prompt, response, template) for response in responses]
        name = None if labeler in (None, "") else str(labeler)
        return Ranking(rendered[0][0], tuple(text for _, text in rendered), tuple(map(float, ranks)), name)

    return _parse(source, parse)


def read_prompts(source: str, template: Render | None = None) -> list[str]:
    """Rows with a prompt, messages (a final assistant message is left out), or a pair of dialogues."""

    def parse(row: SourceRow) -> str:
        prompt, plain = _prompt(row, template), template is None
        return prompt if isinstance(prompt, str) and plain else (template or _no_template)(_asked(prompt), True)

    return _parse(source, parse)


def read_conversations(source: str) -> list[Messages]:
    """The prompts of `read_prompts` as chat messages; plain text is a message of the user."""
    return _parse(source, lambda row: _asked(_prompt(row, _no_template)))


def read_texts(source: str) -> list[str]:
    """Pretraining documents: rows {text}, or a .txt file with blank lines between documents; blank ones are skipped."""
    if texts := [text for text in _parse(source, lambda row: row.text("text")) if text.strip()]:
        return texts
    raise AlignbenchError(f"{source}: every text is blank")


def chat_template(tokenizer: PreTrainedTokenizerBase) -> Render:
    """The tokenizer's chat template as a function, without the start token if tokenising adds one, and without text
    after the token that ends a turn or a text (ChatML: a newline), which no rollout contains."""
    if not tokenizer.chat_template:
        raise AlignbenchError("the tokenizer has no chat template: give prompts and responses as plain text")
    end = end_of_turn(tokenizer)
    turn = None if end is None else str(tokenizer.convert_ids_to_tokens(end))
    adds_start = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]

    def render(messages: Messages, add_generation_prompt: bool) -> str:
        try:
            text = render_messages(tokenizer, messages, add_generation_prompt=add_generation_prompt)
        except ValueError as error:
            raise ValueError(f"the chat template does not accept these messages ({error})") from None
        text = text.removeprefix(tokenizer.bos_token if adds_start else "")
        ends = not add_generation_prompt and text.rstrip().endswith(tuple(filter(None, (tokenizer.eos_token, turn))))
        return text.rstrip() if ends else text

    return render


def _parse(source: str, parse: Callable[[SourceRow], T]) -> list[T]:
    items = []
    for row in read_source(source):
        with row.located():
            items.append(parse(row))
    return items


def _pair(row: SourceRow, template: Render | None) -> tuple[Any, list[Any]]:
    """The prompt, and the chosen and the rejected response."""
    chosen, rejected = row.field("chosen"), row.field("rejected")
    if "prompt" in row.fields:
        return row.fields["prompt"], [chosen, rejected]
    if template is None and isinstance(chosen, str) and isinstance(rejected, str):
        prompt = shared_prompt([chosen, rejected])
        return prompt, [chosen[len(prompt) :], rejected[len(prompt) :]]
    chosen, rejected = (
        dialogue_messages(value) if isinstance(value, str) else checked_messages(value, "a dialogue")
        for value in (chosen, rejected)
    )
    turn = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected[:-1], strict=False))))
    while turn > 0 and chosen[turn]["role"] != "assistant":
        turn -= 1
    return chosen[:turn], [chosen[turn:], rejected[turn:]]


def _render(prompt: Any, response: Any, template: Render | None) -> tuple[str, str]:
    """Prompt and response as text: the rendered prompt, and what the response adds to it."""
    plain = template is None and isinstance(prompt, str) and isinstance(response, str)
    before = checked_messages(prompt, "prompt", "user")
    after = checked_messages(response, "response", "assistant")
    if not plain and after[: len(before)] == before:  # a whole dialogue, which repeats the prompt
        after = after[len(before) :]
    if not after or after[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's response")
    if not after[-1]["content"]:
        raise ValueError("a response is empty")
    if plain:
        return prompt, response
    return render_pair(before, after, template or _no_template)


def render_pair(messages: Messages, response: Messages, template: Render) -> tuple[str, str]:
    """The rendered prompt, and what the response adds to it."""
    text, whole = template(messages, True), template([*messages, *response], False)
    if not whole.startswith(text):
        raise ValueError("the chat template renders the prompt differently when a response follows")
    return text, whole[len(text) :]


def _prompt(row: SourceRow, template: Render | None) -> Any:
    is_pair = "prompt" not in row.fields and "chosen" in row.fields
    return _pair(row, template)[0] if is_pair else row.field("prompt", "messages")


def _asked(prompt: Any) -> Messages:
    messages = checked_messages(prompt, "prompt", "user")
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _no_template(messages: Messages, add_generation_prompt: bool) -> str:
    raise ValueError("chat messages need a tokenizer with a chat template, and template=true")
