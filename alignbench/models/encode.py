"""Text to token ids as in lm-evaluation-harness 0.4, so that log-probabilities are comparable with its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignbench.errors import AlignbenchError
from alignbench.models.template import DATE, end_of_turn, prints_date, render
from alignbench.types.engine import Request, Sampling, messages_of

Tokens = NDArray[np.int32]
Misfit = Callable[[Tokens], str | None]  # the reason why a model cannot read these tokens
APART = "context and continuation would share a token, so that they are encoded apart"
CHUNK = 64  # texts per call of the tokenizer: enough for its threads, few enough for memory


@dataclass(frozen=True, slots=True)
class Encoded:
    """`tokens` of context and continuation together; the continuation is `tokens[context_length:]`.

    note: how they differ from those of the whole text, if they do
    """

    tokens: Tokens
    context_length: int
    note: str | None = None


class Encoder:
    """Tokenises context and continuation together and splits them at the length of the context alone.

    Special tokens that the tokenizer adds after a text (some add the end-of-sequence token) are left out: a
    continuation follows. end_of_turn: the token that ends an assistant's turn in the chat template, if there is one
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_kwargs: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> None:
        """template_kwargs: variables of the chat template; system: the system message before each user message"""
        self.template_kwargs, self.system = template_kwargs or {}, system
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.tokenizer = tokenizer
        self.start = None if start is None else np.array([start], np.int32)
        self.start_text = "" if start is None else str(tokenizer.decode([start]))

    @cached_property
    def end_of_turn(self) -> int | None:
        return end_of_turn(self.tokenizer) if self.tokenizer.chat_template else None

    def describe(self) -> dict[str, Any]:
        """What run.json records of the chat template: the token that ends a turn, and the date that it prints."""
        end, date = self.end_of_turn, DATE if prints_date(self.tokenizer) else None
        text = None if end is None else self.tokenizer.convert_ids_to_tokens(end)
        return {"end_of_turn": text, "template_date": date}

    def pairs(
        self, requests: Sequence[Request], misfit: Misfit = lambda _: None, *, chat: bool = False
    ) -> list[Encoded | str]:
        """Encode requests; a string is the reason why a request cannot be scored.

        White space at the end of a context moves to the continuation. An empty context becomes the
        beginning-of-sequence token (or else the end-of-sequence token), unless the continuation begins with it.

        chat: each context is a user message in the chat template. Raises AlignbenchError if there is no template.
        """
        contexts = [request.context for request in requests]
        contexts = self._in_template(contexts) if chat else contexts
        pairs = [(c.rstrip(), c + request.continuation) for c, request in zip(contexts, requests, strict=True)]
        joint = self._encode((text for pair in pairs if pair[0] for text in pair), special_tokens=not chat)
        continuations = self._encode((whole for context, whole in pairs if not context), special_tokens=False)

        def encoded(context: str, whole: str) -> Encoded | str:
            note = None
            if context:
                tokens, length = joint[whole], len(joint[context])
                if len(tokens) <= length:
                    rest = whole[len(context) :]
                    tokens, note = np.concatenate([joint[context], self._encode([rest], False)[rest]]), APART
            elif self.start is None:
                return "the tokenizer has no token that could begin an empty context"
            else:
                tokens, length = continuations[whole], 1
                if not np.array_equal(tokens[:1], self.start):
                    tokens = np.concatenate([self.start, tokens])
            if not length:
                return "the context has no tokens"
            if len(tokens) <= length:
                return "the continuation has no tokens"
            return misfit(tokens) or Encoded(tokens, length, note)

        return [encoded(*pair) for pair in pairs]

    def rolling(self, text: str, window: int | None) -> list[Encoded] | str:
        """A text in windows, each predicted from as many tokens before it as fit (at least one); a string is the reason
        why it cannot be scored. As in lm-eval, the start token is also before one that the tokenizer adds."""
        if self.start is None:
            return "the tokenizer has no token that could begin an empty context"
        tokens = np.concatenate([self.start, self._encode([text])[text]]) if text else self.start
        size, found, done = window or len(tokens), list[Encoded](), 1
        while done < len(tokens):
            end = min(done + size, len(tokens))
            begin = max(0, end - size - 1)
            found.append(Encoded(tokens[begin:end], done - begin))
            done = end
        return found or "the text has no tokens"

    def prompts(
        self, texts: Sequence[str], *, chat: bool = False, misfit: Misfit = lambda _: None
    ) -> list[Tokens | str]:
        """Encode prompts to continue; a string is the reason why a prompt cannot be continued.

        chat: each text is a user message in the chat template. Raises AlignbenchError if there is no template.
        """
        found = self.contexts(self._in_template(texts), special_tokens=False) if chat else self.contexts(texts)
        empty, no_start = "the prompt has no tokens", "the tokenizer has no token that could begin an empty prompt"
        return [no_start if t is None else (misfit(t) or t) if len(t) else empty for t in found]

    def contexts(self, texts: Sequence[str], special_tokens: bool = True) -> list[Tokens | None]:
        """Encode texts to continue. With special tokens, an empty text is the start token, None if there is none."""
        encoded = self._encode(texts, special_tokens)
        return [encoded[text] if text or not special_tokens else self.start for text in texts]

    def _in_template(self, texts: Sequence[str]) -> list[str]:
        """Each text as a user message, up to the beginning of the assistant's reply, with all special tokens."""
        if not self.tokenizer.chat_template:
            raise AlignbenchError("the tokenizer has no chat template; use --template none")
        try:
            messages = [messages_of(text, self.system) for text in texts]
            options = {**self.template_kwargs, "add_generation_prompt": True}
            return [render(self.tokenizer, message, **options) for message in messages]
        except ValueError as error:
            before = "a single user message" if self.system is None else "a system message before a user message"
            raise AlignbenchError(f"chat template: it does not support {before} ({error})") from error

    @cached_property
    def _suffix(self) -> int:
        """Number of special tokens that the tokenizer adds after a text."""
        alone, added = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        starts = (at for at in range(len(added)) if added[at : at + len(alone)] == alone)
        return len(added) - len(alone) - next(starts, len(added) - len(alone))

    def expecting_thoughts(self, sampling: Sampling, chat: bool) -> Sampling:
        """The sampling parameters for prompts that may end within a block of thoughts. Where nothing says that the
        model thinks, the limit of its thoughts is that of the answer."""
        if (thinking := sampling.thinking) is None:
            return sampling
        expected, opened = thinking.always, False
        if chat and self.tokenizer.chat_template:
            template, before = str(self.tokenizer.chat_template), self._in_template(["?"])[0].rpartition("?")[2]
            expected |= thinking.start in template or thinking.end in template
            opened = before.rfind(thinking.start) > before.rfind(thinking.end)
        return replace(sampling, thinking=replace(thinking, limit=thinking.limit if expected else 0, opened=opened))

    def _encode(self, texts: Iterable[str], special_tokens: bool = True) -> dict[str, Tokens]:
        """Token ids of each distinct text. A text that spells out the start token does not get a second one; no special
        token follows a text."""
        groups: dict[bool, list[str]] = {True: [], False: []}
        for text in sorted(set(texts)):
            spelled = self.start_text and text.startswith(self.start_text)
            groups[special_tokens and not spelled].append(text)
        encoded: dict[str, Tokens] = {}
        for special, group in groups.items():
            for at in range(0, len(group), CHUNK):
                chunk = group[at : at + CHUNK]
                batch = self.tokenizer(chunk, add_special_tokens=special, return_attention_mask=False, verbose=False)
                for text, ids in zip(chunk, batch["input_ids"], strict=True):
                    encoded[text] = np.array(ids[: len(ids) - self._suffix] if special else ids, np.int32)
        return encoded


def shared_prefix(sequences: Sequence[Tokens], longest: int) -> Tokens:
    """The tokens, at most `longest`, that all sequences begin with."""
    return reduce(lambda prefix, other: prefix[: common_length(prefix, other)], sequences, sequences[0][:longest])


def common_length(a: Tokens, b: Tokens) -> int:
    """Number of leading tokens that two sequences share."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n
