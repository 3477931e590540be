"""Training data: demonstrations, rankings and prompts as text, lengths within a window, pretraining text as tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow.compute as pc
from accelerate import Accelerator

from alignbench.data.conversations import Conversation, Text, as_messages, read_conversations, shortened
from alignbench.data.tokens import token_pieces
from alignbench.errors import AlignbenchError
from alignbench.models.template import Render, render_pair, renderer, set_template
from alignbench.progress import Progress
from trainers.config import StageConfig
from trainers.loop import check_lengths
from trainers.models import Texts, end_at_turns, load
from trainers.packing import Example

T = TypeVar("T")
Say = Callable[[str], None]
SILENT: Say = Progress().say


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as the policy reads it. asked: before the chat template, for a reward model that reads another one"""

    prompt: str
    asked: Text = field(default="", kw_only=True, compare=False)


@dataclass(frozen=True, slots=True)
class Demonstration(Question):
    response: str

    @property
    def responses(self) -> tuple[str, ...]:
        return (self.response,)


@dataclass(frozen=True, slots=True)
class Ranking:
    """K responses to a prompt. Rank 1 is the best; equal ranks are ties. A pair has the ranks (1, 2)."""

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    labeler: str | None


def read_demonstrations(source: str, template: Render | None = None, say: Say = SILENT) -> list[Demonstration]:
    """The responses to learn; of several with ranks the best. Formats: alignbench/data/conversations.py."""
    rows = [(row, *_render(row, template)) for row in read_conversations(source, "demonstrations", say)]
    return [Demonstration(prompt, responses[0], asked=row.before) for row, prompt, responses in rows]


def read_rankings(source: str, template: Render | None = None, say: Say = SILENT) -> list[Ranking]:
    """Rankings, pairs, scored responses and ranked replies. Formats: alignbench/data/conversations.py."""
    rows = [(row, *_render(row, template)) for row in read_conversations(source, "rankings", say)]
    return [Ranking(prompt, tuple(responses), row.ranks, row.labeler) for row, prompt, responses in rows]


def read_prompts(source: str, template: Render | None = None, say: Say = SILENT) -> list[Question]:
    """The prompts of rows of any format, without the responses."""
    rows = [replace(row, responses=()) for row in read_conversations(source, "prompts", say)]
    return [Question(_render(row, template)[0], asked=row.before) for row in rows]


def find_render(config: StageConfig, tokenizer: Any) -> Render | None:
    """The chat template of a stage; None for plain text. One of the settings becomes the tokenizer's own."""
    if config.chat_template is not None:
        if not config.template:
            raise AlignbenchError("chat_template: set also template=true, or leave it out")
        set_template(tokenizer, config.chat_template)
    return renderer(tokenizer) if config.template else None


R = TypeVar("R", Demonstration, Ranking)


@dataclass(frozen=True)
class Reader:
    """Reads and encodes the rows of a stage. render: see `find_render`; window: of the model, in tokens"""

    config: StageConfig
    render: Render | None
    texts: Texts
    window: int | None
    say: Say

    def demonstrations(self, source: str | None) -> list[Demonstration]:
        return read_demonstrations(source, self.render, self.say) if source else []

    def rankings(self, source: str | None) -> list[Ranking]:
        return read_rankings(source, self.render, self.say) if source else []

    def prompts(self, source: str, room: float) -> list[Question]:
        """Prompts of at most `room` tokens; with long=error all, unchanged. With long=truncate, long ones lose their
        oldest text: from the left, and in chat messages before the template is applied."""
        template, rows, kept = self.render, read_prompts(source, self.render, self.say), list[Question]()
        if self.config.long == "error":
            return rows

        def shown(asked: Text) -> Question:
            return Question(template(as_messages(asked), True) if template else str(asked), asked=asked)

        long = [len(ids) > room for ids in self.texts.prompts([row.prompt for row in rows])]
        for row, is_long in zip(rows, long, strict=True):
            if not is_long:
                kept.append(row)
            elif self.config.long == "truncate":
                asked = as_messages(row.asked) if template else row.asked
                short = shortened(asked, int(room), lambda text: len(self.texts.prompts([shown(text).prompt])[0]))
                kept += [shown(short)] if short is not None else []
        _report(source, "prompt", rows, kept, sum(long), int(room), self.say)
        return kept

    def encode(self, rows: Sequence[R], source: str | None, *, keep_end: bool = False) -> list[tuple[R, Example]]:
        """The rows with their tokens, within the window (`within_window`)."""
        pairs = [(row, self.texts.example(row.prompt, row.responses)) for row in rows]
        what = "ranking" if rows and isinstance(rows[0], Ranking) else "demonstration"
        return within_window(self.config.long, pairs, self.window, what, str(source), self.say, keep_end=keep_end)


def load_policy(config: Any, accelerator: Accelerator, say: Say) -> tuple[Any, Reader]:
    """The causal language model `config.model` in fp32, and the reader of its rows. With a template responses also end
    at the token that ends a turn."""
    model, tokenizer, checkpoint = load(config.model, "causal", accelerator)
    render = find_render(config, tokenizer)  # first, since it may set the template that ends turns
    if render:
        end_at_turns(model, tokenizer)
    return model, Reader(config, render, Texts(tokenizer, model), checkpoint.window, say)


def _render(row: Conversation, template: Render | None) -> tuple[str, list[str]]:
    """Prompt and responses as text."""
    with row.row.located():
        if template is not None:
            texts = [render_pair(row.messages, answer, template)[1] for answer in row.answers]
            return template(row.messages, True), texts
        texts = [text for text in (row.before, *row.responses) if isinstance(text, str)]
        if not row.is_text:
            raise ValueError("chat messages need template=true, and chat_template=… if the tokenizer has no template")
        return texts[0], texts[1:]


def within_window(
    long: str, rows: Sequence[tuple[T, Example]], window: int | None, what: str, source: str, say: Say,
    *, keep_end: bool = False,
) -> list[tuple[T, Example]]:  # fmt: skip
    """Rows of at most `window` tokens. Truncated, responses lose tokens from the right; a row whose prompt fills the
    window is dropped.

    long: error, drop or truncate; keep_end: responses keep the last token, at which a reward model reads the score
    Raises AlignbenchError for a long row (error), and if no row is left.
    """
    if long == "error" or window is None:
        check_lengths((example.longest for _, example in rows), window, what, source)
        return list(rows)
    kept = list[tuple[T, Example]]()
    for row, example in rows:
        room = window - len(example.prompt)
        if example.longest <= window:
            kept.append((row, example))
        elif long == "truncate" and room > keep_end:
            cut = [r if len(r) <= room else [*r[: room - keep_end], *r[len(r) - keep_end :]] for r in example.responses]
            kept.append((row, Example(example.prompt, cut)))
    _report(source, what, rows, kept, sum(example.longest > window for _, example in rows), window, say)
    return kept


def _report(source: str, what: str, rows: Sequence[Any], kept: Sequence[Any], long: int, limit: int, say: Say) -> None:
    dropped = len(rows) - len(kept)
    if rows and not kept:
        raise AlignbenchError(f"{source}: every {what} has more than {limit} tokens")
    if long:
        counts = f"{long - dropped} truncated to {limit} tokens, {dropped} dropped"
        say(f"{os.path.basename(source)}: of {len(rows)} {what}s {counts}")


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
    rows = token_pieces(source, texts.prompts, name, length)
    texts._known([max(pc.max(pc.list_flatten(part)).as_py() for part in rows.data.column("ids").chunks)])
    return Pieces(rows)
