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

from alignbench.data import messages as chat
from alignbench.data.messages import ASSISTANT, Messages, Text, as_messages, first_of, is_dialogue
from alignbench.data.tables import SourceRow, checked_text, read_source
from alignbench.errors import AlignbenchError
from alignbench.parse import parse_json

Use = Literal["demonstrations", "rankings", "prompts"]
NO_PAIR = "without two different responses of different rank"
PROMPT = ("prompt", "instruction", "conversations", "messages")  # fields with the prompt; the first that has a value
GIVEN = ("input", "context")  # fields with the text that an instruction is about
UNREAD = ("instruction", "question", *GIVEN, "history", "tools", "functions", "images", "scores")  # by most formats
RENAMES = {"question": "prompt", "query": "prompt", "answer": "response", "solution": "response"}


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
        for response in self.responses:
            chat.as_answer(response)

    @property
    def messages(self) -> Messages:
        """The prompt as chat messages."""
        return as_messages(self.before)

    @property
    def answers(self) -> list[Messages]:
        """The responses as chat messages: one of the assistant, or more if it was asked again. Raises ValueError."""
        is_turn, found = isinstance(self.before, str) and is_dialogue(self.before), list[Messages]()
        for response in self.responses:
            turns = chat.read_dialogue(ASSISTANT + response) if isinstance(response, str) and is_turn else response
            found.append(chat.as_answer(turns if isinstance(turns, str) else chat.after(self.messages, turns)))
        return found

    def last_turn(self) -> "Conversation":
        """The last message of its one response, with the others in the prompt: what the user says is not learned."""
        (response,), before = self.responses, self.before
        if isinstance(response, str) and isinstance(before, str):
            *asked, response = response.rpartition(ASSISTANT) if is_dialogue(before) else [response]
            return replace(self, before="".join([before, *asked]), responses=(response,))
        *earlier, last = self.answers[0]
        return replace(self, before=[*self.messages, *earlier], responses=([last],)) if earlier else self


def read_conversations(source: str, use: Use, say: Callable[[str], None] = lambda line: None) -> list[Conversation]:
    """The conversations of a file or a hub split that can be used so; `say` gets one line on format and counts.

    Demonstrations have the best response alone. Left out, and counted: responses with the label false, several
    responses without ranks, and rankings without two different responses of different rank. Counted: empty prompts.
    Raises AlignbenchError for an unknown format, rows of several formats, a wrong row, and if nothing is left.
    """
    rows = read_source(source, strings="prompt")
    format, found = of_rows(rows, use)
    if use not in format.uses:
        problem = f"{format.name} ({format.shown(rows[0])}) are not {use}"
        raise AlignbenchError(f"{rows[0].where}: {problem}; {nearest(use, rows[0].fields)}")
    kept, left = list[Conversation](), Counter[str]()
    for own in chain.from_iterable(found):
        count = len(own.responses)
        if use == "prompts":
            kept.append(own)
        elif not count and format.parse is not _tree:
            raise AlignbenchError(f"{own.row.where}: the last message is not the assistant's response")
        elif not own.good:
            left["with label false"] += 1
        elif use == "rankings" and len(set(own.ranks)) > 1 and any(one != own.responses[0] for one in own.responses):
            kept.append(own)
        elif use == "demonstrations" and (count == 1 or own.ranks):
            best = own.ranks.index(min(own.ranks)) if own.ranks else 0
            own = replace(own, responses=own.responses[best : best + 1], ranks=())
            with own.row.located():
                kept.append(own.last_turn() if format.parse is _pair else own)
        elif count:
            left[NO_PAIR if use == "rankings" else "with several responses and no ranks"] += 1
    line = f"{os.path.basename(source)}: {len(rows)} rows, {format.name} ({format.shown(rows[0])})"
    is_best = use == "demonstrations" and "rankings" in format.uses
    if len(kept) != len(rows) or is_best:
        line += f"; {len(kept)} {use}" + " (the best response)" * is_best
    line += "".join(f"; left out: {number} {reason}" for reason, number in left.items())
    if empty := sum(not as_messages(own.before)[-1]["content"].strip() for own in kept):
        line += f"; {empty} with an empty prompt"
    if use == "prompts" and format.parse not in (_prompt, _tree) and (bare := sum(not own.responses for own in kept)):
        line += f"; {bare} without a response that can be read"
    read = format.shown(rows[0]).split(", ")
    read += [*GIVEN, "history"] if read[0] == "instruction" else []
    if unread := [name for name in UNREAD if name not in read and any(row.fields.get(name) for row in rows)]:
        line += f"; not read: {', '.join(unread)}"
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

    def missing(self, fields: Mapping[str, Any]) -> int:
        return sum(not any(name in fields for name in need.split("|")) for need in self.needs.split())

    def shown(self, row: SourceRow) -> str:
        names = [name for need in self.needs.split() for name in need.split("|")]
        return ", ".join(name for name in names if name in row.fields)


