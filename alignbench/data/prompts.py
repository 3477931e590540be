"""Prompts as a preparation sees them: the text, whose it is, and how long."""

import json
from dataclasses import dataclass
from pathlib import Path

from alignbench.data.sources import SourceRow, checked_messages, shared_prompt
from alignbench.errors import AlignbenchError, first_line


@dataclass(frozen=True, slots=True)
class Item:
    row: SourceRow
    prompt: str
    user: str
    length: int  # in tokens or characters


def read_items(rows: list[SourceRow], prompt_field: str, user_field: str | None, tokenizer: str | None) -> list[Item]:
    """Raises AlignbenchError for a row without a prompt or a user's id, by file and line.

    The prompt is text, or the first user's message of chat messages (in `prompt_field`, else in `messages`), or what
    `chosen` and `rejected` share as dialogues of HH. user_field None: every prompt counts as its own user's.
    """
    prompts, users = [], []
    for row in rows:
        try:
            prompts.append(_prompt(row, prompt_field))
            users.append(prompts[-1] if user_field is None else _user(row, user_field))
        except ValueError as error:
            raise AlignbenchError(f"{row.where}: {error}") from None
    lengths = list(map(len, prompts)) if tokenizer is None else _token_counts(prompts, tokenizer)
    return [Item(*values) for values in zip(rows, prompts, users, lengths, strict=True)]


def _prompt(row: SourceRow, name: str) -> str:
    if name in row.fields:
        if name != "prompt" and "prompt" in row.fields:
            raise ValueError(f"both {name} and prompt: rename one, for {name} is written as prompt")
        value = row.fields[name]
    elif "messages" in row.fields:
        value = row.fields["messages"]
    elif "chosen" in row.fields:
        value = row.fields["chosen"]
        if isinstance(value, str):
            return shared_prompt([value, row.text("rejected")])
    else:
        value = row.field(name, "messages")
    if isinstance(value, str):
        return value
    for message in checked_messages(value, "the prompt", "user"):
        if message["role"] == "user":
            return message["content"]
    raise ValueError("no message of a user")


def _user(row: SourceRow, name: str) -> str:
    if name not in row.fields:
        raise ValueError(f"no field {name} for the user (found: {', '.join(row.fields)}); name it, or pass --no-users")
    if name != "user" and "user" in row.fields:
        raise ValueError(f"both {name} and user: rename one, for {name} is written as user")
    value = row.fields[name]
    if value == "" or isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is {json.dumps(value, default=str)}, not the id of a user")
    return str(value)


def _token_counts(prompts: list[str], name: str) -> list[int]:
    from transformers import AutoTokenizer

    from alignbench.hub import obstacle

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, local_files_only=Path(name).is_dir() or obstacle() is not None, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AlignbenchError(f"tokenizer {name}: cannot be loaded ({first_line(error)})") from None
    encoded = tokenizer(prompts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]
