"""Training data: demonstrations, rankings and prompts as text, lengths within a window, pretraining text as tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate import Accelerator

from alignbench.data.conversations import Use, read_conversations
from alignbench.data.messages import Messages, Text, as_messages
from alignbench.data.tokens import token_pieces
from alignbench.errors import AlignbenchError
from alignbench.models.template import Render, render_pair, renderer, set_template
from alignbench.progress import Progress
from alignbench.runs.folder import read_object
from trainers.config import StageConfig
from trainers.loop import check_lengths
from trainers.models import Texts, end_at_turns, load
from trainers.packing import Example

Say = Callable[[str], None]
SILENT: Say = Progress().say


@dataclass(frozen=True, slots=True)
class Ranking:
    """A prompt and K responses as the policy reads them. Rank 1 is the best; equal ranks are ties. A pair has the ranks
    (1, 2), a demonstration has one response without rank, and a prompt for sampling has none.

    asked: the prompt before the chat template, for a reward model that reads another one; where: file and row
    """

    prompt: str
    responses: tuple[str, ...] = ()
    ranks: tuple[float, ...] = ()
    labeler: str | None = None
    asked: Text = field(default="", kw_only=True, compare=False)
    where: str = field(default="", kw_only=True, compare=False)


Encoded = list[tuple[Ranking, Example]]


def read_rows(source: str, template: Render | None = None, say: Say = SILENT, *, use: Use) -> list[Ranking]:
    """Rankings, demonstrations (the best response) or prompts. Formats: alignbench/data/conversations.py."""
    found = []
    for row in read_conversations(source, use, say):
        with row.row.located():
            if use == "prompts":
                row = replace(row, responses=(), ranks=(), labeler=None)
            if template is not None:
                row = row.last_turn() if use == "demonstrations" else row
                texts = [render_pair(row.messages, answer, template)[1] for answer in row.answers]
                prompt = template(row.messages, True)
            elif all(isinstance(text, str) for text in (row.before, *row.responses)):
                prompt, *texts = map(str, (row.before, *row.responses))
            else:
                raise ValueError("chat messages need template=true, and chat_template=… for a tokenizer without one")
        found.append(Ranking(prompt, tuple(texts), row.ranks, row.labeler, asked=row.before, where=row.row.where))
    return found


def find_render(config: StageConfig, tokenizer: Any) -> Render | None:
    """The chat template of a stage; None for plain text. One of the settings becomes the tokenizer's own."""
    if config.chat_template is not None:
        if not config.template:
            raise AlignbenchError("chat_template: set also template=true, or leave it out")
        set_template(tokenizer, config.chat_template)
    return renderer(tokenizer) if config.template else None


@dataclass(frozen=True)
class Reader:
    """Reads and encodes the rows of a stage. render: see `find_render`; window: of the model, in tokens"""

    config: StageConfig
    render: Render | None
    texts: Texts
    window: int | None
    say: Say

    def read(self, source: str | None, use: Use) -> list[Ranking]:
        return read_rows(source, self.render, self.say, use=use) if source else []

    def prompts(self, source: str, room: float) -> list[Ranking]:
        """Prompts of at most `room` tokens; with long=error all, unchanged. With long=truncate, long ones lose their
        oldest text: from the left, and in chat messages before the template is applied."""
        if room < 1:
            raise AlignbenchError("max_tokens: it fills the window and leaves no room for a prompt; lower it")
        template, rows = self.render, self.read(source, "prompts")
        if self.config.long == "error" or math.isinf(room):
            return rows

        def shown(asked: Text) -> str:
            return template(as_messages(asked), True) if template else str(asked)

        kept, long = list[Ranking](), [len(ids) > room for ids in self.texts.prompts([row.prompt for row in rows])]
        for row, is_long in zip(rows, long, strict=True):
            if not is_long:
                kept.append(row)
            elif self.config.long == "truncate":
                asked = as_messages(row.asked) if template else row.asked
                short = shortened(asked, int(room), lambda text: len(self.texts.prompts([shown(text)])[0]))
                kept += [replace(row, prompt=shown(short), asked=short)] if short is not None else []
        _report(source, "prompt", rows, kept, sum(long), int(room), self.say)
        return kept

    def encode(self, rows: Sequence[Ranking], source: str | None, *, keep_end: bool = False) -> Encoded:
        """The rows with their tokens, within the window (`within_window`)."""
        pairs = [(row, self.texts.example(row.prompt, row.responses)) for row in rows]
        what = "ranking" if rows and rows[0].ranks else "demonstration"
        return within_window(self.config.long, pairs, self.window, what, str(source), self.say, keep_end=keep_end)


