"""Demonstrations, rankings and prompts of all published formats in one form (docs/training.md, "Files").

The format is recognised by the fields of a row, and all rows of a source have the same.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from typing import Any, Literal

from alignbench.data.tables import SourceRow, checked_text, read_source
from alignbench.errors import AlignbenchError

Messages = list[dict[str, str]]  # of chat: {role, content}
Text = str | Messages  # text as a model reads it, or messages for a chat template
Use = Literal["demonstrations", "rankings", "prompts"]

ROLES = {"human": "user", "prompter": "user", "gpt": "assistant"}  # of ShareGPT and OASST
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # a turn in Anthropic's HH data
NO_PAIR = "without two responses of different rank"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and the assistant's responses to it. Raises ValueError for a response that is empty, or not its.

    ranks: 1 is the best, equal ranks are ties; empty: unknown, or a single response
    good: the label of a single response
    """

    row: SourceRow
    before: Text
    responses: tuple[Text, ...] = ()
    ranks: tuple[float, ...] = ()
    labeler: str | None = None
    good: bool = True

    def __post_init__(self) -> None:
        if not self.before and self.before != "":
            raise ValueError("no message before the response")
        for answer in self.answers:
            if not answer or answer[-1]["role"] != "assistant":
                raise ValueError("the last message is not the assistant's response")
            if not answer[-1]["content"]:
                raise ValueError("a response is empty")

    @property
    def is_text(self) -> bool:
        return all(isinstance(text, str) for text in (self.before, *self.responses))

    @property
    def messages(self) -> Messages:
        """The prompt as chat messages."""
        return as_messages(self.before)

    @property
    def answers(self) -> list[Messages]:
        """The responses as chat messages: one of the assistant, or more if it was asked again."""
        is_dialogue, found = isinstance(self.before, str) and _is_dialogue(self.before), []
        for response in self.responses:
            if is_dialogue and isinstance(response, str):
                found.append(_dialogue(ASSISTANT + response))
            elif isinstance(response, str):  # a blank response is one: a labeler preferred silence
                found.append([{"role": "assistant", "content": response.strip() or response}])
            else:  # it may repeat the prompt
                count = len(self.messages)
                found.append(response[count:] if response[:count] == self.messages else response)
        return found


def read_conversations(source: str, use: Use, say: Callable[[str], None] = lambda line: None) -> list[Conversation]:
    """The conversations of a file or a hub split that can be used so; `say` gets one line on format and counts.

    Demonstrations have the best response alone. Left out, and counted: responses with the label false, several
    responses without ranks, and rankings without two different ranks.
    Raises AlignbenchError for an unknown format, rows of several formats, a wrong row, and if nothing is left.
    """
    rows = read_source(source, strings="prompt")
    format, found = of_rows(rows, use)
    if use not in format.uses:
        problem = f"{format.name} ({format.shown(rows[0])}) are not {use}"
        raise AlignbenchError(f"{rows[0].where}: {problem}; {use} are {accepted(use)}")
    kept, left = list[Conversation](), Counter[str]()
    for own in chain.from_iterable(found):
        count = len(own.responses)
        if use == "prompts":
            kept.append(own)
        elif not count and format.parse is not _tree:
            raise AlignbenchError(f"{own.row.where}: the last message is not the assistant's response")
        elif not own.good:
            left["with label false"] += 1
        elif use == "rankings" and len(set(own.ranks)) > 1:
            kept.append(own)
        elif use == "demonstrations" and (count == 1 or own.ranks):
            best = own.ranks.index(min(own.ranks)) if own.ranks else 0
            kept.append(replace(own, responses=own.responses[best : best + 1], ranks=()))
        elif count:
            left[NO_PAIR if use == "rankings" else "with several responses and no ranks"] += 1
    line = f"{os.path.basename(source)}: {len(rows)} rows, {format.name} ({format.shown(rows[0])})"
    if len(kept) != len(rows) or (use == "demonstrations" and "rankings" in format.uses):
        line += f"; {len(kept)} {use}" + " (the best response)" * (
            "rankings" in format.uses and use == "demonstrations"
        )
    line += "".join(f"; left out: {number} {reason}" for reason, number in left.items())
    if not kept:
        raise AlignbenchError(f"{source}: no {use} ({line})")
    say(line)
    return kept