def of_rows(rows: Sequence[SourceRow], use: Use | None = None) -> tuple[Format, list[list[Conversation]]]:
    """The format of rows, and the conversations of each; only a tree has several.

    use: as prompts, a row that has a field for its prompt may have responses that cannot be read; None: any
    Raises AlignbenchError for an unknown format, for rows of several formats, and for a wrong row.
    """
    first, found = None, list[list[Conversation]]()
    for row in rows:
        format = next((format for format in FORMATS if not format.missing(row.fields)), None)
        if format is None:
            names = ", ".join(row.fields) or "no fields"
            raise AlignbenchError(f"{row.where}: unknown format ({names}); {nearest(use or 'prompts', row.fields)}")
        first = first or format
        if format.name != first.name:
            before = f"{first.name} ({first.shown(rows[0])}) as in {rows[0].where}"
            raise AlignbenchError(f"{row.where}: {format.name} ({format.shown(row)}), not {before}; split the file")
        with row.located():
            try:
                found.append(list(format.parse(row)))
            except ValueError:
                if use != "prompts" or format.parse is _tree or _name(row) is None:
                    raise
                prompt = _before(row)
                is_answered = not isinstance(prompt, str) and prompt[-1]["role"] == "assistant"
                found.append([Conversation(row, prompt[:-1] if is_answered else prompt)])
    assert first is not None
    return first, found


def nearest(use: Use, fields: Mapping[str, Any]) -> str:
    """The three formats for a use that lack the fewest fields, and the fields to rename."""
    found = sorted((f for f in FORMATS if use in f.uses), key=lambda f: (f.parse is _tree, f.missing(fields)))
    names = (re.sub(r"\|[\w|]+", "", format.needs).replace(" ", ", ") for format in found)
    shown = dict.fromkeys(f"{{{name}}}" for name in names)
    return f"{use} are {', '.join([*shown][:3])}, … (docs/training.md, Files){_renames(fields)}"


def _renames(fields: Mapping[str, Any]) -> str:
    found = (f"{name} to {ours}" for name, ours in RENAMES.items() if name in fields and ours not in fields)
    return "".join(f"; rename {names}" for names in found)


# The formats' rows


def _prompt(row: SourceRow) -> Iterator[Conversation]:
    yield Conversation(row, _before(row, PROMPT[:2]))


def _question(row: SourceRow) -> Iterator[Conversation]:
    """The first turn of MT-bench's and Vicuna-bench's questions."""
    turns = row.list("turns")
    if not turns:
        raise ValueError("turns is empty")
    yield Conversation(row, checked_text(turns[0], "turns"))


def _response(row: SourceRow) -> Iterator[Conversation]:
    response = _field(row, "response", "completion", "output")
    yield Conversation(row, _before(row), (response,), good=_label(row))


def _chat(row: SourceRow) -> Iterator[Conversation]:
    turns = _before(row, PROMPT[:1:-1])
    assert not isinstance(turns, str)
    end = len(turns) - (turns[-1]["role"] == "assistant")
    yield Conversation(row, turns[:end], (turns[end:],) if turns[end:] else (), good=_label(row))


def _ranking(row: SourceRow) -> Iterator[Conversation]:
    """Of scores, the highest is the best."""
    name = "ranks" if "ranks" in row.fields and "responses" in row.fields else "scores"
    if "completions" in row.fields and name == "scores":
        items = [_object(item, "completions") for item in row.list("completions")]
        responses = [item.get("response") for item in items]
        values = [first_of(item, "overall_score", "score") for item in items]
    else:
        responses, values = row.list("responses"), row.list(name)
    if len(responses) < 2 and name == "ranks":
        raise ValueError(f"a ranking needs at least two responses, not {len(responses)}")
    if len(values) != len(responses):
        raise ValueError(f"{len(values)} {name} for {len(responses)} responses")
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} contains {json.dumps(value, default=str)}, which is not a finite number")
    ranks = [float(value) if name == "ranks" else 1.0 + sum(other > value for other in values) for value in values]
    texts = tuple(chat.read_text(response, "response") for response in responses)
    yield Conversation(row, _before(row), texts, tuple(ranks), _labeler(row, "labeler"))