def load_policy(config: Any, accelerator: Accelerator, say: Say) -> tuple[Any, Reader]:
    """The causal language model `config.model` in fp32, and the reader of its rows. With a template responses also end
    at the token that ends a turn."""
    model, tokenizer, checkpoint = load(config.model, "causal", accelerator)
    render = find_render(config, tokenizer)  # first, since it may set the template that ends turns
    if render:
        end_at_turns(model, tokenizer)
    before = (read_object(checkpoint.path / "recipe.json") or {}).get("config", {})
    if before.get("template") and not config.template:
        say(f"warning: {checkpoint.name} was trained in a chat template; set template=true for the same form")
    return model, Reader(config, render, Texts(tokenizer, model), checkpoint.window, say)


def within_window(
    long: str, rows: Encoded, window: int | None, what: str, source: str, say: Say,
    *, keep_end: bool = False,
) -> Encoded:  # fmt: skip
    """Rows of at most `window` tokens. Truncated, responses lose tokens from the right; a row whose prompt fills the
    window is dropped.

    long: error, drop or truncate; keep_end: responses keep the last token, at which a reward model reads the score
    Raises AlignbenchError for a long row (error), and if no row is left.
    """
    if long == "error" or window is None:
        check_lengths(((row.where, example.longest) for row, example in rows), window, what)
        return list(rows)
    kept = Encoded()
    for row, example in rows:
        room = window - len(example.prompt)
        if example.longest <= window:
            kept.append((row, example))
        elif long == "truncate" and room > keep_end:
            cut = [r if len(r) <= room else [*r[: room - keep_end], *r[len(r) - keep_end :]] for r in example.responses]
            kept.append((row, Example(example.prompt, cut)))
    _report(source, what, rows, kept, sum(example.longest > window for _, example in rows), window, say)
    return kept


def shortened(text: Text, room: int, size: Callable[[Text], int]) -> Text | None:
    """Text without its start, or messages without the oldest ones after a leading system message, so that size ≤ room;
    None if nothing is left."""
    left: Messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(text)
    head = [left.pop(0)] if left[0]["role"] == "system" and len(left) > 1 else []

    def shown() -> Text:
        return left[0]["content"] if isinstance(text, str) else [*head, *left]

    while (now := size(shown())) > room:
        characters = math.ceil((now - room) / now * sum(len(message["content"]) for message in (*head, *left)))
        while len(left) > 1 and (len(left[0]["content"]) <= characters or left[0]["role"] != "user"):
            characters -= len(left.pop(0)["content"])
        left[0] = {**left[0], "content": left[0]["content"][max(characters, 0) :]}
        if not left[0]["content"]:
            return None
    return shown()


def _report(source: str, what: str, rows: Sequence[Any], kept: Sequence[Any], long: int, limit: int, say: Say) -> None:
    dropped = len(rows) - len(kept)
    if rows and not kept:
        raise AlignbenchError(f"{source}: every {what} has more than {limit} tokens")
    if long:
        counts = f"{long - dropped} truncated to {limit} tokens, {dropped} dropped"
        say(f"{os.path.basename(source)}: of {len(rows)} rows {counts} ({what})")


class Pieces(Sequence[Example]):
    """Rows {ids}, memory-mapped. The first token of each is given, the others are learned."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        ids = self.rows[at]["ids"]
        return Example(ids[:1], [ids[1:]])


def pretraining_examples(source: str, texts: Texts, length: int) -> Sequence[Example]:
    """Pretraining text in pieces of `length` tokens, memory-mapped (see `token_pieces`)."""
    backend = getattr(texts.tokenizer, "backend_tokenizer", None)
    name = backend.to_str() if backend is not None else str(sorted(texts.tokenizer.get_vocab().items()))
    # a model without embeddings for some tokens does not read what another one wrote
    return Pieces(token_pieces(source, texts.prompts, f"{name} {texts.embeddings}", length))