@dataclass(frozen=True, slots=True)
class Format:
    """needs: the fields by which it is recognised, a|b for one of several names"""

    name: str
    needs: str
    uses: tuple[Use, ...]
    parse: Callable[[SourceRow], Iterator[Conversation]]

    def matches(self, fields: Mapping[str, Any]) -> bool:
        return all(any(name in fields for name in need.split("|")) for need in self.needs.split())

    def shown(self, row: SourceRow) -> str:
        names = [name for need in self.needs.split() for name in need.split("|")]
        return ", ".join(name for name in names if name in row.fields)


def of_rows(rows: Sequence[SourceRow], use: Use = "prompts") -> tuple[Format, list[list[Conversation]]]:
    """The format of rows, and the conversations of each; only a tree has several.

    Raises AlignbenchError for an unknown format, for rows of several formats, and for a wrong row.
    """
    first, found = None, list[list[Conversation]]()
    for row in rows:
        format = next((format for format in FORMATS if format.matches(row.fields)), None)
        if format is None:
            names = ", ".join(row.fields) or "no fields"
            raise AlignbenchError(f"{row.where}: unknown format ({names}); {use} are {accepted(use)}")
        first = first or format
        if format.name != first.name:
            before = f"{first.name} ({first.shown(rows[0])}) as in {rows[0].where}"
            raise AlignbenchError(f"{row.where}: {format.name} ({format.shown(row)}), not {before}; split the file")
        with row.located():
            found.append(list(format.parse(row)))
    assert first is not None
    return first, found


def accepted(use: Use) -> str:
    """The fields of the formats that can be used so."""
    needs = dict.fromkeys(re.sub(r"\|[\w|]+", "", format.needs) for format in FORMATS if use in format.uses)
    return ", ".join(f"{{{need.replace(' ', ', ')}}}" for need in needs)


def as_messages(text: Text) -> Messages:
    """A prompt as chat messages; text is a message of the user, or a dialogue in HH's format."""
    if not isinstance(text, str):
        return text
    is_dialogue = _is_dialogue(text)
    return _dialogue(text.removesuffix(ASSISTANT)) if is_dialogue else [{"role": "user", "content": text}]


def shortened(text: Text, room: int, size: Callable[[Text], int]) -> Text | None:
    """Text without its start, or messages without the oldest ones, so that size ≤ room; None if nothing is left."""
    left: Messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(text)

    def shown() -> Text:
        return left[0]["content"] if isinstance(text, str) else left

    while (now := size(shown())) > room:
        characters = math.ceil((now - room) / now * sum(len(message["content"]) for message in left))
        while len(left) > 1 and (len(left[0]["content"]) <= characters or left[0]["role"] == "assistant"):
            characters -= len(left.pop(0)["content"])
        left[0] = {**left[0], "content": left[0]["content"][max(characters, 0) :]}
        if not left[0]["content"]:
            return None
    return shown()


def joined(instruction: str, given: str) -> str:
    """An instruction and its input, if it has one, separated by a blank line."""
    return "\n\n".join(part for part in (instruction.strip(), given.strip()) if part)


# The formats' rows


def _prompt(row: SourceRow) -> Iterator[Conversation]:
    yield Conversation(row, _before(row, "prompt", "instruction"))


def _question(row: SourceRow) -> Iterator[Conversation]:
    """The first turn of MT-bench's and Vicuna-bench's questions."""
    turns = row.list("turns")
    if not turns:
        raise ValueError("turns is empty")
    yield Conversation(row, checked_text(turns[0], "turns"))


def _response(row: SourceRow) -> Iterator[Conversation]:
    response = _text(row.field("response", "completion", "output"), "response")
    yield Conversation(row, _before(row), (response,), good=_label(row))


def _chat(row: SourceRow) -> Iterator[Conversation]:
    turns = _before(row, "messages", "conversations")
    assert not isinstance(turns, str)
    if turns[-1]["role"] == "assistant":
        yield Conversation(row, turns[:-1], (turns[-1:],), good=_label(row))
    else:
        yield Conversation(row, turns, good=_label(row))


def _ranking(row: SourceRow) -> Iterator[Conversation]:
    responses, ranks = row.list("responses"), row.list("ranks")
    if len(responses) < 2:
        raise ValueError(f"a ranking needs at least two responses, not {len(responses)}")
    yield _ranked(row, responses, ranks, "ranks", 1)


def _scored(row: SourceRow) -> Iterator[Conversation]:
    if "completions" not in row.fields:
        responses, scores = row.list("responses"), row.list("scores")
    else:
        items = [_object(item, "completions") for item in row.list("completions")]
        responses = [item.get("response") for item in items]
        scores = [item.get("overall_score", item.get("score")) for item in items]
    yield _ranked(row, responses, scores, "scores", -1)


