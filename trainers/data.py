"""What the trainers read: demonstrations, rankings, prompts and pretraining text.

Text is plain, or chat messages that the tokenizer's chat template renders; after this file all is plain text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from alignbench.data.tables import SourceRow, checked_messages, dialogue_messages, read_source, shared_prompt
from alignbench.errors import AlignbenchError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
Messages = list[dict[str, str]]
Render = Callable[[Messages, bool], str]  # (messages, whether to open the assistant's turn) -> text


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
    """Rows {prompt, response} (or completion), or {messages} of which the assistant's last is the response."""
    return _parse(source, lambda row: _demonstration(row, template))


def read_rankings(source: str, template: Render | None = None) -> list[Ranking]:
    """Rows {prompt, responses, ranks, labeler?}, or pairs {prompt, chosen, rejected}.

    The two of a pair may be strings or chat messages; without a prompt they are whole dialogues: chat messages, or
    HH's "\\n\\nHuman: …\\n\\nAssistant: …". In CSV the cells of responses and ranks are JSON lists.
    """
    return _parse(source, lambda row: _ranking(row, template))


def read_prompts(source: str, template: Render | None = None) -> list[str]:
    """Rows with prompt, messages (an assistant's last is left out), or a pair of dialogues."""
    return _parse(source, lambda row: _prompt(row, template))


def read_texts(source: str) -> list[str]:
    """Pretraining documents: rows with text, or a .txt file with blank lines between. Blank rows are left out."""
    texts = [text for text in _parse(source, lambda row: row.text("text")) if text.strip()]
    if not texts:
        raise AlignbenchError(f"{source}: every text is blank")
    return texts


def chat_template(tokenizer: PreTrainedTokenizerBase) -> Render:
    """Rendering by the tokenizer's own template, less the beginning-of-sequence token where tokenising adds one.

    What a template writes after the end-of-sequence token (ChatML: a newline) is cut, for no rollout has it.
    """
    if not tokenizer.chat_template:
        raise AlignbenchError("the tokenizer has no chat template: give prompts and responses as plain text")
    first = tokenizer("a")["input_ids"][:1]
    added = str(tokenizer.bos_token) if first == [tokenizer.bos_token_id] else ""
    end = tokenizer.eos_token

    def render(messages: Messages, open_turn: bool) -> str:
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn)
        except Exception as error:  # jinja and the template raise what they like
            raise ValueError(f"the chat template does not take these messages ({first_line(error)})") from None
        text = str(text).removeprefix(added)
        if end and not open_turn and text.rstrip().endswith(end):
            return text.rstrip()
        return text

    return render


def _parse(source: str, parse: Callable[[SourceRow], T]) -> list[T]:
    items = []
    for row in read_source(source):
        try:
            items.append(parse(row))
        except (ValueError, OverflowError) as error:
            raise AlignbenchError(f"{row.where}: {error}") from None
    return items


def _demonstration(row: SourceRow, template: Render | None) -> Demonstration:
    if "prompt" not in row.fields and "messages" in row.fields:
        messages = checked_messages(row.fields["messages"], "messages")
        return Demonstration(*_exchange(messages[:-1], messages[-1:], template))
    return Demonstration(*_exchange(row.field("prompt", "messages"), row.field("response", "completion"), template))


def _ranking(row: SourceRow, template: Render | None) -> Ranking:
    if "responses" not in row.fields and "chosen" in row.fields:
        (asked, responses), ranks = _pair(row, template), [1, 2]
    else:
        asked, responses, ranks = row.field("prompt"), row.list("responses"), row.list("ranks")
    if len(responses) < 2:
        raise ValueError(f"a ranking needs at least two responses, not {len(responses)}")
    if len(ranks) != len(responses):
        raise ValueError(f"{len(ranks)} ranks for {len(responses)} responses")
    for rank in ranks:
        if type(rank) not in (int, float) or not math.isfinite(rank):
            raise ValueError(f"ranks holds {json.dumps(rank, default=str)}, which is not a finite number")
    if len(set(ranks)) == 1:
        raise ValueError("all responses are tied, which teaches nothing: remove the row")
    labeler = row.fields.get("labeler")
    if not isinstance(labeler, str | int | None):
        raise ValueError(f"labeler is {type(labeler).__name__}, not a name or a number")
    exchanges = [_exchange(asked, response, template) for response in responses]
    name = None if labeler in (None, "") else str(labeler)
    return Ranking(exchanges[0][0], tuple(text for _, text in exchanges), tuple(map(float, ranks)), name)


def _prompt(row: SourceRow, template: Render | None) -> str:
    if "prompt" not in row.fields and "chosen" in row.fields:
        asked, _ = _pair(row, template)
    else:
        asked = row.field("prompt", "messages")
    if isinstance(asked, str) and template is None:
        return asked
    messages = checked_messages(asked, "prompt", "user")
    return _chosen(template)(messages[:-1] if messages[-1]["role"] == "assistant" else messages, True)


def _pair(row: SourceRow, template: Render | None) -> tuple[Any, list[Any]]:
    """What was asked, and the chosen and the rejected response."""
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
    turn = 0
    while turn < min(len(chosen), len(rejected)) - 1 and chosen[turn] == rejected[turn]:
        turn += 1
    while turn > 0 and chosen[turn]["role"] != "assistant":
        turn -= 1
    return chosen[:turn], [chosen[turn:], rejected[turn:]]


def _exchange(asked: Any, answered: Any, template: Render | None) -> tuple[str, str]:
    """Prompt and response as text: what the template makes of the prompt, and what the response adds to that."""
    if template is None and isinstance(asked, str) and isinstance(answered, str):
        prompt, response, last = asked, answered, answered
    else:
        before, after = checked_messages(asked, "prompt", "user"), checked_messages(answered, "response", "assistant")
        if after[: len(before)] == before:  # a whole dialogue, which repeats the prompt
            after = after[len(before) :]
        if not after or after[-1]["role"] != "assistant":
            raise ValueError("the last message is not the assistant's response")
        render, last = _chosen(template), after[-1]["content"]
        prompt, whole = render(before, True), render(before + after, False)
        if not whole.startswith(prompt):
            raise ValueError("the chat template renders the prompt otherwise once a response follows")
        response = whole[len(prompt) :]
    if not last:
        raise ValueError("a response is empty")
    return prompt, response


def _chosen(template: Render | None) -> Render:
    if template is None:
        raise ValueError("chat messages need a tokenizer with a chat template")
    return template
