"""Text to token ids, in the way of lm-evaluation-harness 0.4, so that log-probabilities compare with its."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from alignbench.errors import AlignbenchError
from alignbench.models.tree import Tokens
from alignbench.types.engine import Request

CHUNK = 64  # strings handed to the tokenizer at once: enough for its threads, small enough for memory


@dataclass(frozen=True, slots=True)
class Encoded:
    """`tokens` of context and continuation together; the continuation is `tokens[context_length:]`."""

    tokens: Tokens
    context_length: int


class Encoder:
    """Tokenises context and continuation together and cuts at the context's own length."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.tokenizer = tokenizer
        self.start = None if start is None else int(start)
        self.start_text = "" if start is None else str(tokenizer.decode([start]))

    def pairs(self, requests: Sequence[Request]) -> list[Encoded | None]:
        """Encode requests; None where an empty context finds a tokenizer without any token to begin with.

        White space at the end of a context moves to the continuation. An empty context becomes the
        beginning-of-sequence token (or else the end-of-sequence token), unless the continuation itself
        begins with it.
        """
        split = [_move_trailing_space(request) for request in requests]
        contexts = self._encode_each({context for context, _ in split if context})
        wholes = self._encode_each({context + continuation for context, continuation in split if context})
        alone = self._encode_each(
            {continuation for context, continuation in split if not context}, special_tokens=False
        )
        encoded: list[Encoded | None] = []
        for context, continuation in split:
            if context:
                encoded.append(Encoded(wholes[context + continuation], len(contexts[context])))
                continue
            tokens = alone[continuation]
            if self.start is None:
                encoded.append(None)
            elif len(tokens) and tokens[0] == self.start:
                encoded.append(Encoded(tokens, 1))
            else:
                encoded.append(Encoded(np.concatenate([np.array([self.start], np.int32), tokens]), 1))
        return encoded

    def contexts(self, texts: Sequence[str]) -> list[Tokens | None]:
        """Encode contexts whose next token is asked for; an empty one is the start token alone."""
        encoded = self._encode_each({text for text in texts if text})
        start = None if self.start is None else np.array([self.start], np.int32)
        return [encoded[text] if text else start for text in texts]

    def chats(self, texts: Sequence[str]) -> list[Tokens]:
        """Encode each text as a user's message, up to where the assistant begins.

        The template spells all special tokens out, so the tokenizer adds none (transformers, chat templating).
        Raises AlignbenchError where the template cannot hold such a message.
        """
        try:
            spelled = [
                str(
                    self.tokenizer.apply_chat_template(
                        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
                    )
                )
                for text in texts
            ]
        except Exception as error:  # jinja and the template raise what they like
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AlignbenchError(f"chat template: it does not take a lone user's message ({line})") from error
        encoded = self._encode(sorted(set(spelled)), special_tokens=False)
        return [encoded[text] for text in spelled]

    def _encode_each(self, texts: Iterable[str], special_tokens: bool = True) -> dict[str, Tokens]:
        """Token ids of each distinct text; a text that spells the start token out does not get a second one."""
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


def _move_trailing_space(request: Request) -> tuple[str, str]:
    context = request.context.rstrip()
    return context, request.context[len(context) :] + request.continuation
