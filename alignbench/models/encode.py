"""Text to token ids as in lm-evaluation-harness 0.4, so that log-probabilities are comparable with its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignbench.errors import AlignbenchError, first_line
from alignbench.types.engine import Request

Tokens = NDArray[np.int32]
CHUNK = 64  # texts per call of the tokenizer: enough for its threads, few enough for memory


@dataclass(frozen=True, slots=True)
class Encoded:
    """`tokens` of context and continuation together; the continuation is `tokens[context_length:]`."""

    tokens: Tokens
    context_length: int


class Encoder:
    """Tokenises context and continuation together and splits them at the length of the context alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.tokenizer = tokenizer
        self.start = None if start is None else np.array([start], np.int32)
        self.start_text = "" if start is None else str(tokenizer.decode([start]))

    def pairs(self, requests: Sequence[Request]) -> list[Encoded | str]:
        """Encode requests; a string is the reason why a request cannot be scored.

        White space at the end of a context moves to the continuation. An empty context becomes the
        beginning-of-sequence token (or else the end-of-sequence token), unless the continuation begins with it.
        """
        contexts = [request.context.rstrip() for request in requests]
        wholes = [request.context + request.continuation for request in requests]
        pairs = list(zip(contexts, wholes, strict=True))
        alone = self._encode_each({context for context in contexts if context})
        joint = self._encode_each({whole for context, whole in pairs if context})
        continuations = self._encode_each({whole for context, whole in pairs if not context}, special_tokens=False)
        encoded: list[Encoded | str] = []
        for context, whole in pairs:
            if context:
                tokens, length = joint[whole], len(alone[context])
            elif self.start is None:
                encoded.append("the tokenizer has no token that could begin an empty context")
                continue
            else:
                tokens, length = continuations[whole], 1
                if not np.array_equal(tokens[:1], self.start):
                    tokens = np.concatenate([self.start, tokens])
            if not length:
                encoded.append("the context has no tokens")
            elif len(tokens) <= length:
                encoded.append("the continuation has no tokens")
            else:
                encoded.append(Encoded(tokens, length))
        return encoded

    def prompts(self, texts: Sequence[str], *, chat: bool = False) -> list[Tokens | str]:
        """Encode prompts to continue; a string is the reason why a prompt cannot be continued.

        chat: each text is a user message in the chat template. Raises AlignbenchError if there is no template.
        """
        if not chat:
            found = self.contexts(texts)
        elif self.tokenizer.chat_template:
            messages = self._in_template(texts)
            encoded = self._encode(sorted(set(messages)), special_tokens=False)
            found = [encoded[message] for message in messages]
        else:
            raise AlignbenchError("the tokenizer has no chat template; use --template none")
        empty, no_start = "the prompt has no tokens", "the tokenizer has no token that could begin an empty prompt"
        return [no_start if tokens is None else tokens if len(tokens) else empty for tokens in found]

    def contexts(self, texts: Sequence[str]) -> list[Tokens | None]:
        """Encode texts to continue. An empty text is the start token, None if the tokenizer has none."""
        encoded = self._encode_each({text for text in texts if text})
        return [encoded[text] if text else self.start for text in texts]

    def _in_template(self, texts: Sequence[str]) -> list[str]:
        """Each text as a user message, up to the beginning of the assistant's reply, with all special tokens."""
        try:
            return [
                str(
                    self.tokenizer.apply_chat_template(
                        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
                    )
                )
                for text in texts
            ]
        except Exception as error:  # jinja and the template raise errors of any kind
            raise AlignbenchError(
                f"chat template: it does not support a single user message ({first_line(error)})"
            ) from error

    def _encode_each(self, texts: Iterable[str], special_tokens: bool = True) -> dict[str, Tokens]:
        """Token ids of each distinct text. A text that spells out the start token does not get a second one."""
        ordered = sorted(texts)
        spelled = [text for text in ordered if self.start_text and text.startswith(self.start_text)]
        return self._encode(ordered, special_tokens) | self._encode(spelled, False)

    def _encode(self, texts: list[str], special_tokens: bool) -> dict[str, Tokens]:
        encoded: dict[str, Tokens] = {}
        for at in range(0, len(texts), CHUNK):
            chunk = texts[at : at + CHUNK]
            batch = self.tokenizer(chunk, add_special_tokens=special_tokens, return_attention_mask=False, verbose=False)
            for text, ids in zip(chunk, batch["input_ids"], strict=True):
                encoded[text] = np.array(ids, np.int32)
        return encoded


def shared_prefix(sequences: Sequence[Tokens], longest: int) -> Tokens:
    """The tokens, at most `longest`, that all sequences begin with."""
    prefix = sequences[0][:longest]
    for sequence in sequences:
        prefix = prefix[: common_length(prefix, sequence)]
        if not len(prefix):
            break
    return prefix


def common_length(a: Tokens, b: Tokens) -> int:
    """Number of leading tokens that two sequences share."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n