def _pair(row: SourceRow) -> Iterator[Conversation]:
    chosen, rejected = _field(row, "chosen"), _field(row, "rejected")
    is_asked = _name(row, PROMPT[:3]) is not None
    before: Text = _before(row) if is_asked else []
    if not is_asked and isinstance(chosen, str) and isinstance(rejected, str):
        shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - by characters is what is meant
        before = shared[: shared.rfind(ASSISTANT) + len(ASSISTANT)] if ASSISTANT in shared else ""
        if not is_dialogue(before):
            raise ValueError(f'no field prompt, nor turns "Human: …", "Assistant:" in common{_renames(row.fields)}')
        chosen, rejected = chosen[len(before) :], rejected[len(before) :]
        if row.fields.get("system"):
            chosen, rejected = (chat.read_dialogue(ASSISTANT + text) for text in (chosen, rejected))
    elif not is_asked:
        chosen, rejected = (chat.read_dialogue(text) if isinstance(text, str) else text for text in (chosen, rejected))
    if not isinstance(chosen, str) and not isinstance(rejected, str):  # turns that both have are part of the prompt
        asked = as_messages(before)
        chosen, rejected = chat.after(asked, chosen), chat.after(asked, rejected)
        turn = len(list(takewhile(lambda two: two[0] == two[1], zip(chosen[:-1], rejected[:-1], strict=False))))
        while turn > 0 and chosen[turn]["role"] != "assistant":
            turn -= 1
        before = [*asked, *chosen[:turn]] if turn else before
        chosen, rejected = chosen[turn:], rejected[turn:]
    before = _after_system(row, before) if before and not is_asked else before
    yield Conversation(row, before, (chosen, rejected), (1.0, 2.0), _labeler(row, "labeler"))


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
        path = [*before, *chat.read_messages([node], "a tree")]
        replies = [_object(reply, "replies") for reply in node.get("replies") or ()]
        replies = [reply for reply in replies if not reply.get("deleted")]
        if path[-1]["role"] == "user":
            ranked = [reply for reply in replies if type(reply.get("rank")) is int]
            own = ranked if len(ranked) > 1 else replies
            ranks = tuple(float(reply["rank"] + 1) for reply in ranked) if own is ranked else ()
            yield Conversation(row, path, tuple(chat.read_messages([reply], "replies") for reply in own), ranks)
        todo += [(path, reply) for reply in reversed(replies)]


RANKED: tuple[Use, ...] = ("rankings", "demonstrations", "prompts")
ANSWERED, ASKED = RANKED[1:], RANKED[2:]
FORMATS = (  # the first that matches
    Format("comparisons of summaries", "info summaries choice", RANKED, _summaries),
    Format("rankings", "prompt responses ranks", RANKED, _ranking),
    Format("scored responses", "prompt responses scores", RANKED, _ranking),
    Format("scored responses", "prompt|instruction completions", RANKED, _ranking),
    Format("pairs", "prompt chosen rejected", RANKED, _pair),
    Format("ShareGPT pairs", "conversations chosen rejected", RANKED, _pair),
    Format("Alpaca pairs", "instruction chosen rejected", RANKED, _pair),
    Format("pairs of dialogues", "chosen rejected", RANKED, _pair),
    Format("labelled responses", "prompt|instruction response|completion|output label|kto_tag", ANSWERED, _response),
    Format("labelled conversations", "messages|conversations label|kto_tag", ANSWERED, _chat),
    Format("prompts with responses", "prompt response|completion", ANSWERED, _response),
    Format("Alpaca", "instruction output|response|completion", ANSWERED, _response),
    Format("messages", "messages", ANSWERED, _chat),
    Format("ShareGPT", "conversations", ANSWERED, _chat),
    Format("OASST trees", "message_tree_id prompt", RANKED, _tree),
    Format("OASST trees", "text role replies", RANKED, _tree),
    Format("prompts", "prompt", ASKED, _prompt),
    Format("questions", "turns", ASKED, _question),
    Format("prompts", "instruction", ASKED, _prompt),
)


# Their fields


def _name(row: SourceRow, names: Sequence[str] = PROMPT) -> str | None:
    """The first of these fields that has a value."""
    return next((name for name in names if row.fields.get(name) is not None), None)


def _before(row: SourceRow, names: Sequence[str] = PROMPT) -> Text:
    """The prompt; Alpaca's history, and the system message of any format, are the first messages."""
    name = _name(row, names) or next(name for name in names if name in row.fields)
    if name == "prompt":
        return _after_system(row, _field(row, name))
    if name != "instruction":
        value = row.field(name)
        return _after_system(row, chat.read_messages(row.list(name) if isinstance(value, str) else value, name))
    history = row.list("history") if row.fields.get("history") else []
    if not all(isinstance(two, list) and len(two) == 2 for two in history):
        raise ValueError("history is not a list of pairs of texts")
    said = [(("user", "assistant")[at], checked_text(pair[at], "history")) for pair in history for at in (0, 1)]
    given = [checked_text(row.fields.get(name) or "", name) for name in GIVEN]
    said.append(("user", chat.joined(row.text("instruction"), *given)))
    return _after_system(row, [{"role": role, "content": text} for role, text in said])


def _after_system(row: SourceRow, text: Text) -> Text:
    """The prompt after the message of the field `system`, if the row has it."""
    system = checked_text(row.fields.get("system") or "", "system")
    message = {"role": "system", "content": system}
    return [message, *as_messages(text)] if system and text[:1] != [message] else text


def _field(row: SourceRow, *names: str) -> Text:
    """The first of these fields that is not null. In CSV, messages are JSON."""
    value = first_of(row.fields, *names)
    if row.is_text and re.match(r'\s*(\[\s*)?{\s*"(role|from|content|value)"\s*:', value or ""):
        value = parse_json(value)
    return chat.read_text(value, names[0])


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
