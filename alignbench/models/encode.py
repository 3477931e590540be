"""Text to token ids as in lm-evaluation-harness 0.4, so that log-probabilities are comparable with its own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignbench.errors import AlignbenchError, first_line
from alignbench.types.engine import Request

Tokens = NDArray[np.int32]
Misfit = Callable[[Tokens], str | None]  # the reason why a model cannot read these tokens
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

    def pairs(self, requests: Sequence[Request], misfit: Misfit = lambda _: None) -> list[Encoded | str]:
        """Encode requests; a string is the reason why a request cannot be scored.

        White space at the end of a context moves to the continuation. An empty context becomes the
        beginning-of-sequence token (or else the end-of-sequence token), unless the continuation begins with it.
        """
        pairs = [(request.context.rstrip(), request.context + request.continuation) for request in requests]
        alone = self._encode({context for context, _ in pairs if context})
        joint = self._encode({whole for context, whole in pairs if context})
        continuations = self._encode({whole for context, whole in pairs if not context}, special_tokens=False)

        def encoded(context: str, whole: str) -> Encoded | str:
            if context:
                tokens, length = joint[whole], len(alone[context])
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
            return misfit(tokens) or Encoded(tokens, length)

        return [encoded(*pair) for pair in pairs]

    def prompts(
        self, texts: Sequence[str], *, chat: bool = False, misfit: Misfit = lambda _: None
    ) -> list[Tokens | str]:
        """Encode prompts to continue; a string is the reason why a prompt cannot be continued.

        chat: each text is a user message in the chat template. Raises AlignbenchError if there is no template.
        """
        found: list[Tokens | None]
        if not chat:
            found = self.contexts(texts)
        elif self.tokenizer.chat_template:
            messages = list(map(self._in_template, texts))
            encoded = self._encode(messages, special_tokens=False)
            found = [encoded[message] for message in messages]
        else:
            raise AlignbenchError("the tokenizer has no chat template; use --template none")
        empty, no_start = "the prompt has no tokens", "the tokenizer has no token that could begin an empty prompt"
        return [no_start if t is None else (misfit(t) or t) if len(t) else empty for t in found]

    def contexts(self, texts: Sequence[str]) -> list[Tokens | None]:
        """Encode texts to continue. An empty text is the start token, None if the tokenizer has none."""
        encoded = self._encode({text for text in texts if text})
        return [encoded[text] if text else self.start for text in texts]

    def _in_template(self, text: str) -> str:
        """A text as a user message, up to the beginning of the assistant's reply, with all special tokens."""
        message = [{"role": "user", "content": text}]
        try:
            return str(self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
        except Exception as error:  # jinja and the template raise errors of any kind
            reason = f"it does not support a single user message ({first_line(error)})"
            raise AlignbenchError(f"chat template: {reason}") from error

    def _encode(self, texts: Iterable[str], special_tokens: bool = True) -> dict[str, Tokens]:
        """Token ids of each distinct text. A text that spells out the start token does not get a second one."""
        groups: dict[bool, list[str]] = {True: [], False: []}
        for text in sorted(set(texts)):
            spelled = self.start_text and text.startswith(self.start_text)
            groups[special_tokens and not spelled].append(text)
        encoded: dict[str, Tokens] = {}
        for special, group in groups.items():
            for at in range(0, len(group), CHUNK):
                chunk = group[at : at + CHUNK]
                batch = self.tokenizer(chunk, add_special_tokens=special, return_attention_mask=False, verbose=False)
                encoded |= {text: np.array(ids, np.int32) for text, ids in zip(chunk, batch["input_ids"], strict=True)}
        return encoded


def shared_prefix(sequences: Sequence[Tokens], longest: int) -> Tokens:
    """The tokens, at most `longest`, that all sequences begin with."""
    return reduce(lambda prefix, other: prefix[: common_length(prefix, other)], sequences, sequences[0][:longest])


def common_length(a: Tokens, b: Tokens) -> int:
    """Number of leading tokens that two sequences share."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if different.size else n