def _ranked(row: SourceRow, responses: Sequence[Any], values: Sequence[Any], name: str, sign: int) -> Conversation:
    """sign: 1 for ranks, −1 for scores, of which the highest is the best"""
    if len(values) != len(responses):
        raise ValueError(f"{len(values)} {name} for {len(responses)} responses")
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} contains {json.dumps(value, default=str)}, which is not a finite number")
    ranks = [float(value) if sign > 0 else 1.0 + sum(other > value for other in values) for value in values]
    texts = tuple(_text(response, "response") for response in responses)
    return Conversation(row, _before(row), texts, tuple(ranks), _labeler(row, "labeler"))


def _pair(row: SourceRow) -> Iterator[Conversation]:
    chosen, rejected = (_text(row.field(name), name) for name in ("chosen", "rejected"))
    labeler = _labeler(row, "labeler")
    if any(name in row.fields for name in ("prompt", "instruction", "conversations")):
        yield Conversation(row, _before(row), (chosen, rejected), (1.0, 2.0), labeler)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - by characters is what is meant
        prompt = shared[: shared.rfind(ASSISTANT) + len(ASSISTANT)] if ASSISTANT in shared else ""
        if not _is_dialogue(prompt):
            raise ValueError('no field prompt, and chosen and rejected share no turns "Human: …", "Assistant:"')
        yield Conversation(row, prompt, (chosen[len(prompt) :], rejected[len(prompt) :]), (1.0, 2.0), labeler)
    else:
        chosen, rejected = (_dialogue(text) if isinstance(text, str) else text for text in (chosen, rejected))
        turn = len(list(takewhile(lambda two: two[0] == two[1], zip(chosen[:-1], rejected[:-1], strict=False))))
        while turn > 0 and chosen[turn]["role"] != "assistant":
            turn -= 1
        yield Conversation(row, chosen[:turn], (chosen[turn:], rejected[turn:]), (1.0, 2.0), labeler)


def _summaries(row: SourceRow) -> Iterator[Conversation]:
    """The post as in Stiennon et al. (arXiv 2009.01325), App. B.2."""
    info, choice = _object(row.fields["info"], "info"), row.fields["choice"]
    texts = [checked_text(_object(own, "summaries").get("text"), "a summary") for own in row.list("summaries")]
    if type(choice) is not int or not 0 <= choice < len(texts):
        raise ValueError(f"choice is {json.dumps(choice, default=str)}, not the index of one of {len(texts)} summaries")
    post = [(name, info.get(name.lower())) for name in ("SUBREDDIT", "TITLE", "POST", "ARTICLE")]
    parts = [f"{name}: {'r/' * (name == 'SUBREDDIT')}{text}" for name, text in post if text]
    if not info.get("post") and not info.get("article"):
        raise ValueError(f"info has no post (found: {', '.join(info)})")
    ranks = tuple(1.0 if number == choice else 2.0 for number in range(len(texts)))
    answers = tuple(f" {text.strip()}" if text.strip() else text for text in texts)
    yield Conversation(row, "\n\n".join([*parts, "TL;DR:"]), answers, ranks, _labeler(row, "worker"))


def _tree(row: SourceRow) -> Iterator[Conversation]:
    """A conversation for each message of a user; its replies have ranks if at least two of them were ranked."""
    root = row.fields.get("prompt", row.fields)
    todo: list[tuple[Messages, Any]] = [([], root)]
    while todo:
        before, node = todo.pop()
        path = [*before, *_messages([node], "a tree")]
        replies = [_object(reply, "replies") for reply in node.get("replies") or ()]
        replies = [reply for reply in replies if not reply.get("deleted")]
        if path[-1]["role"] == "user":
            ranked = [reply for reply in replies if type(reply.get("rank")) is int]
            own = ranked if len(ranked) > 1 else replies
            ranks = tuple(float(reply["rank"] + 1) for reply in ranked) if own is ranked else ()
            yield Conversation(row, path, tuple(_messages([reply], "replies") for reply in own), ranks)
        todo += [(path, reply) for reply in reversed(replies)]


