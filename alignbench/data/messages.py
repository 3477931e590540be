"""Chat messages, and dialogues written as text."""

import re
from collections.abc import Mapping
from typing import Any

from alignbench.data.tables import checked_text

Messages = list[dict[str, str]]  # of chat: {role, content}
Text = str | Messages  # text as a model reads it, or messages for a chat template

ROLES = {role: role for role in ("system", "developer", "user", "assistant", "tool", "function", "ipython")}
ROLES |= {"human": "user", "prompter": "user", "observation": "tool"}  # of ShareGPT and OASST
ROLES |= dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "function_call"), "assistant")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # a turn in Anthropic's HH data


def read_text(value: Any, name: str) -> Text:
    """Text, messages, or one message. Raises ValueError."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict | list):
        raise ValueError(f"{name} is {'null' if value is None else type(value).__name__}, not text or messages")
    return read_messages([value] if isinstance(value, dict) else value, name)


def read_messages(value: Any, name: str) -> Messages:
    """One or more messages {role, content}, {from, value} (ShareGPT) or {role, text} (OASST). Raises ValueError."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise ValueError(f"{name} is not a list of messages {{role, content}} or {{from, value}}")
    found = []
    for message in value:
        role = checked_text(first_of(message, "role", "from"), f"a role in {name}")
        if role not in ROLES:
            raise ValueError(f"the role {role!r} in {name} is not one of {', '.join(ROLES)}")
        if message.get("tool_calls") or message.get("function_call"):
            raise ValueError(f"{name} has tool_calls, which are not read; write them into content")
        content = checked_text(first_of(message, "content", "value", "text"), f"a content in {name}")
        found.append({"role": ROLES[role], "content": content})
    return found


def first_of(fields: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is not null; None if all are."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def as_messages(text: Text) -> Messages:
    """A prompt as chat messages; text is a message of the user, or a dialogue in HH's format."""
    if isinstance(text, str) and is_dialogue(text):
        return read_dialogue(text.rstrip().removesuffix(ASSISTANT))
    return [{"role": "user", "content": text}] if isinstance(text, str) else text


def as_answer(response: Text) -> Messages:
    """A response as chat messages, of which the last is the assistant's. Raises ValueError if it is not, or empty."""
    # a blank one is a response: a labeler may have preferred silence
    turns = [{"role": "assistant", "content": response.strip() or response}] if isinstance(response, str) else response
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's response")
    if not turns[-1]["content"]:
        raise ValueError("a response is empty")
    return turns


def after(prompt: Messages, turns: Messages) -> Messages:
    """The assistant's turns after the prompt, which they may repeat, with its system message or without."""
    starts = (prompt, [message for message in prompt if message["role"] != "system"])
    left = next((turns[len(start) :] for start in starts if turns[: len(start)] == start), turns)
    if prompt and left and left[0]["role"] != "assistant":
        raise ValueError("a response does not begin with the prompt, nor with the assistant's message")
    return left


def joined(*parts: str) -> str:
    """An instruction and its input, if it has one, separated by a blank line."""
    return "\n\n".join(part.strip() for part in parts if part.strip())


def is_dialogue(text: str) -> bool:
    return f"\n\n{text.lstrip()}".startswith(HUMAN) and text.rstrip().endswith(ASSISTANT)


def read_dialogue(text: str) -> Messages:
    """The messages of a dialogue in HH's format, "\\n\\nHuman: …\\n\\nAssistant: …" (Bai et al., arXiv 2204.05862)."""
    head, *parts = re.split(r"\n\n(Human|Assistant):", f"\n\n{text.lstrip()}")
    if head.strip() or not parts:
        raise ValueError("no field prompt, and a dialogue does not begin with a turn of Human or Assistant")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": "user" if by == "Human" else "assistant", "content": text.strip() or text} for by, text in turns]