RANKED: tuple[Use, ...] = ("rankings", "demonstrations", "prompts")
ANSWERED, ASKED = RANKED[1:], RANKED[2:]
FORMATS = (  # the first that matches
    Format("OASST trees", "message_tree_id prompt", RANKED, _tree),
    Format("OASST trees", "text role replies", RANKED, _tree),
    Format("comparisons of summaries", "info summaries choice", RANKED, _summaries),
    Format("scored responses", "prompt|instruction completions", RANKED, _scored),
    Format("scored responses", "prompt responses scores", RANKED, _scored),
    Format("rankings", "prompt responses ranks", RANKED, _ranking),
    Format("pairs", "prompt chosen rejected", RANKED, _pair),
    Format("ShareGPT pairs", "conversations chosen rejected", RANKED, _pair),
    Format("Alpaca pairs", "instruction chosen rejected", RANKED, _pair),
    Format("pairs of dialogues", "chosen rejected", RANKED, _pair),
    Format("labelled responses", "prompt|instruction response|completion|output label|kto_tag", ANSWERED, _response),
    Format("labelled conversations", "messages|conversations label|kto_tag", ANSWERED, _chat),
    Format("prompts with responses", "prompt response|completion", ANSWERED, _response),
    Format("Alpaca", "instruction output", ANSWERED, _response),
    Format("messages", "messages", ANSWERED, _chat),
    Format("ShareGPT", "conversations", ANSWERED, _chat),
    Format("prompts", "prompt", ASKED, _prompt),
    Format("questions", "turns", ASKED, _question),
    Format("prompts", "instruction", ASKED, _prompt),
)


# Their fields


def _before(row: SourceRow, *names: str) -> Text:
    """The prompt; Alpaca's system message and history, and ShareGPT's system message, are the first messages."""
    names = names or ("prompt", "instruction", "conversations", "messages")
    name = next((name for name in names if name in row.fields), names[0])
    value, turns = row.field(name), Messages()
    if name == "prompt":
        return _text(value, name)
    if name == "instruction":
        history = row.fields.get("history") or []
        if not isinstance(history, list) or not all(isinstance(two, list) and len(two) == 2 for two in history):
            raise ValueError("history is not a list of pairs of texts")
        for pair in history:
            turns += [{"role": r, "content": checked_text(t, "history")} for r, t in zip(("user", "assistant"), pair)]  # noqa: B905
        given = checked_text(row.fields.get("input") or "", "input")
        turns.append({"role": "user", "content": joined(checked_text(value, name), given)})
    else:
        turns = _messages(value, name)
    system = checked_text(row.fields.get("system") or "", "system")
    return [{"role": "system", "content": system}, *turns] if system else turns


def _text(value: Any, name: str) -> Text:
    """Text, messages, or one message."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict | list):
        raise ValueError(f"{name} is {'null' if value is None else type(value).__name__}, not text or messages")
    return _messages([value] if isinstance(value, dict) else value, name)


def _messages(value: Any, name: str) -> Messages:
    """One or more messages {role, content}, {from, value} (ShareGPT) or {role, text} (OASST)."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise ValueError(f"{name} is not a list of messages {{role, content}} or {{from, value}}")
    found = []
    for message in value:
        role = checked_text(message.get("role", message.get("from")), f"a role in {name}")
        content = message.get("content", message.get("value", message.get("text")))
        found.append({"role": ROLES.get(role, role), "content": checked_text(content, f"a content in {name}")})
    return found


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: {type(value).__name__} instead of an object")
    return value


def _label(row: SourceRow) -> bool:
    value = next((row.fields[name] for name in ("label", "kto_tag") if name in row.fields), True)
    if row.is_text and str(value).lower() in ("true", "false"):
        value = str(value).lower() == "true"
    if not isinstance(value, bool):
        shown = json.dumps(value, default=str)
        raise ValueError(f"label is {shown}, not true or false; rename it if it does not judge the response")
    return value


def _labeler(row: SourceRow, name: str) -> str | None:
    value = row.fields.get(name)
    if not isinstance(value, str | int | None):
        raise ValueError(f"{name} is {type(value).__name__}, not a name or a number")
    return None if value in (None, "") else str(value)


def _is_dialogue(text: str) -> bool:
    return text.startswith(HUMAN) and text.endswith(ASSISTANT)


def _dialogue(text: str) -> Messages:
    """The messages of a dialogue in HH's format, "\\n\\nHuman: …\\n\\nAssistant: …" (Bai et al., arXiv 2204.05862)."""
    head, *parts = re.split(r"\n\n(Human|Assistant):", text)
    if head.strip() or not parts:
        raise ValueError("no field prompt, and a dialogue does not begin with a turn of Human or Assistant")
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": "user" if by == "Human" else "assistant", "content": text.strip() or text} for by, text in turns]
